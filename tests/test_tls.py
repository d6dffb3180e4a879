"""An https server is believed where its certificate is, and the key goes nowhere else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from qdrant_server import open_server
from stub_server import INDEXED, Stub, described
from test_store import SCHEMA
from tls_servers import grpc_server, over_tls, write_certificate
from typer.testing import CliRunner

from d2llm_vdb.cli.app import app
from d2llm_vdb.errors import InputError, StoreError, StoreUnavailableError
from d2llm_vdb.store import ServerStore

KEY = "sesame-open"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_certificate(tmp_path)


def opened(url: str, **options: Any) -> ServerStore:
    return open_server(url, "c", api_key=KEY, timeout=5, **options)


def test_a_certificate_that_nobody_signed_is_refused_and_the_key_not_sent(
    stub: Stub, pair: tuple[Path, Path]
) -> None:
    url = over_tls(stub, *pair)
    with pytest.raises(StoreUnavailableError, match=r"CERTIFICATE_VERIFY_FAILED.*ca_file="):
        opened(url, prefer_grpc=False)
    assert not stub.asked
    with grpc_server(*pair) as (port, asked):
        with pytest.raises(StoreUnavailableError, match=r"CERTIFICATE_VERIFY_FAILED.*ca_file="):
            opened("https://127.0.0.1", grpc_port=port)
        assert not asked


def test_one_option_trusts_an_authority_of_ones_own_over_rest_and_grpc(
    stub: Stub, pair: tuple[Path, Path]
) -> None:
    stub.answers["GET /collections/c/exists"] = (200, {"exists": True})
    stub.answers["GET /collections/c"] = described(SCHEMA, INDEXED)
    stub.answers["POST /collections/c/points/count"] = (200, {"count": 7})
    url = over_tls(stub, *pair)
    store = opened(url, prefer_grpc=False, ca_file=pair[0])
    assert (store.count(), asyncio.run(store.acount())) == (7, 7)
    store.close()
    with grpc_server(*pair) as (port, asked):
        with pytest.raises(StoreError, match="UNIMPLEMENTED"):  # the handshake is done
            opened("https://127.0.0.1", grpc_port=port, ca_file=str(pair[0]))
        assert asked


def test_a_certificate_of_another_host_is_refused_by_whomever_it_is_signed(
    stub: Stub, tmp_path: Path
) -> None:
    certificate, key = write_certificate(tmp_path, "127.0.0.2")
    url = over_tls(stub, certificate, key)
    with pytest.raises(StoreUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        opened(url, prefer_grpc=False, ca_file=certificate)
    with grpc_server(certificate, key) as (port, asked):
        with pytest.raises(StoreUnavailableError):
            opened("https://127.0.0.1", grpc_port=port, ca_file=certificate)
        assert not asked


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff\xfe"])
def test_a_file_that_holds_no_certificates_is_refused_by_name(
    content: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"ca_file='.*ca.pem' cannot be used: .*in PEM"):
        opened("https://127.0.0.1", ca_file=file)
    with pytest.raises(InputError, match="ca_file is int, expected a path"):
        opened("https://127.0.0.1", ca_file=7)


def test_the_command_line_takes_it_too(stub: Stub, pair: tuple[Path, Path]) -> None:
    url = over_tls(stub, *pair)
    trusted = ["info", "--url", url, "--rest", "--ca-file", str(pair[0])]
    result = CliRunner().invoke(app, trusted)
    assert stub.asked, result.stderr
    assert "does not answer as Qdrant does" in result.stderr
