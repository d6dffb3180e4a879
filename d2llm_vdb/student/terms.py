"""Terms: the pieces of words that a text uses, weighed for BM25.

A passage's terms become a sparse vector whose entries are BM25's saturated frequencies; the
database multiplies them by the rarity of each term in the collection (its IDF modifier), so that
the inner product with a query's terms is BM25. The student's tokenizer cuts a text into them: they
rank as whole words do, and are there in every language.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from d2llm_vdb.sparse import SparseRows, offsets_of

# BM25's parameters, and the length in terms that counts as average: a collection is a stream, so
# that its own average is not known when its first passage is written. docs/tried.md has others.
K1 = 0.9
B = 0.75
AVERAGE_LENGTH = 256

# What the table holds of pieces that are no terms, and of those that only the text tells.
NO_TERM, IN_THE_TEXT = -1, -2

# How many times as much words count beside the rest of a score, for a query of which the vocabulary
# knows no word: what the student cannot read, it cannot judge. Chosen leaving one family of
# collections out (docs/fusion.md).
UNREAD = 9.0

TermIds = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TextTerms:
    """The terms of one text.

    Args:
        ids: one for every time that a term is used, int64 (n,).
        unread: share of them that the vocabulary does not know, so that the text told them.
    """

    ids: TermIds
    unread: float


class Terms:
    """Cuts texts into terms, each a hash of what its piece says.

    A piece says the same at the beginning of a text and within it, in small letters and capitals.
    One without a letter or digit is no term. What the vocabulary does not know, or only byte by
    byte, is told by the text that it covers.

    Args:
        tokenizer: one that cuts and pads nothing.
        unknown: id of the piece that stands for what the vocabulary does not know, if it has one.
    """

    def __init__(self, tokenizer: Tokenizer, unknown: int | None) -> None:
        self._tokenizer = tokenizer
        ids = range(max(tokenizer.get_vocab().values()) + 1)  # some vocabularies have gaps
        said = tokenizer.decode_batch([[each] for each in ids], skip_special_tokens=False)
        self._table = np.array([_of_piece(piece) for piece in said], np.int64)
        if unknown is not None:
            self._table[unknown] = IN_THE_TEXT

    def of(self, texts: Sequence[str]) -> list[TextTerms]:
        """Return the terms of each whole text."""
        # Some vocabularies count the blank before a word to it.
        read = [f" {text.lower()}" for text in texts]
        encodings = self._tokenizer.encode_batch(read, add_special_tokens=False)
        return [self._of(*each) for each in zip(read, encodings, strict=True)]

    def _of(self, text: str, encoding: Encoding) -> TextTerms:
        terms = self._table[np.array(encoding.ids, np.intp)]
        told = np.flatnonzero(terms == IN_THE_TEXT).tolist()
        if told:
            offsets = encoding.offsets
            terms[told] = list(_told(text, [offsets[place] for place in told]))
        found: TermIds = terms[terms != NO_TERM]
        unread = np.count_nonzero(terms[told] != NO_TERM) / max(1, len(found))
        return TextTerms(found, unread)


def _told(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Yield the terms of pieces by the text they cover; one character may have several pieces."""
    before = None
    for start, end in spans:
        yield NO_TERM if end == before else _term(text[start:end])
        before = end


def _of_piece(piece: str) -> int:
    if "\ufffd" in piece:  # some bytes of a character
        return IN_THE_TEXT
    return _term(piece.removeprefix("##"))


def _term(surface: str) -> int:
    plain = surface.strip().lower()
    if not any(map(str.isalnum, plain)):
        return NO_TERM
    return zlib.crc32(plain.encode())


def passage_terms(terms: Sequence[TextTerms]) -> SparseRows:
    """Return the saturated frequencies of the terms of n passages.

    tf (K1 + 1) / (tf + K1 (1 - B + B length / AVERAGE_LENGTH))

    Args:
        terms: of each passage.

    Source: Robertson and Zaragoza (2009), equation 3.15, without its last factor.
    """
    counted = query_terms(terms)
    lengths = _lengths(terms)
    norm = np.repeat(K1 * (1 - B + B * lengths / AVERAGE_LENGTH), counted.counts)
    saturated = counted.values * (K1 + 1) / (counted.values + norm)
    return SparseRows(counted.offsets, counted.indices, saturated.astype(np.float32))


def query_terms(terms: Sequence[TextTerms]) -> SparseRows:
    """Return how often each of m queries uses its terms."""
    lengths = _lengths(terms)
    rows = np.repeat(np.arange(len(terms)), lengths)
    flat = np.concatenate([np.empty(0, np.int64), *(each.ids for each in terms)])
    keys, counts = np.unique((rows << 32) | flat, return_counts=True)
    entries = np.bincount(keys >> 32, minlength=len(terms))
    return SparseRows(offsets_of(entries), keys.astype(np.uint32), counts.astype(np.float32))


def trust(terms: Sequence[TextTerms]) -> NDArray[np.float32]:
    """Return what similarities to each of m queries count beside words, float32 (m,)."""
    return trust_in(np.fromiter((each.unread for each in terms), np.float32, len(terms)))


def trust_in(unread: NDArray[np.float32], most: float = UNREAD) -> NDArray[np.float32]:
    """Return what similarities to texts count beside words, by what is unread of them.

    Args:
        unread: share of each text's terms that the vocabulary does not know, float32 (m,).
        most: how many times as much words count where it knows none; 1 / `most` is returned there,
            and 1 where it knows all.
    """
    return (1 / (1 + (most - 1) * unread)).astype(np.float32)


def _lengths(terms: Sequence[TextTerms]) -> NDArray[np.int64]:
    return np.fromiter((len(each.ids) for each in terms), np.int64, len(terms))
