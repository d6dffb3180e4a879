"""Warnings about filters that find nothing since nothing has a field of theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.cli.app import app


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [text for text in caplog.messages if text.startswith("the filter on")]
    caplog.clear()
    return found


async def test_a_field_that_nothing_has_is_warned_of_once_with_what_is_spelt_alike(
    index: Index, caplog: pytest.LogCaptureFixture
) -> None:
    index.add([Passage("nested", "Some text.", {"place": {"city": "Rome"}, "unit price": 4})])
    for asked, message in (
        ({"postion": 3}, "the filter on postion finds nothing: no passage has that field; there is "
                         "'position'"),
        ({"POSITION": 3}, "the filter on POSITION finds nothing: no passage has that field; there "
                          "is 'position'"),
        ({"city": "Rome"}, "the filter on city finds nothing: no passage has that field; there is "
                           "'place.city'"),
        ({"unit  price": 4}, "the filter on unit  price finds nothing: no passage has that field; "
                             "there is 'unit price'"),
        ({"must": [{"key": "even", "match": {"value": True}}]},
         "the filter on even finds nothing: no passage has that field; there is 'metadata.even'"),
        ({"text": {"$text": "name"}},
         "the filter on text finds nothing: no passage has that field; text is beside the "
         'metadata, where Qdrant\'s own filters look: {"must": [{"key": "text", "match": '
         '{"value": "..."}}]}'),
        ({"zzz": 1}, "the filter on zzz finds nothing: no passage has that field; there are "
                     "'even', 'initial', 'place', 'place.city', 'position', 'unit price'"),
    ):  # fmt: skip
        assert index.search("a name", filter=asked).hits == []
        assert warned(caplog) == [message]
        assert (await index.asearch("a name", filter=asked)).hits == []
        assert warned(caplog) == []
    for call in (lambda: index.delete(filter={"evn": True}), lambda: index.search("a")):
        call()
    assert "there is 'even'" in warned(caplog)[0]
    await index.adelete(filter={"evne": True})
    assert "there is 'even'" in warned(caplog)[0]


def test_a_field_that_is_there_is_not_warned_of(
    index: Index, caplog: pytest.LogCaptureFixture
) -> None:
    index.add([Passage("a.b", "Some text.", {"a.b": 1, "c": {"d": [{"e": 2}]}, 'the "x"': 3})])
    for asked in (
        {"even": "neither"}, {"a.b": 2}, {"c.d[].e": 3}, {'the "x"': 4}, {"c": {"$exists": False}},
        {"must": [{"key": "doc_id", "match": {"value": "none"}}]},
        {"must": [{"has_id": ["none"]}]},
    ):  # fmt: skip
        index.search("a name", filter=asked)
    index.search("a name", filter={"even": True}, score_threshold=2.0)
    assert warned(caplog) == []


def test_what_finds_something_asks_nothing_more(
    index: Index, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pages: list[Any] = []
    scroll: Callable[..., Any] = type(index.store).scroll_page
    monkeypatch.setattr(
        type(index.store),
        "scroll_page",
        lambda self, request: pages.append(request) or scroll(self, request),
    )
    index.search("a name", filter={"even": {"$ne": 5}, "missing": {"$ne": 1}})
    assert (pages, warned(caplog)) == ([], [])
    index.search("a name", filter={"missing": 1})
    assert len(pages) == 2


def test_a_tenant_is_told_of_its_own_fields_alone(
    tmp_path: Path, student: Student, caplog: pytest.LogCaptureFixture
) -> None:
    with Index.open(tmp_path, student) as index:
        index.for_tenant("one").add([Passage("1", "Text.", {"year": 1})])
        index.for_tenant("two").add([Passage("1", "Text.", {"yeer": 1})])
        index.for_tenant("one").search("text", filter={"yeer": 1})
        index.search("text", filter={"yeer": 1}, tenant="one")
        index.search("text", filter={"yeer": 2})
        index.for_tenant("none").search("text", filter={"yeer": 1})
    assert warned(caplog) == [
        "the filter on yeer finds nothing: no passage has that field; there is 'year'"
    ]


def test_a_deletion_by_a_field_that_nothing_has_says_so(
    tmp_path: Path, student: Student, caplog: pytest.LogCaptureFixture
) -> None:
    with Index.open(tmp_path, student) as index:
        index.add([Passage("1", "Text.", {"year": 1})])
    command = ["delete", "--filter", '{"yaer": 1}', "--yes", "--db", str(tmp_path)]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert "there is 'year'" in warned(caplog)[0]
