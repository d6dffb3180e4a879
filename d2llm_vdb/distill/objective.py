"""The loss of one batch: what every head imitates, weighted and added up."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from d2llm_vdb.distill import losses
from d2llm_vdb.distill.batches import Lists
from d2llm_vdb.distill.config import DistillConfig
from d2llm_vdb.distill.encoded import Encoded, Scores
from d2llm_vdb.student import Task


def add_up(
    query: Encoded,
    passage: Encoded,
    scores: Scores,
    lists: Lists,
    task: Task,
    config: DistillConfig,
) -> dict[str, Tensor]:
    """Return `loss`, the weighted sum, and each part of it by name.

    The IEM and the late interaction imitate the teacher alike, by the paper's losses. The recall
    vector imitates the IEM; it, and what the segments project to, keep the geometry of the
    mean-pooled states that the backbone had before it learned.
    """
    weights = config.weights
    recall = _imitate_choice(scores.recall / config.recall_temperature, scores.iem.detach())
    texts = (query, passage)
    wide = torch.cat([one.anchor for one in texts])
    projected = [torch.cat([one.recall for one in texts])]
    if query.row is not None and passage.row is not None:
        projected.append(torch.cat([query.row, passage.row]))
    geometry = [losses.projective_distillation(one, wide) for one in projected]
    kept = weights.geometry
    if task == "symmetric" and weights.geometry_of_pairs is not None:
        kept = weights.geometry_of_pairs
    parts = {
        **_imitate_teacher("iem", scores.iem, lists, config),
        **_imitate_teacher("tokens", scores.late, lists, config),
        "recall": weights.recall * recall,
        "geometry": kept * torch.stack(geometry).mean(),
    }
    if lists.feature is not None:
        feature = _own(scores.feature, lists.places)
        imitation = losses.feature_imitation(feature, lists.feature, lists.mask)
        parts["iem_feature"] = weights.feature * imitation
    return {"loss": torch.stack(list(parts.values())).sum(), **parts}


def _imitate_teacher(
    name: str, logits: Tensor, lists: Lists, config: DistillConfig
) -> dict[str, Tensor]:
    """Return the losses of one head's logits, (B, U), against the teacher."""
    weights = config.weights
    own = _own(logits, lists.places)
    hard = lists.mask & ~lists.positive
    contrastive = losses.contrastive_imitation(
        torch.cat([own, logits], dim=1),
        torch.cat([lists.probability, lists.in_batch_probability], dim=1),
        torch.cat([lists.positive, torch.zeros_like(lists.in_batch)], dim=1),
        torch.cat([hard, lists.in_batch], dim=1),
        config.temperature,
    )
    in_list = losses.rank_imitation_in_list(own, lists.logit, lists.mask)
    in_batch = losses.rank_imitation_in_batch(
        own, lists.probability, hard, logits, lists.in_batch_probability, lists.in_batch_scored
    )
    probability = losses.probability_imitation(own, lists.probability, lists.mask)
    return {
        f"{name}_probability": weights.probability * probability,
        f"{name}_contrastive": weights.contrastive * contrastive,
        f"{name}_rank_in_list": weights.rank_in_list * in_list,
        f"{name}_rank_in_batch": weights.rank_in_batch * in_batch,
    }


def _imitate_choice(student: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of the student's choice among all passages, (B, U) logits, from the teacher's."""
    ours, theirs = student.log_softmax(dim=1), teacher.log_softmax(dim=1)
    return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def _own(values: Tensor, places: Tensor) -> Tensor:
    """Pick each query's candidates, (B, n, ...), from all passages, (B, U, ...)."""
    rows = torch.arange(len(places), device=places.device).unsqueeze(1)
    return values[rows, places]
