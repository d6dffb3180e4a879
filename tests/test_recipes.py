"""The recipes of the default student: what they train on, and how they report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ablations
import cluster_size
import concat
import default_student
import docstrings
import fusion_features
import fusion_page
import fusion_probabilities
import fusion_scores
import fusion_sets
import numpy as np
import pairs_student
import pytest
import results
import results_page
import results_sets
import student_sets
import teacher
import torch
from tiny_sets import DOCUMENTS, QUERIES, write_qrels, write_rows

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.evaluate.metrics import retrieval_metrics
from d2llm_vdb.evaluate.report import Report, SetFacts
from d2llm_vdb.progress import Progress
from d2llm_vdb.student import score
from d2llm_vdb.student.config import IEMConfig, SegmentsConfig
from d2llm_vdb.student.evidence import Evidence
from d2llm_vdb.student.iem import IEM
from d2llm_vdb.student.late import LateInteraction
from d2llm_vdb.student.terms import UNREAD
from d2llm_vdb.student.words import shared_words

# Sets whose licences let a model trained on them be shipped.
SHIPPABLE = {
    "squad_v1.1/train",
    "medquad",
    "stsb_en",
    "snli_sample",
    "mnli_sample",
    "cad_nli",
    "cmrc2018",
    "medqa_zh_internal",
}


def figures(modes: dict[str, float]) -> dict[str, dict[str, float]]:
    return {
        mode: {"ndcg@10": value, "recall@100": value, "ms_per_query": 5.0}
        for mode, value in modes.items()
    }


@pytest.fixture
def report() -> Report:
    report = Report()
    for place, one in enumerate((*results_sets.ENGLISH, *results_sets.CHINESE)):
        gain = 0.03 if place else -0.01
        report.sets[one.name] = figures(
            {"none": 0.495, "hybrid": 0.5, "iem": 0.5 + gain, "tokens": 0.6, "exact": 0.5,
             "cosine": 0.5, "maxsim": 0.6, "bm25": 0.4}
        )  # fmt: skip
        report.facts[one.name] = SetFacts(one.split, 100, 1000)
    for one in results_sets.PAIRS:
        report.sets[one.name] = {
            mode: {"accuracy": value, "ap": value, "spearman": value}
            for mode, value in (
                ("none", 0.6), ("iem", 0.8), ("tokens", 0.7), ("cosine", 0.6), ("maxsim", 0.6),
                ("cross-encoder", 0.9),
            )
        }  # fmt: skip
        report.facts[one.name] = SetFacts(one.split, 100)
    return report


def test_only_sets_whose_licence_allows_a_shipped_model_are_trained_on() -> None:
    used = {
        *student_sets.SAMPLES,
        *default_student.LEARNT,
        *pairs_student.LEARNT,
        *teacher.LABELLED,
        *ablations.DISTILLED,
    }
    assert used <= SHIPPABLE


def test_a_student_of_concat_that_was_measured_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "medquad"
    rows = [{"_id": key, "title": title, "text": text} for key, (title, text) in DOCUMENTS.items()]
    write_rows(path / "corpus.jsonl", rows)
    write_rows(
        path / "queries.jsonl", [{"_id": key, "text": text} for key, text in QUERIES.items()]
    )
    for split in ("train", "dev", "test"):
        write_qrels(path / "qrels" / f"{split}.tsv")
    short = replace(concat.SHORT, steps=1, batch_queries=2, evaluate_steps=1)
    monkeypatch.setattr(concat, "TESTS", {"medquad": "test"})
    monkeypatch.setattr(concat, "ROWS", {"one": ([short], {"interaction": "concat"})})
    monkeypatch.setattr("sys.argv", ["concat.py", str(tmp_path), "--work", str(tmp_path / "work")])
    concat.main()
    written = (tmp_path / "work" / "concat.md").read_text()
    assert [line.split(" | ")[0] for line in written.splitlines()[2:]] == ["| start", "| one"]
    monkeypatch.delattr(concat, "distill")
    concat.main()
    assert (tmp_path / "work" / "concat.md").read_text() == written


def test_the_results_page_tells_what_was_reached_and_what_was_not(report: Report) -> None:
    page = results_page.page(report, Report(), {"all": {"medquad iem_ndcg@10": 0.9}})
    assert "+0.020 on average, -0.010 at worst" in page
    assert "| 0.99 or more | 0.990 on average, 0.990 at worst |" in page
    assert "| share of the cross-encoder's accuracy | 0.90 | 0.89 to 0.89 |" in page
    assert "| all | 0.900 |" in page


def test_every_row_of_a_table_has_as_many_cells_as_its_head(report: Report) -> None:
    for block in results_page.page(report, Report(), {}).split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1, block


def test_the_page_compares_reranking_with_the_teacher_where_it_was_measured(report: Report) -> None:
    cosine = {"cosine": {"ndcg@10": 0.5, "ms_per_query": 5.0}}
    teacher = {"cross-encoder": {"ndcg@10": 0.812, "ms_per_query": 800.0}}
    squad = report.sets["squad"] | cosine | teacher
    beside = Report({"squad": squad}, {"squad": SetFacts("dev", 100, 1000)})
    page = results_page.page(report, beside, {})
    assert "The first 100 queries" in page
    assert "| squad | 0.500 | 0.490 | 0.600 | 0.812 |" in page
    assert "800.0" in page
    assert "Beside a cross-encoder" not in results_page.page(report, Report(), {})


def test_without_the_teacher_the_page_shows_and_says_what_it_said_before(report: Report) -> None:
    beside = results.with_earlier(report)
    page = results_page.page(report, beside, {}, earlier=True)
    assert "figures of version 0.1" in page
    assert "| squad | 0.734 | 0.861 | 0.905 | 0.832 |" in page
    assert report.sets["sick"]["cross-encoder"] == {
        "accuracy": 0.884,
        "ap": 0.963,
        "spearman": 0.729,
    }


@pytest.fixture(scope="module")
def kept(student: Student, tmp_path_factory: pytest.TempPathFactory) -> fusion_features.Collection:
    """The kitchen's features."""
    work = tmp_path_factory.mktemp("fusion")
    directory = work / "kitchen"
    write_rows(
        directory / "corpus.jsonl",
        ({"_id": key, "title": title, "text": text} for key, (title, text) in DOCUMENTS.items()),
    )
    write_rows(
        directory / "queries.jsonl", ({"_id": key, "text": text} for key, text in QUERIES.items())
    )
    write_qrels(directory / "qrels" / "test.tsv")
    source = fusion_sets.Source("kitchen", "kitchen", directory)
    told: list[Progress] = []
    first = fusion_features.collection(student, source, work, told.append)
    assert told
    again: list[Progress] = []
    second = fusion_features.collection(student, source, work, again.append)
    assert not again  # read from the file
    assert np.array_equal(first.features.cosine, second.features.cosine)
    return second


def test_features_are_those_of_a_search(kept: fusion_features.Collection, student: Student) -> None:
    ours = kept.features
    assert ours.cosine.shape == (3, 6)  # of seven passages one is itself a query
    row = sorted(QUERIES).index("q1")
    with Index.open(":memory:", student, tokens="raw") as index:
        index.add(
            [Passage(key, f"{title}\n{text}".strip()) for key, (title, text) in DOCUMENTS.items()]
        )
        hits = index.search(QUERIES["q1"], k=6, recall_k=6).hits
    hits.sort(key=lambda hit: hit.recall_rank)
    assert ours.cosine[row] == pytest.approx([hit.recall_score for hit in hits], abs=1e-3)
    assert ours.bm25[row] == pytest.approx([hit.bm25 for hit in hits], rel=1e-3)
    assert ours.match[row] == pytest.approx([hit.match for hit in hits], abs=0.01)
    relevant = {"bread": 2, "soup": 1}
    assert kept.gains[row].tolist() == [relevant.get(hit.id, 0) for hit in hits]
    assert kept.ideal[row] == pytest.approx(2 + 1 / np.log2(3))
    assert "moon" not in [list(DOCUMENTS)[place] for _, place in kept.relevant]


def test_ndcg_is_what_evaluation_measures(kept: fusion_features.Collection) -> None:
    gains = np.array([[0, 1, 2, 0], [0, 0, 0, 1]], np.float32)
    ideal = np.array([2 + 1 / np.log2(3) + 0.5, 1], np.float32)
    one = replace(kept, gains=gains, ideal=ideal)
    scores = np.array([[4, 3, 2, 1], [1, 2, 3, 4]], np.float32)
    judged = {"a": {"x": 2, "y": 1, "z": 1}, "b": {"x": 1}}
    run = {"a": ["n", "y", "x", "m"], "b": ["x", "l", "m", "n"]}
    expected = retrieval_metrics(judged, run)["ndcg@10"]
    assert fusion_scores.ndcg(one, scores) == pytest.approx(expected, abs=1e-6)
    assert fusion_scores.ndcg(one, -scores) < expected


def test_a_score_is_added_up_as_an_untrained_student_adds_it_up(
    kept: fusion_features.Collection,
) -> None:
    drawn = np.random.default_rng(3)
    names = ("cosine", "match", "maxsim", "bm25")
    values = {name: drawn.random((2, 4), dtype=np.float32) for name in names}
    unread = np.array([0.0, 0.5], np.float32)
    features = fusion_features.Features(**values, unread=unread, passages=1000)
    shared = shared_words(features.bm25, 1000)
    halves = torch.nn.functional.normalize(torch.from_numpy(drawn.normal(size=(2, 4, 8))), dim=-1)
    query, passage = halves.float()
    cosine = (query * passage).sum(dim=-1)
    torch.manual_seed(0)
    late = LateInteraction(8, segments=True)
    iem = IEM(8, IEMConfig(8, "product"))
    iem.initialise(None, segments=True)
    for row, trust in enumerate((1.0, 1 / (1 + (UNREAD - 1) * 0.5))):
        evidence = Evidence(
            query_half=query,
            passage_half=passage,
            maxsim=torch.from_numpy(features.maxsim[row]),
            recall_score=torch.from_numpy(features.cosine[row]),
            match=torch.from_numpy(features.match[row]),
            words=torch.from_numpy(shared[row]),
            trust=trust,
        )
        ours = fusion_scores.logits(features, "tokens", fusion_scores.PRESENT["tokens"])[row]
        assert ours == pytest.approx(late(evidence).detach().numpy(), abs=1e-5)
        product = replace(features, cosine=np.stack([cosine.numpy()] * 2))
        ours = fusion_scores.logits(product, "iem", fusion_scores.PRESENT["iem"])[row]
        assert ours == pytest.approx(iem(evidence, "asymmetric")[0].detach().numpy(), abs=1e-5)


def one_of(
    kept: fusion_features.Collection, family: str, by: str, name: str = ""
) -> fusion_features.Collection:
    """A collection whose relevant passage is first by one of the features, and last by others."""
    first, last = np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32)
    values = dict.fromkeys(("cosine", "match", "maxsim", "bm25"), last) | {by: first}
    values["bm25"] = values["bm25"] * 50
    features = fusion_features.Features(**values, unread=np.zeros(1, np.float32), passages=100)
    gains, ideal = np.array([[1, 0]], np.float32), np.ones(1, np.float32)
    source = fusion_sets.Source(name or family, family, None)
    return replace(kept, source=source, features=features, gains=gains, ideal=ideal)


def test_a_family_has_no_part_in_the_choice_that_is_tried_on_it(
    kept: fusion_features.Collection,
) -> None:
    every = [one_of(kept, "words", "bm25"), one_of(kept, "meaning", "cosine")]
    choice = fusion_scores.chosen(every, "iem", lambda _: None)
    assert choice.without["words"].words < 0.8 < choice.without["meaning"].words
    table = fusion_scores.ranked(every, {"iem": choice})
    assert table["iem, unseen"] == pytest.approx(
        dict.fromkeys(("words", "meaning"), 0.631), abs=0.001
    )
    assert max(table["iem, seen"].values()) == 1
    assert table["bm25"]["words"] == table["cosine"]["meaning"] == 1


def test_families_count_the_same_however_many_collections_they_have(
    kept: fusion_features.Collection,
) -> None:
    many = [one_of(kept, "words", "bm25", str(number)) for number in range(3)]
    others = [one_of(kept, family, "cosine") for family in ("meaning", "sense")]
    assert fusion_scores.chosen([*many, *others], "iem", lambda _: None).all.words < 0.8


def test_a_calibration_knows_nothing_of_the_family_it_is_tried_on(
    kept: fusion_features.Collection,
) -> None:
    right, wrong = (one_of(kept, family, "cosine") for family in "ab")
    chance = replace(wrong.features, cosine=-wrong.features.cosine)
    every = [right, replace(wrong, features=chance, gains=1 - wrong.gains)]
    before = fusion_probabilities.calibrated(every, english=True)
    other = replace(every[0], gains=1 - every[0].gains)
    after = fusion_probabilities.calibrated([other, every[1]], english=True)
    assert torch.equal(before["a"].offset, after["a"].offset)
    assert not torch.equal(before["b"].offset, after["b"].offset)


def test_the_calibration_error_counts_matches_and_others_the_same() -> None:
    labels = torch.tensor([1.0, 0.0, 0.0, 0.0])
    error = fusion_probabilities.calibration_error
    assert error(torch.tensor([1.0, 0.0, 0.0, 0.0]), labels) == 0
    assert error(torch.tensor([0.5, 0.5, 0.5, 0.5]), labels) == pytest.approx(0, abs=1e-6)
    assert error(torch.tensor([0.25, 0.25, 0.25, 0.25]), labels) == pytest.approx(0.25)
    assert error(torch.tensor([0.0, 1.0, 1.0, 1.0]), labels) == pytest.approx(1)


def test_small_collections_have_one_relevant_passage(kept: fusion_features.Collection) -> None:
    for drawn in fusion_probabilities.small_ones(kept, 3):
        assert (len(drawn.query), len(drawn.passages), drawn.relevant.tolist()) == (1, 3, [0])
        [row] = np.flatnonzero((kept.queries.recall == drawn.query.recall).all(axis=1))
        relevant = kept.passages.recall[kept.relevant[kept.relevant[:, 0] == row, 1]]
        same = (drawn.passages.recall[:, None] == relevant).all(axis=2).any(axis=1)
        assert same.tolist() == [True, False, False]


def test_the_page_of_scores_tells_what_was_chosen(kept: fusion_features.Collection) -> None:
    every = [one_of(kept, "words", "bm25"), one_of(kept, "meaning", "cosine")]
    choices = {
        mode: fusion_scores.chosen(every, mode, lambda _: None) for mode in ("iem", "tokens")
    }
    fitted = fusion_probabilities.calibrated(every, english=True)
    wrong = fusion_probabilities.calibration_errors(every, fitted)
    sizes = {("7", True): {True: [0.9], False: [0.1]}, ("7", False): {True: [0.8], False: [0.2]}}
    ranked = fusion_scores.ranked(every, choices)
    page = fusion_page.page(SegmentsConfig(), every, ranked, choices, (wrong, wrong), sizes)
    assert f"+ {score.IEM_WORDS:g} words - 4" in page
    assert "| 7 | 0.90 | 0.10 | 0.80 | 0.20 |" in page
    assert "| words | 0.631 | 1.000 |" in page
    for block in page.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1, block


def test_docstrings_become_queries_and_passages(tmp_path: Path) -> None:
    rest = "It says much more about what it does, " * 6
    source = (
        f'def one():\n    """Return the first of all numbers.\n\n    {rest}\n    """\n'
        f'class Two:\n    """Hold two numbers at the same time.\n\n    And {rest}\n    """\n'
        'def short():\n    """Return nothing that is worth much.\n\n    No.\n    """\n'
    )
    (tmp_path / "numbers.py").write_text(source)
    (tmp_path / "again.py").write_text(source)
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "test_numbers.py").write_text(source.replace("numbers", "tests"))
    made = docstrings.docstring_set({"sums": tmp_path}, 1)
    assert made == docstrings.docstring_set({"sums": tmp_path}, 1)
    assert {key.partition("-")[2] for key in made.documents} == {"sums.one", "sums.Two"}
    [(query, text)] = made.queries.items()
    assert made.qrels == {query: {query: 1}}
    assert text in {"Return the first of all numbers.", "Hold two numbers at the same time."}
    assert text not in made.documents[query]


def test_the_page_on_scale_has_the_table_that_its_recipe_makes() -> None:
    page = (Path(cluster_size.__file__).parent.parent / "docs" / "scale.md").read_text()
    [shown] = cluster_size.TABLE.findall(page)
    assert shown == cluster_size.table([cluster_size.Cluster(size) for size in cluster_size.SIZES])


def test_a_cluster_grows_with_what_it_holds_and_how_soon() -> None:
    small = cluster_size.Cluster(1e6, hours=10)
    assert (small.workers, small.nodes, small.shards) == (2, 2, 4)
    soon = replace(small, hours=1)
    assert (soon.workers, soon.disk_gb) == (14, small.disk_gb)
    twice = replace(small, passages=2e8, replicas=3)
    assert twice.nodes == 10
    assert twice.memory_gb == pytest.approx(2e8 * 3 * 783 / 1e9)
