"""How a host becomes known: a one-use token, a signing request, one transaction.

The token's secret is in the operator's hands only; the store has its hash. Joining spends the token and enrols the
host, VTEPs included, in the same transaction, so a crash between cannot do one without the other. The certificate is
signed before the commit and worthless without it: an unknown host is refused on every stream. Should the answer be
lost on its way, the same host may repeat the join with the same token and the same key, until the token expires.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from netmgr import rules
from netmgr.api.ports import Authority, Role
from netmgr.identity import certificate_sha256, make_token_text, parse_token_text
from netmgr.model import TOKEN, HostRecord, JoinToken, NetmgrError, World
from netmgr.service.edits import settle_vteps
from netmgr.service.lookup import find_zones
from netmgr.store import Store, Transaction

__all__ = ["TTL_S_DEFAULT", "TTL_S_MAX", "Joined", "create_token", "join"]

TTL_S_DEFAULT = 3600
TTL_S_MAX = 30 * 24 * 3600
_REFUSED = 403
_KEPT = timedelta(days=1)  # after its end a token is kept this long, so that its bearer hears "expired", not "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A host that is enrolled, and its certificate."""

    host: HostRecord
    cert_pem: str


def create_token(
    store: Store,
    *,
    authority: Authority,
    host_name: str = "",
    zones: Sequence[str] = (),
    ttl_s: int = TTL_S_DEFAULT,
    now: datetime | None = None,
) -> tuple[JoinToken, str]:
    """A join token and its text, which can't be had again. The host takes *host_name*, or its own, and *zones*.

    Raises:
        NetmgrError: the name is taken, a zone unknown, the life is not 1 s to 30 days.
    """
    if not 1 <= ttl_s <= TTL_S_MAX:
        raise NetmgrError(f"join token: ttl_s must be 1 to {TTL_S_MAX}, got {ttl_s}")
    secret = secrets.token_urlsafe(32)
    with store.transaction() as tx:
        now = now or datetime.now(UTC)
        expires_at = now + timedelta(seconds=ttl_s)
        token = JoinToken(
            uuid=uuid4(),
            secret_sha256=_hash(secret),
            expires_at=expires_at.isoformat(timespec="seconds"),
            host_name=host_name,
            zone_uuids=find_zones(tx.world, zones),
        )
        for old in tuple(tx.world.tokens.values()):
            if datetime.fromisoformat(old.expires_at) <= now - _KEPT:
                tx.delete(TOKEN, old.uuid)
        if host_name:
            rules.check_host(tx.world, HostRecord(uuid=uuid4(), name=host_name))
        tx.put(token)
    return token, make_token_text(uuid=token.uuid, secret=secret, ca_sha256=authority.ca_sha256())


def join(
    store: Store,
    *,
    authority: Authority,
    token: str,
    csr_pem: str,
    host_uuid: UUID,
    name: str = "",
    pnics: Sequence[str] = (),
    view_address: str = "",
    now: datetime | None = None,
) -> Joined:
    """Enrol a host and give it its certificate.

    Raises:
        NetmgrError: 403, the token is malformed, wrong, used or expired; 400, the signing request is bad; 409, the
            UUID or the name is taken, or the host does not suit its zones. Nothing is changed then.
    """
    parsed = parse_token_text(token)
    now = now or datetime.now(UTC)
    cert_pem = authority.sign(csr_pem=csr_pem, role=Role.HOST, name=str(host_uuid))
    key_sha256 = _key_sha256(csr_pem)
    with store.transaction() as tx:
        right = _checked_token(tx.world, parsed.uuid, parsed.secret, now=now)
        if right.used_by is not None:
            host = _repeated(tx.world, right, host_uuid=host_uuid, key_sha256=key_sha256)
            tx.put(replace(host, certificate_sha256=certificate_sha256(cert_pem)))
        else:
            _enrol(
                tx,
                HostRecord(
                    uuid=host_uuid,
                    name=right.host_name or name or f"host-{host_uuid.hex[:8]}",
                    zone_uuids=right.zone_uuids,
                    pnics=tuple(pnics),
                    view_address=view_address,
                    certificate_sha256=certificate_sha256(cert_pem),
                    public_key_sha256=key_sha256,
                    joined_at=now.isoformat(timespec="seconds"),
                ),
            )
            tx.put(replace(right, used_by=host_uuid))
        host = tx.world.hosts[host_uuid]
    return Joined(host=host, cert_pem=cert_pem)


def _enrol(tx: Transaction, host: HostRecord) -> None:
    known = tx.world.hosts.get(host.uuid)
    if known is not None:
        raise NetmgrError(
            f"host {host.uuid} is enrolled already, as {known.name}; two hosts must not share a UUID. If it is the "
            f"same machine, installed anew: netmgr host delete {known.name}, then join again",
            status=409,
        )
    missing = [str(uuid) for uuid in host.zone_uuids if uuid not in tx.world.zones]
    if missing:
        raise NetmgrError(
            f"join token: its zone {', '.join(missing)} was deleted since it was made; make another token", status=409
        )
    rules.check_host(tx.world, host)
    tx.put(host)
    settle_vteps(tx)


def _checked_token(world: World, uuid: UUID, secret: str, *, now: datetime) -> JoinToken:
    """The token, if the secret is right and it has not expired. Wrong and unknown read the same."""
    token = world.tokens.get(uuid)
    if token is None or not hmac.compare_digest(token.secret_sha256, _hash(secret)):
        raise NetmgrError(
            "join token: unknown or wrong; use one that this manager's `netmgr host token` printed", status=_REFUSED
        )
    if datetime.fromisoformat(token.expires_at) <= now:
        raise NetmgrError(
            f"join token: expired at {token.expires_at}; make another with netmgr host token", status=_REFUSED
        )
    return token


def _repeated(world: World, token: JoinToken, *, host_uuid: UUID, key_sha256: str) -> HostRecord:
    """The host that spent the token, if it is the one that asks again."""
    host = world.hosts.get(host_uuid)
    if host is None or token.used_by != host_uuid or host.public_key_sha256 != key_sha256:
        used_by = world.hosts.get(token.used_by) if token.used_by else None
        raise NetmgrError(
            f"join token: used already, by host {used_by.name if used_by else token.used_by}; a token is good for one "
            "join, make another: netmgr host token",
            status=_REFUSED,
        )
    return host


def _key_sha256(csr_pem: str) -> str:
    key = x509.load_pem_x509_csr(csr_pem.encode()).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
