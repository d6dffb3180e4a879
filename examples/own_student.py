"""A student of your own: made from a backbone and your texts, distilled, measured, indexed with.

    .venv/bin/python examples/own_student.py [DIRECTORY]

It learns which text of Python's language reference a title belongs to, shown how the text ends.
DIRECTORY, `own-student` if nothing is said, gets the set in BEIR's layout, the students and what
training keeps. A real training has thousands of questions and a teacher, see docs/distill.md; this
one takes thirty steps from labels alone, and its thirteen test titles show how to measure, not how
much there is to gain.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from corpus import documents

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.distill import DistillConfig, distill, training_set
from d2llm_vdb.evaluate import evaluate, load_set

BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
CONFIG = DistillConfig(
    label_weight=1.0, steps=30, evaluate_steps=5, batch_queries=8, learning_rate=3e-4
)
QUESTION = "Removing a name"
MODES = ("none", "iem", "tokens")


def write_set(directory: Path) -> None:
    """Write titles as queries, and as documents how the texts under them end."""
    topics = documents()
    # A query of a document's own id and words would be taken for that document, and leave it out.
    queries = [{"_id": f"title of {topic.id}", "text": topic.title} for topic in topics]
    corpus = [{"_id": topic.id, "text": topic.text[-400:]} for topic in topics]
    (directory / "qrels").mkdir(parents=True, exist_ok=True)
    for name, rows in (("queries", queries), ("corpus", corpus)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split, some in {"train": topics[::2], "dev": topics[1::4], "test": topics[3::4]}.items():
        judged = "".join(f"title of {topic.id}\t{topic.id}\t1\n" for topic in some)
        (directory / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")


def main(directory: Path) -> None:
    """Make, measure, distil, measure again, and search."""
    write_set(directory / "titles")
    train, dev, test = (load_set(directory / "titles", split) for split in ("train", "dev", "test"))

    samples = [text for topic in documents() for text in topic.text.split("\n\n") if text.strip()]
    student = Student.from_backbone(BACKBONE, sample_texts=samples[:300])
    student.save(directory / "untrained", overwrite=True)
    before = evaluate(student, [test], modes=MODES).sets["titles"]

    sets = [training_set(train)]
    done = distill(student, sets, [dev], teacher=None, work=directory / "work", config=CONFIG)
    done.student.save(directory / "distilled", overwrite=True, record=done.record)
    after = evaluate(done.student, [test], modes=MODES).sets["titles"]

    print("nDCG@10 over titles it never saw    untrained  distilled")
    for mode in MODES:
        values = (measured[mode]["ndcg@10"] for measured in (before, after))
        print(f"  rerank={mode!r:<29}", *(f"{value:9.3f}" for value in values))
    with Index.open(":memory:", directory / "distilled") as index:
        index.add(Passage(topic.id, topic.text) for topic in documents())
        hit = index.search(QUESTION, k=1).hits[0]
        print(f"\n{QUESTION}  ->  {hit.id}: {' '.join(hit.text.split())[:80]}...")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "own-student"))
