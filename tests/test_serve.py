"""The page to try a collection: its JSON, who may ask, and what a real browser shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from conftest import started
from phone import WIDTH, phone
from typer.testing import CliRunner

from d2llm_vdb import Index, Passage, SearchOptions, Student
from d2llm_vdb.cli.app import app
from d2llm_vdb.errors import InputError
from d2llm_vdb.serve.finder import Finder
from d2llm_vdb.serve.hosts import KnownHosts, listen, url_of
from d2llm_vdb.serve.page import page_app

QUESTION = "how do I rotate an API key?"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"> rotates <b>API</b> keys 🔑 at night."
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory, student: Student, texts: list[str]) -> Path:
    path = tmp_path_factory.mktemp("serve") / "db"
    with Index.open(path, student, tokens="raw") as index:
        index.add(
            [
                Passage("keys", "To rotate an API key, press Rotate."),
                Passage("<i>hostile</i>", HOSTILE, {"<u>name</u>": "</script><s>value</s>"}),
                Passage("team", "Owners invite people to the team."),
            ]
        )
        index.add(Passage(f"t{row}", text) for row, text in enumerate(texts[:20]))
    return path


@pytest.fixture(scope="module")
def url(db: Path) -> Iterator[str]:
    with started("serve", "--db", db, "--port", 0, "--recall-k", 20) as url:
        yield url


def get(url: str, path: str, **values: Any) -> dict[str, Any]:
    answer = httpx.get(f"{url}api/{path}", params=values)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_search_gives_both_orders_of_the_same_candidates(url: str) -> None:
    found = get(url, "search", q=QUESTION, k=5, rerank="tokens")
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3, 4, 5]
    assert [hit["recall_rank"] for hit in found["recall"]] == [1, 2, 3, 4, 5]
    assert found["hits"][0]["id"] == "keys"
    moved = {hit["id"]: hit["recall_rank"] for hit in found["hits"]}
    recalled = {hit["id"]: hit["recall_rank"] for hit in found["recall"]}
    assert all(moved[key] == recalled[key] for key in moved.keys() & recalled)
    assert found["timings"]["total_ms"] > 0
    assert get(url, "search", q=QUESTION, rerank="none")["score_kind"] == "cosine"


def test_an_explanation_is_that_of_the_hit_with_what_is_drawn(url: str) -> None:
    why = get(url, "explain", q=QUESTION, id="keys")
    found = get(url, "search", q=QUESTION, k=1)["hits"][0]
    assert (why["id"], why["rank"], why["score"]) == ("keys", 1, pytest.approx(found["score"]))
    assert why["logit"] == pytest.approx(sum(part["contribution"] for part in why["parts"]))
    rotate = next(word for word in why["passage"]["words"] if word["text"] == "rotate")
    assert why["drawing"]["shades"]["passage"][str(rotate["position"])] > 0.5
    assert get(url, "info") == {"passages": 23, "tokens": True, "rerank": "iem", "most": 20}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("search", "q is missing"),
        ("search?q=%20", "must be a string that is not blank"),
        ("search?q=a&k=0", "k=0 must be a whole number of at least 1"),
        ("search?q=a&k=many", "k='many' must be a whole number"),
        ("search?q=a&k=1_0", "k='1_0' must be a whole number"),
        ("search?q=a&k=21", "k=21 must be at most 20"),
        ("search?q=a&rerank=best", "rerank='best' is not one of iem, tokens, none"),
        ("search?q=a&filter={}", "/api/search has no option 'filter'; it takes q, k, rerank"),
        ("explain?q=a", "id is missing"),
        ("explain?q=a&id=nothing", "id='nothing' is not among the 20 candidates"),
    ],
)
def test_what_cannot_be_used_is_told_in_the_librarys_words(
    url: str, path: str, message: str
) -> None:
    answer = httpx.get(f"{url}api/{path}")
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_the_page_may_load_nothing_and_asks_its_server_alone(url: str) -> None:
    answer = httpx.get(url)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.findall(r"(?:src|href|url\()\s*=?\s*[\"']?(?:https?:)?//", answer.text)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:80"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "[::1"}, 421),
        ({"Origin": "http://evil.example"}, 421),
        ({"Origin": "null"}, 421),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 421),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 421),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 421),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
    ],
)
def test_a_name_that_is_not_the_servers_own_and_other_sites_pages_are_refused(
    url: str, headers: dict[str, str], status: int
) -> None:
    assert httpx.get(f"{url}api/info", headers=headers).status_code == status


def test_a_link_of_another_site_leads_to_the_page_and_nothing_else_of_it_does(url: str) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert httpx.get(url, headers=link).status_code == 200
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert httpx.get(url, headers=image).status_code == 421


async def test_the_passage_that_is_explained_is_that_of_the_tenant(student: Student) -> None:
    with Index.open(":memory:", student) as index:
        for tenant, text in (("a", "Cats sleep by day."), ("b", "Cats hunt at night.")):
            index.for_tenant(tenant).add([Passage("1", text)])
        app = page_app(Finder(index, SearchOptions()), "localhost")
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for tenant, word in (("a", "sleep"), ("b", "hunt")):
                asked = {"q": "cats", "id": "1", "tenant": tenant}
                answer = await client.get("/api/explain", params=asked)
                assert word in answer.json()["passage"]["text"]
            answer = await client.get("/api/explain", params={"q": "cats", "id": "1"})
            assert answer.status_code == 400
            assert "is that of passages of" in answer.json()["error"]
            found = (await client.get("/api/search", params={"q": "cats"})).json()
            assert {hit["tenant"] for hit in found["hits"]} == {"a", "b"}
            answer = await client.get("/api/explain", params={**asked, "tenant": "c"})
            assert "id='1' is not among the 2 candidates" in answer.json()["error"]


@pytest.mark.parametrize("command", ["serve", "mcp"])
def test_token_states_that_are_not_stored_are_missed_at_the_start(
    command: str, tmp_path: Path, student: Student
) -> None:
    with Index.open(tmp_path, student) as index:
        index.add([Passage("1", "A text.")])
    refused = CliRunner().invoke(app, [command, "--db", str(tmp_path), "--rerank", "tokens"])
    assert refused.exit_code == 2
    assert "rerank='tokens' needs token states" in refused.stderr
    assert "http://" not in refused.stderr


def test_an_address_that_others_reach_wants_to_be_allowed() -> None:
    with pytest.raises(InputError, match=r"host='0.0.0.0' is reached by other machines"):
        listen("0.0.0.0", 0)
    with listen("0.0.0.0", 0, allow_remote=True) as listening:
        assert url_of(listening).startswith("http://0.0.0.0:")
        with pytest.raises(InputError, match="give another --port"):
            listen("0.0.0.0", listening.getsockname()[1], allow_remote=True)
    assert KnownHosts(lambda *_: None, "Search.LAN").names == {"localhost", "search.lan"}  # type: ignore[arg-type]


def test_a_command_refuses_other_machines_before_it_opens_anything(tmp_path: Path) -> None:
    failed = CliRunner().invoke(app, ["serve", "--db", str(tmp_path / "no"), "--host", "0.0.0.0"])
    assert failed.exit_code == 2
    assert "--allow-remote where that is meant" in failed.stderr


@pytest.fixture(scope="session")
def browser() -> str:
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    pytest.skip("NO BROWSER: what the page shows is not tested; apt-get install chromium")


def seen(browser: str, url: str, profile: Path, **values: Any) -> str:
    """Open the page in a browser, and return its document when nothing happens any more."""
    run = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            "--virtual-time-budget=20000",
            "--dump-dom",
            f"{url}?{urlencode(values)}",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return run.stdout


@pytest.mark.slow
def test_a_browser_shows_moves_hits_and_times(browser: str, url: str, tmp_path: Path) -> None:
    shown = seen(browser, url, tmp_path, q=QUESTION, k=5, rerank="tokens")
    assert "<title>how do I rotate an API key? – d2llm search</title>" in shown
    assert "23 passages" in shown
    assert shown.count('<article class="card hit"') >= 5
    assert shown.count("<path ") >= 5
    assert re.search(r"encode \d+\.\d ms", shown)


@pytest.mark.slow
@pytest.mark.parametrize("opened", [False, True])
def test_a_browser_shows_a_text_and_runs_nothing_of_it(
    browser: str, url: str, tmp_path: Path, opened: bool
) -> None:
    why = {"why": "<i>hostile</i>"} if opened else {}
    shown, *_ = seen(browser, url, tmp_path, q=QUESTION, k=5, **why).partition("<script>")
    assert not re.search(r"<(img|b|s|u)[ >]|<i>", shown)
    text = unescape(re.sub(r"<[^>]*>", "", shown))
    assert HOSTILE in text
    assert "<u>name</u>: </script><s>value</s>" in text
    assert ("Which words found which" in text) == opened


@pytest.mark.slow
def test_a_browser_marks_the_words_that_found_each_other(
    browser: str, url: str, tmp_path: Path
) -> None:
    shown = seen(browser, url, tmp_path, q=QUESTION, rerank="tokens", why="<i>hostile</i>")
    assert re.search(r'class="word shaded"[^>]*>keys</span> <span[^>]*>🔑</span> <span', shown)
    assert "MaxSim of the words" in shown


@pytest.mark.slow
def test_a_browser_shows_what_went_wrong(browser: str, url: str, tmp_path: Path) -> None:
    page = seen(browser, url, tmp_path, q=" ", k=5)
    assert re.search(r'class="note error"[^>]*>[^<]*must be a string that is not blank', page)
    assert re.search(r'<div id="result" hidden', page)


# Elements that stand out at a side; what scrolls or is cut by itself may.
OUTSIDE = """[...document.querySelectorAll("body *")]
  .filter((each) => !each.closest(".scroll, .what, svg"))
  .filter((each) => each.getBoundingClientRect().right > innerWidth + 0.5
    || each.getBoundingClientRect().left < -0.5)
  .map((each) => each.outerHTML.slice(0, 80))"""

# Width and size of letters.
SEEN = """(() => {{
  const each = document.querySelector("{}");
  return [each.getBoundingClientRect().width, parseFloat(getComputedStyle(each).fontSize)];
}})()"""


@pytest.mark.slow
def test_a_phone_shows_box_hits_and_reasons_without_scrolling_sideways(
    browser: str, url: str, tmp_path: Path
) -> None:
    asked = {"q": QUESTION, "k": 5, "rerank": "tokens", "why": "<i>hostile</i>"}
    with phone(browser, tmp_path) as screen:
        screen.open(f"{url}?{urlencode(asked)}", "document.querySelector('.segments, .wide')")
        assert screen.value("[innerWidth, document.documentElement.scrollWidth]") == [WIDTH, WIDTH]
        assert screen.value(OUTSIDE) == []
        box, letters = screen.value(SEEN.format("input[name=q]"))
        text, small = screen.value(SEEN.format(".hit .text"))
        screen.value("document.body.append('w'.repeat(99))")
        assert screen.value("document.documentElement.scrollWidth") > WIDTH
    assert box > WIDTH / 2
    assert letters >= 16  # a smaller one makes phones zoom in as one types
    assert text > 0.8 * WIDTH
    assert small >= 15
