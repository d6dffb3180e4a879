from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from d2llm_vdb.student.config import IEMConfig, Interaction, Task
from d2llm_vdb.student.evidence import Evidence
from d2llm_vdb.student.iem import IEM
from d2llm_vdb.student.late import LateInteraction


def whole(
    iem: IEM, query: Tensor, passage: Tensor, task: Task, **others: Any
) -> tuple[Tensor, Tensor]:
    """Score embeddings: both halves of the module, one after the other."""
    halves = {"query_half": iem.query_half(query), "passage_half": iem.passage_half(passage)}
    scored: tuple[Tensor, Tensor] = iem(Evidence(**halves, **others), task)
    return scored


def by_tokens(late: LateInteraction, maxsim: Tensor, recall_score: Tensor, **others: Any) -> Tensor:
    scored: Tensor = late(Evidence(maxsim=maxsim, recall_score=recall_score, **others))
    return scored


@pytest.mark.parametrize("interaction", ["concat", "product"])
@pytest.mark.parametrize("task", ["symmetric", "asymmetric"])
def test_stored_passage_half_gives_the_score_of_the_whole_module(
    interaction: Interaction, task: Task
) -> None:
    torch.manual_seed(0)
    iem = IEM(48, IEMConfig(40, interaction))
    query, passages = torch.randn(48), torch.randn(7, 48)
    fresh, feature = whole(iem, query, passages, task)
    half = torch.from_numpy(iem.passage_half(passages).detach().numpy().astype(np.float16)).float()
    stored, stored_feature = iem(
        Evidence(query_half=iem.query_half(query), passage_half=half), task
    )
    torch.testing.assert_close(stored, fresh, atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(stored_feature, feature, atol=5e-3, rtol=5e-3)


def test_concat_is_the_papers_module_written_out() -> None:
    torch.manual_seed(0)
    iem = IEM(16, IEMConfig(8, "concat"))
    query, passage = torch.randn(16), torch.randn(16)
    first = torch.relu(iem.linear1(torch.cat([query, passage])))
    for task, branch in (("symmetric", iem.proj0), ("asymmetric", iem.proj1)):
        feature = torch.relu(branch(first))
        logit, found = whole(iem, query, passage, task)
        torch.testing.assert_close(logit, iem.linear2(feature)[0])
        torch.testing.assert_close(found, feature)


@pytest.mark.parametrize("hidden", [16, 24])
def test_an_untrained_product_module_ranks_as_the_cosine(hidden: int) -> None:
    torch.manual_seed(0)
    iem = IEM(16, IEMConfig(hidden, "product"))
    iem.initialise(None, segments=False)
    query, passages = torch.randn(16), torch.randn(50, 16)
    logits, _ = whole(iem, query, passages, "asymmetric")
    cosines = torch.cosine_similarity(query, passages)
    assert logits.argsort().tolist() == cosines.argsort().tolist()


def test_a_narrow_product_module_keeps_the_cosines_of_its_samples() -> None:
    torch.manual_seed(0)
    low_rank = torch.randn(200, 6) @ torch.randn(6, 32)
    iem = IEM(32, IEMConfig(6, "product"))
    iem.initialise(low_rank, segments=False)
    logits, _ = whole(iem, low_rank[0], low_rank[1:], "symmetric")
    cosines = torch.cosine_similarity(low_rank[0], low_rank[1:])
    torch.testing.assert_close((logits - iem.bias[0]) / iem.scale[0], cosines, atol=1e-4, rtol=1e-4)


def test_every_weight_of_both_branches_is_trained() -> None:
    iem = IEM(16, IEMConfig(8, "product"))
    for task in ("symmetric", "asymmetric"):
        texts = torch.randn(4, 16), torch.randn(4, 16)
        logit, _ = whole(iem, *texts, task, match=torch.randn(4), words=torch.rand(4))
        logit.sum().backward()
    assert all(weight.grad is not None for weight in iem.parameters())


def test_untrained_late_interaction_orders_as_maxsim() -> None:
    late = LateInteraction(8, segments=False)
    maxsim, recall = torch.tensor([0.1, 0.7, 0.4]), torch.tensor([0.9, 0.1, 0.5])
    assert by_tokens(late, maxsim, recall).argsort().tolist() == maxsim.argsort().tolist()


def test_product_is_the_four_features_through_one_layer_written_out() -> None:
    torch.manual_seed(0)
    iem = IEM(16, IEMConfig(8, "product"))
    torch.nn.init.normal_(iem.linear1.bias)
    queries, passages = torch.randn(3, 1, 16), torch.randn(1, 5, 16)
    logits, features = whole(iem, queries, passages, "symmetric")
    for row in range(3):
        for column in range(5):
            own, other = iem.linear1.weight.chunk(2, dim=1)
            query = own @ normalize(queries[row, 0], dim=0)
            passage = other @ normalize(passages[0, column], dim=0) + iem.linear1.bias
            size = 8**0.5
            first = torch.cat(
                [query * passage * 8, (query - passage).abs() * size, query * size, passage * size]
            )
            feature = torch.relu(iem.proj0(first))
            logit = iem.linear2(feature)[0] + iem.scale[0] * (query @ passage) + iem.bias[0]
            torch.testing.assert_close(features[row, column], feature)
            torch.testing.assert_close(logits[row, column], logit)


def test_words_in_common_raise_the_score_of_an_answer_and_not_of_a_paraphrase() -> None:
    iem = IEM(16, IEMConfig(8, "product"))
    iem.initialise(None, segments=False)
    query, passages = torch.randn(16), torch.randn(1, 16).expand(3, 16)
    words = torch.tensor([0.0, 5.0, 10.0])
    answers, _ = whole(iem, query, passages, "asymmetric", words=words)
    assert answers.diff().min() > 0
    same, _ = whole(iem, query, passages, "symmetric", words=words)
    assert same.diff().abs().max() == 0
    late = LateInteraction(16, segments=False)
    assert by_tokens(late, torch.ones(3), torch.ones(3), words=words).diff().min() > 0


@pytest.mark.parametrize("head", ["iem", "late"])
def test_what_is_not_trusted_counts_less_beside_words(head: str) -> None:
    torch.manual_seed(0)
    iem, late = IEM(16, IEMConfig(8, "product")), LateInteraction(16, segments=True)
    iem.initialise(None, segments=True)
    query, passages = torch.randn(16), torch.randn(3, 16)
    maxsim, recall, match, words = torch.rand(4, 3)

    def scored(**others: Any) -> Tensor:
        if head == "late":
            return by_tokens(late, maxsim, recall, match=match, **others) + 4
        return whole(iem, query, passages, "asymmetric", match=match, **others)[0] + 4

    plain, none = scored(), torch.zeros(3)
    torch.testing.assert_close(scored(trust=0.25), plain)  # without words nothing is weighed
    torch.testing.assert_close(scored(words=none, trust=0.25), 0.25 * plain)
    gain = scored(words=words, trust=0.25) - scored(words=none, trust=0.25)
    assert (gain / words).std() < 1e-4  # words count in full


def test_what_a_logit_adds_up_is_as_written_out() -> None:
    torch.manual_seed(0)
    iem, late = IEM(16, IEMConfig(8, "product")), LateInteraction(16, segments=True)
    iem.initialise(None, segments=True)
    torch.nn.init.normal_(iem.linear2.weight)
    query, passages = torch.randn(16), torch.randn(3, 16)
    maxsim, recall, match, words = torch.rand(4, 3)
    known = {"match": match, "words": words, "trust": 0.5}
    found, feature = whole(iem, query, passages, "asymmetric", **known)
    cosine = iem.passage_half(passages) @ iem.query_half(query)
    expected = 5 * cosine + 5 * match + iem.linear2(feature).squeeze(-1)
    torch.testing.assert_close(found, 0.5 * expected + 0.7 * words - 4)
    found = by_tokens(late, maxsim, recall, **known)
    expected = 10 * (maxsim + 0.5 * recall + 0.3 * match) / 1.8
    torch.testing.assert_close(found, 0.5 * expected + 0.35 * words - 4)


@pytest.mark.parametrize("missing", ["query_half", "passage_half", "maxsim", "recall_score"])
def test_evidence_that_lacks_what_a_head_reads_is_refused_by_name(missing: str) -> None:
    iem, late = IEM(16, IEMConfig(8, "product")), LateInteraction(16, segments=True)
    names = {"query_half", "passage_half", "maxsim", "recall_score"} - {missing}
    evidence = Evidence(**dict.fromkeys(names, torch.rand(8)))
    with pytest.raises(ValueError, match=missing):
        late(evidence) if missing in ("maxsim", "recall_score") else iem(evidence, "symmetric")


def test_a_better_match_of_the_segments_raises_the_score_by_what_it_counts() -> None:
    iem = IEM(16, IEMConfig(8, "product"))
    iem.initialise(None, segments=True)
    query, passages = torch.randn(16), torch.randn(1, 16).expand(3, 16)
    match = torch.tensor([0.0, 0.5, 1.0])
    answers, _ = whole(iem, query, passages, "asymmetric", match=match)
    torch.testing.assert_close(answers.diff() / iem.match_scale[0], torch.tensor([0.5, 0.5]))
    late = LateInteraction(16, segments=True)
    scores = by_tokens(late, torch.ones(3), torch.ones(3), match=match)
    torch.testing.assert_close(scores.diff() / late.match_scale, torch.tensor([0.5, 0.5]))
