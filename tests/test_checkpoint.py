from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_decoder, save_encoder

from d2llm_vdb import Student
from d2llm_vdb.errors import CheckpointError, InputError
from d2llm_vdb.student import checkpoint
from d2llm_vdb.student.config import IEMConfig, PMAConfig, StudentConfig
from d2llm_vdb.student.iem import IEM
from d2llm_vdb.student.pma import PMA

MODULES = ("Transformer", "Pooling", "Dense", "Normalize")


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
    assert again.config.recall_dim == again.config.recall_width == 16
    [before], [after] = student.encode_passages(texts[:4]), again.encode_passages(texts[:4])
    np.testing.assert_array_equal(before.recall, after.recall)
    names = {path.name for path in (tmp_path / "student").iterdir()}
    assert names == {"config.json", "heads.safetensors", "README.md"}


def test_configurations_of_older_students_are_as_they_were(student: Student) -> None:
    config = student.config
    assert "token_dim" not in config.to_dict()["pma"]
    assert config.token_dim == config.embedding_dim


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
        changed.heads.late.query_map.weight[0, 0] += 1e-3
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


def test_every_file_of_a_student_may_be_read_by_others(backbone: str, tmp_path: Path) -> None:
    Student.from_backbone(backbone, lora_rank=2).save(tmp_path / "student")
    (tmp_path / "plain").touch()
    usual = (tmp_path / "plain").stat().st_mode
    files = [path for path in (tmp_path / "student").rglob("*") if path.is_file()]
    assert {path.name for path in files} > {"adapter_config.json", "adapter_model.safetensors"}
    assert {path.stat().st_mode for path in files} == {usual}


def test_a_saved_adapter_does_not_tell_where_its_backbone_lay(
    backbone: str, tmp_path: Path
) -> None:
    Student.from_backbone(backbone, lora_rank=2).save(tmp_path / "student")
    for path in (tmp_path / "student" / "adapter").iterdir():
        assert backbone.encode() not in path.read_bytes(), path.name


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
    path.write_text(json.dumps(config | {"max_tokens": "many"}))
    with pytest.raises(CheckpointError, match="max_tokens='many'"):
        Student.load(tmp_path / "student")
    path.write_text(json.dumps(config | {"max_tokens": 10_000}))
    with pytest.raises(CheckpointError, match=r"max_tokens=10000 is more than .*; use 512 or less"):
        Student.load(tmp_path / "student")
    for damaged in (b"{", b"\xff\xfe"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"is damaged: .*; save it again, or restore"):
            Student.load(tmp_path / "student")


def test_saving_replaces_a_student_only_when_told_to_and_leaves_nothing_of_it(
    backbone: str, tmp_path: Path
) -> None:
    path = tmp_path / "student"
    Student.from_backbone(backbone, lora_rank=2).save(path)
    assert (path / "adapter").is_dir()
    plain = Student.from_backbone(backbone, max_tokens=128)
    with pytest.raises(CheckpointError, match=r"holds a student already; .* or overwrite=True"):
        plain.save(path)
    plain.save(path, overwrite=True)
    assert Student.load(path).fingerprint == plain.fingerprint
    names = {each.name for each in path.iterdir()}
    assert names == {"config.json", "heads.safetensors", "README.md"}
    assert "128 tokens" in (path / "README.md").read_text()


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_a_student_is_never_overwritten(
    backbone: str, tmp_path: Path, overwrite: bool
) -> None:
    student = Student.from_backbone(backbone)
    notes = tmp_path / "notes" / "important.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds important\.txt\. Give a new or empty"):
        student.save(notes.parent, overwrite=overwrite)
    with pytest.raises(CheckpointError, match="is a file; give a directory"):
        student.save(notes, overwrite=overwrite)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"it has no heads\.safetensors"):
        student.save(tmp_path / "model", overwrite=overwrite)
    assert notes.read_text() == "mine"
    (tmp_path / "empty").mkdir()
    student.save(tmp_path / "empty", overwrite=overwrite)


@pytest.mark.parametrize("fails", ["serialize", "_model_card", "_swap_in"])
def test_a_save_that_fails_leaves_the_old_student_as_it_was(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    old = Student.from_backbone(backbone)
    old.save(tmp_path / "student")

    def disk_full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as full:
        full.setattr(checkpoint, fails, disk_full)
        with pytest.raises(CheckpointError, match="No space left on device; give a directory"):
            Student.from_backbone(backbone, max_tokens=128).save(
                tmp_path / "student", overwrite=True
            )
    assert Student.load(tmp_path / "student").fingerprint == old.fingerprint
    names = {each.name for each in (tmp_path / "student").iterdir()}
    assert names == {"config.json", "heads.safetensors", "README.md"}


def test_a_damaged_adapter_is_named(backbone: str, tmp_path: Path) -> None:
    Student.from_backbone(backbone, lora_rank=2).save(tmp_path / "student")
    (tmp_path / "student" / "adapter" / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="adapter cannot be loaded into the backbone"):
        Student.load(tmp_path / "student")


@pytest.mark.parametrize("damage", ["tensor", "modules", "empty", "no config"])
def test_an_adapter_that_does_not_fit_its_files_is_refused(
    backbone: str, tmp_path: Path, damage: str
) -> None:
    Student.from_backbone(backbone, lora_rank=2).save(tmp_path / "student")
    adapter = tmp_path / "student" / "adapter"
    weights, config = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    if damage == "tensor":
        kept = load_file(weights)
        del kept[min(kept)]
        save_file(kept, weights)
    elif damage == "modules":
        settings = json.loads(config.read_text())
        config.write_text(json.dumps(settings | {"target_modules": ["q_proj"]}))
    elif damage == "empty":
        config.write_text("{}")
    else:
        config.unlink()
    with pytest.raises(CheckpointError, match="save the student again, or restore"):
        Student.load(tmp_path / "student")


def test_a_student_may_be_saved_to_a_path_from_home(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    student = Student.from_backbone(backbone)
    student.save("~/student")
    assert student.path == (tmp_path / "student").resolve()
    assert Student.load("~/student").fingerprint == student.fingerprint


def test_a_backbone_given_by_a_relative_path_is_found_from_anywhere(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    student = Student.from_backbone("backbone")
    student.save("student")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Student.load(tmp_path / "student").config.backbone == backbone


def test_a_backbone_that_moved_can_be_named_anew(backbone: str, tmp_path: Path) -> None:
    student = Student.from_backbone(Path(backbone))
    student.save(tmp_path / "student")
    moved = Path(backbone).rename(tmp_path / "moved")
    config = tmp_path / "student" / "config.json"
    with pytest.raises(CheckpointError, match=r'no such directory.* as "backbone" in .*config'):
        Student.load(tmp_path / "student")
    config.write_text(config.read_text().replace(backbone, str(moved)))
    assert Student.load(tmp_path / "student").fingerprint == student.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recall_dim": 0}, "recall_dim=0 must be a whole number of at least 1"),
        ({"recall_dim": 65}, "recall_dim=65 is more than .* 64"),
        ({"recall_dim": 64}, "recall_dim=64 is as wide as .* leave it out, or take less"),
        ({"iem_dim": 0}, r"iem\.hidden_dim=0"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"max_tokens": 100_000}, "max_tokens=100000 is more than .* takes; use 512 or less"),
        ({"lora_rank": 0}, "lora_rank=0"),
        ({"device": "gpu"}, "device='gpu' cannot be used here"),
        ({"query_prompt": "words " * 300}, "query_prompt='words .* leaves no room"),
        ({"passage_prompt": None}, "passage_prompt=None must be a string"),
        ({"query_prompt": "\ud800 "}, "query_prompt is not valid Unicode at character 0"),
    ],
)
def test_options_that_do_not_fit_the_backbone_are_refused_by_name(
    backbone: str, options: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Student.from_backbone(backbone, **options)


def test_the_longest_text_is_what_a_short_backbone_takes(tmp_path: Path, texts: list[str]) -> None:
    short = save_decoder(tmp_path / "short", "llama", texts, max_position_embeddings=64)
    assert Student.from_backbone(str(short)).config.max_tokens == 64


@pytest.mark.parametrize(
    ("kind", "longest"),
    [
        ("bert", 66),
        ("roberta", 64),
        ("xlm-roberta", 64),
        ("xlm-roberta-xl", 64),
        ("camembert", 64),
        ("mpnet", 64),
        ("data2vec-text", 64),
        ("roberta-prelayernorm", 64),
    ],
)
def test_the_longest_text_is_as_many_tokens_as_have_a_position(
    tmp_path: Path, texts: list[str], kind: str, longest: int
) -> None:
    path = str(save_encoder(tmp_path / "encoder", kind, texts))
    student = Student.from_backbone(path, dtype="float32")
    assert student.config.max_tokens == longest
    assert student.encode_document("a long text " * 100).shape == (64,)
    with pytest.raises(InputError, match=f"use {longest} or less"):
        Student.from_backbone(path, max_tokens=longest + 1)


def drop_weights(path: Path, prefix: str) -> None:
    """Leave weights out of a model's file."""
    weights = load_file(path / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith(prefix)}
    assert len(kept) < len(weights)
    save_file(kept, path / "model.safetensors", {"format": "pt"})


def test_a_backbone_without_a_pooler_is_the_same_each_time(
    tmp_path: Path, texts: list[str]
) -> None:
    path = save_encoder(tmp_path / "encoder", "bert", texts)
    drop_weights(path, "pooler.")
    first, second = (Student.from_backbone(path, dtype="float32") for _ in range(2))
    assert first.fingerprint == second.fingerprint


def test_a_backbone_that_lacks_weights_is_refused(tmp_path: Path, texts: list[str]) -> None:
    path = save_encoder(tmp_path / "encoder", "bert", texts)
    drop_weights(path, "encoder.layer.0.attention.")
    with pytest.raises(CheckpointError, match=r"lacks 10 weights: encoder\.layer\.0.* 7 more"):
        Student.from_backbone(path)


def test_an_encoder_with_a_decoder_is_no_backbone(tmp_path: Path, texts: list[str]) -> None:
    path = save_encoder(tmp_path / "t5", "t5", texts)
    with pytest.raises(CheckpointError, match="is an encoder with a decoder"):
        Student.from_backbone(path)


def test_a_backbone_without_its_tokenizer_is_refused(tmp_path: Path, texts: list[str]) -> None:
    path = save_encoder(tmp_path / "encoder", "bert", texts)
    for file in path.glob("token*"):
        file.unlink()
    with pytest.raises(CheckpointError, match="knows no words; its files are missing"):
        Student.from_backbone(path)


def test_a_tokenizer_of_more_tokens_than_the_model_knows_is_refused(
    tmp_path: Path, texts: list[str]
) -> None:
    path = save_decoder(tmp_path / "decoder", "llama", texts, vocab_size=300)
    with pytest.raises(CheckpointError, match="knows 300 tokens, and its tokenizer has 400"):
        Student.from_backbone(path)


@pytest.mark.parametrize(
    ("pooling", "says"),
    [
        (
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
            "pooled by cls_token",
        ),
        ({"pooling_mode": "lasttoken"}, "pooled by lasttoken"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, None),
    ],
)
def test_what_a_backbone_does_besides_and_a_student_does_not_is_warned_of(
    backbone: str, caplog: pytest.LogCaptureFixture, pooling: dict, says: str | None
) -> None:
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": kind} for kind in MODULES]
    if says is None:
        modules = modules[:2]
    settings = {"prompts": {"query": "query: ", "document": ""}}
    path = Path(backbone)
    (path / "Pooling").mkdir()
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "Pooling" / "config.json").write_text(json.dumps(pooling))
    Student.from_backbone(backbone)
    if says is None:
        assert not caplog.text
        return
    assert says in caplog.text
    assert "goes through a Dense layer" in caplog.text
    caplog.clear()
    (path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    Student.from_backbone(backbone)
    assert "{'query': 'query: '}" in caplog.text
    caplog.clear()
    Student.from_backbone(backbone, query_prompt="query: ")
    assert "prompts" not in caplog.text


def test_one_string_is_no_list_of_samples(backbone: str) -> None:
    with pytest.raises(InputError, match="sample_texts is one string"):
        Student.from_backbone(backbone, sample_texts="a sample")


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
        ({"recall_dim": 8.0}, r"recall_dim=8\.0 must be a whole number"),
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
