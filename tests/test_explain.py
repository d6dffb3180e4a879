from __future__ import annotations

import asyncio
import copy
import json
import math
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import save_decoder

from d2llm_vdb import Hit, Index, Passage, Student
from d2llm_vdb.errors import InputError
from d2llm_vdb.explain import Explanation, Word, html_page
from d2llm_vdb.explain.reading import read

QUESTION = "how do I check a condition while debugging?"
EVIL = "<script>alert('x')</script> & \"quoted\" <b>bold</b>"

KEYS = [
    Passage("keys", "To rotate an API key, open Settings and press Rotate. The old one expires."),
    Passage("team", "Owners invite people to the team. Anyone may leave it again."),
    Passage("evil", f"Comparisons chain: {EVIL} means both hold."),
]


@pytest.fixture(scope="module")
def small(student: Student) -> Iterator[Index]:
    with Index.open(":memory:", student, tokens="raw") as opened:
        opened.add(KEYS)
        yield opened


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> str:
    """A decoder with a byte-level BPE tokenizer."""
    return str(save_decoder(tmp_path_factory.mktemp("decoder"), "llama", texts))


def log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))


def explained(student: Student, query: str, passage: str, **options: str) -> Explanation:
    with Index.open(":memory:", student, tokens="raw") as index:
        index.add([Passage("p", passage)])
        return index.search(query, **options).hits[0].explain()


def shown(words: tuple[Word, ...]) -> list[str]:
    return [word.text for word in words if word.start is not None]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"rerank": "iem"}, ["constant", "cosine", "match", "words", "learned"]),
        (
            {"rerank": "iem", "task": "symmetric"},
            ["constant", "cosine", "match", "learned"],
        ),
        ({"rerank": "iem", "hybrid": 0}, ["constant", "cosine", "match", "learned"]),
        ({"rerank": "tokens"}, ["constant", "maxsim", "recall", "match", "words"]),
    ],
)
def test_the_parts_add_up_to_the_logit_that_the_search_used(
    filled: Index, options: dict[str, str], names: list[str]
) -> None:
    for place, hit in enumerate(filled.search(QUESTION, k=3, **options).hits, 1):
        explanation = hit.explain()
        assert [part.name for part in explanation.parts] == names
        assert explanation.logit == sum(part.value * part.weight for part in explanation.parts)
        assert explanation.logit == pytest.approx(log_odds(hit.score), abs=5e-3)
        assert (explanation.rank, explanation.recall_rank) == (place, hit.recall_rank)
        assert (explanation.score, explanation.recall_score) == (hit.score, hit.recall_score)


def test_the_papers_interaction_has_a_constant_and_what_it_learned(decoder: str) -> None:
    student = Student.from_backbone(decoder, interaction="concat")
    explanation = explained(student, QUESTION, "A condition is checked.")
    assert [part.name for part in explanation.parts] == ["constant", "learned"]
    assert explanation.logit == pytest.approx(log_odds(explanation.score), abs=5e-3)
    assert explanation.segments == ()


def test_an_untrained_student_has_learned_nothing_and_pays_all_tokens_alike(
    decoder: str,
) -> None:
    explanation = explained(Student.from_backbone(decoder), QUESTION, "A condition is checked.")
    parts = {part.name: part for part in explanation.parts}
    assert parts["learned"].contribution == 0
    assert parts["cosine"].value == pytest.approx(explanation.recall_score, abs=2e-3)
    assert explanation.query.even
    assert explanation.passage.even


def test_without_reranking_there_is_nothing_to_add_up(small: Index) -> None:
    explanation = small.search("rotate a key", rerank="none").hits[0].explain()
    assert explanation.parts == ()
    assert explanation.logit is None
    assert explanation.score == explanation.recall_score
    assert html_page(explanation).count("<section hidden>") == 1


def test_a_hit_of_a_later_page_or_of_hybrid_recall_says_so(small: Index) -> None:
    [second] = small.search("rotate a key", k=1, offset=1).hits
    assert second.explain().rank == 2
    fused = small.search("rotate a key", rerank="none", hybrid=1).hits[0].explain()
    assert fused.score_kind == "rrf"
    assert "rrf" in html_page(fused)


def test_similar_words_find_each_other_and_their_contributions_are_maxsim(small: Index) -> None:
    explanation = small.search("how do I rotate my API keys?", rerank="tokens").hits[0].explain()
    found = {pair.query.text: pair.passage.text for pair in explanation.alignment}
    assert found["rotate"] == "rotate"
    assert found["API"] == "API"
    assert found["keys"] == "key"
    strongest = max(explanation.alignment, key=lambda pair: pair.similarity)
    assert strongest.query.text in ("rotate", "API", "keys")
    maxsim = next(part for part in explanation.parts if part.name == "maxsim")
    total = sum(pair.contribution for pair in explanation.alignment)
    assert total == pytest.approx(maxsim.value, abs=1e-5)


def test_the_best_segment_is_the_match_that_counts(student: Student) -> None:
    sentences = (
        "Qdrant keeps vectors and what belongs to them in collections on disk.",
        "To rotate an API key, open the settings of your account and press the button Rotate.",
        "The old key expires after a day, and whoever still uses it is told so.",
    )
    with Index.open(":memory:", student) as index:
        index.add([Passage("keys", " ".join(sentences))])
        explanation = index.search("what happens to the old key?").hits[0].explain()
    [best] = [segment for segment in explanation.segments if segment.best]
    match = next(part for part in explanation.parts if part.name == "match")
    assert best.match == pytest.approx(match.value, abs=1e-4)
    assert best.match == max(segment.match for segment in explanation.segments)
    assert best == explanation.segments[-1]
    assert len(explanation.segments) == 3  # of sixteen tokens at least
    places = [explanation.passage.text.find(segment.text) for segment in explanation.segments]
    assert places == sorted(places)
    assert min(places) == 0


def test_attention_is_pmas_and_does_not_change_how_alike_words_are() -> None:
    student = Student.default(dtype="float32")
    text = "To rotate an API key, open Settings."
    even = explained(student, "rotate keys", text, rerank="tokens")
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        student.heads.mha_pma.S.normal_(std=20)
    uneven = explained(student, "rotate keys", text, rerank="tokens")
    assert even.query.even
    assert not uneven.passage.even
    for explanation in (even, uneven):
        for side in (explanation.query, explanation.passage):
            assert sum(word.attention for word in side.words) == pytest.approx(1)
    ids, _ = student.backbone.tokenize([text], 256)
    [batch] = student.backbone.batches(ids)
    with torch.inference_mode():
        _, attention = student.heads.mha_pma(batch.states, batch.mask)
    first_tokens = np.cumsum([0, *(word.tokens for word in uneven.passage.words)])[:-1]
    expected = np.add.reduceat(attention[0, : len(ids[0])].numpy(), first_tokens)
    paid = [word.attention for word in uneven.passage.words]
    np.testing.assert_allclose(paid, expected, rtol=1e-5)
    assert [pair.similarity for pair in uneven.alignment] == pytest.approx(
        [pair.similarity for pair in even.alignment], abs=1e-4
    )
    assert 'attended"' in html_page(uneven)
    assert 'attended"' not in html_page(even)


TEXTS = {
    "Debugging   tokenization, don't\n\tyou?": ["Debugging", "tokenization", ",", "don", "'", "t",
                                                 "you", "?"],
    "naïve café_name x86": ["naïve", "café_name", "x86"],
    "Straße 🙂 ok": ["Straße", "🙂", "ok"],
}  # fmt: skip


@pytest.mark.parametrize("tokenizer", ["word pieces", "byte pairs"])
@pytest.mark.parametrize("text", TEXTS)
def test_words_are_whole_and_are_the_text_itself(
    text: str, tokenizer: str, student: Student, decoder: str
) -> None:
    if tokenizer == "byte pairs":
        student = Student.from_backbone(decoder)
    reading = read(student, text, "")
    assert "".join(run for run, _ in reading.text.runs()) == text
    words = [word.strip() for word in shown(reading.text.words)]
    assert [word for word in words if word] == TEXTS[text]
    for word in reading.text.words:
        if word.start is not None:
            assert text[word.start : word.end] == word.text
    assert sum(word.tokens for word in reading.text.words) == len(reading.word_of)


def test_scripts_without_blanks_keep_their_tokens(student: Student) -> None:
    reading = read(student, "東京は日本 ok", "")
    assert "ok" in shown(reading.text.words)
    assert len(shown(reading.text.words)) > 3


def test_a_prompt_is_no_part_of_the_text(decoder: str) -> None:
    student = Student.from_backbone(decoder, query_prompt="find: ", passage_prompt="doc: ")
    explanation = explained(student, "chained  comparisons", "Comparisons chain.")
    assert "".join(run for run, _ in explanation.query.runs()) == "chained  comparisons"
    prompt = [word.text.strip() for word in explanation.query.words if word.start is None]
    assert "".join(prompt) == "find:"
    assert shown(explanation.passage.words)[0] == "Comparisons"


def test_what_was_cut_off_is_told_apart(student: Student) -> None:
    text = "many words " * 300
    explanation = explained(student, "words", text)
    read_part = "".join(run for run, _ in explanation.passage.runs())
    assert read_part + explanation.passage.unread == text
    assert len(read_part) < 256 * len("words ")
    assert "was cut off" in html_page(explanation)
    assert explained(student, "words", "few words").passage.unread == ""


def test_a_hit_is_not_attached_to_its_search_where_it_is_pickled_or_copied_deeply(
    small: Index,
) -> None:
    hit = small.search("rotate a key").hits[0]
    assert copy.copy(hit).explain() == hit.explain()
    for other in (copy.deepcopy(hit), pickle.loads(pickle.dumps(hit))):
        assert other == hit
        assert repr(other) == repr(hit)
        with pytest.raises(InputError, match="hit 'keys' is no longer attached to its search"):
            other.explain()
    made = Hit("x", "text", {}, 0.5, 0.5, 1, "x", 0)
    with pytest.raises(InputError, match="hit 'x' is no longer attached to its search"):
        made.explain()


def test_an_explanation_is_shown_by_its_hit_place_and_score(small: Index) -> None:
    explanation = small.search("rotate a key").hits[0].explain()
    assert repr(explanation) == f"Explanation('keys', rank=1, score={explanation.score:.4g})"


def test_results_and_explanations_are_ready_for_json(small: Index) -> None:
    result = small.search("rotate a key", rerank="tokens")
    for hit in json.loads(json.dumps(result.to_dict()))["hits"]:
        assert {"id", "text", "score"} <= set(hit)
        assert not any(name.startswith("_") for name in hit)
    explanation = result.hits[0].explain()
    values = json.loads(json.dumps(explanation.to_dict()))
    assert values["id"] == "keys"
    assert values["head"] == "late"
    assert values["logit"] == pytest.approx(sum(part["contribution"] for part in values["parts"]))
    assert {"query", "passage", "similarity"} <= set(values["alignment"][0])


def test_hits_of_awaited_and_batched_searches_explain_their_own_query(small: Index) -> None:
    awaited = asyncio.run(small.asearch("team owners", k=1))
    assert awaited.hits[0].explain().query.text == "team owners"
    for result in small.search_many(["rotate a key", "leave the team"]):
        assert result.hits[0].explain().query.text == result.query


class Page(HTMLParser):
    """The tags, attributes and text of a page; fails where a tag is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


@pytest.fixture(scope="module")
def evil(student: Student) -> Explanation:
    with Index.open(":memory:", student, tokens="raw") as index:
        index.add([Passage("<i>evil</i>", KEYS[2].text)])
        return index.search(f"{EVIL} chained comparisons", rerank="tokens").hits[0].explain()


def test_a_page_escapes_every_text_and_loads_nothing(evil: Explanation) -> None:
    page = Page(html_page(evil))
    assert page.tags.count("script") == 1
    assert not {"b", "img", "iframe"} & set(page.tags)
    assert EVIL in page.text
    assert "<i>evil</i>" in page.text
    assert page.values("src") == []
    assert "http" not in "".join(value for _, value in page.attributes)
    assert "url(" not in html_page(evil)
    assert "@import" not in html_page(evil)


def test_every_word_of_the_query_leads_to_the_one_it_found(evil: Explanation) -> None:
    page = Page(html_page(evil))
    targets = [link for link in page.values("href") if link.startswith("#")]
    assert len(targets) == 2 * len(evil.alignment)
    assert {link[1:] for link in targets} <= set(page.values("id"))
    assert len(page.values("id")) == len(set(page.values("id")))


def test_a_browser_shows_the_page_without_an_error(evil: Explanation, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("NO BROWSER: install chromium to see explanations rendered")
    path = tmp_path / "why.html"
    path.write_text(html_page(evil), encoding="utf-8")
    run = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr", "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in run.stderr
    dom = Page(run.stdout)
    assert EVIL in dom.text
    assert len(dom.values("href")) == len(Page(html_page(evil)).values("href"))
