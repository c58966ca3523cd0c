"""What vmctl keeps of its traditional switches: their definitions, what was realized where, and what was put back.

A definition is one JSON text. That a generation was once realized on a host tells a local change from one of vmctl's
own that has not arrived yet, also after a restart. `manager` is this store's identity in the mark of the networks it
makes; a second vmctl on the same hosts has another and leaves them alone. Calls block for a disk write.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from vmctl.model import VmctlError
from vmctl.store import Store
from vmctl.switches.model import Datapath, Drift, PortGroup, Rate, Switch, SwitchHost, Uplink
from vmctl.tables import switch_drifts, switch_manager, switch_realized, switches

__all__ = ["SwitchStore"]

DRIFTS_KEPT = 200  # of each switch


class SwitchStore:
    """Rows in, frozen values out."""

    def __init__(self, store: Store) -> None:
        self._begin = store.begin

    def manager(self) -> UUID:
        """Identity of this store, made at the first call."""
        with self._begin() as connection:
            found = connection.execute(sa.select(switch_manager.c.uuid)).scalar()
            if found is None:
                found = str(uuid4())
                connection.execute(switch_manager.insert().values(uuid=found))
        return UUID(found)

    def switches(self) -> tuple[Switch, ...]:
        """All switches, by name."""
        with self._begin() as connection:
            rows = connection.execute(sa.select(switches).order_by(switches.c.name)).mappings()
            return tuple(_read(row) for row in rows)

    def put(self, switch: Switch) -> None:
        """Adds the switch, or replaces the one of its UUID; refused when another has its name."""
        definition = asdict(switch)
        for key in ("uuid", "name", "generation"):
            definition.pop(key)
        values = {
            "uuid": str(switch.uuid),
            "name": switch.name,
            "generation": switch.generation,
            "definition": json.dumps(definition),
        }
        try:
            with self._begin() as connection:
                connection.execute(switches.delete().where(switches.c.uuid == values["uuid"]))
                connection.execute(switches.insert().values(**values))
        except IntegrityError:
            raise VmctlError(f"there is a switch {switch.name} already; choose another name", status=409) from None

    def remove(self, uuid: UUID) -> None:
        """Forgets the switch with its history; one that is not there is no error."""
        with self._begin() as connection:
            connection.execute(switches.delete().where(switches.c.uuid == str(uuid)))
            connection.execute(switch_realized.delete().where(switch_realized.c.switch == str(uuid)))
            connection.execute(switch_drifts.delete().where(switch_drifts.c.switch == str(uuid)))

    def realized(self) -> dict[tuple[UUID, str], int]:
        """By switch and host, the generation that was last realized there."""
        with self._begin() as connection:
            rows = connection.execute(sa.select(switch_realized)).mappings()
            return {(UUID(row["switch"]), row["host"]): int(row["generation"]) for row in rows}

    def set_realized(self, host: str, generations: Mapping[UUID, int]) -> None:
        """Notes the generations that the host shows."""
        with self._begin() as connection:
            for uuid, generation in generations.items():
                where = (switch_realized.c.switch == str(uuid), switch_realized.c.host == host)
                connection.execute(switch_realized.delete().where(*where))
                connection.execute(switch_realized.insert().values(switch=str(uuid), host=host, generation=generation))

    def add_drifts(self, drifts: Iterable[Drift]) -> None:
        """Notes local changes; the oldest beyond `DRIFTS_KEPT` of a switch go."""
        with self._begin() as connection:
            for drift in drifts:
                switch = str(drift.switch)
                values = {"at": drift.at, "host": drift.host, "switch": switch, "sentence": drift.sentence}
                connection.execute(switch_drifts.insert().values(**values))
                of_switch = switch_drifts.c.switch == switch
                kept = (
                    sa.select(switch_drifts.c.id)
                    .where(of_switch)
                    .order_by(switch_drifts.c.id.desc())
                    .limit(DRIFTS_KEPT)
                )
                connection.execute(switch_drifts.delete().where(of_switch, switch_drifts.c.id.not_in(kept)))

    def drifts(self, uuid: UUID) -> tuple[Drift, ...]:
        """The switch's local changes, newest first."""
        query = sa.select(switch_drifts).where(switch_drifts.c.switch == str(uuid)).order_by(switch_drifts.c.id.desc())
        with self._begin() as connection:
            rows = connection.execute(query).mappings()
            return tuple(Drift(at=row["at"], host=row["host"], switch=uuid, sentence=row["sentence"]) for row in rows)


def _read(row: Any) -> Switch:
    definition = json.loads(row["definition"])
    return Switch(
        uuid=UUID(row["uuid"]),
        name=row["name"],
        generation=row["generation"],
        uplink=Uplink(definition["uplink"]),
        datapath=Datapath(definition["datapath"]),
        hosts=tuple(SwitchHost(**host) for host in definition["hosts"]),
        groups=tuple(
            PortGroup(**{**group, **{way: Rate(**group[way]) for way in ("inbound", "outbound") if group[way]}})
            for group in definition["groups"]
        ),
    )
