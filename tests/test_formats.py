"""Files that are one document each, made by the libraries that write them."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import docx
import pytest
from docx.oxml.ns import nsmap
from pypdf import PageObject, PdfWriter

from d2llm_vdb import Student
from d2llm_vdb.ingest.chunking import Chunker
from d2llm_vdb.ingest.documents import Document, Reject
from d2llm_vdb.ingest.files import SourceReader
from d2llm_vdb.ingest.headings import Outline


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(name: str, content: str | bytes) -> list[Any]:
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return list(SourceReader([name]))


def test_front_matter_becomes_metadata_and_its_words_are_not_taken_for_others() -> None:
    text = (
        "---\ntitle: A guide\ntags: [a, b]\nday: 2024-01-02\nyear: 2024\ncode: 007\n"
        "version: 1.10\nversions: [1.9, 1.0, 2.00, 1e5]\n"
        'quoted: "5"\nnorway: no\nok: true\nat: 12:30\nempty:\n---\n# One\n\nbody'
    )
    [document] = read("a.md", text)
    assert (document.title, document.text, document.markdown) == ("A guide", "# One\n\nbody", True)
    assert document.metadata == {
        "title": "A guide", "tags": ["a", "b"], "day": "2024-01-02", "year": 2024, "code": "007",
        "version": "1.10", "versions": [1.9, 1.0, "2.00", "1e5"],
        "quoted": "5", "norway": "no", "ok": True, "at": "12:30", "empty": None,
    }  # fmt: skip


def test_keys_of_front_matter_are_texts_as_they_are_written_at_any_depth() -> None:
    front = "2024: a\ntrue: b\nversions:\n  3.11: yes\n  ~: 1\n  !!int 7: x\nin: [{1: {no: 2}}]"
    [document] = read("a.md", f"---\n{front}\n---\nbody")
    assert document.metadata == {
        "2024": "a", "true": "b", "versions": {"3.11": "yes", "~": 1, "7": "x"},
        "in": [{"1": {"no": 2}}],
    }  # fmt: skip
    assert document.text == "body"


@pytest.mark.parametrize("title", ["1984", "1.50", "TRUE", "1.2e3", "2024-01-01"])
def test_a_title_in_front_matter_is_the_text_that_is_written(title: str) -> None:
    [document] = read("a.md", f"---\ntitle: {title}\nin: {{title: 5}}\n---\nbody")
    assert (document.title, document.metadata) == (title, {"title": title, "in": {"title": 5}})


@pytest.mark.parametrize("title", ["", "~", "null", "[a]", "{a: 1}"])
def test_front_matter_without_words_for_a_title_has_none(title: str) -> None:
    [document] = read("a.md", f"---\ntitle: {title}\n---\nbody")
    assert (document.title, document.text) == ("", "body")


@pytest.mark.parametrize(
    "front",
    [
        "a: [", "a: &x [1]\nb: *x", "no fields", 'a: !!python/object/apply:os.system ["id"]',
        "a: !!int x", "a: !!float .nan", "[" * 5_000, "? [a]\n: b",
    ],
)  # fmt: skip
def test_broken_front_matter_is_text_and_told(front: str, caplog: pytest.LogCaptureFixture) -> None:
    text = f"---\n{front}\n---\nbody"
    [document] = read("a.md", text)
    assert (document.text, document.metadata) == (text, {})
    assert "front matter of a.md is read as text: " in caplog.text


def test_a_rule_at_the_start_is_no_front_matter(caplog: pytest.LogCaptureFixture) -> None:
    [document] = read("a.md", "---\n\nafter a rule")
    assert document.text == "---\n\nafter a rule"
    assert not caplog.records


def test_passages_of_a_pdf_know_their_page_and_title(student: Student) -> None:
    writer = PdfWriter()
    writer.add_metadata({"/Title": "On pages"})
    for number in (1, 2):
        writer.append(io.BytesIO(page_of_text(f"Words of page {number} in a row. " * 20)))
    data = io.BytesIO()
    writer.write(data)
    [document] = read("a.pdf", data.getvalue())
    for number, start in enumerate(document.pages, 1):
        assert document.text[start:].startswith(f"Words of page {number}")
    [passages] = Chunker(student, 60, 0).cut([document])
    pages = [passage.metadata["page"] for passage in passages]
    assert pages == sorted(pages)
    assert set(pages) == {1, 2}
    for passage in passages:
        assert f"page {passage.metadata['page']}" in passage.text
        assert (passage.metadata["title"], passage.metadata["pages"]) == ("On pages", 2)


def page_of_text(text: str) -> bytes:
    """Return a PDF of one page."""
    content = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R"
        b"/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(content), content),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj%s endobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % len(out)
    return out + b"xref\n0 6\n0000000000 65535 f \n" + table + trailer


RST = """
Guide
=====

.. toctree::

   other

Some :ref:`link text <target>`, :py:func:`~os.path.join` and H\\ :sub:`2`\\ O.

.. versionadded:: 3.2
   The thing is *new*.

.. function:: foo(x, y)
   :module: z

   Does things.

Install
-------

.. code-block:: python

   def f():
       return 1

.. include:: secret.txt
.. csv-table::
   :file: secret.txt
.. raw:: html
   :file: secret.txt

===  ===
a    b
===  ===
1    2
===  ===

An |unknown| word.
"""


def test_rst_is_read_with_what_only_sphinx_knows_and_without_other_files() -> None:
    Path("secret.txt").write_text("SECRET")
    [document] = read("a.rst", RST)
    assert document.markdown
    assert "SECRET" not in document.text
    assert "System Message" not in document.text
    assert document.text.startswith("# Guide\n\nSome link text, os.path.join and H2O.")
    for part in ("3.2\n\nThe thing is new.", "foo(x, y)\n\nDoes things.", "## Install",
                 "```\ndef f():\n    return 1\n```", "| a | b |\n| --- | --- |\n| 1 | 2 |",
                 "An |unknown| word."):  # fmt: skip
        assert part in document.text


@pytest.mark.parametrize(
    "directive",
    [
        "code-block:: python\n   :linenos:\n   :caption: One",
        "Code-Block::\n   :emphasize-lines: 1",
        "sourcecode:: c\n   :lineno-start: 3", "code:: c\n   :caption: One", "code-tab:: c Title",
        "prompt:: bash $", "testcode:: group", "doctest::", "math::\n   :label: one",
        "productionlist::",
    ],
)  # fmt: skip
def test_code_of_rst_is_kept_as_it_is_with_options_and_directives_of_sphinx(directive: str) -> None:
    [document] = read("a.rst", f"Before.\n\n.. {directive}\n\n   a*b*c:\n       `d`\n\nAfter.")
    assert document.text == "Before.\n\n```\na*b*c:\n    `d`\n```\n\nAfter."


def test_fields_within_a_directive_of_sphinx_take_nothing_before_them_away() -> None:
    fields = "   :param x: number\n   :returns: it"
    text = f"Title\n=====\n\nIntro.\n\n.. function:: f(x)\n\n{fields}\n\nLast."
    [document] = read("a.rst", text)
    assert document.text == (
        "# Title\n\nIntro.\n\nf(x)\n\nparam x:\n: number\nreturns:\n: it\n\nLast."
    )


def test_a_definition_of_rst_is_told_from_what_it_is() -> None:
    [document] = read("a.rst", "x : array_like\n    Data.")
    assert document.text == "x : array_like\n: Data."


def test_long_lines_of_rst_are_read() -> None:
    [document] = read("a.rst", "word " * 250_000)
    assert len(document.text) == 5 * 250_000 - 1


def test_halves_of_characters_are_joined_or_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    [document] = read("a.md", '---\ntitle: "\\ud83d\\ude00 hi \\ud83d"\n---\nx')
    assert document.title == document.metadata["title"] == "😀 hi �"
    monkeypatch.setattr(PageObject, "extract_text", lambda _: "a \ud83d b \ud83d\ude00")
    [document] = read("a.pdf", page_of_text("x"))
    assert document.text == "a � b 😀"


def test_headings_of_word_are_those_in_its_styles_alone() -> None:
    document = docx.Document()
    for line in ("# a comment", "```", "x\n---"):
        document.add_paragraph(line)
    document.add_heading("Top", 1)
    document.add_table(1, 1).cell(0, 0).text = "cell"
    document.add_heading("Below", 2)
    data = io.BytesIO()
    document.save(data)
    [found] = read("a.docx", data.getvalue())
    assert found.text.startswith("# a comment\n\n```\n\nx\n---\n\n# Top")
    assert Outline(found.text, found.headings).paths() == ["Top", "Top > Below"]


def test_a_formula_of_rst_may_begin_on_the_line_of_its_directive() -> None:
    [document] = read("a.rst", ".. math:: E = m_c\n   :label: energy\n")
    assert document.text == "```\nE = m_c\n```"


def word_document() -> bytes:
    document = docx.Document()
    document.core_properties.title = "The title"
    document.add_heading("Top", 1)
    paragraph = document.add_paragraph("un")
    paragraph.add_run("believ").bold = True
    paragraph.add_run("able")
    document.add_paragraph("an item", style="List Bullet")
    table = document.add_table(2, 2)
    table.cell(0, 0).text, table.cell(1, 1).text = "a", "d"
    document.add_heading("Below", 2)
    data = io.BytesIO()
    document.save(data)
    return data.getvalue()


def with_part(archive: bytes, name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(archive)) as old,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for part in old.namelist():
            new.writestr(part, content if part == name else old.read(part))
    return out.getvalue()


def test_word_documents_are_read_in_their_order() -> None:
    [document] = read("a.docx", word_document())
    assert document.text == (
        "# Top\n\nunbelievable\n\n- an item\n\n| a |  |\n| --- | --- |\n|  | d |\n\n## Below"
    )
    assert (document.title, document.metadata) == ("The title", {"title": "The title"})


def run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def paragraph(content: str) -> str:
    return f"<w:p>{content}</w:p>"


def control(content: str, properties: str = "") -> str:
    return f"<w:sdt><w:sdtPr>{properties}</w:sdtPr><w:sdtContent>{content}</w:sdtContent></w:sdt>"


def table(*rows: str) -> str:
    return f"<w:tbl><w:tblPr/><w:tblGrid/>{''.join(rows)}</w:tbl>"


def row(*cells: str) -> str:
    return f"<w:tr>{''.join(cells)}</w:tr>"


def cell(content: str) -> str:
    return f"<w:tc>{content}</w:tc>"


def text_of_body(content: str) -> str:
    xml = f'<w:document xmlns:w="{nsmap["w"]}"><w:body>{content}</w:body></w:document>'
    [document] = read("a.docx", with_part(word_document(), "word/document.xml", xml.encode()))
    return document.text


WORD = paragraph(run("c"))
INSERTED = f"<w:ins>{run('new')}</w:ins>"
DELETED = "<w:del><w:r><w:tab/><w:delText>old</w:delText></w:r></w:del>"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (paragraph(run("a ") + INSERTED + DELETED + run(" b")), "a new b"),
        (
            f"<w:p><w:moveFrom>{run('x')}</w:moveFrom></w:p>{WORD}"
            f"<w:p><w:moveTo>{run('x')}</w:moveTo></w:p>",
            "c\n\nx",
        ),
        (paragraph(run("a ") + control(run("field")) + run(" b")), "a field b"),
        *(
            (paragraph(f"<w:{name}>{run(name)}</w:{name}>"), name)
            for name in ("smartTag", "fldSimple", "customXml", "bdo", "dir")
        ),
        (paragraph(f"<w:hyperlink>{control(run('to'))}</w:hyperlink>"), "to"),
        (control(control(WORD) + table(row(cell(WORD)))), "c\n\n| c |\n| --- |"),
        (
            table(row(cell(paragraph(INSERTED)), cell(control(WORD) + WORD))),
            "| new | c c |\n| --- | --- |",
        ),
        (table(row(control(cell(WORD)), cell(WORD))), "| c | c |\n| --- | --- |"),
        (table(row(cell(WORD)), control(row(cell(WORD)))), "| c |\n| --- |\n| c |"),
        (
            table(row(cell(WORD + table(row(cell(WORD), cell(paragraph(run("in")))))))),
            "| c c in |\n| --- |",
        ),
    ],
)
def test_a_word_document_is_read_with_its_changes_accepted_and_all_that_its_controls_hold(
    body: str, expected: str
) -> None:
    assert text_of_body(body) == expected


def test_text_boxes_tab_stops_and_the_table_of_contents_are_no_text() -> None:
    box = f"<w:r><w:pict><w:txbxContent>{paragraph(run('box'))}</w:txbxContent></w:pict></w:r>"
    stops = "<w:pPr><w:tabs><w:tab w:val='left' w:pos='1'/></w:tabs></w:pPr>"
    gallery = "<w:docPartObj><w:docPartGallery w:val='Table of Contents'/></w:docPartObj>"
    contents = control(paragraph(run("Install 3")), gallery)
    boxed = table(row(cell(paragraph(run("c") + box))))
    body = contents + paragraph(stops + run("a") + box + run("b")) + boxed
    assert text_of_body(body) == "ab\n\n| c |\n| --- |"


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (b" " * (65 * 2**20), "more than the"),
        (b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', "declares entities"),
        (b"<broken", "not a readable Word document: XMLSyntaxError"),
    ],
)
def test_word_documents_that_would_fill_the_memory_or_read_files_are_rejects(
    part: bytes, reason: str
) -> None:
    [found] = read("a.docx", with_part(word_document(), "word/document.xml", part))
    assert (found.source, found.id) == ("a.docx", "a.docx")
    assert reason in found.reason


def test_the_parts_of_a_word_document_are_bounded_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("d2llm_vdb.ingest.docx.MAX_PARSED_BYTES", 2**20)
    [found] = read("a.docx", with_part(word_document(), "docProps/app.xml", b" " * (2**20 - 10)))
    assert "more than the" in found.reason


def test_notebooks_keep_text_and_code_and_leave_out_what_was_printed() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "words"]},
        {"cell_type": "code", "source": "print(1)\n", "outputs": [{"text": ["PRINTED"]}]},
        {"cell_type": "code", "source": []},
    ]
    metadata = {"kernelspec": {"language": "python"}}
    [document] = read("a.ipynb", json.dumps({"cells": cells, "metadata": metadata}))
    assert document.text == "# Title\nwords\n\n```python\nprint(1)\n```"
    assert document.metadata == {"language": "python"}
    for broken in ("{", "[]", '{"worksheets": []}', '{"cells": [1]}', '{"cells": [{"source": 1}]}'):
        [found] = read("a.ipynb", broken)
        assert isinstance(found, Reject)


def test_code_is_read_as_it_is_with_its_language() -> None:
    for name, language in (("a.py", "python"), ("b.rs", "rust"), ("c.d.TS", "typescript")):
        [document] = read(name, "x  # 1\n\n    y")
        assert (document.text, document.metadata) == ("x  # 1\n\n    y", {"language": language})
    [document] = read("d.go.gz", gzip.compress(b"package d"))
    assert (document.text, document.metadata) == ("package d", {"language": "go"})


def test_json_is_an_array_of_records_or_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read("a.json", '[{"text": "a", "n": 1}, 5, {"id": "x", "text": "b"}]')
    assert [type(each) for each in found] == [Document, Reject, Document]
    assert [each.id for each in found] == ["a.json:1", None, "x"]
    assert found[0].metadata == {"n": 1}
    assert [each.text for each in read("b.json", '{"text": "one"}')] == ["one"]
    [broken] = read("c.json", '[{"text": "a"}')
    assert (broken.id, broken.reason[:8]) == (None, "not JSON")
    monkeypatch.setattr("d2llm_vdb.ingest.records.MAX_PARSED_BYTES", 20)
    [large] = read("d.json", '[{"text": "more than that"}]')
    assert "more than the 20 bytes that are read as a whole; make JSON lines of it" in large.reason


def test_what_a_small_archive_unpacks_to_is_read_up_to_a_size() -> None:
    [found] = read("a.html.gz", gzip.compress(b" " * (65 * 2**20)))
    assert "more than the 67,108,864 bytes that are read as a whole; split it" in found.reason
