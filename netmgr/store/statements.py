"""What a commit writes: the statements, which SQLAlchemy words once for a database, and whose values the driver gets.

SQLAlchemy looks at a statement anew each time it executes one; of a commit that writes one network that was two thirds
of the processor's time. So it is asked for each statement's text, the order of its values and what a column makes of
them, and after that the driver's cursor (PEP 249) is all that a commit needs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Dialect, bindparam, delete, func, insert, select
from sqlalchemy.sql.compiler import SQLCompiler

from netmgr.model import Change
from netmgr.store.engine import NOTIFY_CHANNEL
from netmgr.store.rows import ROW_TYPES, plain
from netmgr.store.schema import TABLES, change

__all__ = ["Statements", "Writer"]


class Statements:
    """The statements for the databases of one dialect, each worded at its first use."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._worded: dict[tuple[str, str], _Statement] = {}

    def insert(self, kind: str) -> _Statement:
        return self._statement("insert", kind, lambda: insert(TABLES[kind]))

    def delete(self, kind: str) -> _Statement:
        def words() -> Any:
            table = TABLES[kind]
            return delete(table).where(next(iter(table.primary_key.columns)) == bindparam("removed"))

        return self._statement("delete", kind, words)

    def log(self) -> _Statement:
        return self._statement("insert", change.name, lambda: insert(change))

    def notify(self) -> _Statement | None:
        """Tells other processes of a revision; None where the database can't."""
        if self._dialect.name != "postgresql":
            return None
        return self._statement("notify", "", lambda: select(func.pg_notify(NOTIFY_CHANNEL, bindparam("revision"))))

    def _statement(self, verb: str, of: str, words: Callable[[], Any]) -> _Statement:
        found = self._worded.get((verb, of))
        if found is None:
            found = self._worded[verb, of] = _Statement(words().compile(dialect=self._dialect), self._dialect)
        return found


class _Statement:
    """Text and values as the driver takes them."""

    def __init__(self, compiled: SQLCompiler, dialect: Dialect) -> None:
        self.text = str(compiled)
        self._given = {key: bind.value for key, bind in compiled.binds.items() if not bind.required}
        self._by_name = compiled.positiontup is None
        types = {key: bind.type.dialect_impl(dialect) for key, bind in compiled.binds.items()}
        converts = {key: one.bind_processor(dialect) for key, one in types.items()}
        self._values = tuple((name, converts[name]) for name in compiled.positiontup or compiled.binds)

    def values(self, row: Mapping[str, Any]) -> Any:
        """*row*, by column name, in the driver's form."""
        row = {**self._given, **row} if self._given else row
        found = [(name, row[name] if convert is None else convert(row[name])) for name, convert in self._values]
        return dict(found) if self._by_name else tuple(value for _name, value in found)


class Writer:
    """The hand that writes in one transaction; *cursor* is the driver's."""

    def __init__(self, cursor: Any, statements: Statements) -> None:
        self._cursor = cursor
        self._statements = statements

    def write(self, changes: Sequence[Change], *, known: Collection[tuple[str, UUID]]) -> None:
        """Write *changes*, all of one revision, to the tables and the log; *known* are the keys that had rows before.

        A row that changed is deleted and inserted again, not updated: two rows of one transaction may exchange a unique
        value, which no order of updates survives. Foreign keys are checked at commit, so a row may be away until then.
        """
        plains = [None if item.row is None else plain(item.row) for item in changes]
        for kind in ROW_TYPES if len(changes) > 1 else {str(item.kind) for item in changes}:
            mine = [(item, values) for item, values in zip(changes, plains, strict=True) if item.kind == kind]
            removed = [{"removed": str(item.uuid)} for item, _values in mine if (kind, item.uuid) in known]
            self._execute(self._statements.delete(kind), removed)
            put = [{**values, "version_revision": item.revision} for item, values in mine if values is not None]
            self._execute(self._statements.insert(kind), put)
        log = [
            {"revision": item.revision, "seq": seq, "kind": str(item.kind), "uuid": str(item.uuid), "row": values}
            for seq, (item, values) in enumerate(zip(changes, plains, strict=True))
        ]
        self._execute(self._statements.log(), log)
        notify = self._statements.notify()
        if notify is not None:
            self._execute(notify, [{"revision": str(changes[0].revision)}])

    def _execute(self, statement: _Statement, rows: Sequence[Mapping[str, Any]]) -> None:
        if len(rows) == 1:
            self._cursor.execute(statement.text, statement.values(rows[0]))
        elif rows:
            self._cursor.executemany(statement.text, [statement.values(row) for row in rows])
