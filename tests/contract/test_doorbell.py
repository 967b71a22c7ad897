"""Doorbell: who is meant is woken, at once."""

from __future__ import annotations

import math
import time

import anyio
import anyio.to_thread
import pytest

from mcpsession.contracts import Backend
from mcpsession.model import Bell
from tests.contract.given import until


class Ear:
    """Remembers the words that it heard, and lets a test wait for one."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.gaps = 0
        self._heard = anyio.Event()

    def heard(self, word: str) -> None:
        self.words.append(word)
        self._heard.set()

    def reconnected(self) -> None:
        self.gaps += 1

    async def hear(self, word: str) -> list[str]:
        """Wait for a word; returns all that was heard."""
        with anyio.fail_after(5):
            while word not in self.words:
                self._heard = anyio.Event()
                await self._heard.wait()
        return self.words


async def test_a_bell_is_heard_by_the_one_it_is_for(backend: Backend) -> None:
    a, b = Ear(), Ear()
    async with (
        backend.doorbell.listening("a", heard=a.heard, reconnected=a.reconnected),
        backend.doorbell.listening("b", heard=b.heard, reconnected=b.reconnected),
    ):
        backend.doorbell.ring(Bell("a", "for a"))
        backend.doorbell.ring(Bell("b", "for b"))
        backend.doorbell.ring(Bell("c", "for nobody"))
        backend.doorbell.ring(Bell(None, "last"))

        assert ["for a", "last"] == await a.hear("last")
        assert ["for b", "last"] == await b.hear("last")
    assert [0, 0] == [a.gaps, b.gaps]


async def test_a_bell_to_all_is_heard_by_all_the_ringer_included(backend: Backend) -> None:
    a, b = Ear(), Ear()
    async with (
        backend.doorbell.listening("a", heard=a.heard, reconnected=a.reconnected),
        backend.doorbell.listening("b", heard=b.heard, reconnected=b.reconnected),
    ):
        backend.doorbell.ring(Bell(None, "n"))

        assert ["n"] == await a.hear("n")
        assert ["n"] == await b.hear("n")


async def test_one_who_listens_has_heard_all_that_was_rung_since(backend: Backend) -> None:
    """The ear is proven before it is entered."""
    ear = Ear()
    async with backend.doorbell.listening("a", heard=ear.heard, reconnected=ear.reconnected):
        for number in range(100):
            backend.doorbell.ring(Bell("a", f"s session stream-{number}"))

        assert [f"s session stream-{number}" for number in range(100)] == await ear.hear("s session stream-99")


async def test_nothing_is_heard_inside_the_ring(backend: Backend) -> None:
    """Who rings may hold locks, and may be in the middle of something."""
    ear = Ear()
    async with backend.doorbell.listening("a", heard=ear.heard, reconnected=ear.reconnected):
        backend.doorbell.ring(Bell("a", "m"))
        assert [] == ear.words

        assert ["m"] == await ear.hear("m")


async def test_who_has_left_hears_nothing(backend: Backend) -> None:
    gone, ear = Ear(), Ear()
    async with backend.doorbell.listening("a", heard=gone.heard, reconnected=gone.reconnected):
        backend.doorbell.ring(Bell("a", "early"))
        await gone.hear("early")
        backend.doorbell.ring(Bell("a", "too late"))
    async with backend.doorbell.listening("a", heard=ear.heard, reconnected=ear.reconnected):
        backend.doorbell.ring(Bell("a", "late"))
        await ear.hear("late")

    assert ["early"] == gone.words


async def test_ringing_never_raises(backend: Backend) -> None:
    """Neither for nobody, nor with a word that is too long for any bell."""
    backend.doorbell.ring(Bell(None, "n"))
    backend.doorbell.ring(Bell("nobody", "m"))
    backend.doorbell.ring(Bell("nobody", "x" * 100_000))


async def test_a_hearer_that_fails_does_not_make_deaf(backend: Backend) -> None:
    ear = Ear()

    def heard(word: str) -> None:
        if word == "bad":
            raise ValueError(word)
        ear.heard(word)

    async with backend.doorbell.listening("a", heard=heard, reconnected=ear.reconnected):
        backend.doorbell.ring(Bell("a", "bad"))
        backend.doorbell.ring(Bell("a", "good"))

        assert ["good"] == await ear.hear("good")


async def test_an_echo_proves_that_one_listens(backend: Backend) -> None:
    assert -math.inf == backend.doorbell.last_heard()
    before, ear = time.monotonic(), Ear()

    async with backend.doorbell.listening("a", heard=ear.heard, reconnected=ear.reconnected):
        first = backend.doorbell.last_heard()
        assert before <= first <= time.monotonic()

        async def is_renewed() -> bool:
            return backend.doorbell.last_heard() > first

        await until(is_renewed)

    assert -math.inf == backend.doorbell.last_heard()
    assert [] == ear.words


async def test_namespaces_never_hear_each_others_bells(backend: Backend, neighbour: Backend) -> None:
    ours, theirs = Ear(), Ear()
    async with (
        backend.doorbell.listening("a", heard=ours.heard, reconnected=ours.reconnected),
        neighbour.doorbell.listening("a", heard=theirs.heard, reconnected=theirs.reconnected),
    ):
        backend.doorbell.ring(Bell("a", "ours"))
        backend.doorbell.ring(Bell(None, "ours to all"))
        await ours.hear("ours to all")
        neighbour.doorbell.ring(Bell("a", "theirs"))

        assert ["theirs"] == await theirs.hear("theirs")
        assert ["ours", "ours to all"] == ours.words


async def test_the_memory_bell_rings_from_any_thread(memory_backend: Backend) -> None:
    """One layer's thread may be another layer's neighbour in the same process."""
    ear = Ear()
    async with memory_backend.doorbell.listening("a", heard=ear.heard, reconnected=ear.reconnected):
        await anyio.to_thread.run_sync(memory_backend.doorbell.ring, Bell("a", "m"))

        assert ["m"] == await ear.hear("m")


async def test_the_first_proof_is_told_before_one_listens(backend: Backend) -> None:
    """And nothing when one leaves on purpose."""
    ear, states = Ear(), list[str]()
    async with backend.doorbell.listening("a", heard=ear.heard, reconnected=ear.reconnected, state=states.append):
        assert ["connected"] == states
        backend.doorbell.ring(Bell("a", "m"))
        await ear.hear("m")

    assert ["connected"] == states
    assert 0 == ear.gaps


async def test_who_fails_to_be_told_of_the_state_listens_all_the_same(backend: Backend) -> None:
    ear = Ear()

    def state(_: str) -> None:
        raise ValueError("no")

    async with backend.doorbell.listening("a", heard=ear.heard, reconnected=ear.reconnected, state=state):
        backend.doorbell.ring(Bell("a", "m"))

        assert ["m"] == await ear.hear("m")


@pytest.mark.parametrize("word", ["", "\x01", "junk", "s a", " ", "ünïcödé", "x" * 7999, "x" * 8000, "\ud800", "nul\0"])
async def test_no_word_deafens(backend: Backend, word: str) -> None:
    """One that no bell can carry is not heard; whoever hears another must make of it what it can."""
    ear = Ear()
    async with backend.doorbell.listening("a", heard=ear.heard, reconnected=ear.reconnected):
        backend.doorbell.ring(Bell("a", word))
        backend.doorbell.ring(Bell("a", "m"))

        assert "m" in await ear.hear("m")
    assert 0 == ear.gaps
