"""HTTPS with client certificates: serves the API so that each request knows its client.

No Python ASGI server puts the TLS client certificate into the scope of a request; this subclass of uvicorn's protocol
does, under `extensions["netmgr.client"]`, once a connection. TLS has verified the certificate against the CA before. A
client without one is let in (CERT_OPTIONAL), because a host that joins has none yet; what it may do is decided in
`access`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from cryptography import x509
from cryptography.x509.oid import NameOID
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["SCOPE_KEY", "Client", "client_of_certificate", "uvicorn_config"]

SCOPE_KEY = "netmgr.client"
_IDLE_S = 75
_CONNECTIONS_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who is asking: subject CN and OU of a certificate that TLS has verified."""

    name: str
    role: str


def client_of_certificate(der: bytes) -> Client:
    """The client that a verified certificate speaks for; fields that its subject lacks are empty."""
    subject = x509.load_der_x509_certificate(der).subject

    def only(oid: x509.ObjectIdentifier) -> str:
        values = [str(attribute.value) for attribute in subject.get_attributes_for_oid(oid)]
        return values[0] if len(values) == 1 else ""  # two names would be two answers to "who"

    return Client(name=only(NameOID.COMMON_NAME), role=only(NameOID.ORGANIZATIONAL_UNIT_NAME))


def uvicorn_config(app: Any, *, ca_file: Path, cert_file: Path, key_file: Path, host: str, port: int) -> uvicorn.Config:
    """Settings of a uvicorn server for *app* on `host:port`; the three files are PEM.

    Signals, logging and the event loop are left to the caller.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_ClientCertificateProtocol,
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody may speak for another address
        timeout_keep_alive=_IDLE_S,
        limit_concurrency=_CONNECTIONS_MAX,
        timeout_graceful_shutdown=5,
        ssl_certfile=str(cert_file),
        ssl_keyfile=str(key_file),
        ssl_ca_certs=str(ca_file),
        ssl_cert_reqs=ssl.CERT_OPTIONAL,
    )
    config.load()
    assert config.ssl is not None
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return config


class _ClientCertificateProtocol(HttpToolsProtocol):
    """uvicorn's protocol, plus the client in the scope."""

    _client: Client | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio leaves Nagle's algorithm on for sockets that it was given: each answer would then wait 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = transport.get_extra_info("ssl_object")
        der = connection.getpeercert(binary_form=True) if connection is not None else None
        self._client = client_of_certificate(der) if der else None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {SCOPE_KEY: self._client}  # type: ignore[dict-item]
