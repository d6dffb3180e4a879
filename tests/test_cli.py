from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forks import Command
from typer.main import get_command
from typer.testing import CliRunner, Result

import d2llm_vdb
from d2llm_vdb import Index, Student
from d2llm_vdb.cli import main
from d2llm_vdb.cli.app import app
from d2llm_vdb.cli.other_words import OTHER_WORDS
from d2llm_vdb.store import EdgeStore


def d2llm(*arguments: object, input: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)


def test_ingest_search_and_info_as_json(corpus: Path, in_tmp: Path) -> None:
    first = d2llm("ingest", corpus, "--db", "db", "--tokens", "raw", "--json")
    assert first.exit_code == 0, first.stderr
    counts = json.loads(first.stdout)
    assert counts["documents"] == 20
    assert counts["passages"] == counts["encoded"] >= 20
    names = ("unchanged", "replaced", "deleted", "rejected")
    assert [counts[name] for name in names] == [0, 0, 0, 0]
    assert counts["seconds"] > 0
    again = json.loads(d2llm("ingest", corpus, "--db", "db", "--json").stdout)
    assert (again["encoded"], again["unchanged"]) == (0, counts["encoded"])

    found = d2llm(
        "search", "assert statement", "--db", "db", "-k", 3, "--rerank", "tokens", "--json"
    )
    result = json.loads(found.stdout)
    assert len(result["hits"]) == 3
    assert {"id", "score", "recall_score", "text", "metadata"} <= set(result["hits"][0])
    assert "assert" in result["hits"][0]["text"].lower()
    assert set(result["timings"]) == {"encode_ms", "recall_ms", "rerank_ms", "total_ms"}

    told = json.loads(d2llm("info", "--db", "db", "--json").stdout)
    assert told["points"] == counts["encoded"]
    assert told["schema"]["student"] == "default"


def test_tables_for_people(corpus: Path, in_tmp: Path) -> None:
    assert "passages" in d2llm("ingest", corpus, "--db", "db").stdout
    shown = d2llm("search", "assert statement", "--db", "db", "-k", 2).stdout
    for part in ("score", "recall", "was", "#1", "encode", "rerank"):
        assert part in shown
    assert "default" in d2llm("info", "--db", "db").stdout


def test_an_ingest_ends_with_its_time_and_the_counts_that_are_not_zero(in_tmp: Path) -> None:
    lines = '{"id": "a", "text": "Pears are ripe."}\n{"id": "b", "text": ""}'
    first = d2llm("ingest", "-", "--db", "db", input=lines).stdout
    assert re.match(
        r"ingested into db/d2llm in [\d.]+ s, [\d.]+ passages and \d+ tokens a second\n", first
    )
    rows = {name: int(value) for name, value in re.findall(r"│ (\D+?) +│ +(\d+) │", first)}
    assert rows == {"documents": 2, "passages": 1, "encoded": 1, "tokens": 7, "rejected": 1}
    again = d2llm("ingest", "-", "--db", "db", input=lines).stdout
    assert re.search(r"│ encoded +│ 0 │", again)  # what costs time is told, though it is none
    assert "tokens" not in again


def test_a_hit_is_shown_with_its_metadata_and_what_is_around_it(in_tmp: Path) -> None:
    record = {"id": "a", "text": "First one.\n\nSecond two.\n\nThird three.", "it's": 'a "kind"'}
    d2llm(
        "ingest", "-", "--db", "db", "--chunk-tokens", 6, "--overlap", 0, input=json.dumps(record)
    )
    shown = d2llm("search", "Second two", "--db", "db", "-k", 1, "--neighbours", 1).stdout
    lines = [line.split("│")[-2].strip() for line in shown.splitlines() if line.startswith("│")]
    texts = ["First one.", "Second two.", "Third three."]
    assert lines == ["a#1", *texts, json.dumps({"it's": 'a "kind"'})]


@pytest.fixture
def small_db(in_tmp: Path) -> str:
    lines = (
        '{"id": "key", "text": "Rotate keys monthly."}\n{"id": "pear", "text": "Pears are ripe."}'
    )
    assert d2llm("ingest", "-", "--db", "db", input=lines).exit_code == 0
    return "db"


def test_piped_queries_are_answered_to_the_last_whatever_one_of_them_does(small_db: str) -> None:
    with Command("search", "--db", small_db, "--json") as asked:
        printed, said = asked.communicate("fruit\n\n \n\udcff\nsecurity\n")
        assert asked.wait() == 2
    results = [json.loads(line) for line in printed.splitlines()]
    assert [result["hits"][0]["id"] for result in results] == ["pear", "key"]
    assert "not valid Unicode" in said


def test_a_program_that_asks_by_a_pipe_gets_each_answer_at_once(small_db: str) -> None:
    with Command("search", "--db", small_db, "--json") as asked:
        for query in ("\ufefffruit", "security"):  # a file of Windows begins with that mark
            asked.stdin.write(f"{query}\n")
            asked.stdin.flush()
            assert json.loads(asked.stdout.readline())["query"] == query.removeprefix("\ufeff")
        asked.communicate()
        assert asked.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "shell", "code", "said"),
    [
        (["info"], ">&-", 0, ""),
        (["info"], "2>&-", 0, ""),
        (["search"], "<&-", 0, ""),
        (["search"], "<&- >&- 2>&-", 0, ""),
        (["info"], "> /dev/full", 1, "error: [Errno 28] No space left on device\n"),
        (["info"], "| true", 1, ""),
    ],
)
def test_streams_that_are_closed_full_or_left_end_a_command_without_a_traceback(
    small_db: str, arguments: list[str], shell: str, code: int, said: str
) -> None:
    command = shlex.join(
        [sys.executable, "-m", "d2llm_vdb", *arguments, "--json", "--db", small_db]
    )
    script = f"set -o pipefail; {command} {shell}"
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (code, said)


def test_a_question_is_logged_as_json_before_it_is_answered(small_db: str) -> None:
    with Command("--log-json", "delete", "key", "--db", small_db) as process:
        for line in process.stderr:
            if "[y/N]" in json.loads(line)["message"]:
                break
        else:
            pytest.fail("the question was not there")
        process.communicate("y\n")
        assert process.wait() == 0


@pytest.mark.parametrize("leave", ["Ctrl-D", "Ctrl-C", "a blank line"])
def test_a_person_is_prompted_beside_piped_results_and_leaves_without_a_trace(
    small_db: str, leave: str
) -> None:
    terminal, theirs = os.openpty()
    with Command("search", "--db", small_db, "--json", stdin=theirs) as process:
        os.write(terminal, b"fruit\n")
        answer = process.stdout.readline()
        prompts = [process.stderr.read(len("query> ")) for _ in range(2)]
        if leave == "Ctrl-C":
            time.sleep(0.5)  # input() passes over what comes while it begins
            process.send_signal(signal.SIGINT)
        else:
            os.write(terminal, b"\x04" if leave == "Ctrl-D" else b"\n")
        rest, said = process.communicate()
        assert process.wait() == 0
    os.close(terminal)
    os.close(theirs)
    assert json.loads(answer)["query"] == "fruit"
    assert prompts == ["query> ", "query> "]
    assert (rest, said.strip()) == ("", "")


@pytest.mark.parametrize("command", [["search"], ["explain", "--json"]])
def test_what_the_first_query_would_wait_for_is_loaded_before_it(
    small_db: str, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    encoded: list[str] = []
    encode = Student.encode_queries

    def noting(self: Student, texts: Iterable[str]) -> Any:
        encoded.extend(texts := list(texts))
        return encode(self, texts)

    monkeypatch.setattr(Student, "encode_queries", noting)
    assert d2llm(command[0], "fruit", *command[1:], "--db", small_db).exit_code == 0
    assert encoded.index("fruit") == 1


def test_filters_are_qdrants_json(corpus: Path, in_tmp: Path) -> None:
    d2llm("ingest", corpus, "--db", "db")
    condition = json.dumps({"must": [{"key": "metadata.row", "range": {"lt": 3}}]})
    found = d2llm("search", "a name", "--db", "db", "-k", 50, "--filter", condition, "--json")
    assert {hit["metadata"]["row"] for hit in json.loads(found.stdout)["hits"]} == {0, 1, 2}
    wrong = d2llm("search", "a name", "--db", "db", "--filter", '{"must": [{"kay": 1}]}')
    assert wrong.exit_code == 2
    assert "filter is not a Qdrant filter" in wrong.stderr


def test_standard_input_and_rejects(in_tmp: Path) -> None:
    lines = '{"text": "good"}\nnot json\n{"text": ""}\n{"txt": "field"}\n{"text": "fine"}\n'
    result = d2llm("ingest", "-", "--db", "db", "--json", input=lines)
    assert result.exit_code == 3
    counts = json.loads(result.stdout)
    assert (counts["encoded"], counts["rejected"]) == (2, 3)
    assert "3 rejected" in result.stderr
    assert "the first, in -:2: not JSON" in result.stderr
    rejects = [json.loads(line) for line in Path("d2llm-rejects.jsonl").read_text().splitlines()]
    assert sorted(reject["line"] for reject in rejects) == [2, 3, 4]


def test_a_document_of_one_long_line_is_taken_whole(in_tmp: Path) -> None:
    sentence = "The quick brown fox jumps over the lazy dog. "
    line = json.dumps({"id": "long", "text": sentence * (2**20 // len(sentence) // 16)})
    Path("long.jsonl").write_text(line + "\n")
    counts = json.loads(d2llm("ingest", "long.jsonl", "--db", "db", "--json").stdout)
    assert (counts["documents"], counts["rejected"], counts["truncated"]) == (1, 0, 0)
    assert counts["encoded"] > 50


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ingest", "missing.txt", "--db", "db"], 2, "source 'missing.txt' does not exist"),
        (["ingest", "-"], 2, "give either --db DIR or --url URL"),
        (["ingest", "-", "--db", "db", "--url", "http://x"], 2, "give either"),
        (["ingest", "-", "--db", "db", "--student", "nowhere"], 1, "not a student directory"),
        (["ingest", "-", "--db", "db", "--student", ""], 2, "--student '' names no directory"),
        (["ingest", "-", "--url", "http://127.0.0.1:9", "--rest"], 1, "no answer from Qdrant"),
        (["ingest", "-", "--db", ""], 2, "--db: '' names no directory"),
        (["ingest", "-", "--db", ":memory:"], 2, "gone when the command ends"),
        (
            ["ingest", "-", "--db", "~no-such-user/db"],
            2,
            "--db='~no-such-user/db': no such home directory",
        ),
        (["ingest", "-", "--db", "a-file"], 2, "'a-file' is a file; give a directory"),
        (["ingest", "-", "--db", "a-file/db"], 1, "Not a directory"),
        (["ingest", "-", "--db", "http://x"], 2, "a URL; give it with --url"),
        (["ingest", "-", "--url", "localhost:6333"], 2, "must begin with http://"),
        (["search", "x", "--db", "db"], 1, "no collection in"),
        (["search", "x", "--db", "db", "--score-threshold", "nan"], 2, "score_threshold=nan"),
        (["info", "--db", "db"], 1, "no collection in"),
        (["init", "a-file"], 2, "'a-file' is a file; name a directory"),
        (
            ["init", "new", "--backbone", "~no-such-user/m"],
            2,
            "model='~no-such-user/m': no such home directory",
        ),
        (["init", "full"], 2, "'full' is not empty and holds no student; name another directory"),
    ],
)
def test_failures_are_one_clear_line_and_an_exit_code(
    in_tmp: Path, arguments: list[str], code: int, message: str
) -> None:
    Path("a-file").touch()
    Path("full").mkdir()
    Path("full", "notes.txt").touch()
    result = d2llm(*arguments, input="")
    assert result.exit_code == code
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in in_tmp.iterdir()) == ["a-file", "full"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["ingest", "-", "--chunk-tokens", "0"],
        ["ingest", "-", "--overlap", "-1"],
        ["ingest", "-", "--shard-number", "0"],
        ["ingest", "-", "--replication-factor", "0"],
        ["ingest", "-", "--grpc-port", "65536"],
        ["search", "x", "-k", "0"],
        ["search", "x", "--recall-k", "0"],
        ["init", "student", "--sample-size", "-1"],
        ["init", "student", "--recall-dim", "0"],
        ["init", "student", "--max-tokens", "7"],
        ["init", "student", "--iem-dim", "0"],
        ["init", "student", "--segments", "-1"],
        ["init", "student", "--lora-rank", "0"],
    ],
)
def test_a_number_out_of_range_is_refused_by_its_option(in_tmp: Path, arguments: list[str]) -> None:
    result = d2llm(*arguments)
    assert result.exit_code == 2
    assert f"Invalid value for '{arguments[-2]}'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["search", "a", "--top-k", "3"], "-k"),
        (["search", "a", "--limit=3"], "-k"),
        (["search", "a", "-n", "3"], "-k"),
        (["ingest", "a", "--index", "db"], "--db"),
        (["ingest", "a", "--chunk-size", "9"], "--chunk-tokens"),
        (["info", "--host", "localhost"], "--url"),
        (["info", "--collection-name", "docs"], "--collection"),
        (["delete", "a", "--force"], "--yes"),
        (["search", "a", "--neighbors", "1"], "--neighbours"),
    ],
)
def test_an_option_by_its_name_elsewhere_hints_at_ours_alone(
    arguments: list[str], meant: str
) -> None:
    failed = d2llm(*arguments)
    assert failed.exit_code == 2
    assert re.findall(r"--?[a-z-]+", failed.stderr.splitlines()[-1])[1:] == [meant]


def test_no_hint_names_an_option_that_there_is_none_of() -> None:
    commands = get_command(app).commands.values()  # type: ignore[attr-defined]
    ours = {name for each in commands for option in each.params for name in option.opts}
    assert not OTHER_WORDS.keys() - ours


def test_markup_is_shown_as_it_stands_and_terminal_commands_not_at_all(in_tmp: Path) -> None:
    folder = Path("[bold]docs[x]")
    folder.mkdir()
    (folder / "[red]a.txt").write_text("Press [bold]any\x07 key[/bold] \x1b[31mnow :smile:\x9b2J")
    Path("bad.jsonl").write_text("not json\n")
    rejects = "[dim]rejects.jsonl"
    told = d2llm("ingest", folder, "bad.jsonl", "--db", "[blue]db", "--rejects", rejects)
    assert "ingested into [blue]db/d2llm" in told.stdout
    assert "in [dim]rejects.jsonl" in told.stderr
    shown = d2llm("search", "[/] press\x1b]0;title\x07 any", "--db", "[blue]db").stdout
    assert "[/] press any" in shown
    assert "[red]a.txt" in shown
    assert "Press [bold]any key[/bold] now :smile:2J" in shown
    assert not set("\x07\x1b\x9b") & set(shown)
    assert "[blue]db/d2llm" in d2llm("info", "--db", "[blue]db").stdout
    assert "'[red]no' does not exist" in d2llm("ingest", "[red]no", "--db", "db").stderr


@pytest.mark.parametrize(
    "command", ["ingest", "search", "delete", "info", "reembed", "compact", "init", "convert"]
)
def test_help_names_the_exit_codes_and_keeps_what_stands_in_brackets(command: str) -> None:
    shown = " ".join(d2llm(command, "--help").stdout.split())
    assert "Exit codes: 0 done; 1 failed; 2 wrong usage" in shown
    if command == "ingest":
        assert "Record field with the text (default: text, content, page_content or body)" in shown


def test_the_list_of_commands_says_of_each_what_it_does_to_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    commands = d2llm("--help").stdout.partition("Commands:")[2].partition("Exit codes")[0]
    assert len(commands.splitlines()) > 15
    assert "..." not in commands


def test_a_locked_database_is_said_to_be(small_db: str) -> None:
    with Index.open(small_db):
        result = d2llm("search", "x", "--db", small_db)
    assert result.exit_code == 1
    assert "already open" in result.stderr


def test_the_version_is_the_packages() -> None:
    assert d2llm("--version").stdout.split() == ["d2llm-vdb", d2llm_vdb.__version__]


def test_an_api_key_is_not_shown(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", "sesame-open")
    for arguments in (["--help"], ["-", "--url", "https://127.0.0.1:9", "--rest"]):
        result = d2llm("ingest", *arguments, input="")
        assert "sesame" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("entry", "command"),
    [
        (partial(main, "ingest"), ["-", "-v", "--db", "db"]),
        (main, ["ingest", "-", "-v", "--db", "db"]),
        (main, ["-v", "ingest", "-", "--db", "db"]),
    ],
)
def test_verbose_logs_from_wherever_it_is_given(
    entry: Callable[[], None], command: list[str], in_tmp: Path
) -> None:
    with Command(*command, entry=entry) as ingest:
        _, said = ingest.communicate('{"text": "good"}')
        assert ingest.wait() == 0
    assert "INFO:d2llm_vdb" in said
    assert "student default on cpu" in said


def test_output_that_cannot_hold_a_character_or_is_closed_early_ends_no_command(
    in_tmp: Path,
) -> None:
    assert d2llm("ingest", "-", "--db", "db", input='{"text": "päron → 梨"}').exit_code == 0
    command = [sys.executable, "-m", "d2llm_vdb", "search", "梨", "--db", "db"]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    table = subprocess.run(command, env=ascii_only, capture_output=True, text=True, check=True)
    assert "p?ron" in table.stdout
    found = CliRunner(charset="ascii").invoke(app, [*command[3:], "--json"])
    assert json.loads(found.stdout)["hits"][0]["text"] == "päron → 梨"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize("command", [["-m", "d2llm_vdb.ingest"], ["-m", "d2llm_vdb", "ingest"]])
def test_modules_run_as_commands(command: list[str], in_tmp: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", *command, "--help"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "--chunk-tokens" in run.stdout
    assert run.stderr == ""


def stored(db: Path) -> dict[str, dict[str, np.ndarray]]:
    store = EdgeStore.open(db / "d2llm")
    points = store.scroll(vectors=["recall", "segments"])
    found = {point.payload["id"]: point.vectors for point in points}
    store.close()
    return found


def rows_of(texts: list[str]) -> Iterator[dict[str, str]]:
    """Records without an end, every one of its own and a single passage."""
    for copy in itertools.count():
        for row, text in enumerate(texts):
            yield {"id": f"{copy}-{row}", "text": f"{copy}: {text[:400]}"}


def stopped_half_way(
    db: str, rows: Iterable[dict[str, str]], how: signal.Signals, windows: int
) -> int:
    """Ingest records without an end, stop once windows are encoded, return the exit code."""
    # What is stored is compared.
    with Command("ingest", "-", "--db", db, "--preset", "exact") as process:

        def feed() -> None:
            with suppress(BrokenPipeError), process.stdin:
                for row in rows:
                    process.stdin.write(json.dumps(row) + "\n")

        feeding = threading.Thread(target=feed)
        feeding.start()
        counts = set()
        for line in process.stderr:
            counts |= set(re.findall(r"\b([1-9]\d*) passages encoded", line))
            if len(counts) == windows:
                break
        process.send_signal(how)
        process.stderr.read()
        code = process.wait()
        feeding.join()
    return code


@pytest.mark.slow
def test_killed_and_restarted_it_ends_as_if_never_killed(in_tmp: Path, texts: list[str]) -> None:
    # One window is stored before the second is counted.
    assert stopped_half_way("killed", rows_of(texts), signal.SIGKILL, 2) == -signal.SIGKILL
    before = stored(in_tmp / "killed")
    assert before

    rows = list(itertools.islice(rows_of(texts), len(before) + 20))
    assert set(before) < {row["id"] for row in rows}
    for db, given, encoded in (("killed", rows, 20), ("fresh", rows[-60:], 60)):
        corpus = "".join(json.dumps(row) + "\n" for row in given)
        command = ("ingest", "-", "--db", db, "--preset", "exact", "--json")
        counts = json.loads(d2llm(*command, input=corpus).stdout)
        assert (counts["encoded"], counts["unchanged"]) == (encoded, len(given) - encoded)

    resumed, fresh = stored(in_tmp / "killed"), stored(in_tmp / "fresh")
    assert set(resumed) == {row["id"] for row in rows}
    for key, vectors in fresh.items():
        for name, vector in vectors.items():
            # Bfloat16, where a machine computes in it, rounds by the texts beside one.
            np.testing.assert_allclose(resumed[key][name], vector, atol=1e-2, err_msg=name)


@pytest.mark.slow
def test_a_supervisors_stop_ends_as_an_interrupt(in_tmp: Path, texts: list[str]) -> None:
    assert stopped_half_way("db", rows_of(texts), signal.SIGTERM, 1) == 130
    assert stored(in_tmp / "db")
