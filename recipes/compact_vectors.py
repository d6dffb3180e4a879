"""What compact recall vectors keep: widths and bits, fitted to a collection or to other texts.

    python recipes/compact_vectors.py ../shared/data --work student-work

Recall vectors are projected as `Index.compact` projects them, quantised and searched by Qdrant
Edge, with rescoring and without, and compared with an exact search by the whole ones. Embeddings
are kept in WORK: about ten minutes on two CPU cores the first time, two or three after that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import qdrant_edge as edge
import torch
from command_line import parser
from numpy.typing import NDArray
from results import SEED
from results_page import table
from results_sets import ENGLISH, PAIRS
from student_sets import samples

from d2llm_vdb import Student
from d2llm_vdb.evaluate import PairSet, RetrievalSet, load_set
from d2llm_vdb.evaluate.metrics import spearman
from d2llm_vdb.store.questions import OVERSAMPLING
from d2llm_vdb.student.embeddings import cosines
from d2llm_vdb.student.projection import CompactProjection

PAGE = Path("docs/compact-table.md")

SETS = ("cranfield", "squad", "medquad")
SIMILARITY = "stsb_en"
WIDTHS = (256, 128, 64)
FIRST = 100

Array = NDArray[np.float32]
Cells = dict[tuple[str, str], str]


def turbo(bits: str) -> Any:
    """Return TurboQuant of so many bits."""
    return edge.TurboQuantQuantizationConfig(bits=getattr(edge.TurboQuantBitSize, f"Bits{bits}"))


# What a number takes in memory, and how: the vectors themselves, or quantised ones.
PRECISIONS: dict[str, tuple[Any, Any]] = {
    "float32": (edge.VectorStorageDatatype.Float32, None),
    "int8": (
        edge.VectorStorageDatatype.Float16,
        edge.ScalarQuantizationConfig(edge.ScalarType.Int8),
    ),
    "4 bits": (edge.VectorStorageDatatype.Float16, turbo("4")),
    "2 bits": (edge.VectorStorageDatatype.Float16, turbo("2")),
    "1 bit": (edge.VectorStorageDatatype.Float16, turbo("1")),
}


@dataclass(frozen=True)
class Embedded:
    """Whole recall vectors of a collection, float32.

    Args:
        documents, queries: the vectors.
        relevant: rows of the documents that answer each query.
        nearest: rows of the documents nearest to each query, by an exact search.
    """

    documents: Array
    queries: Array
    relevant: list[list[int]]
    nearest: NDArray[np.intp]


class Shard:
    """Vectors in an embedded database, quantised even where they are few."""

    def __init__(self, directory: Path, vectors: Array, precision: str) -> None:
        datatype, quantisation = PRECISIONS[precision]
        config = edge.EdgeConfig(
            vectors={
                "recall": edge.EdgeVectorParams(
                    vectors.shape[1],
                    edge.Distance.Cosine,
                    datatype=datatype,
                    quantization_config=quantisation,
                )
            },
            hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000),
            optimizers=edge.EdgeOptimizersConfig(indexing_threshold=1),
        )
        self._shard: Any = edge.EdgeShard.create(str(directory), config)
        rows: Any = list(enumerate(vectors))
        points = [edge.Point(number, {"recall": vector}, {}) for number, vector in rows]
        self._shard.update(edge.UpdateOperation.upsert_points(points))
        self._shard.flush()
        self._shard.optimize()
        self.bytes = vectors.shape[1] * 4.0
        if quantisation:
            files = directory.rglob("quantized.data*")
            self.bytes = sum(path.stat().st_size for path in files if path.is_file()) / len(vectors)

    def search(
        self, vectors: Array, limit: int, *, rescore: bool, among: Sequence[int] | None = None
    ) -> list[list[Any]]:
        """Return the points found for each vector; `among` names the only one for each."""
        asked = [
            edge.QueryRequest(
                query=edge.Query.Nearest(vector, using="recall"),
                limit=limit,
                filter=None
                if among is None
                else edge.Filter(must=[edge.HasIdCondition({among[row]})]),
                params=edge.SearchParams(
                    quantization=edge.QuantizationSearchParams(
                        rescore=rescore, oversampling=OVERSAMPLING if rescore else None
                    ),
                ),
            )
            for row, vector in enumerate(vectors)
        ]
        found: list[list[Any]] = self._shard.query_batch(edge.QueryBatchRequest(asked))
        return found

    def close(self) -> None:
        """Release the files."""
        self._shard.close()


def main() -> None:
    """Measure, and write the page."""
    given = parser(__doc__).parse_args()
    student = Student.default()
    work = given.work / "compact-vectors"
    work.mkdir(parents=True, exist_ok=True)
    drawn = kept(work / "samples.npy", lambda: student.embeddings(samples(given.data)))
    parts, sizes = [], Cells()
    for name in SETS:
        one = embedded(given.data, work, student, name)
        rescored, plain = Cells(), Cells()
        for label, project in projections(one.documents, drawn):
            documents, queries = project(one.documents), project(one.queries)
            for precision in PRECISIONS:
                with tempfile.TemporaryDirectory() as directory:
                    shard = Shard(Path(directory), documents, precision)
                    for cells, again in ((rescored, True), (plain, False)):
                        cells[label, precision] = measured(one, shard, queries, rescore=again)
                    sizes[str(documents.shape[1]), precision] = f"{shard.bytes:.0f}"
                    shard.close()
        parts.append(section(name, one, rescored, plain))
    parts.append(similarity(given.data, work, student, drawn))
    PAGE.write_text("\n\n".join([head(sizes), *parts]) + "\n", encoding="utf-8")


def kept(path: Path, make: Callable[[], Array]) -> Array:
    """Return an array from an earlier run if it is there."""
    if not path.exists():
        np.save(path, make())
    array: Array = np.load(path)
    return array


def embedded(data: Path, work: Path, student: Student, name: str) -> Embedded:
    """Embed a collection, cut as the results page cuts it."""
    [one] = [each for each in ENGLISH if each.name == name]
    loaded = load_set(data / one.directory, one.split, one.queries, one.name)
    loaded = cast("RetrievalSet", loaded).with_fewer_documents(one.documents, SEED)
    rows = {key: row for row, key in enumerate(loaded.documents)}
    relevant = [
        [rows[key] for key, judged in qrels.items() if judged > 0 and key in rows]
        for qrels in loaded.qrels.values()
    ]
    texts, asked = list(loaded.documents.values()), [loaded.queries[key] for key in loaded.qrels]
    documents = kept(work / f"{name}-documents.npy", lambda: student.encode_document(texts))
    queries = kept(work / f"{name}-queries.npy", lambda: student.encode_query(asked))
    nearest = np.argsort(-cosines(queries, documents), axis=1)[:, :FIRST]
    return Embedded(documents, queries, relevant, nearest)


def projections(own: Array, others: Array) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    """Yield the whole vectors, and compact ones by width and what they are fitted to."""
    yield f"{own.shape[1]}, whole", lambda vectors: vectors
    for kind, texts in (("itself", own), ("other texts", others)):
        for width in WIDTHS:
            yield f"{width}, fitted to {kind}", fitted(texts, width)


def fitted(texts: Array, width: int) -> Callable[[Array], Array]:
    """Return the projection that `Index.compact` fits to some embeddings."""
    projection = CompactProjection(texts.shape[1], width)
    projection.fit(torch.from_numpy(texts), evened=0.0)

    @torch.inference_mode()
    def project(vectors: Array) -> Array:
        made: Array = projection(torch.from_numpy(vectors)).numpy()
        return made

    return project


def measured(one: Embedded, shard: Shard, queries: Array, *, rescore: bool) -> str:
    """Return recall of what is relevant, and of what the whole vectors find, both at 100."""
    found = [
        [int(point.id) for point in each] for each in shard.search(queries, FIRST, rescore=rescore)
    ]
    return shares(one, found)


def shares(one: Embedded, found: Sequence[Sequence[int]]) -> str:
    """Format both recalls of what was found."""
    recall = np.mean(
        [np.isin(rows, own).mean() for rows, own in zip(one.relevant, found, strict=True) if rows]
    )
    same = np.mean(
        [np.isin(rows, own).mean() for rows, own in zip(one.nearest, found, strict=True)]
    )
    return f"{recall:.3f} / {same:.3f}"


def section(
    name: str,
    one: Embedded,
    rescored: Cells,
    plain: Cells,
) -> str:
    """Write one collection's tables."""
    whole = shares(one, one.nearest.tolist()).partition(" ")[0]
    return (
        f"## {name}\n\n{len(one.documents):,} documents, {len(one.queries)} queries; recall@100 of "
        f"an exact search by the whole vectors is {whole}. Rescored by float16 vectors of the "
        f"same width:\n\n{grid(rescored)}\n\nNot rescored:\n\n{grid(plain)}"
    )


def similarity(data: Path, work: Path, student: Student, samples: Array) -> str:
    """Correlate the cosines of STS-B's pairs with what people say, and write the table."""
    [one] = [each for each in PAIRS if each.name == SIMILARITY]
    pairs = cast("PairSet", load_set(data / one.directory, one.split, one.queries, one.name))
    scores = cast("NDArray[np.float64]", pairs.scores)
    first, second = (
        kept(work / f"{SIMILARITY}-{number}.npy", partial(student.encode_document, side))
        for number, side in enumerate((pairs.first, pairs.second), 1)
    )
    cells = Cells()
    for label, project in projections(np.concatenate([first, second]), samples):
        queries, documents = project(first), project(second)
        for precision in PRECISIONS:
            with tempfile.TemporaryDirectory() as directory:
                shard = Shard(Path(directory), documents, precision)
                found = shard.search(queries, 1, rescore=False, among=range(len(documents)))
                cells[label, precision] = (
                    f"{spearman(scores, np.array([own[0].score for own in found])):.3f}"
                )
                shard.close()
    return (
        f"## STS-B\n\nSpearman correlation of the cosines of {len(first):,} pairs of the test "
        f"part; the second sentence is quantised, and not rescored.\n\n{grid(cells)}"
    )


def head(sizes: Cells) -> str:
    """Write what the tables have in common."""
    return (
        "# Compact recall vectors\n\nMade by `python recipes/compact_vectors.py DATA --work WORK`. "
        "The default student's recall vectors, whole and projected as `Index.compact` projects "
        "them: fitted to the collection's own embeddings, or to 15,000 texts of SQuAD, MedQuAD, "
        "SNLI, MNLI and STS-B (the training parts; the samples of `recipes/student_sets.py`, "
        "which have nothing of Cranfield). Searched in Qdrant Edge as the library searches "
        "collections of this size: all quantised vectors, and rescored are twice as many as are "
        "asked for. int8 is Qdrant's scalar "
        "quantisation, bits are TurboQuant's; the library's presets take 2 and 4 bits of whole "
        "vectors, rescored. The student was trained on the training parts of SQuAD and MedQuAD."
        "\n\nEach cell: recall@100 of the relevant documents / share of the first hundred by exact "
        "cosine of the whole vectors that are found among the first hundred.\n\n"
        f"Bytes a passage in memory, without the graph:\n\n{grid(sizes)}"
    )


def grid(cells: Cells) -> str:
    """Format cells by row and precision."""
    rows = list(dict.fromkeys(label for label, _ in cells))
    body = [[row, *(cells[row, precision] for precision in PRECISIONS)] for row in rows]
    return table(["dimensions", *PRECISIONS], body)


if __name__ == "__main__":
    main()
