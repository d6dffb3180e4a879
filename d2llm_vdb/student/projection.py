"""The recall vector: a compact projection that keeps the embedding's geometry."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from d2llm_vdb.errors import InputError

# How far the recall vector's directions are evened out: each is divided by its strength to this
# power. What few directions carry most of a cosine is topic; a little less of it finds more
# (recall@100 on SQuAD, MedQuAD and Cranfield rises by 0.003 to 0.01 at 128 dimensions), much less
# of it loses the order.
WHITENING = 0.1


class RecallProjection(nn.Linear):
    """Project embeddings linearly to r dimensions and normalise to unit length.

    Source: Zhao et al. (Findings of ACL 2022), homomorphic projective distillation.
    """

    def __init__(self, dim: int, recall_dim: int) -> None:
        super().__init__(dim, recall_dim, bias=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Map float32 (..., d) to unit-length float32 (..., r)."""
        return functional.normalize(super().forward(embeddings), dim=-1)

    @torch.no_grad()
    def initialise_from(self, samples: Tensor | None) -> None:
        """Set the weights to the best linear approximation of the samples' cosines, evened out.

        Args:
            samples: embeddings of sample texts, float32 (n, d) with n >= r, or None for the
                identity, which needs r = d.

        Raises:
            InputError: too few samples for r, or none where r < d.
        """
        recall_dim, dim = self.weight.shape
        if samples is None:
            if recall_dim < dim:
                raise InputError(
                    f"recall_dim={recall_dim} is smaller than the embedding dimension {dim}, so "
                    f"the projection must be fitted: pass sample_texts (a few thousand texts like "
                    f"yours), or leave recall_dim out"
                )
            nn.init.eye_(self.weight)
            return
        if len(samples) < recall_dim:
            raise InputError(
                f"{len(samples)} sample texts cannot span {recall_dim} dimensions; pass at least "
                f"{recall_dim}, better a few thousand"
            )
        directions, strengths = principal_directions(samples, recall_dim)
        self.weight.copy_(directions * strengths.clamp_min(1e-9).pow(-WHITENING).unsqueeze(1))


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
    unit = functional.normalize(samples.double(), dim=-1)
    strengths, vectors = torch.linalg.eigh(unit.T @ unit / len(unit))
    directions: Tensor = vectors.T.flip(0)[:count].to(samples.dtype)
    return directions.contiguous(), strengths.flip(0)[:count].to(samples.dtype)
