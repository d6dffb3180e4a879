"""Collections as files: exported, checked, imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import OpenStore
from qdrant_server import Server
from test_cli import d2llm
from test_store import some_columns

from d2llm_vdb import Index, Student
from d2llm_vdb.archive import (
    ArchiveReport,
    export_collection,
    export_store,
    import_collection,
)
from d2llm_vdb.archive.arrays import columns_from
from d2llm_vdb.archive.file import MANIFEST, reading
from d2llm_vdb.errors import (
    ArchiveError,
    FingerprintMismatchError,
    InputError,
    SchemaMismatchError,
    StoreError,
)
from d2llm_vdb.store import (
    CollectionOptions,
    Columns,
    EdgeStore,
    MemoryStore,
    Schema,
    Store,
    TenantStore,
)
from d2llm_vdb.store.columns import point_id

SCHEMA = Schema(8, 6, 3, 4, fingerprint="f", student="s", parts={"states": "a"}, preset="exact")
EXACT = CollectionOptions(preset="exact")


def columns(count: int, schema: Schema = SCHEMA) -> Columns:
    made = some_columns(20).take(range(count))
    payloads = [
        payload | {"content_hash": f"h{row}", "text": "ä\u2028\n" * row}
        for row, payload in enumerate(made.payloads)
    ]
    return Columns(
        ids=made.ids,
        payloads=payloads,
        recall=made.recall,
        bm25=made.bm25,
        iem=made.iem if schema.iem_dim else None,
        segments=made.segments if schema.segment_dim else None,
        tokens=made.tokens if schema.token_dim else None,
    )


def filled(directory: Path, count: int = 20, schema: Schema = SCHEMA) -> Path:
    """A collection with an index of its own, and a passage of a tenant under an id of nobody's."""
    store = EdgeStore.open(directory / "d2llm", schema, EXACT)
    store.upsert(columns(count, schema))
    TenantStore(store, "acme").upsert(columns(1, schema))
    store.index_payload({"text": "phrases", "metadata.row": "integer"})
    store.close()
    return directory


@pytest.fixture(scope="module", autouse=True)
def small_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("d2llm_vdb.store.questions.PAGE_POINTS", 32)  # 8 with token states
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of 21 passages, that is only read."""
    return filled(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def whole(source: Path) -> Path:
    """Its file, in three parts, that is only read."""
    export_collection(source, path := source / "docs.zip")
    return path


@pytest.fixture
def exported(tmp_path: Path, whole: Path) -> Path:
    """A copy of the file."""
    return shutil.copy(whole, tmp_path / "docs.zip")


def everything(store: Store) -> dict[str, tuple[Any, dict[str, Any]]]:
    names = [*store.schema.vectors, *store.schema.multivectors, "bm25"]
    points = list(store.scroll(vectors=names))
    return {
        f"{point.payload.get('tenant')} {point.payload['id']}": (point.payload, point.vectors)
        for point in points
    }


def read(directory: Path) -> dict[str, tuple[Any, dict[str, Any]]]:
    store = EdgeStore.open(directory / "d2llm")
    found = everything(store)
    store.close()
    return found


def assert_equal_bit_for_bit(one: Any, two: Any) -> None:
    assert one.keys() == two.keys()
    for key, (payload, vectors) in one.items():
        assert two[key][0] == payload
        for name, array in vectors.items():
            np.testing.assert_array_equal(array, two[key][1][name], err_msg=f"{key} {name}")


def test_a_collection_comes_back_bit_for_bit_with_all_that_belongs_to_it(
    tmp_path: Path, source: Path, exported: Path
) -> None:
    reports: list[int] = []
    report = import_collection(
        exported, tmp_path / "copy", on_progress=lambda report: reports.append(report.passages)
    )
    assert report == ArchiveReport(21, 21, 21)
    assert reports == [8, 16, 21]
    assert_equal_bit_for_bit(read(source), read(tmp_path / "copy"))
    old, new = (EdgeStore.open(path / "d2llm") for path in (source, tmp_path / "copy"))
    assert (new.schema.parts, new.schema.preset) == (old.schema.parts, "exact")
    assert new.info().payload_indexes == old.info().payload_indexes
    assert new.info().payload_indexes["text"] == "phrases"
    assert TenantStore(new, "acme").retrieve(["passage 0"])[0].payload["tenant"] == "acme"
    old.close()
    new.close()


def test_what_the_database_holds_as_float16_is_float16_in_the_file(exported: Path) -> None:
    import safetensors.numpy

    with zipfile.ZipFile(exported) as archive:
        arrays = safetensors.numpy.load(archive.read("vectors/000000.safetensors"))
        lines = archive.read("payloads/000000.jsonl").splitlines()
        manifest = json.loads(archive.read(MANIFEST))
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        **dict.fromkeys(("recall", "iem", "segments", "tokens"), "float16"),
        **dict.fromkeys(("bm25.offsets", "segments.offsets", "tokens.offsets"), "int64"),
        "bm25.indices": "uint32",
        "bm25.values": "float32",
    }
    assert len(arrays["tokens"]) == arrays["tokens.offsets"][-1]
    assert len(json.loads(lines[0])["metadata"]) == 1
    assert (manifest["format_version"], manifest["passages"]) == (1, 21)
    assert manifest["schema"]["fingerprint"] == "f"


@pytest.mark.parametrize("preset", ["balanced", "small"])
def test_what_is_held_at_4_bits_leaves_as_it_is_held_and_is_held_so_again(
    tmp_path: Path, student: Student, encoded: Columns, preset: Any
) -> None:
    """Only vectors of 4 bits are quantised again, and by less than the bits lost at first."""
    with Index.open(tmp_path / "one", student, tokens="raw", preset=preset) as index:
        index.store.upsert(encoded)
        index.export(tmp_path / "docs.zip")
        first = everything(index.store)
    with reading(tmp_path / "docs.zip") as file:
        for in_file in (columns_from(*part) for part in file.parts()):
            for row, passage_id in enumerate(in_file.ids):
                stored = first[f"None {passage_id}"][1]
                for name, rows in (in_file.vectors | in_file.multivectors).items():
                    np.testing.assert_array_equal(rows[row], stored[name], err_msg=name)
    import_collection(tmp_path / "docs.zip", tmp_path / "two")
    import_collection(tmp_path / "docs.zip", tmp_path / "exact", preset="exact")
    again, kept = read(tmp_path / "two"), read(tmp_path / "exact")
    given = dict(zip(encoded.ids, range(len(encoded)), strict=True))
    rough = {"balanced": {"segments"}, "small": {"segments", "tokens"}}[preset]
    for key, (payload, vectors) in first.items():
        assert again[key][0] == kept[key][0] == payload
        for name, array in vectors.items():
            if name not in rough:
                np.testing.assert_array_equal(again[key][1][name], array)
                continue
            np.testing.assert_allclose(kept[key][1][name], array, rtol=1e-3, atol=1e-4)
            original = encoded.multivectors[name][given[payload["id"]]].astype(np.float32)
            lost = np.linalg.norm(array - original)
            assert np.linalg.norm(again[key][1][name] - array) < lost


def test_a_tenants_part_leaves_alone(tmp_path: Path, source: Path) -> None:
    report = export_collection(source, tmp_path / "acme.zip", tenant="acme")
    assert report.passages == report.total == 1
    import_collection(tmp_path / "acme.zip", tmp_path / "copy")
    assert list(read(tmp_path / "copy")) == ["acme passage 0"]


def test_an_import_goes_on_where_a_kill_ended_it(
    tmp_path: Path, source: Path, exported: Path
) -> None:
    code = f"""
import os
from d2llm_vdb.archive import import_collection
import_collection({str(exported)!r}, {str(tmp_path / "copy")!r},
    on_progress=lambda report: report.passages == 16 and os._exit(9))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    report = import_collection(exported, tmp_path / "copy")
    assert (report.passages, report.written) == (21, 5)
    assert_equal_bit_for_bit(read(source), read(tmp_path / "copy"))
    assert import_collection(exported, tmp_path / "copy").written == 0


def test_neither_a_student_nor_torch_is_needed(exported: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from d2llm_vdb.archive import export_collection, import_collection
import_collection({str(exported)!r}, {str(tmp_path / "copy")!r})
export_collection({str(tmp_path / "copy")!r}, {str(tmp_path / "again.zip")!r})
assert not {{"torch", "transformers"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def cut_off(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-100])
    return "its end is missing"


def flipped(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("vectors/000001.safetensors").header_offset
    data = bytearray(path.read_bytes())
    data[place + 500] ^= 1
    path.write_bytes(data)
    return r"its member vectors/000001\.safetensors cannot be read"


def flipped_text(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("payloads/000001.jsonl").header_offset
    data = bytearray(path.read_bytes())
    for byte in range(place + 60, place + 80):
        data[byte] ^= 0xFF
    path.write_bytes(data)
    return r"its member payloads/000001\.jsonl cannot be read"


def odd_manifest(path: Path) -> str:
    def change(members: dict[str, bytes]) -> None:
        values = json.loads(members[MANIFEST]) | {"members": []}
        members[MANIFEST] = json.dumps(values).encode()

    rewritten(path, change)
    return "manifest.json is damaged: layout and members must be objects"


def rewritten(path: Path, change: Any) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def altered(path: Path) -> str:
    def change(members: dict[str, bytes]) -> None:
        members["payloads/000002.jsonl"] = members["payloads/000002.jsonl"].replace(b"doc", b"dox")

    rewritten(path, change)
    return r"its member payloads/000002\.jsonl is not what was written"


def without_a_part(path: Path) -> str:
    rewritten(path, lambda members: members.pop("vectors/000002.safetensors"))
    return r"its member vectors/000002\.safetensors is missing"


def with_a_guest(path: Path) -> str:
    rewritten(path, lambda members: members.update({"a": b""}))
    return "its member a does not belong there"


def without_a_manifest(path: Path) -> str:
    rewritten(path, lambda members: members.pop(MANIFEST))
    return "manifest.json is missing or damaged"


def newer(path: Path) -> str:
    def change(members: dict[str, bytes]) -> None:
        values = json.loads(members[MANIFEST]) | {"format_version": 2}
        members[MANIFEST] = json.dumps(values).encode()

    rewritten(path, change)
    return "has the format version 2, and this library reads 1"


def no_archive(path: Path) -> str:
    path.write_text("{}")
    return "its end is missing, or it is none"


DAMAGES = (
    cut_off,
    flipped,
    flipped_text,
    odd_manifest,
    altered,
    without_a_part,
    with_a_guest,
    without_a_manifest,
    newer,
    no_archive,
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_by_name_before_anything_is_written(
    tmp_path: Path, exported: Path, damage: Any
) -> None:
    message = damage(exported)
    with pytest.raises(ArchiveError, match=message) as raised:
        import_collection(exported, tmp_path / "copy")
    assert str(exported) in str(raised.value)
    assert not (tmp_path / "copy").exists()


def test_a_collection_of_another_student_or_with_other_vectors_is_left_alone(
    tmp_path: Path, exported: Path
) -> None:
    other = Schema(8, 6, 3, 4, fingerprint="other", student="s")
    with pytest.raises(FingerprintMismatchError, match=r"fingerprint other.*--collection"):
        import_collection(exported, filled(tmp_path / "other", 3, other))
    without = Schema(8, 6, 3, None, fingerprint="f", student="s")
    with pytest.raises(SchemaMismatchError, match=r"segments of 3, and .* tokens of 4; import"):
        import_collection(exported, filled(tmp_path / "without", 3, without))
    assert len(read(tmp_path / "other")) == len(read(tmp_path / "without")) == 4


def test_passages_are_added_to_a_collection_that_fits(
    tmp_path: Path, source: Path, exported: Path
) -> None:
    report = import_collection(exported, filled(tmp_path / "fits", 3))
    assert report.written == 17
    assert_equal_bit_for_bit(read(source), read(tmp_path / "fits"))


def test_another_preset_than_that_of_the_collection_is_refused_and_other_shards_are_warned_of(
    tmp_path: Path, exported: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fits = filled(tmp_path / "fits", 3)
    with pytest.raises(SchemaMismatchError, match="made with preset='exact', not 'small'"):
        import_collection(exported, fits, preset="small")
    assert len(read(tmp_path / "fits")) == 4
    import_collection(exported, fits, preset="exact", shard_number=3)
    assert "has shard_number=1, and keeps it; 3 counts where" in caplog.text


def test_a_tenant_without_a_passage_is_not_exported(tmp_path: Path, source: Path) -> None:
    for tenant, message in (("acne", "'acne' has no passage in .*d2llm info"), (" ", "be a name")):
        with pytest.raises(InputError, match=message):
            export_collection(source, tmp_path / "a.zip", tenant=tenant)
    assert not (tmp_path / "a.zip").exists()


def test_a_link_is_written_through_and_what_is_no_file_is_left(
    tmp_path: Path, source: Path
) -> None:
    link, target = tmp_path / "link.zip", tmp_path / "elsewhere.zip"
    link.symlink_to(target)
    export_collection(source, link)
    export_collection(source, link, overwrite=True)
    assert link.is_symlink()
    assert target.is_file()
    pipe = tmp_path / "pipe.zip"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="is no regular file"):
        export_collection(source, pipe, overwrite=True)
    assert pipe.is_fifo()
    assert {each.name for each in tmp_path.iterdir()} == {link.name, target.name, pipe.name}


def test_a_file_that_is_there_stays_unless_told(
    tmp_path: Path, source: Path, exported: Path
) -> None:
    before = exported.read_bytes()
    with pytest.raises(InputError, match=r"is there already; .*--overwrite"):
        export_collection(source, exported)
    assert exported.read_bytes() == before
    export_collection(source, exported, overwrite=True, tenant="acme")
    assert exported.read_bytes() != before
    with pytest.raises(InputError, match="is a directory; name a file"):
        export_collection(source, tmp_path)
    with pytest.raises(InputError, match="there is no directory"):
        export_collection(source, tmp_path / "no" / "a.zip")


def test_an_archive_may_lie_in_a_path_from_home(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    export_collection(source, "~/a.zip")
    assert (tmp_path / "a.zip").is_file()
    import_collection("~/a.zip", tmp_path / "db")


def test_an_export_that_is_broken_off_leaves_no_file(tmp_path: Path, source: Path) -> None:
    def stop(_: ArchiveReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_collection(source, tmp_path / "docs.zip", on_progress=stop)
    assert not list(tmp_path.iterdir())


def test_a_passage_that_lacks_a_vector_is_not_left_out_silently(tmp_path: Path) -> None:
    import qdrant_edge as edge

    store = EdgeStore.open(filled(tmp_path / "source") / "d2llm")
    gone = edge.UpdateOperation.delete_vectors([point_id("passage 3")], ["segments"])
    store._shard.update(gone)
    with pytest.raises(StoreError, match=r"'passage 3' has no 'segments'.*d2llm doctor"):
        export_store(store, tmp_path / "docs.zip")
    store.close()
    assert not (tmp_path / "docs.zip").exists()


def test_every_store_is_exported(tmp_path: Path, open_store: OpenStore) -> None:
    store = open_store(SCHEMA)
    store.upsert(columns(20))
    export_store(store, tmp_path / "docs.zip")
    import_collection(tmp_path / "docs.zip", tmp_path / "copy")
    kept, copied = everything(store), read(tmp_path / "copy")
    if isinstance(store, MemoryStore):  # which keeps float32, and is the only one that does
        for _, vectors in kept.values():
            for name in vectors.keys() - {"bm25"}:
                np.testing.assert_allclose(vectors[name], vectors[name].astype(np.float16), 1e-3)
                vectors[name] = vectors[name].astype(np.float16)
    assert_equal_bit_for_bit(kept, copied)


@pytest.fixture
def on_server(server: Server) -> dict[str, Any]:
    return {"collection": f"test-{uuid.uuid4().hex[:12]}", "grpc_port": server.grpc_port}


@pytest.mark.parametrize("grpc", [True, False])
def test_from_embedded_to_a_server_and_back_nothing_changes(
    tmp_path: Path,
    source: Path,
    exported: Path,
    server: Server,
    on_server: dict[str, Any],
    grpc: bool,
) -> None:
    report = import_collection(exported, server.url, shard_number=2, prefer_grpc=grpc, **on_server)
    assert report.written == 21
    again = import_collection(exported, server.url, prefer_grpc=grpc, **on_server)
    assert again.written == 0
    back = tmp_path / "back.zip"
    export_collection(server.url, back, prefer_grpc=grpc, **on_server)
    with zipfile.ZipFile(back) as archive:
        assert json.loads(archive.read(MANIFEST))["layout"]["shard_number"] == 2
    import_collection(back, tmp_path / "copy")
    assert_equal_bit_for_bit(read(source), read(tmp_path / "copy"))


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    filled(tmp_path / "db")
    made = d2llm("export", "docs.zip", "--db", "db")
    assert made.exit_code == 0, made.stderr
    assert "21 passages written into docs.zip" in made.stdout
    refused = d2llm("export", "docs.zip", "--db", "db")
    assert refused.exit_code == 2
    told = json.loads(d2llm("export", "docs.zip", "--db", "db", "--overwrite", "--json").stdout)
    assert told["passages"] == 21
    assert told["bytes"] == Path("docs.zip").stat().st_size
    done = d2llm("import", "docs.zip", "--db", "new", "-c", "docs", "--preset", "fast", "--json")
    assert done.exit_code == 0, done.stderr
    counts = json.loads(done.stdout)
    assert (counts["passages"], counts["written"]) == (21, 21)
    again = d2llm("import", "docs.zip", "--db", "new", "-c", "docs")
    assert "0 passages written into the collection 'docs', 21 were there before" in again.stdout
    cut_off(Path("docs.zip"))
    broken = d2llm("import", "docs.zip", "--db", "other")
    assert broken.exit_code == 1
    assert "docs.zip is not a complete `d2llm export` file" in broken.stderr
    assert not Path("other").exists()
