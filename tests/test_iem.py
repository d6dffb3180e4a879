from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from d2llm_vdb.student.config import IEMConfig, Interaction, Task
from d2llm_vdb.student.iem import IEM, LateInteraction


@pytest.mark.parametrize("interaction", ["concat", "product"])
@pytest.mark.parametrize("task", ["symmetric", "asymmetric"])
def test_stored_passage_half_gives_the_score_of_the_whole_module(
    interaction: Interaction, task: Task
) -> None:
    torch.manual_seed(0)
    iem = IEM(48, IEMConfig(40, interaction))
    query, passages = torch.randn(48), torch.randn(7, 48)
    whole, feature = iem(query, passages, task)
    half = torch.from_numpy(iem.passage_half(passages).detach().numpy().astype(np.float16)).float()
    stored, stored_feature = iem.combine(iem.query_half(query), half, task)
    torch.testing.assert_close(stored, whole, atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(stored_feature, feature, atol=5e-3, rtol=5e-3)


def test_concat_is_the_papers_module_written_out() -> None:
    torch.manual_seed(0)
    iem = IEM(16, IEMConfig(8, "concat"))
    query, passage = torch.randn(16), torch.randn(16)
    first = torch.relu(iem.linear1(torch.cat([query, passage])))
    for task, branch in (("symmetric", iem.proj0), ("asymmetric", iem.proj1)):
        feature = torch.relu(branch(first))
        logit, found = iem(query, passage, task)
        torch.testing.assert_close(logit, iem.linear2(feature)[0])
        torch.testing.assert_close(found, feature)


@pytest.mark.parametrize("hidden", [16, 24])
def test_an_untrained_product_module_ranks_as_the_cosine(hidden: int) -> None:
    torch.manual_seed(0)
    iem = IEM(16, IEMConfig(hidden, "product"))
    iem.initialise(None, segments=False)
    query, passages = torch.randn(16), torch.randn(50, 16)
    logits, _ = iem(query, passages, "asymmetric")
    cosines = torch.cosine_similarity(query, passages)
    assert logits.argsort().tolist() == cosines.argsort().tolist()


def test_a_narrow_product_module_keeps_the_cosines_of_its_samples() -> None:
    torch.manual_seed(0)
    low_rank = torch.randn(200, 6) @ torch.randn(6, 32)
    iem = IEM(32, IEMConfig(6, "product"))
    iem.initialise(low_rank, segments=False)
    logits, _ = iem(low_rank[0], low_rank[1:], "symmetric")
    cosines = torch.cosine_similarity(low_rank[0], low_rank[1:])
    torch.testing.assert_close((logits - iem.bias[0]) / iem.scale[0], cosines, atol=1e-4, rtol=1e-4)


def test_every_weight_of_both_branches_is_trained() -> None:
    iem = IEM(16, IEMConfig(8, "product"))
    for task in ("symmetric", "asymmetric"):
        logit, _ = iem(torch.randn(4, 16), torch.randn(4, 16), task, torch.randn(4), torch.rand(4))
        logit.sum().backward()
    assert all(weight.grad is not None for weight in iem.parameters())


def test_untrained_late_interaction_orders_as_maxsim() -> None:
    late = LateInteraction(8, segments=False)
    maxsim, recall = torch.tensor([0.1, 0.7, 0.4]), torch.tensor([0.9, 0.1, 0.5])
    assert late(maxsim, recall).argsort().tolist() == maxsim.argsort().tolist()


def test_product_is_the_four_features_through_one_layer_written_out() -> None:
    torch.manual_seed(0)
    iem = IEM(16, IEMConfig(8, "product"))
    torch.nn.init.normal_(iem.linear1.bias)
    queries, passages = torch.randn(3, 1, 16), torch.randn(1, 5, 16)
    logits, features = iem(queries, passages, "symmetric")
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
    answers, _ = iem(query, passages, "asymmetric", None, words)
    assert answers.diff().min() > 0
    same, _ = iem(query, passages, "symmetric", None, words)
    assert same.diff().abs().max() == 0
    late = LateInteraction(16, segments=False)
    assert late(torch.ones(3), torch.ones(3), None, words).diff().min() > 0


def test_what_is_not_trusted_counts_less_beside_words() -> None:
    iem = IEM(16, IEMConfig(8, "product"))
    iem.initialise(None, segments=True)
    late = LateInteraction(16, segments=True)
    query, passages, match, words = (
        torch.randn(16),
        torch.randn(3, 16),
        torch.rand(3),
        torch.rand(3),
    )
    for score, bias in (
        (lambda words, trust: iem(query, passages, "asymmetric", match, words, trust)[0], -4.0),
        (lambda words, trust: late(torch.rand(3), torch.rand(3), match, words, trust), -4.0),
    ):
        torch.manual_seed(0)
        plain = score(None, 1.0) - bias
        torch.manual_seed(0)
        doubted = score(None, 0.25) - bias
        torch.testing.assert_close(doubted, 0.25 * plain)
        torch.manual_seed(0)
        with_words = score(words, 0.25) - bias - doubted
        assert (with_words / words).std() < 1e-4  # words count in full


def test_a_better_match_of_the_segments_raises_the_score_by_what_it_counts() -> None:
    iem = IEM(16, IEMConfig(8, "product"))
    iem.initialise(None, segments=True)
    query, passages = torch.randn(16), torch.randn(1, 16).expand(3, 16)
    match = torch.tensor([0.0, 0.5, 1.0])
    answers, _ = iem(query, passages, "asymmetric", match)
    torch.testing.assert_close(answers.diff() / iem.match_scale[0], torch.tensor([0.5, 0.5]))
    late = LateInteraction(16, segments=True)
    scores = late(torch.ones(3), torch.ones(3), match)
    torch.testing.assert_close(scores.diff() / late.match_scale, torch.tensor([0.5, 0.5]))
