"""The examples do what they say, on real parts."""

from __future__ import annotations

import json
from pathlib import Path

import hybrid_and_filters
import langchain_rag
import llamaindex_query_engine
import own_student
import pytest
import server as server_example
from conftest import Server
from public_names import imported_beyond_the_public
from smollm2 import SmolLM2

from d2llm_vdb import Student


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the examples keep their index, one after the other."""
    return str(tmp_path_factory.mktemp("examples-db"))


@pytest.fixture(scope="module")
def writer() -> SmolLM2:
    return SmolLM2()


EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_imports_public_names_alone(path: Path) -> None:
    assert imported_beyond_the_public(path.read_text()) == []


def sections(printed: str) -> dict[str, list[str]]:
    """What was printed below each heading, without blanks around it."""
    blocks = [block.splitlines() for block in printed.strip().split("\n\n")]
    return {heading: [line.strip() for line in lines] for heading, *lines in blocks}


def ids(lines: list[str]) -> list[str]:
    """The second word of every line."""
    return [line.split()[1] for line in lines]


def documents(found: list[str]) -> list[str]:
    return [each.partition("#")[0] for each in found]


def test_searches_differ_by_what_they_are_asked_for(
    db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hybrid_and_filters.main(db)
    shown = sections(capsys.readouterr().out)
    found = {heading.split(":")[0]: ids(lines) for heading, lines in shown.items()}
    assert documents(found["Vectors alone"])[0] == "continue"
    assert documents(found["Words and vectors, fused"])[0] == "return"
    assert len(found["By score"]) == len(found["The second page"]) == 4
    assert not set(found["By score"]) & set(found["The second page"])
    assert found["Unlike each other (MMR)"] != found["By score"][:3]
    assert len(set(documents(found["One hit a document"]))) == 4
    [filtered] = [hits for heading, hits in found.items() if heading.startswith("Among")]
    assert {"break", "continue"} <= set(filtered)
    assert "for" in documents(found["By score"])
    assert "for" not in documents(filtered)
    assert "Ann's password" in shown["Ann asks: When does the password change?"][0]
    assert len(found["Ann asks"]) == len(found["Bob asks"]) == 1
    assert len(found["The owner of both asks"]) == 2


def test_the_passages_around_a_hit_are_of_its_document(
    db: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hybrid_and_filters.main(db)
    shown = sections(capsys.readouterr().out)
    [around] = [lines for heading, lines in shown.items() if heading.startswith("The passages")]
    assert len(around) == 3
    assert all(line.startswith('The "for" statement') for line in around)


@pytest.mark.slow
def test_a_langchain_chain_answers_from_its_sources(
    db: str, writer: SmolLM2, capsys: pytest.CaptureFixture[str]
) -> None:
    langchain_rag.main(db, writer)
    shown = sections(capsys.readouterr().out)
    assert list(shown) == list(langchain_rag.QUESTIONS)
    answer, *sources = shown[langchain_rag.QUESTIONS[0]]
    assert "null object" in answer
    assert ids(sources) == ["pydoc:bltin-null-object", "pydoc:return"]
    answer, *sources = shown[langchain_rag.QUESTIONS[1]]
    assert "__debug__" in answer
    assert set(ids(sources)) == {"pydoc:assert"}


@pytest.mark.slow
def test_a_llamaindex_query_engine_answers_from_its_nodes(
    db: str, writer: SmolLM2, capsys: pytest.CaptureFixture[str]
) -> None:
    llamaindex_query_engine.main(db, writer)
    shown = sections(capsys.readouterr().out)
    assert list(shown) == list(llamaindex_query_engine.QUESTIONS)
    answer, *sources = shown[llamaindex_query_engine.QUESTIONS[0]]
    assert "None" in answer
    assert ids(sources)[0] == "pydoc:bltin-null-object"
    answer, *_ = shown[llamaindex_query_engine.QUESTIONS[1]]
    assert "False" in answer


async def test_without_a_server_the_way_to_one_is_told() -> None:
    with pytest.raises(SystemExit) as told:
        await server_example.main("http://localhost:1")
    message = str(told.value.code)
    assert "http://localhost:1" in message
    assert "docker run" in message
    assert "QDRANT_URL" in message


async def check_server_example(
    location: str, grpc_port: int, capsys: pytest.CaptureFixture[str]
) -> str:
    await server_example.main(location, grpc_port=grpc_port)
    shown = capsys.readouterr().out
    for question in server_example.QUESTIONS:
        assert question in shown
    assert "pydoc:while" in shown
    assert "pydoc:bltin-null-object" in shown
    return shown


async def test_the_code_for_a_server_runs_without_one_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert " 0 were there already" in await check_server_example(":memory:", 6334, capsys)


async def test_a_server_is_asked_and_a_second_run_encodes_nothing(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    await check_server_example(server.url, server.grpc_port, capsys)
    again = await check_server_example(server.url, server.grpc_port, capsys)
    assert again.startswith("0 passages encoded")


@pytest.mark.slow
def test_a_student_of_ones_own_is_no_worse_for_its_distillation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_student.main(tmp_path)
    shown = capsys.readouterr().out
    assert f"{own_student.QUESTION}  ->  del" in shown
    rows = [line.split() for line in shown.splitlines() if "rerank=" in line]
    assert [row[0] for row in rows] == [f"rerank={mode!r}" for mode in own_student.MODES]
    assert all(0.5 < float(value) <= 1 for row in rows for value in row[1:])
    made = [Student.load(tmp_path / name) for name in ("untrained", "distilled")]
    assert made[0].fingerprint != made[1].fingerprint
    record = json.loads((tmp_path / "distilled" / "training.json").read_text())
    assert record["dev_after"]["dev"] >= record["dev_before"]["dev"]
