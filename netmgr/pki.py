"""The manager's certificate authority: who is who, on every connection.

One self-signed CA a manager, EC P-256, in `<state dir>/pki`. It signs the manager's own server certificate, the
certificates of hosts at join, and those of operators and viewers. Of a signing request only the public key is taken,
after its signature has proved that the asker holds the private one; subject, extensions and lifetime are decided here,
so a request can ask for nothing.

The CA's key is written before its certificate: after a crash between them the certificate is made again for the key
that is there. A CA that is half gone in any other way is refused, never replaced: replacing it would lock out every
host.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from netmgr.api.ports import Role
from netmgr.identity import (
    Identity,
    key_pem_of,
    load_certificate,
    load_key,
    make_request,
    peer_of,
    pem_of,
    write_atomic,
    write_identity,
)
from netmgr.model import NetmgrError

__all__ = ["SERVER_NAME", "CertificateAuthority"]

SERVER_NAME = "netmgr"

_CA_LIFETIME = timedelta(days=3650)
_LIFETIME = timedelta(days=730)
_RENEW_BEFORE = timedelta(days=60)
_BACKDATE = timedelta(minutes=5)  # clocks of hosts differ
_REQUEST_BYTES_MAX = 16 * 1024

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


class CertificateAuthority:
    """Signs; see the module's theory. Implements `netmgr.api.ports.Authority`; callable from any thread."""

    @classmethod
    def open(cls, state_dir: Path, *, now: datetime) -> CertificateAuthority:
        """The CA kept in *state_dir*, made at the first call.

        Raises:
            NetmgrError: its files are damaged, do not belong together, or have expired.
        """
        directory = state_dir / "pki"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key_path, cert_path = directory / "ca.key.pem", directory / "ca.pem"
        if not key_path.exists():
            if cert_path.exists():
                raise NetmgrError(f"CA: {cert_path} exists but its key {key_path} is gone; restore it from a backup")
            write_atomic(key_path, key_pem_of(ec.generate_private_key(ec.SECP256R1())).encode(), mode=0o600)
        key = load_key(key_path)
        if not cert_path.exists():
            write_atomic(cert_path, pem_of(_ca_certificate(key, now)).encode(), mode=0o644)
        certificate = load_certificate(cert_path)
        if certificate.public_key() != key.public_key():
            raise NetmgrError(f"CA: {cert_path} and {key_path} do not belong together; restore both from one backup")
        if certificate.not_valid_after_utc <= now:
            raise NetmgrError(f"CA: {cert_path} expired at {certificate.not_valid_after_utc:%Y-%m-%d}; make a new CA")
        return cls(directory, key, certificate)

    def __init__(self, directory: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._directory = directory
        self._key = key
        self._certificate = certificate
        self._pem = pem_of(certificate)

    @property
    def ca_file(self) -> Path:
        """Where the CA's certificate is."""
        return self._directory / "ca.pem"

    @property
    def server_cert_file(self) -> Path:
        """Where `server_identity` keeps the server's certificate."""
        return self._directory / "server.pem"

    @property
    def server_key_file(self) -> Path:
        """Where `server_identity` keeps the server's key."""
        return self._directory / "server.key.pem"

    def ca_pem(self) -> str:
        """The CA's certificate."""
        return self._pem

    def ca_sha256(self) -> str:
        """SHA-256 of the CA certificate's DER form, lower-case hex."""
        return self._certificate.fingerprint(hashes.SHA256()).hex()

    def sign(self, *, csr_pem: str, role: str, name: str) -> str:
        """A certificate (PEM), valid two years, for the key of *csr_pem* with CN=*name* and OU=*role*.

        Raises:
            NetmgrError: the request is malformed, its signature is wrong, its key is too weak, the name does not suit
                the role, or the role is the manager's own.
        """
        if role == Role.MANAGER:
            raise NetmgrError("certificate: role manager is for netmgr's own server, which makes its own", status=403)
        if role not in tuple(Role):
            raise NetmgrError(f"certificate: unknown role {role!r}; use one of host, operator, viewer")
        _check_name(name, Role(role))
        return self._sign(_key_of_request(csr_pem), name=name, role=Role(role), now=datetime.now(UTC))

    def server_identity(self, addresses: Sequence[str], *, now: datetime) -> Identity:
        """The server's certificate with SAN `netmgr` and *addresses*, made again when they change or it gets old."""
        names: list[x509.GeneralName] = [x509.DNSName(SERVER_NAME)]
        for address in sorted(set(addresses)):
            with contextlib.suppress(ValueError):  # a host name as listen address is reached by the name netmgr
                names.append(x509.IPAddress(ipaddress.ip_address(address)))
        key_path, cert_path = self.server_key_file, self.server_cert_file
        identity = self._usable(key_path, cert_path, now=now)
        if identity is not None and _sans(x509.load_pem_x509_certificate(identity.cert_pem.encode())) == names:
            return identity
        key = ec.generate_private_key(ec.SECP256R1())
        pem = self._sign(key.public_key(), name=SERVER_NAME, role=Role.MANAGER, now=now, sans=names)
        identity = Identity(ca_pem=self._pem, cert_pem=pem, key_pem=key_pem_of(key))
        write_atomic(key_path, identity.key_pem.encode(), mode=0o600)
        write_atomic(cert_path, identity.cert_pem.encode(), mode=0o644)
        return identity

    def ensure_identity(self, directory: Path, *, name: str, role: Role, now: datetime) -> Identity:
        """The client identity in *directory* (ca.pem, cert.pem, key.pem), made again if it is not ours or gets old."""
        identity = self._usable(directory / "key.pem", directory / "cert.pem", now=now)
        if identity is not None:
            peer = peer_of(identity.cert_pem)
            ca_there = directory / "ca.pem"
            if (peer.name, peer.role) == (name, role) and ca_there.exists() and ca_there.read_text() == self._pem:
                return identity
        request, key_pem = make_request(name)
        pem = self.sign(csr_pem=request, role=role, name=name)
        identity = Identity(ca_pem=self._pem, cert_pem=pem, key_pem=key_pem)
        write_identity(directory, identity)
        return identity

    def _usable(self, key_path: Path, cert_path: Path, *, now: datetime) -> Identity | None:
        """The identity in these files if it is whole, of this CA and not about to expire."""
        try:
            certificate, key = load_certificate(cert_path), load_key(key_path)
            certificate.verify_directly_issued_by(self._certificate)
        except (NetmgrError, InvalidSignature, ValueError, TypeError):
            return None
        if certificate.public_key() != key.public_key() or certificate.not_valid_after_utc - _RENEW_BEFORE <= now:
            return None
        return Identity(ca_pem=self._pem, cert_pem=cert_path.read_text(), key_pem=key_path.read_text())

    def _sign(
        self,
        public_key: PublicKey,
        *,
        name: str,
        role: Role,
        now: datetime,
        sans: Sequence[x509.GeneralName] = (),
    ) -> str:
        if role is Role.HOST:
            sans = [x509.DNSName(name)]
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if role in (Role.HOST, Role.MANAGER):
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_subject(name, role))
            .issuer_name(self._certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(min(now + _LIFETIME, self._certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        return pem_of(builder.sign(self._key, hashes.SHA256()))


def _ca_certificate(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "netmgr CA")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str, role: Role) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role.value),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _check_name(name: str, role: Role) -> None:
    if role is Role.HOST:
        try:
            canonical = str(UUID(name)) == name
        except ValueError:
            canonical = False
        if not canonical:
            raise NetmgrError(f"certificate: a host's name is its UUID in lower case, got {name!r}")
    elif not 1 <= len(name) <= 64 or not name.isprintable() or name == SERVER_NAME:
        raise NetmgrError(f"certificate: name {name!r} must be 1 to 64 printable characters, and not {SERVER_NAME!r}")


def _key_of_request(csr_pem: str) -> PublicKey:
    if len(csr_pem) > _REQUEST_BYTES_MAX:
        raise NetmgrError(f"signing request: {len(csr_pem)} bytes, more than {_REQUEST_BYTES_MAX}")
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key = request.public_key()
        signed = request.is_signature_valid
    except Exception as error:  # the parser raises many kinds; all mean that the request is bad
        raise NetmgrError(f"signing request: not readable: {error}") from None
    if not signed:
        raise NetmgrError("signing request: its signature does not match its key")
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
        return key
    raise NetmgrError("signing request: needs an EC P-256 or P-384, Ed25519, or RSA key of at least 2048 bits")


def _sans(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []
