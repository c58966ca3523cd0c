"""Joining a network manager: from a one-use token to an identity on disk.

Theory of operation. The token carries the hash of the CA's certificate, so the first contact needs no trust: the CA is
fetched without verification, compared with the hash, and from then on every connection is verified. The key is made
here and never leaves the host; the manager signs a request for it. What can fail on this host is checked before the
token is presented, because a token works once; the identity is written whole or not at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import socket
import ssl
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hostagent.identity import Identity, save_identity
from hostagent.model import Unread

__all__ = [
    "JoinError",
    "JoinRequest",
    "choose_datapath",
    "join",
    "local_view_address",
    "missing_pnics",
    "parse_address",
    "parse_token",
]

REST_PORT = 7443
_TIMEOUT_S = 20.0
_BODY_MAX = 1 << 20


class JoinError(Exception):
    """The host has not joined; the message is the sentence that says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    """What the operator asked for. `datapath` is decided already: "system" or "netdev"."""

    managers: tuple[str, ...]  # host or host:port of the REST API
    token: str
    pnics: tuple[str, ...]
    host_uuid: UUID
    name: str
    datapath: str
    view_address: str


def join(state_dir: Path, request: JoinRequest) -> Identity:
    """Present the token and write the identity that comes back.

    Raises:
        JoinError: a bad token, no manager, a refusal; nothing is written then.
    """
    fingerprint = parse_token(request.token)
    host, port = parse_address(request.managers[0])
    ca_pem = _fetch_ca(host, port)
    found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(ca_pem.decode("ascii"))).hexdigest()
    if found != fingerprint:
        raise JoinError(
            f"the manager at {host}:{port} is not the one this token was made by: its CA's SHA-256 is {found}, the"
            f" token says {fingerprint}; nothing was sent to it. Check the address, or make a new token"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(request.host_uuid))]))
        .sign(key, hashes.SHA256())
    )
    body = {
        "token": request.token,
        "csr_pem": csr.public_bytes(serialization.Encoding.PEM).decode(),
        "host_uuid": str(request.host_uuid),
        "name": request.name,
        "pnics": list(request.pnics),
        "view_address": request.view_address,
    }
    answer = _post_join(host, port, ca_pem, body)
    try:
        identity = Identity(
            host_uuid=UUID(answer["host_uuid"]),
            host_name=str(answer["host_name"]),
            managers=tuple(f"{_bracket(parse_address(m)[0])}:{int(answer['sync_port'])}" for m in request.managers),
            manager_name=str(answer.get("manager_name") or "netmgr"),
            pnics=tuple(sorted(request.pnics)),
            datapath=request.datapath,
            view_address=request.view_address,
            ca_pem=str(answer["ca_pem"]).encode(),
            cert_pem=str(answer["cert_pem"]).encode(),
            key_pem=key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise JoinError(f"the manager at {host}:{port} gave an answer that can't be read ({error!r})") from None
    save_identity(state_dir, identity)
    return identity


def parse_token(token: str) -> str:
    """The CA's fingerprint in *token*, "<uuid>.<secret>.<sha256 hex>"; `JoinError` if it is not one."""
    parts = token.strip().split(".")
    bad = JoinError("the token is not whole: wanted <uuid>.<secret>.<sha256>, as `netmgr host token` prints it")
    if len(parts) != 3 or not parts[1] or len(parts[2]) != 64:
        raise bad
    try:
        UUID(parts[0])
        bytes.fromhex(parts[2])
    except ValueError:
        raise bad from None
    return parts[2].lower()


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of "host", "host:port", "[v6]" or "[v6]:port"; the REST API's port where none is given."""
    host, port = text.strip(), ""
    if host.startswith("["):
        host, _, rest = host[1:].partition("]")
        port = rest.removeprefix(":")
    elif host.count(":") == 1:
        host, port = host.split(":")
    if not host or (port and not (port.isdecimal() and 0 < int(port) < 65536)):
        raise JoinError(f"manager address {text!r}: wanted HOST, HOST:PORT or [IPV6]:PORT")
    return host, int(port) if port else REST_PORT


def local_view_address(manager: tuple[str, int], *, port: int) -> str:
    """This host's own address on the way to the manager, with *port*; empty while there is no way.

    Asks the kernel's routing only; no packet is sent.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(*manager, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return f"{_bracket(probe.getsockname()[0])}:{port}"
    except OSError:
        return ""


def missing_pnics(pnics: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of *pnics*, those that this host does not have; and all interfaces it has."""
    from hostagent.realize.netlink import Netlink

    async def read() -> Any:
        netlink = Netlink(on_change=lambda: None)
        try:
            return await netlink.read_links()
        finally:
            await netlink.close()

    links = asyncio.run(read())
    if isinstance(links, Unread):
        raise JoinError(f"the host's interfaces can't be read: {links.reason}")
    names = tuple(link.name for link in links if link.name != "lo")
    return tuple(name for name in pnics if name not in names), names


def choose_datapath(
    wanted: str, *, run: Callable[[Sequence[str]], str], module: Path = Path("/sys/module/openvswitch")
) -> str:
    """ "system" or "netdev". With "auto": the kernel's, where it is loaded and Open vSwitch offers it."""
    if wanted != "auto":
        return wanted
    if not module.exists():
        return "netdev"
    offered = run(("ovs-vsctl", "--timeout=5", "get", "Open_vSwitch", ".", "datapath_types"))
    return "system" if "system" in offered else "netdev"


def run_command(command: Sequence[str]) -> str:
    """Standard output of a command; empty when it failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


# --- HTTPS ----------------------------------------------------------------------------------------------------------


def _fetch_ca(host: str, port: int) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # what comes is believed only if its hash is the token's
    status, body = _request(host, port, context, None, "GET", "/api/v1/ca", None)
    if status != 200 or b"BEGIN CERTIFICATE" not in body:
        raise JoinError(f"{host}:{port} is no network manager: asked for its CA, it answered {status}")
    return body


def _post_join(host: str, port: int, ca_pem: bytes, body: Any) -> dict[str, Any]:
    context = ssl.create_default_context(cadata=ca_pem.decode("ascii"))
    payload = json.dumps(body).encode()
    status, raw = _request(host, port, context, "netmgr", "POST", "/api/v1/join", payload)
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = None
    if status not in (200, 201) or not isinstance(answer, dict):
        said = answer.get("error") if isinstance(answer, dict) else None
        raise JoinError(f"the manager at {host}:{port} refused: {said or f'HTTP status {status}'}")
    return answer


class _Connection(http.client.HTTPSConnection):
    """HTTPS to an address, verified against the manager's name instead of the address."""

    def __init__(self, host: str, port: int, *, context: ssl.SSLContext, server_name: str | None) -> None:
        super().__init__(host, port, timeout=_TIMEOUT_S, context=context)
        self._server_name = server_name
        self._tls = context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._server_name)


def _request(
    host: str, port: int, context: ssl.SSLContext, server_name: str | None, method: str, path: str, body: bytes | None
) -> tuple[int, bytes]:
    connection = _Connection(host, port, context=context, server_name=server_name)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        return response.status, response.read(_BODY_MAX)
    except ssl.SSLError as error:
        raise JoinError(f"the manager at {host}:{port} failed the check of its certificate: {error}") from None
    except (OSError, http.client.HTTPException) as error:
        raise JoinError(f"the manager at {host}:{port} can't be reached: {error}") from None
    finally:
        connection.close()


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host
