"""Readers of files: paths and standard input to a stream of documents."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

from d2llm_vdb.errors import InputError, MissingExtraError
from d2llm_vdb.ingest.documents import Document, Records, Reject
from d2llm_vdb.ingest.records import Fields, read_csv, read_jsonl

Reader = Callable[[IO[bytes], str, Fields], Records]

STDIN = "-"


class SourceReader:
    """Reads documents from files, folders and standard input, as a stream.

    A folder is read with everything below it, in name order; hidden files and files of other
    kinds in it are passed over. A document that is a whole file has its path below the source
    given as its id, with `/` between folders.

    Args:
        sources: paths, or "-" for standard input.
        fields: which fields of records mean what.
        format: read everything as this kind ("txt", "md", "html", "pdf", "jsonl", "csv");
            None goes by the file name, and takes standard input as "jsonl".

    Raises:
        InputError: a source does not exist, or a file named by itself is of no known kind.
    """

    def __init__(
        self, sources: Iterable[str], fields: Fields | None = None, format: str | None = None
    ) -> None:
        if format is not None and format not in READERS:
            raise InputError(f"format={format!r} is not one of {', '.join(READERS)}")
        self._fields = fields or Fields()
        self._files = list(_files(sources, format))
        sizes = [path.stat().st_size for path, name, _ in self._files if name != STDIN]
        self.total_bytes = sum(sizes) if len(sizes) == len(self._files) else None
        self.read_bytes = 0

    def __iter__(self) -> Records:
        """Yield a document or a reject for every record; a file that cannot be read is one."""
        for path, name, kind in self._files:
            read_before = self.read_bytes
            try:
                with _open(path, name) as file:
                    is_gzip = path.suffix.lower() == ".gz"
                    stream: Any = gzip.GzipFile(fileobj=file) if is_gzip else file
                    for record in READERS[kind](stream, name, self._fields):
                        if name != STDIN and not file.closed:
                            self.read_bytes = read_before + file.tell()
                        yield record
            except (OSError, EOFError, zlib.error) as error:
                yield Reject(name, f"cannot be read: {error}")


def _open(path: Path, name: str) -> AbstractContextManager[IO[bytes]]:
    return nullcontext(sys.stdin.buffer) if name == STDIN else path.open("rb")


def _files(sources: Iterable[str], format: str | None) -> Iterator[tuple[Path, str, str]]:
    """Yield path, document name and kind of every file."""
    for source in sources:
        path = Path(source)
        if source == STDIN:
            yield path, STDIN, format or "jsonl"
        elif path.is_dir():
            for file in sorted(path.rglob("*")):
                kind = format or _kind(file)
                if kind and file.is_file() and not _hidden(file.relative_to(path)):
                    yield file, file.relative_to(path).as_posix(), kind
        elif path.exists():
            kind = format or _kind(path)
            if kind is None:
                raise InputError(
                    f"source {source!r} is of no known kind ({', '.join(READERS)}); "
                    f"say which with --format"
                )
            yield path, path.name, kind
        else:
            raise InputError(f"source {source!r} does not exist")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _kind(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return _KIND_BY_SUFFIX.get(suffixes[-1]) if suffixes else None


def _read_plain(stream: IO[bytes], source: str, _fields: Fields) -> Records:
    yield _text_document(stream, source, markdown=False)


def _read_markdown(stream: IO[bytes], source: str, _fields: Fields) -> Records:
    yield _text_document(stream, source, markdown=True)


def _text_document(stream: IO[bytes], source: str, markdown: bool) -> Document | Reject:
    try:
        text = stream.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Reject(source, f"not UTF-8 at byte {error.start}; convert the file")
    return Document(id=source, text=text, source=source, markdown=markdown)


def _read_html(stream: IO[bytes], source: str, _fields: Fields) -> Records:
    try:
        from bs4 import BeautifulSoup
    except ImportError as error:
        raise MissingExtraError("beautifulsoup4", "ingest", "reading HTML") from error
    # Given bytes, the parser follows the encoding that the page declares.
    page = BeautifulSoup(stream.read(), "html.parser")
    title = page.title.get_text(" ", strip=True) if page.title else ""
    for hidden in page(["script", "style", "noscript", "template", "head"]):
        hidden.decompose()
    text = page.get_text("\n", strip=True)
    metadata = {"title": title} if title else {}
    yield Document(id=source, text=text, source=source, title=title, metadata=metadata)


def _read_pdf(stream: IO[bytes], source: str, _fields: Fields) -> Records:
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ImportError as error:
        raise MissingExtraError("pypdf", "ingest", "reading PDF") from error
    try:
        pages = PdfReader(stream).pages
        texts = [page.extract_text().strip() for page in pages]
    except (PyPdfError, ValueError, KeyError) as error:
        yield Reject(source, f"not a readable PDF: {error}")
        return
    if not any(texts):
        yield Reject(source, "the PDF holds no text; run optical character recognition first")
        return
    text = "\n\n".join(texts)
    yield Document(id=source, text=text, source=source, metadata={"pages": len(texts)})


READERS: dict[str, Reader] = {
    "txt": _read_plain,
    "md": _read_markdown,
    "html": _read_html,
    "pdf": _read_pdf,
    "jsonl": read_jsonl,
    "csv": read_csv,
}

_KIND_BY_SUFFIX = {f".{kind}": kind for kind in READERS} | {
    ".htm": "html",
    ".markdown": "md",
    ".ndjson": "jsonl",
    ".text": "txt",
}
