from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from reference_d2llm import (
    ADAPTED,
    HEADS,
    HIDDEN,
    WIDTH,
    assert_embeds_as,
    edit,
    embedding,
    random_heads,
    random_lora,
    reference_embedding,
    reference_logit,
    reference_states,
)
from safetensors.torch import load_file, save_file
from tiny_models import save_causal_lm, save_decoder
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.cli.app import app
from d2llm_vdb.errors import CheckpointError, D2LLMError, InputError
from d2llm_vdb.student.config import PMAConfig
from d2llm_vdb.student.convert import convert_student
from d2llm_vdb.student.embeddings import embeddings
from d2llm_vdb.student.evidence import Evidence


@pytest.fixture
def model(tmp_path: Path, texts: list[str]) -> Path:
    return save_causal_lm(tmp_path / "llama", texts)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A student of the reference code: what it trained, as its checkpoints name it."""
    names = {
        f"plm_model.base_model.model.model.{name}.default.weight": weight
        for name, weight in random_lora(4).items()
    }
    path = tmp_path / "trained" / "model.safetensors"
    path.parent.mkdir()
    save_file({f"module.{name}": value for name, value in (random_heads() | names).items()}, path)
    return path


@pytest.fixture
def embedder(tmp_path: Path, texts: list[str]) -> Path:
    """An embedding model of the C2LLM and CGE family: all its weights in shards, no IEM."""
    path = save_decoder(tmp_path / "embedder", "qwen2", texts)
    body = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    weights = {f"plm_model.model.{name}": weight for name, weight in body.items()}
    weights["plm_model.lm_head.weight"] = body["embed_tokens.weight"].clone()
    weights |= random_heads(dim=32, iem=False)
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    places = {name: shards["mha_pma" in name] for name in weights}
    for shard in shards:
        own = {name: weight for name, weight in weights.items() if places[name] == shard}
        save_file(own, path / shard)
    index = {"metadata": {}, "weight_map": places}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    edit(
        path / "config.json",
        architectures=["C2LLMForEmbedding"],
        auto_map={"AutoConfig": "configuration_c2llm.C2LLMConfig"},
        attn_implementation="flash_attention_2",
        model_type="c2llm",
        compressed_dim=32,
        inf_seq_length=128,
        keep_max_layer=2,
        pma_norm_mode="post_normal",
        pma_num_heads=HEADS,
    )
    return path


def test_a_students_embeddings_and_logits_are_those_of_the_reference(
    trained: Path, model: Path, texts: list[str]
) -> None:
    student = convert_student(
        trained, backbone=model, num_heads=HEADS, dtype="float32", max_tokens=512
    )
    heads, lora = random_heads(), random_lora(4)
    own = [
        reference_embedding(heads, reference_states(model, text, lora, 1.0), HEADS)
        for text in texts[:2]
    ]
    for text, expected in zip(texts, own, strict=False):
        assert_embeds_as(student, expected, text)
    for task in ("symmetric", "asymmetric"):
        with torch.no_grad():
            query, passage = (embedding(student, text) for text in texts[:2])
            iem = student.heads.iem
            halves = Evidence(
                query_half=iem.query_half(query), passage_half=iem.passage_half(passage)
            )
            logit, _ = iem(halves, task)
        expected = reference_logit(heads, *own, task)
        torch.testing.assert_close(logit, expected, rtol=0, atol=1e-4)
    assert student.config.iem.interaction == "concat"
    assert student.config.iem.hidden_dim == HIDDEN


def test_the_converted_student_is_saved_and_searches_by_its_iem(
    trained: Path, model: Path, tmp_path: Path, texts: list[str]
) -> None:
    student = convert_student(trained, backbone=model, num_heads=HEADS, dtype="float32")
    student.save(tmp_path / "student")
    again = Student.load(tmp_path / "student", dtype="float32")
    assert again.fingerprint == student.fingerprint
    few = [text[:120].strip() for text in texts[:20]]
    with Index.open(":memory:", again) as index:
        index.add(Passage(str(row), text) for row, text in enumerate(few))
        for task in ("symmetric", "asymmetric"):
            hits = index.search(few[3], k=5, task=task).hits
            query = embedding(again, few[3])
            for hit in hits:
                passage = embedding(again, few[int(hit.id)])
                logit = reference_logit(random_heads(), query, passage, task)
                assert hit.score == pytest.approx(float(logit.sigmoid()), abs=2e-3)


def test_an_adapter_saved_by_peft_keeps_its_alpha(
    model: Path, tmp_path: Path, texts: list[str]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    save_file(random_heads(layer_norm=False), source / "heads.safetensors")
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "v_proj"])
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    lora = random_lora(4)
    state = {f"base_model.model.model.{name}.default.weight": lora[name] for name in lora}
    wrapped.load_state_dict(state, strict=False)
    wrapped.save_pretrained(source / "adapter")
    text = texts[0][:200]
    expected = reference_embedding(
        random_heads(layer_norm=False), reference_states(model, text, lora, 3.0), HEADS
    )
    options = {"backbone": model, "num_heads": HEADS, "dtype": "float32"}
    assert_embeds_as(convert_student(source, **options), expected, text)
    other = embedding(convert_student(source, lora_alpha=4, **options), text)
    assert (other - expected).abs().max() > 1e-2


def test_a_model_saved_whole_becomes_a_backbone_and_an_adapter(
    trained: Path, model: Path, tmp_path: Path, texts: list[str]
) -> None:
    base = "module.plm_model.base_model.model."
    whole = load_file(trained)
    for name, weight in AutoModelForCausalLM.from_pretrained(model).state_dict().items():
        wrapped = name.removeprefix("model.").removesuffix(".weight") in ADAPTED
        whole[base + (name.replace(".weight", ".base_layer.weight") if wrapped else name)] = weight
    save_file({name: weight.clone() for name, weight in whole.items()}, trained)
    student = convert_student(
        trained, backbone=model, backbone_out=tmp_path / "written", num_heads=HEADS, dtype="float32"
    )
    assert student.config.backbone == str(tmp_path / "written")
    text = texts[0][:200]
    states = reference_states(model, text, random_lora(4), 1.0)
    assert_embeds_as(student, reference_embedding(random_heads(), states, HEADS), text)


def test_an_embedding_model_is_compared_by_the_cosine_of_its_narrower_embedding(
    embedder: Path, tmp_path: Path, texts: list[str]
) -> None:
    student = convert_student(embedder, backbone_out=tmp_path / "written", dtype="float32")
    assert student.config.pma == PMAConfig(HEADS, layer_norm=True, token_dim=WIDTH)
    assert (student.config.embedding_dim, student.config.recall_dim) == (32, None)
    assert student.config.max_tokens == 128
    heads = random_heads(dim=32, iem=False)
    few = [text[:120].strip() for text in texts[:20]]
    states = [reference_states(tmp_path / "written", text, {}, 1.0) for text in few]
    expected = torch.stack([reference_embedding(heads, one, HEADS) for one in states])
    for text, row in zip(few, expected, strict=True):
        assert_embeds_as(student, row, text)

    student.save(tmp_path / "student")
    again = Student.load(tmp_path / "student", dtype="float32")
    assert again.fingerprint == student.fingerprint
    unit = torch.nn.functional.normalize(expected, dim=1)
    cosines = unit @ unit[3]
    with Index.open(str(tmp_path / "db"), again, tokens="raw") as index:
        index.add(Passage(str(row), text) for row, text in enumerate(few))
        for rerank in ("none", "iem"):
            found = {
                int(hit.id): hit for hit in index.search(few[3], k=20, rerank=rerank, hybrid=0).hits
            }
            assert len(found) == 20
            scores = cosines if rerank == "none" else torch.sigmoid(10 * cosines - 4)
            for row, hit in found.items():
                assert hit.score == pytest.approx(float(scores[row]), abs=5e-3)
        assert index.search(few[3], k=1, rerank="tokens").hits[0].id == "3"


def test_a_recall_vector_is_fitted_to_samples(
    embedder: Path, tmp_path: Path, texts: list[str]
) -> None:
    student = convert_student(
        embedder, backbone_out=tmp_path / "written", sample_texts=texts, recall_dim=16
    )
    [vectors] = student.encode_passages(texts[:30])
    assert vectors.recall.shape == (30, 16)
    token_ids, _ = student.backbone.tokenize(texts[:30], student.config.max_tokens)
    with torch.inference_mode():
        whole = embeddings(student, token_ids).numpy()
    unit = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    assert np.corrcoef((unit @ unit.T).ravel(), (vectors.recall @ vectors.recall.T).ravel())[
        0, 1
    ] > 0.9  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "mha_pma.mab.fc_k.weight",
            (WIDTH, 32),
            r"mha_pma\.mab\.fc_k\.weight has shape \(64, 32\) and not \(64, 64\)",
        ),
        ("mha_pma.S", (1, 2, WIDTH), r"mha_pma\.S has shape \(1, 2, 64\) and not \(1, 1, 128\)"),
        ("iem.linear1.weight", (HIDDEN, 64), r"has shape \(24, 64\) and not \(24, 128\)"),
        ("iem.linear2.weight", (2, HIDDEN), r"has shape \(2, 24\) and not \(1, 24\)"),
        ("iem.proj1.bias", None, r"missing: iem\.proj1\.bias"),
        ("iem.linear1.bias", None, r"holds no iem\.linear1\.bias"),
        ("mha_pma.mab.ln0.weight", None, r"missing: mha_pma\.mab\.ln0\.weight"),
        ("mha_pma.S", None, r"holds no mha_pma\.S; give the weights of a D2LLM student"),
        ("mha_pma.mab.ln_q.weight", (WIDTH,), r"unknown: mha_pma\.mab\.ln_q\.weight"),
    ],
)
def test_heads_that_do_not_fit_are_named(
    model: Path, tmp_path: Path, name: str, shape: tuple[int, ...] | None, message: str
) -> None:
    heads = random_heads()
    heads.pop(name, None)
    if shape is not None:
        heads[name] = torch.zeros(shape)
    save_file(heads, tmp_path / "heads.safetensors")
    with pytest.raises(CheckpointError, match=message):
        convert_student(tmp_path / "heads.safetensors", backbone=model, num_heads=HEADS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.0.mlp.up_proj.weight": None}, r"missing: layers\.0\.mlp\.up_proj\.weight"),
        ({"layers.0.mlp.up_proj.weight": (3, 3)}, r"has shape \(3, 3\) and not \(128, 64\)"),
        ({"classifier.weight": (3, 3)}, r"unknown: plm_model\.model\.classifier\.weight"),
    ],
)
def test_a_model_that_is_not_complete_is_refused_and_not_written(
    embedder: Path, tmp_path: Path, change: dict[str, tuple[int, ...] | None], message: str
) -> None:
    shard = embedder / "model-00001-of-00002.safetensors"
    weights = load_file(shard)
    for name, shape in change.items():
        weights.pop(f"plm_model.model.{name}", None)
        if shape is not None:
            weights[f"plm_model.model.{name}"] = torch.zeros(shape)
    save_file(weights, shard)
    with pytest.raises(CheckpointError, match=f"does not hold a qwen2 model: .*{message}"):
        convert_student(embedder, backbone_out=tmp_path / "written")
    assert not (tmp_path / "written").exists()


def test_a_conversion_that_fails_takes_back_the_model_it_wrote(
    embedder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="recall_dim=33 is more than the embedding dimension 32"):
        convert_student(embedder, backbone_out=tmp_path / "written", recall_dim=33)
    assert not (tmp_path / "written").exists()
    mine = tmp_path / "mine" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(InputError, match=r"backbone_out=.*mine' is not empty"):
        convert_student(embedder, backbone_out=mine.parent)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pma_norm_mode": "pre_gptj"}, "pma_norm_mode='pre_gptj'; only post_normal"),
        ({"keep_max_layer": 1}, r"layer 1 \(keep_max_layer\) of 2"),
        ({"model_type": "unheard_of"}, "cannot be made out: .*Name the model that it was made"),
        ({"pma_num_heads": 5}, "pma.num_heads=5 must divide the embedding dimension 32"),
    ],
)
def test_a_model_that_no_student_equals_is_refused(
    embedder: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    edit(embedder / "config.json", **changes)
    with pytest.raises(D2LLMError, match=message):
        convert_student(embedder, backbone_out=tmp_path / "written")
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin"])
def test_pickles_are_never_opened(tmp_path: Path, name: str) -> None:
    class Opened:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "opened",)

    path = tmp_path / "step100" / name
    path.parent.mkdir()
    torch.save({"module": Opened()}, path)
    for source in (path, tmp_path):
        with pytest.raises(CheckpointError, match=f"{name} is a pickle.* weights_only=True"):
            convert_student(source, backbone="unused")
    assert not (tmp_path / "opened").exists()


def test_sources_that_hold_nothing_usable_are_named(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "cut.safetensors").write_bytes(trained.read_bytes()[:100])
    for source, message in {
        "empty": r"holds no \.safetensors file",
        "missing": "no such file or directory",
        "notes.txt": r"is not a \.safetensors file",
        "cut.safetensors": "cannot be read: .*; fetch or save it again",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            convert_student(tmp_path / source, backbone="unused")
    (trained.parent / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        convert_student(trained.parent, backbone="unused")


def test_what_is_left_out_is_asked_for(trained: Path, embedder: Path) -> None:
    with pytest.raises(InputError, match=r"backbone is missing: .* name the model that they"):
        convert_student(trained)
    with pytest.raises(InputError, match=r"such as plm_model.*; name a new directory"):
        convert_student(embedder)


def test_adapters_of_another_kind_or_model_are_refused(
    trained: Path, model: Path, tmp_path: Path, texts: list[str]
) -> None:
    shallow = save_decoder(tmp_path / "shallow", "llama", texts, num_hidden_layers=1)
    with pytest.raises(CheckpointError, match=r"does not fit the backbone .* unknown: .*layers\.1"):
        convert_student(trained, backbone=shallow, num_heads=HEADS)
    edit(trained.parent / "adapter_config.json", use_dora=True)
    with pytest.raises(CheckpointError, match="use_dora=True, which is not supported; merge"):
        convert_student(trained.parent, backbone=model, num_heads=HEADS)
    weights = load_file(trained)
    weights["mha_pma.S"] = weights["module.mha_pma.S"].clone()
    save_file(weights, trained)
    with pytest.raises(CheckpointError, match=r"two weights for mha_pma\.S"):
        convert_student(trained, backbone=model, num_heads=HEADS)


def test_a_scale_or_length_that_is_no_number_is_refused_and_none_is_the_default(
    embedder: Path, trained: Path, model: Path, tmp_path: Path
) -> None:
    edit(trained.parent / "adapter_config.json", lora_alpha="8")
    with pytest.raises(CheckpointError, match="lora_alpha='8', which is no number"):
        convert_student(trained.parent, backbone=model, num_heads=HEADS)
    edit(embedder / "config.json", inf_seq_length="128")
    with pytest.raises(InputError, match="inf_seq_length='128' must be a whole number"):
        convert_student(embedder, backbone_out=tmp_path / "refused")
    edit(embedder / "config.json", inf_seq_length=None)
    student = convert_student(embedder, backbone_out=tmp_path / "written")
    assert student.config.max_tokens == 256


def d2llm(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout + result.stderr


def test_the_command_writes_a_student_that_searches(
    embedder: Path, tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"_id": str(row), "text": text} for row, text in enumerate(texts)]
    Path("corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--samples", "corpus.jsonl", "--recall-dim", 16, "--query-prompt", "find: ")
    code, told = d2llm("convert", embedder, "--out", "mine", *options)
    assert code == 0, told
    assert f"16 dimensions, fitted to {len(texts)} sample texts" in told
    assert "product, 32 wide" in told
    assert Student.load("mine").config.backbone == str(tmp_path / "mine-backbone")
    assert json.loads(Path("mine/training.json").read_text())["converted_from"] == str(embedder)
    assert d2llm("ingest", "corpus.jsonl", "--db", "db", "--student", "mine")[0] == 0
    code, told = d2llm("search", texts[5][:80], "--db", "db", "-k", 1, "--json")
    assert code == 0, told
    assert len(json.loads(told)["hits"]) == 1
    assert d2llm("convert", embedder, "--out", "mine")[0] == 2
    code, told = d2llm("convert", embedder, "--out", "mine", "--force")
    assert code == 2
    assert "mine-backbone' is not empty; give a new directory, or delete it" in told


def test_the_command_ends_with_the_usual_codes(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({}, "weights.pt")
    assert d2llm("convert", "weights.pt", "--out", "mine")[0] == 1
    code, told = d2llm("convert", trained, "--out", "mine")
    assert (code, "backbone is missing" in told) == (2, True)
    assert not Path("mine").exists()
