"""An index that mteb evaluates."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import mteb
import pytest
from datasets import Dataset
from mteb import TaskMetadata
from mteb.abstasks.retrieval import AbsTaskRetrieval

from d2llm_vdb import Student
from d2llm_vdb.errors import InputError, MissingExtraError
from d2llm_vdb.evaluate import retrieval_metrics
from d2llm_vdb.interop.mteb import IndexSearch

COUNT = 40
NAMES = sorted(topics)[:COUNT]


class Topics(AbsTaskRetrieval):
    """Find the topic of Python's language reference by its title and its name."""

    metadata = TaskMetadata(
        name="Topics",
        description="Titles of Python's topics as queries",
        type="Retrieval",
        dataset={"path": "in/memory", "revision": "1"},
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )
    top_ranked: dict[str, list[str]] | None = None

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        titles, bodies = zip(*(topics[name].split("\n", 1) for name in NAMES), strict=True)
        documents = [
            {"id": name, "title": "", "text": body.strip("* \n")[:200]}
            for name, body in zip(NAMES, bodies, strict=True)
        ]
        documents.append({"id": "blank", "title": "", "text": " "})
        queries = [{"id": f"q{row}", "text": title} for row, title in enumerate(titles)]
        self.dataset = {
            "default": {
                "test": {
                    "corpus": Dataset.from_list(documents),
                    "queries": Dataset.from_list(queries),
                    "relevant_docs": {f"q{row}": {name: 1} for row, name in enumerate(NAMES)},
                    "top_ranked": self.top_ranked,
                }
            }
        }
        self.data_loaded = True


class Recorded(IndexSearch):
    """Keeps what it answered."""

    run: dict[str, dict[str, float]]

    def search(self, *args: Any, **kwargs: Any) -> dict[str, dict[str, float]]:
        self.run = super().search(*args, **kwargs)
        return self.run


def evaluated(model: IndexSearch, task: Topics) -> dict[str, float]:
    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    [scores] = result.task_results[0].scores["test"]
    return scores


WHERE: dict[str, Any] = {
    "task_metadata": Topics.metadata,
    "hf_split": "test",
    "hf_subset": "default",
    "encode_kwargs": {},
    "num_proc": None,
}


def ingest(model: IndexSearch, rows: list[dict[str, Any]]) -> None:
    model.index(Dataset.from_list(rows), **WHERE)


def search(model: IndexSearch, rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    return model.search(Dataset.from_list(rows), top_k=10, **WHERE)


def test_mteb_measures_what_our_own_measures_say(student: Student, tmp_path: Path) -> None:
    qrels = {f"q{row}": {name: 1} for row, name in enumerate(NAMES)}
    runs = []
    for rerank in ("none", "iem", "tokens"):
        with Recorded(student, tmp_path, rerank=rerank) as model:
            assert isinstance(model, mteb.SearchProtocol)
            scores = evaluated(model, Topics())
        ranking = {
            query: sorted(hits, key=lambda key, hits=hits: -hits[key])
            for query, hits in model.run.items()
        }
        ours = retrieval_metrics(qrels, ranking)
        for theirs, name in (("ndcg_at_10", "ndcg@10"), ("mrr_at_10", "mrr@10")):
            assert scores[theirs] == pytest.approx(ours[name], abs=1e-5), rerank
        assert 0.7 < scores["ndcg_at_10"] < 1
        assert {len(hits) for hits in model.run.values()} == {COUNT}
        assert model.run not in runs
        runs.append(model.run)


def test_a_task_without_a_place_leaves_nothing_behind(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Recorded(student, rerank="none", recall_k=5) as model:
        evaluated(model, Topics())
        assert {path.name[:11] for path in tmp_path.iterdir()} == {"d2llm-mteb-"}
        assert {len(hits) for hits in model.run.values()} == {COUNT}
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="no corpus to search"):
        search(model, [{"id": "q", "text": "a query"}])


def test_candidates_that_a_task_gives_are_the_only_ones(student: Student) -> None:
    task = Topics()
    task.top_ranked = {f"q{row}": [name, NAMES[row - 1]] for row, name in enumerate(NAMES)}
    del task.top_ranked["q1"]
    with Recorded(student, ":memory:", recall_k=1, hybrid=0.5) as model:
        scores = evaluated(model, task)
    for query, hits in model.run.items():
        assert set(hits) == set(task.top_ranked.get(query, []))
    assert scores["hit_rate_at_3"] == pytest.approx((COUNT - 1) / COUNT, abs=1e-3)


def test_what_lies_there_is_used_again_and_not_for_other_documents(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": str(row), "title": "Title", "text": f"text {row}"} for row in range(3)]
    with IndexSearch(student, tmp_path) as model:
        ingest(model, rows)
        with monkeypatch.context() as without:
            without.setattr(student.backbone, "batches", None)  # nothing can be encoded
            ingest(model, rows)
        found = search(model, [{"id": "q", "text": "text 2", "instruction": "Find its title."}])
        assert set(found["q"]) == {"0", "1", "2"}
        with pytest.raises(InputError, match="holds 3 passages and Topics-default-test has 2"):
            ingest(model, rows[:2])


def test_results_are_cached_by_student_and_options(student: Student) -> None:
    metas = [
        IndexSearch(student).mteb_model_meta,
        IndexSearch(student, recall_k=20).mteb_model_meta,
        IndexSearch(student, rerank="none").mteb_model_meta,
        IndexSearch(student, hybrid=0.5).mteb_model_meta,
    ]
    assert {meta.revision for meta in metas} == {student.fingerprint}
    assert len({meta.experiment_name for meta in metas}) == 4
    assert metas[0].embed_dim == student.config.recall_width


def test_queries_that_are_conversations_are_refused(student: Student) -> None:
    with IndexSearch(student, ":memory:") as model:
        ingest(model, [{"id": "1", "title": None, "text": "a text"}])
        with pytest.raises(InputError, match="query 'q' is list, not a string"):
            search(model, [{"id": "q", "text": ["one turn", "another"]}])


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "d2llm_vdb.interop.mteb")
    monkeypatch.setitem(sys.modules, "mteb.models.model_meta", None)
    with pytest.raises(MissingExtraError, match=r"d2llm-vdb\[mteb\]"):
        importlib.import_module("d2llm_vdb.interop.mteb")
