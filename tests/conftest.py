"""Fixtures: nginx, the misbehaving server, TLS; and what no test may do: leave this machine."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import settings

from hctef import _remote
from tests.nginx_server import NginxServer, find_nginx
from tests.range_server import RangeServer

settings.register_profile("hctef", deadline=None)  # no test asserts a time
settings.load_profile("hctef")

_connect = socket.socket.connect


def _connect_to_loopback(self: socket.socket, address: Any) -> None:
    """A test that asks another machine tests that machine."""
    if self.family in (socket.AF_INET, socket.AF_INET6) and not ipaddress.ip_address(address[0]).is_loopback:
        raise RuntimeError(f"a test may not connect to {address}")
    _connect(self, address)


@pytest.fixture(scope="session", autouse=True)
def _only_loopback() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _connect_to_loopback)
        for name in list(os.environ):
            if name.lower().endswith("_proxy"):  # the servers of the tests are not reached through one
                patch.delenv(name)
        patch.delenv("HCTEF_CACHE_DIR", raising=False)
        yield


@pytest.fixture(autouse=True)
def _unknown_lines() -> None:
    """A server may get the port of an earlier one, whose line had another length."""
    _remote._lines.clear()


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxServer]:
    """One nginx for all tests; names of files differ from test to test."""
    if find_nginx() is None:
        if os.environ.get("HCTEF_REQUIRE_NGINX"):
            pytest.fail("nginx is not installed, and HCTEF_REQUIRE_NGINX is set")
        pytest.skip("nginx is not installed, and `make test` could not install it")
    with NginxServer(tmp_path_factory.mktemp("nginx")) as server:
        yield server


@pytest.fixture
def range_server() -> Iterator[RangeServer]:
    """A server that misbehaves on demand."""
    with RangeServer() as server:
        yield server


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority's certificate, for clients that trust it."""
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def tls_range_server(ca: trustme.CA) -> Iterator[RangeServer]:
    """The same over TLS, as `localhost` only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    with RangeServer(tls=context) as server:
        yield server
