"""The recipes of the default student: what they train on, and how they report."""

from __future__ import annotations

import default_student
import pytest
import results
import results_page
import results_sets

from d2llm_vdb.evaluate.report import Report, SetFacts

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
    used = {*default_student.SAMPLES, *default_student.TAUGHT, *default_student.DISTILLED}
    assert used <= SHIPPABLE


def test_the_results_page_tells_what_was_reached_and_what_was_not(report: Report) -> None:
    page = results_page.page(report, Report(), {"all": {"medquad iem_ndcg@10": 0.9}})
    assert "+0.020 on average, -0.010 at worst" in page
    assert "| 0.99 or more | 0.990 on average, 0.990 at worst |" in page
    assert "| share of the teacher's accuracy kept | 0.90 | 0.89 to 0.89 |" in page
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
    assert "Beside the teacher" not in results_page.page(report, Report(), {})


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
