"""Bytes of a web page to text, as browsers read them.

Beautiful Soup finds the byte-order mark. Decoding is not left to it: it takes what comments,
scripts and any `<meta>` say for what a page declares, a name such as `ISO-8859-1` by the letter,
and what it guesses depends on what is installed.
"""

from __future__ import annotations

import codecs
import logging
import re
from contextlib import suppress

logger = logging.getLogger(__name__)

# By Python's names, the encodings of https://encoding.spec.whatwg.org. Python knows others, and
# some of them, such as `unicode_escape`, were never meant for pages.
_OF_PAGES = frozenset(
    "utf-8 cp866 iso8859-2 iso8859-3 iso8859-4 iso8859-5 iso8859-6 iso8859-7 iso8859-8 iso8859-10 "
    "iso8859-13 iso8859-14 iso8859-15 iso8859-16 koi8-r koi8-u mac-roman mac-cyrillic cp874 cp1250 "
    "cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 gb18030 big5hkscs euc_jp iso2022_jp "
    "cp932 cp949".split()
)

# Names that browsers read as a larger encoding, and names in use that Python does not know.
_READ_AS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "windows-874": "cp874",
    "iso-8859-8-i": "iso8859-8",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "shift_jis": "cp932",
    "windows-31j": "cp932",
    "euc_kr": "cp949",
    "windows-949": "cp949",
    "ks_c_5601-1989": "cp949",
}


# How far a page may declare its encoding; browsers are content with less.
SEARCHED_BYTES = 2**16

# What a page says in these it does not say of itself.
_HIDDEN = re.compile(
    r"<!--(-?>|.*?(-->|\Z))|<(?P<tag>script|style)\b.*?(</(?P=tag)\b|\Z)", re.DOTALL | re.IGNORECASE
)
_META = re.compile(r"<meta(?=[\s/])[^<>]*>", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"""(?<=[\s"'/])([^\s"'<>/=]++)\s*+=\s*+("[^"]*"|'[^']*'|[^\s"'>]+)""")
_CHARSET = re.compile(r"charset\s*=\s*(?P<label>[^\s\"';]+)", re.IGNORECASE)
_IN_XML = re.compile(r"\s*<\?xml\s[^>]*?\bencoding\s*=\s*[\"'](?P<label>[^\"'>]+)")


def page_text(data: bytes, source: str) -> str:
    """Decode a page: by its byte-order mark, else as UTF-8 if it is that, else as it declares.

    Bytes that the encoding does not have become U+FFFD, and the rest stays as it is.

    Args:
        data: of the page.
        source: what the page is called, for the log.
    """
    from bs4.dammit import EncodingDetector

    found = EncodingDetector(data)
    unmarked: bytes = found.markup
    if found.sniffed_encoding:
        return unmarked.decode(found.sniffed_encoding, "replace")
    if not unmarked.isascii():  # which ISO-2022-JP is to the eye
        with suppress(UnicodeDecodeError):
            return unmarked.decode()
    encoding = _declared(unmarked[:SEARCHED_BYTES].decode("latin-1"))
    return unmarked.decode(encoding, "replace") if encoding else _guessed(unmarked, source)


def _declared(page: str) -> str | None:
    """Return Python's name of the encoding that the start of a page declares, if it is known."""
    for meta in _META.findall(_HIDDEN.sub("", page)):
        given = {name.lower(): value.strip("\"'") for name, value in _ATTRIBUTE.findall(meta)}
        label = given.get("charset")
        if label is None and given.get("http-equiv", "").lower() == "content-type":
            named = _CHARSET.search(given.get("content", ""))
            label = named["label"] if named else None
        if label and (encoding := _codec(label)):
            return encoding
    named = _IN_XML.match(page)
    return _codec(named["label"]) if named else None


def _codec(label: str) -> str | None:
    """Return Python's name of what browsers read for a label, None where they know none."""
    label = label.strip().lower().removeprefix("x-")
    try:
        name = codecs.lookup(_READ_AS.get(label, label)).name
    except (LookupError, ValueError):  # the latter of a name with a NUL
        return None
    name = _READ_AS.get(name, name)
    return name if name in _OF_PAGES else None


def _guessed(data: bytes, source: str) -> str:
    """Decode a page that declares nothing; one in UTF-8 may be damaged in some places."""
    text = data.decode("utf-8", "replace")
    beyond_ascii = len(text) - len(text.encode("ascii", "ignore"))
    if 2 * text.count("\ufffd") <= beyond_ascii:
        return text
    logger.warning(
        "%s declares no encoding that is known and is not UTF-8; it is read as windows-1252. If "
        "that is wrong, convert the file to UTF-8",
        source,
    )
    return data.decode("cp1252", "replace")
