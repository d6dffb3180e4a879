"""The trainable heads of a student, from token states to vectors."""

from __future__ import annotations

from torch import Tensor, nn

from d2llm_vdb.student.calibration import Calibration
from d2llm_vdb.student.config import StudentConfig
from d2llm_vdb.student.iem import IEM
from d2llm_vdb.student.late import LateInteraction
from d2llm_vdb.student.pma import PMA
from d2llm_vdb.student.projection import CompactProjection
from d2llm_vdb.student.segments import Pieces


class StudentHeads(nn.Module):
    """The trainable heads; parameter names of `mha_pma` and `iem` follow the reference code."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        shape = config.segments
        self.mha_pma = PMA(config.embedding_dim, config.pma)
        self.iem = IEM(config.embedding_dim, config.iem)
        self.late = LateInteraction(config.token_dim, segments=shape is not None)
        self.recall = CompactProjection(config.embedding_dim, config.recall_dim)
        self.calibration = Calibration()
        self.segments = (
            None if shape is None else CompactProjection(config.embedding_dim, shape.dim)
        )
        self._shape = shape

    def query_rows(self, embedding: Tensor) -> Tensor | None:
        """Return the rows that queries are matched by; None for a student without segments.

        Args:
            embedding: PMA embeddings of the queries, float32 (B, d).

        Returns:
            float32 (B, s).
        """
        return None if self.segments is None else self.segments(embedding)

    def passage_rows(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the rows of passages' pieces; None for a student without segments.

        Args:
            states: token states, float32 (B, L, token_dim).
            mask: bool (B, L), true where there is a token.

        Returns:
            float32 (B, k, s), and which of them there are, bool (B, k).
        """
        if self.segments is None or self._shape is None:
            return None
        pieces = Pieces(mask, self._shape.count, self._shape.piece_tokens)
        embedding, _ = self.mha_pma(pieces.of(states), pieces.mask)
        return pieces.padded(self.segments(embedding)), pieces.present
