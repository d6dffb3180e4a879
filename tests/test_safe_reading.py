"""Reading a file runs nothing of it, asks no network, and opens no other file."""

from __future__ import annotations

import io
import json
import pickle
import sys
import zipfile
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import docx
import pytest
from pypdf import PdfReader, PdfWriter
from pypdf.generic import DictionaryObject, NameObject, TextStringObject
from test_readers import one_page_pdf

from d2llm_vdb import Student
from d2llm_vdb.errors import CheckpointError
from d2llm_vdb.ingest.documents import Document
from d2llm_vdb.ingest.files import SourceReader
from d2llm_vdb.ingest.formats import READERS
from d2llm_vdb.ingest.records import Fields

# What an interpreter tells of itself once and for all; looked at while a test listens.
_heard: list[tuple[str, str]] | None = None


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _heard is not None and (
        event.startswith(("socket.", "subprocess.", "os.exec", "os.system", "urllib.", "pickle."))
        or event == "open"
    ):
        _heard.append((event, str(arguments[0])))


sys.addaudithook(_hear)


@pytest.fixture
def heard() -> Iterator[list[tuple[str, str]]]:
    """What is opened, connected to and started from here on."""
    global _heard
    _heard = []
    yield _heard
    _heard = None


SECRET = "heliotrope"

HTML = """<!DOCTYPE html PUBLIC "-//x" "http://127.0.0.1:9/x.dtd"><html><head>
<base href="http://127.0.0.1:9/"><link rel="stylesheet" href="{secret}"><meta http-equiv="refresh"
content="0; url=http://127.0.0.1:9/"><script src="http://127.0.0.1:9/x.js"></script></head><body>
<p>words<img src="http://127.0.0.1:9/a.png"><iframe src="file://{secret}"></iframe>
<object data="{secret}"></object><!--#include file="{secret}" --></body></html>"""

XHTML = """<?xml version="1.0"?><!DOCTYPE p [<!ENTITY x SYSTEM "file://{secret}">
<!ENTITY % y SYSTEM "http://127.0.0.1:9/y.dtd"> %y;]><p xmlns:xi="http://www.w3.org/2001/XInclude">
words &x;<xi:include href="{secret}" parse="text"/></p>"""

RST = """words

.. include:: {secret}
.. literalinclude:: {secret}
.. raw:: html
   :file: {secret}
.. raw:: html
   :url: http://127.0.0.1:9/
.. csv-table:: t
   :file: {secret}
.. csv-table:: t
   :url: http://127.0.0.1:9/
.. image:: http://127.0.0.1:9/a.png
.. figure:: {secret}
.. code:: python
   :file: {secret}
.. math:: x
"""

MARKDOWN = """---
a: !include {secret}
b: !!python/object/apply:os.system ["true"]
c: !!python/name:os.system
---
words ![](http://127.0.0.1:9/a.png) [x](file://{secret}) <img src="{secret}">
"""


def word_document(secret: Path) -> bytes:
    document = docx.Document()
    document.add_paragraph("words")
    relations = document.part.rels
    base = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/"
    for kind, target in (
        ("image", "http://127.0.0.1:9/a.png"), ("attachedTemplate", f"file://{secret}"),
        ("subDocument", str(secret)), ("oleObject", "http://127.0.0.1:9/"),
    ):  # fmt: skip
        relations.get_or_add_ext_rel(base + kind, target)
    data = io.BytesIO()
    document.save(data)
    return data.getvalue()


def pdf_document(secret: Path) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(one_page_pdf("words"))))
    launch = DictionaryObject()
    launch[NameObject("/S")] = NameObject("/Launch")
    launch[NameObject("/F")] = TextStringObject(str(secret))
    writer.root_object[NameObject("/OpenAction")] = launch
    contents = writer.pages[0]["/Contents"].get_object()
    contents[NameObject("/F")] = TextStringObject(str(secret))  # where else the stream may lie
    data = io.BytesIO()
    writer.write(data)
    return data.getvalue()


def notebook(secret: Path) -> bytes:
    source = f"![](attachment:a.png) <img src='{secret}'> words"
    cell = {
        "cell_type": "markdown",
        "source": source,
        "attachments": {"a.png": {"x/y": str(secret)}},
    }
    return json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4}).encode()


@pytest.mark.parametrize("kind", ["html", "xhtml", "rst", "md", "docx", "pdf", "ipynb"])
def test_reading_asks_no_network_starts_nothing_and_opens_no_other_file(
    kind: str, tmp_path: Path, heard: list[tuple[str, str]]
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    texts = {"html": HTML, "xhtml": XHTML, "rst": RST, "md": MARKDOWN}
    made = {"docx": word_document, "pdf": pdf_document, "ipynb": notebook}
    data = (
        texts[kind].replace("{secret}", str(secret)).encode()
        if kind in texts
        else made[kind](secret)
    )
    reader = READERS[kind.replace("xhtml", "html")]
    list(reader(io.BytesIO(data), "a", Fields()))  # what parsers import, they open themselves
    heard.clear()
    [document] = reader(io.BytesIO(data), "a", Fields())
    assert isinstance(document, Document)
    assert "words" in document.text
    assert SECRET not in f"{document.text}{document.metadata}{document.title}"
    outside = [each for each in heard if each[0] != "open" or str(tmp_path) in each[1]]
    assert not outside


def test_the_ear_hears(tmp_path: Path, heard: list[tuple[str, str]]) -> None:
    """Else the test above would pass whatever is opened."""
    (tmp_path / "secret.txt").write_text(SECRET)
    assert ("open", str(tmp_path / "secret.txt")) in heard


def test_parts_of_a_word_document_are_unpacked_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: list[tuple[str, str]]
) -> None:
    """A part's name may lead out of any folder that it would be unpacked in."""
    monkeypatch.chdir(tmp_path)
    data = io.BytesIO(word_document(tmp_path))
    with zipfile.ZipFile(data, "a") as archive:
        archive.writestr("../escaped.xml", "<a/>")
        archive.writestr("/escaped.xml", "<a/>")
    list(READERS["docx"](data, "a", Fields()))
    assert not list(tmp_path.iterdir())
    assert not (tmp_path.parent / "escaped.xml").exists()


def test_links_lead_out_of_no_folder_also_by_way_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule: what is named by itself is read; of a folder, what lies in it."""
    monkeypatch.chdir(tmp_path)
    for folder in ("docs", "docs/sub", "docs-secret"):
        Path(folder).mkdir()
    Path("docs-secret/a.txt").write_text(SECRET)  # its name begins as the folder's
    Path("docs/a.txt").symlink_to("../docs-secret/a.txt")
    Path("docs/sub/b.txt").symlink_to("../a.txt")
    Path("docs/sub/c.txt").hardlink_to("docs-secret/a.txt")  # the same file, and so in the folder
    Path("docs/sub/d.txt").symlink_to("../../docs/sub/../../docs-secret/a.txt")
    Path("docs/e").symlink_to("../docs-secret")
    reader = SourceReader(["docs"])
    assert [each.id for each in reader] == ["docs/sub/c.txt"]
    assert reader.passed_over == {"links out of the folder": 3, "links to folders": 1}


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (Path("exploded"), "pickles run what they like"))


@pytest.mark.parametrize("name", ["heads.safetensors", "config.json", "adapter"])
def test_a_pickle_in_the_place_of_a_students_file_is_refused_and_never_run(
    name: str, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy(student).save("mine")
    if name == "adapter":
        for file in Path("mine/adapter").iterdir():
            if file.suffix == ".safetensors":
                file.unlink()
        Path("mine/adapter/adapter_model.bin").write_bytes(pickle.dumps(_Bomb()))
    else:
        Path("mine", name).write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(CheckpointError, match="mine"):
        Student.load("mine")
    assert not Path("exploded").exists()
