"""What went wrong and when to try again; and which pushed objects it keeps from being realized. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from hostagent.model import Desired, Step
from hostagent.names import switch_bridge
from netmgr.contract.types import Kind, Ref

__all__ = ["Failures", "failed_objects"]

_PAUSE_S_MIN, _PAUSE_S_MAX = 0.5, 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """A step that failed, and when it is tried again."""

    step: Step
    sentence: str
    attempts: int
    retry_at: float


class Failures:
    """Steps that failed, by what they are about; times are seconds of one clock that the caller reads."""

    def __init__(self) -> None:
        self._failures: dict[tuple[str, ...], _Failure] = {}

    def note(self, tried: Sequence[Step], failed: Iterable[tuple[Step, str]], *, now: float) -> None:
        """Remember the outcome of steps that were tried."""
        sentences = {_key(step): (step, sentence) for step, sentence in failed}
        for step in tried:
            key = _key(step)
            if key not in sentences:
                self._failures.pop(key, None)
                continue
            before = self._failures.get(key)
            attempts = before.attempts + 1 if before is not None else 1
            pause = min(_PAUSE_S_MAX, _PAUSE_S_MIN * 2 ** min(attempts - 1, 10))
            self._failures[key] = _Failure(
                step=step, sentence=sentences[key][1], attempts=attempts, retry_at=now + pause
            )

    def keep_only(self, steps: Iterable[Step]) -> None:
        """Forget what is not planned any more."""
        planned = {_key(step) for step in steps}
        self._failures = {key: failure for key, failure in self._failures.items() if key in planned}

    def ready(self, steps: Iterable[Step], *, now: float) -> list[Step]:
        """Of *steps*, those that have not failed, have changed since, or have paused long enough; in their order."""
        return [
            step
            for step in steps
            if (failure := self._failures.get(_key(step))) is None or failure.step != step or failure.retry_at <= now
        ]

    def failed(self, step: Step) -> bool:
        """True when this very step failed when it was last tried."""
        failure = self._failures.get(_key(step))
        return failure is not None and failure.step == step

    def next_retry(self, *, now: float) -> float | None:
        """Seconds until the first of them is to be tried again."""
        return min((max(0.01, failure.retry_at - now) for failure in self._failures.values()), default=None)

    def sentences(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(failure.sentence for failure in self._failures.values()))

    def by_step(self) -> tuple[tuple[Step, str], ...]:
        return tuple((failure.step, failure.sentence) for failure in self._failures.values())


def failed_objects(
    *, desired: Desired, failures: Sequence[tuple[Step, str]], refused_locations: Mapping[UUID, str]
) -> tuple[tuple[Ref, str], ...]:
    """Pushed objects that failed steps, or refused locations, keep from being realized, each with the first reason."""
    found: dict[tuple[Kind, UUID], str] = {
        (Kind.LOCATION, port_uuid): sentence for port_uuid, sentence in refused_locations.items()
    }
    switch_of_bridge = {switch_bridge(uuid): uuid for uuid in desired.switches}
    for step, sentence in failures:
        network_uuid = getattr(step, "uuid", None)
        bridge = getattr(step, "bridge", None) or getattr(step, "name", None)
        if network_uuid is not None:
            if network_uuid in desired.networks:
                found.setdefault((Kind.NETWORK, network_uuid), sentence)
        elif bridge in switch_of_bridge:
            found.setdefault((Kind.SWITCH, switch_of_bridge[bridge]), sentence)
        else:  # an uplink or an address: every switch stands on it
            for switch_uuid in desired.switches:
                found.setdefault((Kind.SWITCH, switch_uuid), sentence)
    return tuple((Ref(kind=kind, uuid=uuid), sentence) for (kind, uuid), sentence in sorted(found.items()))


def _key(step: Step) -> tuple[str, ...]:
    names = ("bridge", "name", "link", "address", "uuid")
    return (type(step).__name__, *(str(getattr(step, name, "")) for name in names))
