"""Segments: pieces of passages, and their match."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import log_odds
from hypothesis import given
from hypothesis import strategies as st

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.errors import InputError
from d2llm_vdb.student.config import SegmentsConfig
from d2llm_vdb.student.evidence import Evidence
from d2llm_vdb.student.segments import Pieces, best_match


def mask_of(lengths: list[int]) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 10), st.integers(1, 9))
def test_pieces_hold_every_token_once_and_in_order(
    lengths: list[int], count: int, least: int
) -> None:
    mask = mask_of(lengths)
    places = torch.arange(mask.shape[1]).expand(mask.shape)
    pieces = Pieces(mask, count, least)
    cut, row = pieces.of(places), 0
    for text, length in enumerate(lengths):
        own = int(pieces.present[text].sum())
        assert own == max(1, min(count, length // least))
        tokens = [cut[row + piece][pieces.mask[row + piece]].tolist() for piece in range(own)]
        assert [place for piece in tokens for place in piece] == list(range(length))
        sizes = [len(piece) for piece in tokens]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= min(least, length)
        row += own
    assert row == len(pieces.mask)


def test_rows_of_pieces_go_back_beside_their_texts() -> None:
    pieces = Pieces(mask_of([5, 1]), 3, 1)
    padded = pieces.padded(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    assert padded.squeeze(-1).tolist() == [[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]


def test_the_best_piece_decides_a_match_and_padding_never_does() -> None:
    query = torch.tensor([[-1.0, 0.0]])
    rows = torch.tensor([[[0.9, 0.0], [0.2, 0.0]], [[0.5, 0.0], [0.0, 0.0]]])
    present = torch.tensor([[True, True], [True, False]])
    torch.testing.assert_close(best_match(query, rows, present), torch.tensor([[-0.2, -0.5]]))


@pytest.mark.parametrize("shape", [{"count": 0}, {"dim": 0}, {"piece_tokens": 0}])
def test_impossible_shapes_are_refused(shape: dict[str, int]) -> None:
    with pytest.raises(InputError, match=rf"segments\.{next(iter(shape))}"):
        SegmentsConfig(**shape)


def test_the_database_computes_the_match_of_the_stored_segments(
    filled: Index, student: Student, passages: list[Passage]
) -> None:
    query = passages[3].text.split(".")[0]
    [vectors] = student.encode_queries([query])
    assert vectors.segments is not None
    result = filled.search(query, k=20, recall_k=20, hybrid=0)
    stored = filled.store.retrieve([hit.id for hit in result.hits], vectors=["recall", "segments"])
    points = {point.payload["id"]: point.vectors for point in stored}
    for hit in result.hits:
        own = points[hit.id]
        match = (own["segments"] @ vectors.segments[0]).max(keepdims=True)
        half = student.passage_halves(own["recall"][None])
        match = match.astype(np.float32)
        evidence = Evidence(query_half=vectors.iem[0], passage_half=half, match=match)
        [score] = student.scores(evidence, "asymmetric")
        assert log_odds(hit.score) == pytest.approx(log_odds(score), abs=0.05)


def test_a_student_without_segments_stores_none_and_searches(student: Student) -> None:
    bare = Student.from_backbone(student.config.backbone, segments=0)
    with Index.open(":memory:", bare, tokens="raw") as index:
        index.add([Passage("a", "The cat sat on the mat."), Passage("b", "Stocks fell today.")])
        assert index.store.schema.segment_dim is None
        for rerank in ("none", "iem", "tokens"):
            assert index.search("Where was the cat?", rerank=rerank).hits[0].id == "a"
