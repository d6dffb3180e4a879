from __future__ import annotations

import pytest

from d2llm_vdb import Student
from d2llm_vdb.ingest.chunking import Chunker
from d2llm_vdb.ingest.documents import Document
from d2llm_vdb.ingest.headings import Outline, joined

TEXT = (
    "# Guide\n\nA few words.\n\n## Install\n\n" + "How to install it.\n\n" * 12 + "### Linux\n\n"
    + "Run the command.\n\n" * 40 + "Use\n---\n\n" + "How to use it.\n\n" * 40
)  # fmt: skip


def path(text: str, place: str) -> str:
    return joined(Outline(text).path(text.index(place)))


def test_a_place_stands_below_the_headings_before_it() -> None:
    assert path(TEXT, "few") == "Guide"
    assert path(TEXT, "Run") == "Guide > Install > Linux"
    assert path(TEXT, "How to use") == "Guide > Use"
    assert path("words\n# A", "words") == ""


def test_what_only_looks_like_a_heading_is_none() -> None:
    assert path("# A\n\n```sh\n# comment\n```\n\n    # code\n\n- # item\n\nhere", "here") == "A"
    assert path("# A\r\rx\r\n\r\n## B ##\r\n\r\nhere", "here") == "A > B"


def test_passages_after_the_first_carry_their_headings(student: Student) -> None:
    document = Document("d", TEXT, "f", title="T", metadata={"a": 1}, markdown=True)
    first, *others = Chunker(student, 80, 16).cut([document])[0]
    assert (first.text[:10], first.metadata) == ("T\n# Guide\n", {"a": 1})
    for passage in others:
        headings = passage.metadata["headings"]
        assert passage.metadata == {"a": 1, "headings": headings}
        _, above, *_ = passage.text.split("\n")
        assert headings.startswith(above)
        if "Run the command" in passage.text.split("How to use")[0]:
            assert "Linux" in passage.text or "Linux" in headings
    assert {p.metadata["headings"] for p in others} == {
        "Guide > Install", "Guide > Install > Linux", "Guide > Use",
    }  # fmt: skip
    ids, cut = student.backbone.tokenize([passage.text for passage in others], 256)
    assert cut == 0
    assert max(map(len, ids)) <= 80


PARAGRAPH = " ".join(f"Sentence number {row} says how keys are rotated." for row in range(12))


@pytest.mark.parametrize("overlap", [0, 16])
def test_headings_are_no_passage_by_themselves(student: Student, overlap: int) -> None:
    text = (
        f"# Guide\n\n## Keys\n\n{PARAGRAPH}\n\nOld keys\n--------\n\n### Of teams\n\n"
        f"{PARAGRAPH}\n\n## See also\n\n### More\n"
    )
    document = Document("d", text, "f", markdown=True)
    [passages] = Chunker(student, 64, overlap).cut([document])
    assert [passage.id for passage in passages] == [
        "d" if not row else f"d#{row}" for row in range(len(passages))
    ]
    assert passages[0].text.startswith("# Guide\n\n## Keys\n\nSentence number 0")
    [later] = [
        p for p in passages if p.text.startswith("Guide\nOld keys\n--------\n\n### Of teams")
    ]
    assert "\n\nSentence number 0" in later.text
    assert later.metadata["headings"] == "Guide > Old keys > Of teams"
    assert passages[-1].text.endswith("keys are rotated.\n\n## See also\n\n### More")
    assert passages[-1].metadata["headings"] == "Guide > Old keys > Of teams"
    for passage in passages:
        assert "Sentence" in passage.text
        assert passage.text.endswith(text[passage.start : passage.end])
    ids, cut = student.backbone.tokenize([passage.text for passage in passages], 64)
    assert cut == 0
    assert max(map(len, ids)) <= 64


def test_headings_that_leave_no_room_for_their_text_stay_apart(student: Student) -> None:
    text = "# " + "very long heading " * 15 + "\n\n" + "word " * 400
    [passages] = Chunker(student, 64, 0).cut([Document("d", text, "f", markdown=True)])
    _, cut = student.backbone.tokenize([passage.text for passage in passages], 64)
    assert cut == 0
    assert passages[0].text == text.partition("\n")[0].strip()
    document = Document("e", "# " + "heading " * 30, "f", markdown=True)
    [alone] = Chunker(student, 8, 0).cut([document])
    assert "".join(passage.text for passage in alone).count("heading") == 30


def test_headings_longer_than_a_quarter_of_a_passage_are_metadata_alone(student: Student) -> None:
    long = "very long heading " * 20
    text = f"# {long}\n\n" + "Some words here.\n\n" * 40
    _, *others = Chunker(student, 80, 16).cut([Document("d", text, "f", markdown=True)])[0]
    assert all(p.metadata["headings"] == long.strip() for p in others)
    assert not any(long.strip() in passage.text for passage in others[1:])


def test_passages_have_room_for_their_headings(student: Student) -> None:
    text = "# Some words that stand before every passage of it\n\n" + "word " * 400
    _, *others = Chunker(student, 80, 16).cut([Document("d", text, "f", markdown=True)])[0]
    assert all("before every passage" in passage.text for passage in others)
    ids, _ = student.backbone.tokenize([passage.text for passage in others], 256)
    assert max(map(len, ids)) <= 80


def test_fields_of_the_documents_own_are_kept(student: Student) -> None:
    document = Document("d", TEXT, "f", metadata={"headings": "mine", "page": 9}, pages=(0,))
    passages = Chunker(student, 80, 16).cut([document])[0]
    assert all(p.metadata == {"headings": "mine", "page": 9} for p in passages)


def test_a_document_without_headings_or_of_one_passage_is_as_it_was(student: Student) -> None:
    plain = Document("d", "Some words here.\n\n" * 40, "f", markdown=True)
    short = Document("e", "# One\n\nwords", "f", markdown=True)
    several, [one] = Chunker(student, 80, 16).cut([plain, short])
    assert len(several) > 1
    assert all(p.metadata == {} and p.text.startswith("Some") for p in several)
    assert (one.text, one.metadata) == ("# One\n\nwords", {})
