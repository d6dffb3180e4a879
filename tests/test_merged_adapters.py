from __future__ import annotations

import gc
import pickle
import weakref
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import side_by_side
from tiny_models import save_decoder
from torch import Tensor, nn

from d2llm_vdb import Student
from d2llm_vdb.student import merged
from d2llm_vdb.student.arrays import PassageVectors
from d2llm_vdb.student.merged import MergedAdapters, merge


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    return save_decoder(tmp_path_factory.mktemp("tiny"), "llama", texts)


@pytest.fixture
def fresh(tiny_path: Path) -> Student:
    """A student whose adapters learn, and count."""
    student = Student.from_backbone(str(tiny_path), lora_rank=4, dtype="float32")
    student.backbone.short_inputs = None
    shift(student)
    return student


@pytest.fixture
def loaded(fresh: Student, tmp_path: Path) -> Student:
    """One whose adapters do not learn."""
    return reloaded(fresh, tmp_path / "student")


def reloaded(student: Student, path: Path) -> Student:
    student.save(path)
    again = Student.load(path, dtype="float32")
    again.backbone.short_inputs = None
    return again


@pytest.fixture(params=["fresh", "loaded"])
def adapted(request: pytest.FixtureRequest) -> Student:
    student: Student = request.getfixturevalue(request.param)
    return student


def shift(student: Student) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in student.backbone.model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.3 * torch.randn_like(weight))


def encode(student: Student, texts: list[str]) -> PassageVectors:
    [vectors] = student.encode_passages(texts, tokens=True)
    return vectors


@torch.no_grad()
def states(student: Student, text: str) -> Tensor:
    """States as the student computes them."""
    ids, _ = student.backbone.tokenize([text], 64)
    [batch] = student.backbone.batches(ids)
    return batch.states


@torch.no_grad()
def expected(student: Student, text: str) -> Tensor:
    """States as the model with its adapters gives them."""
    ids, _ = student.backbone.tokenize([text], 64)
    output: Any = student.backbone.model(input_ids=torch.tensor(ids))
    return output.last_hidden_state.float()


class Forward:
    """Counts the forward passes of a student's model with its adapters."""

    def __init__(self, student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        forward = student.backbone.model.forward

        def counted(*args: Any, **inputs: Any) -> Any:
            self.count += 1
            return forward(*args, **inputs)

        monkeypatch.setattr(student.backbone.model, "forward", counted)


@pytest.fixture
def merges(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[nn.Module]]:
    """Every merged model, as long as it lives."""
    made: list[weakref.ref[nn.Module]] = []

    def noted(model: Any) -> nn.Module:
        result = merge(model)
        made.append(weakref.ref(result))
        return result

    monkeypatch.setattr(merged, "merge", noted)
    return made


def test_vectors_are_the_same_merged_and_unmerged(
    adapted: Student, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unmerged = pickle.loads(pickle.dumps(adapted))
    passes, unmerged_passes = Forward(adapted, monkeypatch), Forward(unmerged, monkeypatch)
    found = encode(adapted, texts[:8])
    monkeypatch.setattr(merged, "LARGEST_COPY", 0)
    exact = encode(unmerged, texts[:8])
    assert passes.count == 0
    assert unmerged_passes.count > 0
    np.testing.assert_allclose(found.recall, exact.recall, atol=1e-6)
    assert found.tokens is not None
    assert exact.tokens is not None
    for one, other in zip(found.tokens, exact.tokens, strict=True):
        np.testing.assert_allclose(one, other, atol=4e-3)  # they are float16


def test_minilm_with_adapters_gives_the_same_merged(
    texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "sentence-transformers/all-MiniLM-L6-v2"
    student = Student.from_backbone(name, lora_rank=8, dtype="float32")
    bare = expected(student, texts[0])
    shift(student)
    exact = expected(student, texts[0])
    assert (exact - bare).abs().max() > 0.1
    passes = Forward(student, monkeypatch)
    torch.testing.assert_close(states(student, texts[0]), exact, atol=1e-5, rtol=1e-5)
    assert passes.count == 0


def test_a_model_is_merged_once_and_not_changed(
    adapted: Student, texts: list[str], merges: list[object]
) -> None:
    before = {name: weight.clone() for name, weight in adapted.backbone.model.state_dict().items()}
    fingerprint = adapted.fingerprint
    first = encode(adapted, texts[:4])
    assert np.array_equal(encode(adapted, texts[:4]).recall, first.recall)
    adapted.encode_document(texts[:2])
    adapted.encode_query(texts[:2])
    assert len(merges) == 1
    after = adapted.backbone.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    adapted._fingerprint = None
    assert adapted.fingerprint == fingerprint


def test_only_adapted_weights_lie_in_memory_twice(loaded: Student) -> None:
    model = loaded.backbone.model
    copy = merge(model)
    own = {weight.data_ptr() for weight in model.parameters()}
    held_twice = {name for name, weight in copy.named_parameters() if weight.data_ptr() not in own}
    assert held_twice == {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight") + ".weight"
        for name, _ in model.named_parameters()
        if ".lora_A." in name
    }


def test_bfloat16_weights_are_summed_in_float32(tiny_path: Path) -> None:
    student = Student.from_backbone(str(tiny_path), lora_rank=4, dtype="bfloat16")
    shift(student)
    layer = student.backbone.model.base_model.model.layers[0].mlp.up_proj
    change = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    wanted = (layer.base_layer.weight.float() + change).bfloat16()
    found = merge(student.backbone.model).get_parameter("layers.0.mlp.up_proj.weight")
    assert torch.equal(found, wanted)
    assert not torch.equal(found, layer.base_layer.weight + change.bfloat16())


def test_a_training_step_counts(fresh: Student, texts: list[str]) -> None:
    model = fresh.backbone.model
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    for fused in (False, True):  # which is not counted
        before = states(fresh, texts[0])
        optimizer = torch.optim.AdamW(learning, lr=0.02, fused=fused)
        model.train()
        model(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state.square().sum().backward()
        optimizer.step()
        model.eval()
        found = states(fresh, texts[0])
        assert (found - before).abs().max() > 1e-2
        torch.testing.assert_close(found, expected(fresh, texts[0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("part", ["lora_A", "lora_B", "base_layer", "norm"])
def test_any_weight_that_changes_counts(
    part: str, adapted: Student, texts: list[str], merges: list[weakref.ref[nn.Module]]
) -> None:
    before = states(adapted, texts[0])
    with torch.no_grad():
        for name, weight in adapted.backbone.model.named_parameters():
            if part in name:
                weight.mul_(1.5)
    found = states(adapted, texts[0])
    assert (found - before).abs().max() > 1e-2
    torch.testing.assert_close(found, expected(adapted, texts[0]), atol=1e-5, rtol=1e-5)
    gc.collect()
    assert [ref() is None for ref in merges] == [True, False]


def test_weights_made_in_inference_mode_count_when_they_change(
    fresh: Student, texts: list[str], tmp_path: Path
) -> None:
    with torch.inference_mode():
        student = reloaded(fresh, tmp_path / "student")
        before = states(student, texts[0])
        for name, weight in student.backbone.model.named_parameters():
            if "lora_B" in name:
                weight.mul_(0.5)  # smaller, so that float32 rounds no more than elsewhere here
        found = states(student, texts[0])
        assert (found - before).abs().max() > 1e-2
        torch.testing.assert_close(found, expected(student, texts[0]), atol=1e-5, rtol=1e-5)


def test_a_model_in_training_is_run_itself_and_what_was_merged_let_go(
    adapted: Student, texts: list[str], merges: list[weakref.ref[nn.Module]]
) -> None:
    at_rest = states(adapted, texts[0])
    adapted.backbone.model.train()
    assert (states(adapted, texts[0]) - at_rest).abs().max() > 1e-3  # by dropout
    gc.collect()
    assert [ref() for ref in merges] == [None]
    adapted.backbone.model.eval()
    assert torch.equal(states(adapted, texts[0]), at_rest)


def test_adapters_get_gradients_through_the_backbone(fresh: Student, texts: list[str]) -> None:
    ids, _ = fresh.backbone.tokenize(texts[:2], 32)
    states(fresh, texts[0])
    for batch in fresh.backbone.batches(ids):
        batch.states.square().sum().backward()
    for name, weight in fresh.backbone.model.named_parameters():
        assert (weight.grad is not None) == ("lora" in name), name


def test_without_adapter_the_states_are_the_bare_backbones(
    adapted: Student, tiny_path: Path, texts: list[str]
) -> None:
    bare = states(Student.from_backbone(str(tiny_path), dtype="float32"), texts[0])
    with_adapter = states(adapted, texts[0])
    with adapted.backbone.without_adapter():
        assert torch.equal(states(adapted, texts[0]), bare)
    assert torch.equal(states(adapted, texts[0]), with_adapter)
    assert (with_adapter - bare).abs().max() > 1e-2


@pytest.mark.parametrize("copied", [deepcopy, lambda student: pickle.loads(pickle.dumps(student))])
def test_a_copy_merges_for_itself(copied: Any, adapted: Student, texts: list[str]) -> None:
    before = states(adapted, texts[0])
    copy = copied(adapted)
    assert torch.equal(states(copy, texts[0]), before)
    shift(copy)
    assert (states(copy, texts[0]) - before).abs().max() > 1e-2
    assert torch.equal(states(adapted, texts[0]), before)


def test_threads_share_what_one_of_them_merges(
    adapted: Student, texts: list[str], merges: list[object]
) -> None:
    found: dict[int, PassageVectors] = {}

    def work(number: int) -> None:
        found[number] = encode(adapted, texts[:4])

    side_by_side(work)
    assert len(merges) == 1
    for vectors in found.values():
        assert np.array_equal(vectors.recall, found[0].recall)
    assert len(found) == 4


def test_what_is_merged_in_inference_mode_can_be_used_outside(loaded: Student) -> None:
    with torch.inference_mode():
        model = MergedAdapters().of(loaded.backbone.model)
    assert not any(weight.is_inference() for weight in model.parameters())


def test_a_model_that_cannot_be_merged_is_run_itself_and_logged_once(
    adapted: Student,
    texts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(model: object) -> nn.Module:
        raise ValueError("no merging here")

    monkeypatch.setattr(merged, "merge", refuse)
    for _ in range(3):
        assert torch.equal(states(adapted, texts[0]), expected(adapted, texts[0]))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "adapters stay unmerged, which is slower: no merging here" in caplog.text


def test_another_model_in_its_place_is_merged_anew(
    fresh: Student, loaded: Student, texts: list[str]
) -> None:
    before = states(loaded, texts[0])
    shift(fresh)
    loaded.backbone.model = fresh.backbone.model
    assert torch.equal(states(loaded, texts[0]), states(fresh, texts[0]))
    assert not torch.equal(states(loaded, texts[0]), before)


def test_a_model_without_adapters_is_run_itself(
    tiny_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Student.from_backbone(str(tiny_path), dtype="float32").backbone.model
    assert MergedAdapters().of(model) is model
    assert not caplog.records
