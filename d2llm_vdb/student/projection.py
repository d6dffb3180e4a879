"""Compact vectors: a linear projection that keeps the geometry of embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from d2llm_vdb.errors import InputError

# How far a compact vector's directions are evened out: each is divided by its strength to this
# power. What few directions carry most of a cosine is topic; a little less of it finds more
# (recall@100 on SQuAD, MedQuAD and Cranfield rises by 0.003 to 0.01 at 128 dimensions), much less
# of it loses the order.
WHITENING = 0.1


class CompactProjection(nn.Module):
    """Project embeddings linearly to fewer dimensions, or to none fewer, at unit length.

    Args:
        dim: width d of the embeddings.
        width: width r to project to; None keeps them whole, and has no weights.

    Source: Zhao et al. (Findings of ACL 2022), homomorphic projective distillation.
    """

    def __init__(self, dim: int, width: int | None) -> None:
        super().__init__()
        self.weight = None if width is None else nn.Parameter(torch.empty(width, dim))
        if self.weight is not None:
            nn.init.orthogonal_(self.weight)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Map float32 (..., d) to unit-length float32 (..., r)."""
        if self.weight is not None:
            embeddings = functional.linear(embeddings, self.weight)
        return functional.normalize(embeddings, dim=-1)

    @torch.no_grad()
    def fit(self, samples: Tensor | None, evened: float = WHITENING) -> None:
        """Set the weights to the best linear approximation of the samples' cosines, evened out.

        Args:
            samples: embeddings of sample texts, float32 (n, d) with n >= r; None will do where
                there are no weights.
            evened: the power of its strength that each direction is divided by; 0 keeps the
                cosines best, for samples that are the very collection.

        Raises:
            InputError: too few samples for r, or none.
        """
        if self.weight is None:
            return
        width, dim = self.weight.shape
        if samples is None:
            raise InputError(
                f"a projection of {dim} dimensions to {width} must be fitted: pass sample_texts (a "
                f"few thousand texts like yours), or leave the size out"
            )
        if len(samples) < width:
            raise InputError(
                f"{len(samples)} sample texts cannot span {width} dimensions; pass at least "
                f"{width}, better a few thousand"
            )
        directions, strengths = principal_directions(samples, width)
        self.weight.copy_(directions * strengths.clamp_min(1e-9).pow(-evened).unsqueeze(1))


def principal_directions(samples: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the directions that best keep the pairwise cosines of some vectors.

    The samples are scaled to unit length and not centred: cosines are taken around the origin,
    so the truncated SVD of the unit vectors is the best rank-r approximation of their Gram
    matrix.

    Args:
        samples: float32 (n, d).
        count: number of directions r.

    Returns:
        Orthonormal rows, float32 (r, d), the best first; where there are fewer samples than rows,
        the last ones are arbitrary. And the mean square of the samples along each, float32 (r,).
    """
    unit = functional.normalize(samples.cpu().double(), dim=-1)  # Apple's MPS has no float64
    strengths, vectors = torch.linalg.eigh(unit.T @ unit / len(unit))
    directions: Tensor = vectors.T.flip(0)[:count].to(samples)
    return directions.contiguous(), strengths.flip(0)[:count].to(samples)
