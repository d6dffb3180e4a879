"""What a training step reads and computes, against what search does."""

from __future__ import annotations

import shutil
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import log_odds
from tiny_models import save_decoder
from training_examples import LABELS, PAIRS

from d2llm_vdb import Student
from d2llm_vdb.distill.batches import ScoredSet, gather
from d2llm_vdb.distill.config import DistillConfig, LossWeights
from d2llm_vdb.distill.model import DistillationModel, maxsim
from d2llm_vdb.distill.states import TokenIds, TokenStates
from d2llm_vdb.evaluate.rankers import StackedSegments
from d2llm_vdb.student import Task
from d2llm_vdb.student.evidence import Evidence
from d2llm_vdb.student.late import stored_tokens


def test_token_states_come_from_disk_as_the_backbone_gives_them(
    tmp_path: Path, student: Student, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, some = student.backbone, texts[:5]
    states = TokenStates.of(some, backbone, tmp_path, max_tokens=64)
    done: list[int] = []
    with monkeypatch.context() as without:
        without.delattr(type(backbone), "batches")  # what runs it
        again = TokenStates.of(some, backbone, tmp_path, max_tokens=64, on_progress=done.append)
    assert len(list(tmp_path.iterdir())) == 1
    assert done == [5]
    model = DistillationModel(student.heads, LABELS, backbone.model)
    ids = TokenIds.of(some, backbone, tmp_path, max_tokens=64)
    with torch.inference_mode():
        live = model.encode(ids.batch([3, 0]), queries=False)
    cached = again.batch([3, 0])
    assert torch.equal(cached.mask, live.mask)
    assert cached.states is not None
    own = live.mask
    assert torch.allclose(stored_tokens(cached.states)[own], live.tokens[own], atol=5e-3)
    assert len(states) == 5


LONG = "one text of some more words than the shortest length takes"


def test_other_texts_prompts_and_lengths_have_other_states(
    tmp_path: Path, student: Student
) -> None:
    for texts, options in (
        ([LONG], {"max_tokens": 16}),
        (["another"], {"max_tokens": 16}),
        ([LONG], {"max_tokens": 8}),
        ([LONG], {"max_tokens": 16, "prompt": "query: "}),
    ):
        TokenStates.of(texts, student.backbone, tmp_path, **options)
    assert len(list(tmp_path.iterdir())) == 4
    assert student.path is not None
    adapted = Student.load(student.path, dtype="float32").backbone
    with torch.no_grad():
        for name, weight in adapted.model.named_parameters():
            if "lora_B" in name:
                weight.mul_(2)
    TokenStates.of([LONG], adapted, tmp_path, max_tokens=16)
    assert len(list(tmp_path.iterdir())) == 5


def test_the_same_weights_with_another_tokenizer_have_other_states(
    tmp_path: Path, texts: list[str]
) -> None:
    save_decoder(tmp_path / "one", "llama", texts)
    save_decoder(tmp_path / "other", "llama", texts[:5])
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tmp_path / "one" / name, tmp_path / "other" / name)
    for learnt in (True, False):
        for name in ("one", "other"):
            backbone = Student.from_backbone(tmp_path / name, dtype="float32").backbone
            if learnt:
                TokenIds.of(texts[:3], backbone, tmp_path / "states", max_tokens=64)
                continue
            states = TokenStates.of(texts[:3], backbone, tmp_path / "states", max_tokens=64)
            lengths = [len(ids) for ids in backbone.tokenize(texts[:3], 64)[0]]
            assert [len(states[row]) for row in range(3)] == lengths
    assert len(list((tmp_path / "states").iterdir())) == 4


def test_training_scores_pairs_as_search_does(
    tmp_path: Path, student: Student, texts: list[str]
) -> None:
    """The model trains the very functions that are searched with."""
    student = Student(student.config, student.backbone, deepcopy(student.heads))
    torch.manual_seed(0)
    with torch.no_grad():  # so that no head, nor half of one, could do another's work
        for weight in (*student.heads.iem.parameters(), *student.heads.late.parameters()):
            weight += 0.03 * torch.randn_like(weight)
    queries, passages = ["what is a lambda?", "how do loops end?"], texts[:6]
    read = [TokenStates.of(own, student.backbone, tmp_path, max_tokens=256) for own in
            (queries, passages)]  # fmt: skip
    model = DistillationModel(student.heads, LABELS).eval()
    with torch.inference_mode():
        query, passage = (
            model.encode(own.batch(range(len(own))), queries=own is read[0]) for own in read
        )
        scores = model.score(model.evidence(query, passage), "asymmetric")
    [vectors] = student.encode_queries(queries)
    [stored] = student.encode_passages(passages, tokens=True)
    assert stored.tokens is not None
    assert stored.segments is not None
    assert vectors.segments is not None
    segments, halves = StackedSegments(stored.segments), student.passage_halves(stored.recall)
    for row in range(2):
        match = segments.match(vectors.segments[row])
        evidence = Evidence(query_half=vectors.iem[row], passage_half=halves, match=match)
        iem = student.scores(evidence, "asymmetric")
        calibration = student.heads.calibration
        fresh = calibration(scores.iem[row], "asymmetric_wordless").detach().numpy()
        assert log_odds(fresh) == pytest.approx(log_odds(iem), abs=0.05)
        recall = stored.recall @ vectors.recall[row]
        assert scores.recall[row].numpy() == pytest.approx(recall, abs=2e-3)
        maxsim = np.array(
            [(vectors.tokens[row] @ own.astype(np.float32).T).max(axis=1).sum() for own in
             stored.tokens], np.float32,
        )  # fmt: skip
        recall = recall.astype(np.float32)
        evidence = Evidence(maxsim=maxsim, recall_score=recall, match=match)
        late = student.scores(evidence, "late")
        fresh = calibration(scores.late[row], "late_wordless").detach().numpy()
        assert log_odds(fresh) == pytest.approx(log_odds(late), abs=0.05)


def test_maxsim_is_the_same_however_many_passages_are_compared_at_a_time() -> None:
    torch.manual_seed(0)
    queries, passages = torch.randn(3, 5, 8), torch.randn(37, 7, 8).half()
    mask = torch.arange(7) < torch.randint(1, 8, (37, 1))
    found = maxsim(queries, passages, mask)
    for row, query in enumerate(queries):
        for column, passage in enumerate(passages.float()):
            expected = (query @ passage[mask[column]].T).amax(dim=1).sum().item()
            assert found[row, column].item() == pytest.approx(expected, abs=1e-4)


SCORED = {"mha_pma", "iem", "late", "segments"}
HEADS_OF_LOSS = {
    "contrastive": SCORED,
    "rank_in_list": SCORED,
    "rank_in_batch": SCORED,
    "feature": {"mha_pma", "iem"},
    "probability": SCORED,
    "geometry": {"mha_pma", "segments"},
    "geometry_of_pairs": {"mha_pma", "segments"},
    "recall": {"mha_pma"},
}


@pytest.mark.parametrize("name", [one.name for one in fields(LossWeights)])
def test_each_loss_by_itself_teaches_the_heads_it_is_for(
    tmp_path: Path, student: Student, name: str
) -> None:
    alone = {one.name: float(one.name == name) for one in fields(LossWeights)}
    model = DistillationModel(
        deepcopy(student.heads), DistillConfig(weights=LossWeights(**alone)), None
    )
    random = np.random.default_rng(0)
    candidates = [[2 * row, 2 * row + 1, (2 * row + 2) % 8, (2 * row + 4) % 8] for row in range(4)]
    data = replace(PAIRS, candidates=candidates, labels=[[1.0, 0.0, 0.0, 0.0]] * 4)
    logit = random.standard_normal(16).astype(np.float32)
    feature = random.standard_normal((16, 5)).astype(np.float16)
    scored = ScoredSet(data, 1 / (1 + np.exp(-logit)), logit, feature)
    lists = gather(scored, [0, 1, 2, 3])
    queries, passages = (
        TokenStates.of(own, student.backbone, tmp_path, max_tokens=32).batch(rows)
        for own, rows in ((PAIRS.queries, lists.queries), (PAIRS.passages, lists.passages))
    )
    tasks: list[Task] = ["asymmetric", "symmetric"]
    task, other = tasks if name != "geometry_of_pairs" else reversed(tasks)
    if name.startswith("geometry"):
        assert model(queries, passages, lists, other)["loss"].item() == 0
    loss = model(queries, passages, lists, task)["loss"]
    assert loss.item() > 1e-4
    loss.backward()
    reached = {
        weight_name.split(".")[0]
        for weight_name, weight in model.heads.named_parameters()
        if weight.grad is not None and weight.grad.abs().max() > 1e-4
    }
    assert reached == HEADS_OF_LOSS[name]
