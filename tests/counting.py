"""Counts the statements of a replica, as its driver sends them, with who waited for each."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple

import mcpsession.postgres
from mcpsession.postgres.address import OurConnection
from mcpsession.postgres.backend import PostgresBackend

BACKGROUND = "background"
BEAT, PING = "replicas.BEAT", "listener.NOTIFY (ping)"

# Tasks inherit it: what a request starts waits in its name.
_asker: ContextVar[str] = ContextVar("_asker", default=BACKGROUND)

# With its first value of a type that it does not know, the driver asks a new connection about types.
_OF_A_DIAL = ("typeinfo_tree", "'jit'")


class Statement(NamedTuple):
    """One statement that was answered."""

    name: str
    """That of its constant, or how it begins."""
    asker: str
    """Who waited for it: a request, or the background."""


class Statements:
    """All statements of the backends that it was given, over every connection: pool, journal, notifier, ear, heart."""

    def __init__(self) -> None:
        self.all: list[Statement] = []

    def watch(self, backend: PostgresBackend) -> None:
        """Count what this backend sends from now on; before it is running."""
        note = self._note

        class Watched(OurConnection):
            __slots__ = ()

            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                self.add_query_logger(note)

        for address in (backend._database.address, backend._direct):
            address.options["connection_class"] = Watched

    def clear(self) -> None:
        self.all.clear()

    def of(self, asker: str) -> Counter[str]:
        """What one asker waited for, by name."""
        return Counter(statement.name for statement in self.all if statement.asker == asker)

    @property
    def by_name(self) -> Counter[str]:
        return Counter(statement.name for statement in self.all)

    def _note(self, query: Any) -> None:
        # The driver calls it in the context of who waited.
        if any(mark in query.query for mark in _OF_A_DIAL):
            return
        name = _name(query.query)
        if name == "listener.NOTIFY" and all(word.startswith("\x01") for word in query.args[1]):
            name = PING
        self.all.append(Statement(name, _asker.get()))


@contextmanager
def asked_by(asker: str) -> Iterator[None]:
    """Whatever is waited for inside, or by what is begun inside, is waited for in this name."""
    token = _asker.set(asker)
    try:
        yield
    finally:
        _asker.reset(token)


def _name(query: str) -> str:
    return _names().get(query) or " ".join(query.split())[:40]


@cache
def _names() -> dict[str, str]:
    """The constants of SQL by their texts."""
    modules: Sequence[Any] = [
        importlib.import_module(f"mcpsession.postgres.{module.name}")
        for module in pkgutil.iter_modules(mcpsession.postgres.__path__)
    ]
    return {
        value: f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in reversed(modules)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str) and not name.startswith("_")
    }
