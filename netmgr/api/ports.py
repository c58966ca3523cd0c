"""What the API and the service need from the rest of the manager, as protocols; `sync` and `pki` implement them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from netmgr.contract.types import TraceAnswer, TraceQuestion
from netmgr.model import HostLive

__all__ = ["Authority", "FleetReader", "HostQuestions", "Role"]


class Role(StrEnum):
    """What a certificate entitles to; the OU of its subject. The CN is the name: of a host, its UUID."""

    HOST = "host"
    OPERATOR = "operator"
    VIEWER = "viewer"
    MANAGER = "manager"


class FleetReader(Protocol):
    """The hosts as this replica sees them over their streams. Callable from any thread, but for `listening`."""

    def live(self, host_uuid: UUID) -> HostLive | None:
        """The latest word of one host; None when it has not connected to this replica since its start."""
        ...

    def lives(self) -> Mapping[UUID, HostLive]:
        """A snapshot of all of them."""
        ...

    def listening(self, heard: Callable[[UUID], None]) -> AbstractContextManager[None]:
        """Have *heard* called with each host of which something is new, in the event loop's thread, where this is."""
        ...


class HostQuestions(Protocol):
    """Questions to hosts over their streams. In the event loop only."""

    async def ask(self, host_uuid: UUID, question: TraceQuestion, *, timeout_s: float) -> TraceAnswer:
        """The host's answer, or one with a refusal: not connected, lost, or silent for *timeout_s*."""
        ...


class Authority(Protocol):
    """The manager's certificate authority. Callable from any thread."""

    def ca_pem(self) -> str:
        """The CA's certificate."""
        ...

    def ca_sha256(self) -> str:
        """SHA-256 of the CA certificate's DER form, lower-case hex: the third part of a join token."""
        ...

    def sign(self, *, csr_pem: str, role: str, name: str) -> str:
        """A certificate (PEM) for the key of *csr_pem*, subject CN=*name*, OU=*role*; what the CSR itself asks for is
        ignored. A host's certificate carries SAN DNS=*name* and serves both ends of a connection.

        Raises:
            NetmgrError: the request is malformed, its signature is wrong, or its key is too weak.
        """
        ...
