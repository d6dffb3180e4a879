from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_decoder

from d2llm_vdb import Student
from d2llm_vdb.errors import CheckpointError, InputError
from d2llm_vdb.student.config import IEMConfig, PMAConfig, StudentConfig
from d2llm_vdb.student.iem import IEM
from d2llm_vdb.student.pma import PMA


@pytest.fixture
def backbone(tmp_path: Path, texts: list[str]) -> str:
    return str(save_decoder(tmp_path / "backbone", "llama", texts))


def test_a_saved_student_is_the_same_student(
    backbone: str, tmp_path: Path, texts: list[str]
) -> None:
    student = Student.from_backbone(backbone, sample_texts=texts, recall_dim=16)
    student.save(tmp_path / "student")
    again = Student.load(tmp_path / "student")
    assert again.fingerprint == student.fingerprint
    assert again.config == student.config
    [before], [after] = student.encode_passages(texts[:4]), again.encode_passages(texts[:4])
    np.testing.assert_array_equal(before.recall, after.recall)
    names = {path.name for path in (tmp_path / "student").iterdir()}
    assert names == {"config.json", "heads.safetensors", "README.md"}


def test_fingerprint_does_not_depend_on_where_things_lie(
    backbone: str, tmp_path: Path, texts: list[str]
) -> None:
    copy = save_decoder(tmp_path / "elsewhere", "llama", texts)
    assert (
        Student.from_backbone(backbone).fingerprint == Student.from_backbone(str(copy)).fingerprint
    )


def test_fingerprint_changes_with_heads_backbone_and_configuration(
    backbone: str, tmp_path: Path, texts: list[str]
) -> None:
    other_weights = save_decoder(tmp_path / "qwen2", "qwen2", texts)
    students = [
        Student.from_backbone(backbone),
        Student.from_backbone(backbone, max_tokens=128),
        Student.from_backbone(str(other_weights)),
    ]
    changed = Student.from_backbone(backbone)
    with torch.no_grad():
        changed.heads.recall.weight[0, 0] += 1e-3
    assert len({student.fingerprint for student in [*students, changed]}) == 4


def test_reference_parameter_names_load_into_a_concat_student(
    backbone: str, tmp_path: Path
) -> None:
    student = Student.from_backbone(backbone, interaction="concat", layer_norm=True)
    student.save(tmp_path / "student")
    path = tmp_path / "student" / "heads.safetensors"
    weights = load_file(path)
    dim, hidden = 64, 64
    shapes = {
        "mha_pma.S": (1, 1, dim),
        "iem.linear1.weight": (hidden, 2 * dim),
        "iem.linear1.bias": (hidden,),
        "iem.linear2.weight": (1, hidden),
        "iem.linear2.bias": (1,),
    }
    for layer in "qkvo":
        shapes[f"mha_pma.mab.fc_{layer}.weight"] = (dim, dim)
        shapes[f"mha_pma.mab.fc_{layer}.bias"] = (dim,)
    for number in (0, 1):
        shapes[f"mha_pma.mab.ln{number}.weight"] = (dim,)
        shapes[f"mha_pma.mab.ln{number}.bias"] = (dim,)
        shapes[f"iem.proj{number}.weight"] = (hidden, hidden)
        shapes[f"iem.proj{number}.bias"] = (hidden,)
    torch.manual_seed(3)
    reference = {name: torch.randn(shape) for name, shape in shapes.items()}
    save_file(weights | reference, path)
    loaded = Student.load(tmp_path / "student")
    found = loaded.heads.state_dict()
    for name, weight in reference.items():
        torch.testing.assert_close(found[name], weight)
    own = {name for name in found if name.startswith(("mha_pma.", "iem."))}
    assert own == set(reference)


def test_a_missing_student_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json.*d2llm init"):
        Student.load(tmp_path)


def test_weights_that_do_not_fit_are_refused(backbone: str, tmp_path: Path) -> None:
    Student.from_backbone(backbone).save(tmp_path / "student")
    path = tmp_path / "student" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"recall_dim": 8}))
    with pytest.raises(CheckpointError, match="does not fit"):
        Student.load(tmp_path / "student")
    path.write_text(json.dumps(config | {"colour": "red"}))
    with pytest.raises(CheckpointError, match="colour"):
        Student.load(tmp_path / "student")
    path.write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        Student.load(tmp_path / "student")


def test_a_pickled_backbone_is_refused(backbone: str) -> None:
    weights = Path(backbone) / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(CheckpointError, match="safetensors"):
        Student.from_backbone(backbone)


@pytest.mark.parametrize("source", ["/no/such/model", "package:no_such_package", "missing.gguf"])
def test_a_backbone_that_is_not_there_is_named(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name = source.removeprefix("package:")
    with pytest.raises(CheckpointError, match=name):
        Student.from_backbone(source)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recall_dim": 128}, "recall_dim=128"),
        ({"recall_dim": 0}, "recall_dim=0"),
        ({"pma": PMAConfig(7)}, r"num_heads=7 must divide .* 64"),
        ({"max_tokens": 3}, "max_tokens=3"),
    ],
)
def test_configurations_that_cannot_be_are_refused(change: dict, message: str) -> None:
    values = {
        "backbone": "x",
        "embedding_dim": 64,
        "recall_dim": 32,
        "pma": PMAConfig(4),
        "iem": IEMConfig(64),
    }
    with pytest.raises(InputError, match=message):
        StudentConfig(**(values | change))


def test_unknown_choices_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"iem.interaction='sum' is not one of product, concat"):
        IEM(8, IEMConfig(8, "sum"))
    with pytest.raises(InputError, match=r"pma.scale='dim'"):
        PMA(8, PMAConfig(2, "dim"))
