"""Collections written anew from what is stored of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge as edge
import torch
from conftest import hit_ids

from d2llm_vdb import Index, Passage, Student
from d2llm_vdb.errors import InputError, SchemaMismatchError, StoreError
from d2llm_vdb.reembed import Origin, ReembedReport, reembed
from d2llm_vdb.store import Columns, EdgeStore
from d2llm_vdb.store.columns import point_id
from d2llm_vdb.store.points import Page
from d2llm_vdb.store.presets import PresetName
from d2llm_vdb.store.questions import PageRequest
from d2llm_vdb.student import Backbone
from d2llm_vdb.student.checkpoint import part_hashes
from d2llm_vdb.student.config import IEMConfig
from d2llm_vdb.student.heads import StudentHeads

QUESTION = "what does an assert statement do?"


def changed(student: Student, *names: str, **config: Any) -> Student:
    """Another student on the same backbone: some weights moved, some of the configuration."""
    shape = replace(student.config, **config)
    heads = StudentHeads(shape)
    old = student.heads.state_dict()
    fits = {
        name: old[name]
        for name, own in heads.state_dict().items()
        if name in old and old[name].shape == own.shape
    }
    heads.load_state_dict(fits, strict=False)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in heads.named_parameters():
            if name.startswith(names or ("nothing",)):
                weight += 0.05 * torch.randn(weight.shape, generator=random)
    return Student(shape, student.backbone, heads)


@pytest.fixture
def no_backbone(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make the backbone fail from now on, whenever it is run."""

    def fails(*_: Any) -> Any:
        raise AssertionError("the backbone was run")

    return lambda: monkeypatch.setattr(Backbone, "batches", fails)


def filled(location: Path, student: Student, passages: list[Passage], tokens: str) -> Index:
    index = Index.open(
        location, student, collection=student.fingerprint, tokens=tokens, preset="exact"
    )
    index.add(passages)
    return index


def assert_same(found: Index, expected: Index) -> None:
    names = [*expected.store.schema.vectors, *expected.store.schema.multivectors, "bm25"]
    wanted = {point.payload["id"]: point for point in expected.store.scroll(vectors=names)}
    points = list(found.store.scroll(vectors=names))
    assert len(points) == len(wanted)
    for point in points:
        other = wanted[point.payload["id"]]
        assert point.payload.keys() == other.payload.keys()
        assert point.payload["text"] == other.payload["text"]
        for name in names:
            for one, two in zip(point.vectors[name], other.vectors[name], strict=True):
                np.testing.assert_allclose(one, two, atol=5e-3, rtol=2e-2, err_msg=name)


CHANGES: dict[str, tuple[tuple[str, ...], dict[str, Any], str, Origin]] = {
    "another IEM": (("iem",), {}, "none", "embeddings"),
    "an IEM that reads lengths, and none stored": (
        (),
        {"iem": IEMConfig(64, "concat")},
        "none",
        "texts",
    ),
    "no segments": ((), {"segments": None}, "raw", "embeddings"),
    "another pooling, token states stored": (("mha_pma",), {}, "raw", "token states"),
    "other segments, token states stored": (("segments",), {}, "raw", "token states"),
    "another pooling": (("mha_pma",), {}, "none", "texts"),
    "shorter texts": ((), {"max_tokens": 32}, "raw", "texts"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_student_is_rolled_out_from_what_is_stored(
    student: Student,
    passages: list[Passage],
    tmp_path: Path,
    no_backbone: Callable[[], None],
    change: str,
) -> None:
    names, config, tokens, origin = CHANGES[change]
    other = changed(student, *names, **config)
    with (
        filled(tmp_path, student, passages[:20], tokens) as old,
        filled(tmp_path / "fresh", other, passages[:20], tokens) as fresh,
        Index.open(tmp_path, other, collection="new", tokens=tokens, preset="exact") as new,
    ):
        if origin != "texts":
            no_backbone()
        report = old.reembed(new)
        assert (report.origin, report.passages, report.written) == (origin, 20, 20)
        assert_same(new, fresh)


def test_the_length_of_embeddings_is_kept_where_the_iem_reads_it(
    student: Student, passages: list[Passage], tmp_path: Path, no_backbone: Callable[[], None]
) -> None:
    papers = changed(student, iem=IEMConfig(64, "concat"))
    other = changed(papers, "iem")
    with (
        filled(tmp_path, papers, passages[:10], "none") as old,
        filled(tmp_path, other, passages[:10], "none") as fresh,
        Index.open(tmp_path, other, collection="new", preset="exact") as new,
    ):
        no_backbone()
        assert old.reembed(new).origin == "embeddings"
        assert_same(new, fresh)


def test_the_lengths_of_an_older_students_embeddings_are_not_taken_for_the_new_ones(
    student: Student, passages: list[Passage], tmp_path: Path
) -> None:
    first = changed(student, iem=IEMConfig(64, "concat"))
    second = changed(student, "mha_pma")
    third = changed(second, iem=IEMConfig(64, "concat"), recall_dim=48)
    with (
        filled(tmp_path, first, passages[:10], "raw") as old,
        Index.open(tmp_path, second, collection="second", preset="exact") as between,
        Index.open(tmp_path, third, collection="third", preset="exact") as new,
        filled(tmp_path, third, passages[:10], "none") as fresh,
    ):
        assert old.reembed(between).origin == "token states"
        assert between.reembed(new).origin == "texts"
        assert "iem" in new.store.schema.vectors
        assert_same(new, fresh)


@pytest.mark.parametrize("tells", [True, False])
def test_compact_vectors_as_wide_as_the_embedding_are_not_taken_for_it(
    student: Student, passages: list[Passage], tmp_path: Path, tells: bool
) -> None:
    compact = changed(student, recall_dim=384)
    with filled(tmp_path, compact, passages[:10], "none") as old:
        schema = old.store.schema
    if not tells:  # as in the schema of earlier versions
        as_it_was = schema.to_dict() | {"parts": part_hashes(compact)}
        (tmp_path / compact.fingerprint / "d2llm.json").write_text(json.dumps(as_it_was))
    with (
        Index.open(tmp_path, compact, collection=compact.fingerprint) as old,
        Index.open(tmp_path, student, collection="new", preset="exact") as new,
        filled(tmp_path, student, passages[:10], "none") as fresh,
    ):
        assert old.reembed(new).origin == "texts"
        assert_same(new, fresh)


@pytest.mark.parametrize("preset", ["exact", "small"])
def test_embeddings_beside_which_a_half_is_stored_serve_as_any_others(
    student: Student, passages: list[Passage], tmp_path: Path, preset: PresetName
) -> None:
    narrow = changed(student, iem=IEMConfig(64))
    with (
        Index.open(tmp_path, narrow, collection="old", preset=preset) as old,
        Index.open(tmp_path, changed(narrow, "iem"), collection="new") as new,
    ):
        old.add(passages[:10])
        assert old.store.schema.iem_dim == 64
        assert old.reembed(new).origin == "embeddings"


def test_a_passage_without_the_length_that_the_iem_reads_is_named_with_the_way_out(
    student: Student, passages: list[Passage], tmp_path: Path
) -> None:
    papers = changed(student, iem=IEMConfig(64, "concat"))
    with (
        filled(tmp_path, papers, passages[:10], "none") as old,
        Index.open(tmp_path, changed(papers, "iem"), collection="new") as new,
    ):
        last = [point.payload for point in old.store.scroll()][-1]
        name = str(last["id"])
        old.store.write_payloads([name], [{k: v for k, v in last.items() if k != "norm"}])
        with pytest.raises(StoreError, match=f"'{name}' has no 'norm'.*d2llm delete ID"):
            old.reembed(new)
        old.delete([name])
        assert old.reembed(new).written == 9


def test_a_run_that_was_broken_off_goes_on_where_it_was(
    student: Student,
    passages: list[Passage],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("d2llm_vdb.store.questions.PAGE_POINTS", 8)
    reports = []

    def stop(report: ReembedReport) -> None:
        reports.append(report.written)
        if len(reports) == 2:
            raise KeyboardInterrupt

    with (
        filled(tmp_path, student, passages[:20], "none") as old,
        Index.open(tmp_path, changed(student, "iem"), collection="new") as new,
    ):
        with pytest.raises(KeyboardInterrupt):
            old.reembed(new, on_progress=stop)
        assert new.count() == reports[-1] == 16
        report = old.reembed(new)
        assert (report.passages, report.written) == (20, 4)
        assert new.count() == old.count() == 20
        assert old.search(QUESTION, 1).hits  # it serves meanwhile, and after


def test_vectors_are_read_of_no_passage_that_is_there_already(
    student: Student, passages: list[Passage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[PageRequest] = []
    read: list[str] = []
    scroll_page, retrieve = EdgeStore.scroll_page, EdgeStore.retrieve

    def scrolling(self: EdgeStore, request: PageRequest) -> Page:
        pages.append(request)
        return scroll_page(self, request)

    def retrieving(self: EdgeStore, ids: Sequence[str], *what: Any, **more: Any) -> Any:
        read.extend(ids if more.get("vectors") else [])
        return retrieve(self, ids, *what, **more)

    with (
        filled(tmp_path, student, passages[:20], "raw") as old,
        Index.open(tmp_path, changed(student, "mha_pma"), collection="new") as new,
    ):
        old.reembed(new)
        old.add(passages[:23])
        monkeypatch.setattr(EdgeStore, "scroll_page", scrolling)
        monkeypatch.setattr(EdgeStore, "retrieve", retrieving)
        monkeypatch.setattr("d2llm_vdb.store.questions.PAGE_POINTS", 32)
        assert old.reembed(new).written == 3
    assert sorted(read) == sorted(passage.id for passage in passages[20:23])
    assert [(page.limit, page.vectors) for page in pages] == 3 * [(8, [])]


def test_tenants_keep_their_passages(
    student: Student, passages: list[Passage], tmp_path: Path
) -> None:
    with (
        Index.open(tmp_path, student) as old,
        Index.open(tmp_path, changed(student, "iem"), collection="new") as new,
    ):
        for tenant, text in (("acme", "Acme's own."), ("other", "Another's.")):
            old.for_tenant(tenant).add([Passage("1", text)])
        old.add([Passage("1", "Nobody's.")])
        old.reembed(new)
        assert new.count() == 3
        assert [one.text for one in new.for_tenant("acme").get(["1"])] == ["Acme's own."]
        assert [one.text for one in new.for_tenant("other").get(["1"])] == ["Another's."]
        assert [one.text for one in new.get(["1"])] == ["Nobody's."]


def test_passages_of_a_tenant_are_not_written_into_the_part_of_another(
    student: Student, tmp_path: Path
) -> None:
    with (
        Index.open(tmp_path, student) as old,
        Index.open(tmp_path, student, collection="new") as new,
    ):
        acme = old.for_tenant("acme")
        acme.add([Passage("1", "Acme's own.")])
        for source in (acme, old):
            with pytest.raises(InputError, match=r"of the tenant 'acme', and .* tenant 'other'"):
                source.reembed(new.for_tenant("other"))
        assert new.count() == 0
        assert acme.reembed(new.for_tenant("acme")).written == 1
        assert [one.text for one in new.for_tenant("acme").get(["1"])] == ["Acme's own."]


def test_a_collection_is_not_written_into_itself(
    student: Student, passages: list[Passage], tmp_path: Path
) -> None:
    with (
        filled(tmp_path, student, passages[:2], "none") as index,
        pytest.raises(InputError, match="cannot be written into itself"),
    ):
        index.reembed(index)


def test_collections_in_memory_are_written_into_each_other(
    student: Student, passages: list[Passage]
) -> None:
    with Index.open(":memory:", student) as old, Index.open(":memory:", student) as new:
        old.add(passages[:10])
        assert old.reembed(new).written == new.count() == 10


def first_layout(directory: Path, columns: Columns, student: Student) -> None:
    """Write a collection as version 0.1 did, by the same student."""
    maxsim = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
    half = edge.VectorStorageDatatype.Float16
    sizes = {"recall": (128, None), "iem": (384, None), "pma": (384, None)}
    sizes |= {"segments": (256, maxsim), "tokens": (385, maxsim)}
    config = edge.EdgeConfig(
        vectors={
            name: edge.EdgeVectorParams(
                size, edge.Distance.Dot, datatype=half, multivector_config=several
            )
            for name, (size, several) in sizes.items()
        }
    )
    directory.mkdir(parents=True)
    shard = edge.EdgeShard.create(str(directory / "shard"), config)
    points = [
        edge.Point(
            point_id(key),
            {
                "recall": columns.recall[row, :128],
                "iem": columns.recall[row],
                "pma": 3 * columns.recall[row],
                "segments": np.repeat(columns.segments[row].astype(np.float32), 2, axis=1),
                "tokens": columns.tokens[row].astype(np.float32),
            },
            columns.payloads[row],
        )
        for row, key in enumerate(columns.ids)
    ]
    shard.update(edge.UpdateOperation.upsert_points(points))
    shard.flush()
    shard.close()
    schema = {"recall_dim": 128, "iem_dim": 384, "pma_dim": 384, "segment_dim": 256}
    schema |= {"token_dim": 385, "fingerprint": "old", "student": "default", "version": 3}
    (directory / "d2llm.json").write_text(json.dumps(schema))


@pytest.mark.parametrize("theirs", [True, False])
def test_a_collection_of_the_first_layout_is_converted_and_loses_nothing(
    student: Student,
    encoded: Columns,
    tmp_path: Path,
    no_backbone: Callable[[], None],
    theirs: bool,
) -> None:
    first_layout(tmp_path / "old", encoded, student)
    with pytest.raises(SchemaMismatchError, match=r"layout of version 0\.1; .*d2llm reembed"):
        Index.open(tmp_path, collection="old")
    with (
        closing(EdgeStore.open(tmp_path / "old", any_version=True)) as old,
        Index.open(tmp_path / "fresh", student, tokens="raw", preset="exact") as fresh,
    ):
        fresh.store.upsert(encoded)
        other = student if theirs else changed(student, "mha_pma")
        with Index.open(tmp_path, other, collection="new", tokens="raw", preset="exact") as new:
            report = reembed(old, new)
            assert report.origin == ("token states" if theirs else "texts")
            assert report.written == len(encoded)
            if theirs:
                assert_same(new, fresh)
            assert hit_ids(new.search(QUESTION, 1)) == ["assert"]


def test_compact_vectors_are_fitted_to_the_collection_and_measured(
    student: Student,
    texts: list[str],
    tmp_path: Path,
    no_backbone: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces = [text[place : place + 200] for text in texts for place in (0, 200, 400)]
    passages = [Passage(str(row), text) for row, text in enumerate(pieces) if text.strip()]
    with filled(tmp_path, student, passages, "none") as index:
        with pytest.raises(InputError, match=r"4 dimensions find 0\.\d+ .* floor=0.98"):
            index.compact(4)
        made = index.compact(48)
        assert 0.98 <= made.recall <= 1
        with monkeypatch.context() as patch:
            patch.setattr("d2llm_vdb.compact.QUERIES_AT_ONCE", 7)
            assert index.compact(48).recall == pytest.approx(made.recall)
        assert made.passages + made.queries == len(passages)
        assert made.recall > index.compact(12, floor=0).recall
        made.student.save(tmp_path / "student")
        with Index.open(tmp_path, made.student, collection="compact") as small:
            no_backbone()
            report = index.reembed(small)
            assert report.origin == "embeddings"
            assert small.store.schema.recall_dim == 48
            assert small.store.schema.iem_dim == 384  # no longer to be had from the recall vector
        with pytest.raises(InputError, match="compact already, of 48 dimensions"):
            Index(made.student, index.store).compact(12)


def test_too_few_passages_are_not_fitted_to(
    student: Student, passages: list[Passage], tmp_path: Path
) -> None:
    with (
        filled(tmp_path, student, passages[:10], "none") as index,
        pytest.raises(
            InputError, match="too few passages to fit 128 dimensions to and to measure on: 10"
        ),
    ):
        index.compact(128)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 384}, "dim=384 is not less .* take fewer"),
        ({"dim": 12, "queries": []}, "queries is empty; give texts .* or leave it out"),
        ({"dim": 12, "queries": "one query"}, "queries='one query' is one string; wrap it in a"),
        ({"dim": 12}, "too few passages to fit 12 dimensions to .*: 0; add more"),
    ],
)
def test_what_compact_vectors_cannot_be_made_or_measured_by_is_refused(
    student: Student, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with Index.open(tmp_path, student) as index, pytest.raises(InputError, match=message):
        index.compact(**options)


def test_payload_indexes_are_carried_over_and_the_new_ones_own_stay(
    student: Student, passages: list[Passage], tmp_path: Path
) -> None:
    indexes = {"text": "phrases", "position": "integer", "initial": "keyword"}
    with (
        Index.open(tmp_path, student, payload_indexes=indexes) as old,
        Index.open(tmp_path, student, collection="new", payload_indexes={"initial": "text"}) as new,
    ):
        old.add(passages[:4])
        old.reembed(new)
        assert new.info().payload_indexes == {
            "doc_id": "keyword",
            "tenant": "tenant",
            "text": "phrases",
            "metadata.position": "integer",
            "metadata.initial": "text",
        }
