"""The files and texts of an identity: keys, certificates, signing requests, join tokens; who a certificate speaks for.

A client identity is a directory of three files: `ca.pem` (whom it trusts), `cert.pem` (who it is) and `key.pem` (its
proof, mode 0600). Each file is written whole or not at all: aside, synced, renamed. The subject of a certificate says
it all: CN is the name (a host's is its UUID), OU the role.

A join token is `<token uuid>.<secret>.<sha256 of the CA certificate>`, so whoever holds one can tell the right manager
from another before it says anything.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from netmgr.api.ports import Role
from netmgr.model import NetmgrError

__all__ = [
    "Identity",
    "Peer",
    "TokenText",
    "certificate_sha256",
    "key_pem_of",
    "load_certificate",
    "load_key",
    "make_request",
    "make_token_text",
    "parse_token_text",
    "peer_of",
    "pem_of",
    "write_atomic",
    "write_identity",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What one end of a connection needs, as PEM."""

    ca_pem: str
    cert_pem: str
    key_pem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end, by its certificate."""

    name: str
    role: Role
    certificate_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenText:
    """The three parts of a join token."""

    uuid: UUID
    secret: str
    ca_sha256: str


def peer_of(cert_pem: str | bytes) -> Peer:
    """Who a certificate, already verified against the CA, speaks for.

    Raises:
        NetmgrError: its subject has no single CN, or no role that this version knows.
    """
    raw = cert_pem.encode() if isinstance(cert_pem, str) else cert_pem
    try:
        certificate = x509.load_pem_x509_certificate(raw)
    except ValueError as error:
        raise NetmgrError(f"certificate: not readable: {error}", status=403) from None
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    roles = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    if len(names) != 1 or len(roles) != 1 or roles[0].value not in tuple(Role):
        subject = certificate.subject.rfc4514_string()
        raise NetmgrError(f"certificate {subject!r}: needs one CN and one OU that is a role", status=403)
    return Peer(
        name=str(names[0].value),
        role=Role(str(roles[0].value)),
        certificate_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def certificate_sha256(cert_pem: str) -> str:
    """SHA-256 of a certificate's DER form, lower-case hex: what `HostRecord` keeps.

    Raises:
        ValueError: not a PEM certificate.
    """
    return x509.load_pem_x509_certificate(cert_pem.encode()).fingerprint(hashes.SHA256()).hex()


def make_request(name: str) -> tuple[str, str]:
    """A signing request for a fresh EC P-256 key, and the key, both PEM. *name* only labels it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode(), key_pem_of(key)


def write_identity(directory: Path, identity: Identity) -> None:
    """Write ca.pem, cert.pem and key.pem into *directory*, which is made with mode 0700."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(directory / "key.pem", identity.key_pem.encode(), mode=0o600)
    write_atomic(directory / "ca.pem", identity.ca_pem.encode(), mode=0o644)
    write_atomic(directory / "cert.pem", identity.cert_pem.encode(), mode=0o644)


def make_token_text(*, uuid: UUID, secret: str, ca_sha256: str) -> str:
    """The join token as an operator carries it to a host."""
    return f"{uuid}.{secret}.{ca_sha256}"


def parse_token_text(text: str) -> TokenText:
    """The parts of a join token.

    Raises:
        NetmgrError: it is not one.
    """
    parts = text.strip().split(".")
    hexadecimal = "0123456789abcdef"
    if len(parts) == 3 and parts[1] and len(parts[2]) == 64 and all(c in hexadecimal for c in parts[2]):
        with contextlib.suppress(ValueError):
            return TokenText(uuid=UUID(parts[0]), secret=parts[1], ca_sha256=parts[2])
    raise NetmgrError("join token malformed: it reads <uuid>.<secret>.<fingerprint>, as `netmgr host token` prints it")


def pem_of(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def key_pem_of(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise NetmgrError(f"key {path}: not readable: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise NetmgrError(f"key {path}: not an EC key")
    return key


def load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise NetmgrError(f"certificate {path}: not readable: {error}") from None


def write_atomic(path: Path, content: bytes, *, mode: int) -> None:
    """Replace *path* whole; what a reader sees is the old file or the new one, also after a crash."""
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(descriptor, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
