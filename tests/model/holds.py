"""The model of one session's standalone stream: who holds it, as `sdk/standalone.py` and `postgres/holds.py` have it.

Every GET goes to a replica of its own. Messages are numbered from 1. A client either sends its last id with each GET
and reads only its newest connection, or never sends an id and reads all that it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from tests.model.explorer import Step
from tests.model.hold_states import LIVE, Get, Held, HoldBounds, HoldRules, Row

T = TypeVar("T")

ONE_SOCKET = "no message goes to two sockets, unless the first one's replica died or fell silent"
NO_GAP = "no message is left out"
ONE_EACH = "one event a number"


class HoldModel:
    """One standalone stream, some GETs one after the other, and a replica that writes each message."""

    def __init__(self, rules: HoldRules | None = None, bounds: HoldBounds | None = None) -> None:
        self.rules = rules or HoldRules()
        self.bounds = bounds or HoldBounds()

    def start(self) -> Held:
        b = self.bounds
        return Held((Get(),) * b.gets, (-1,) * b.messages, b.kills, b.cuts, b.silences, written=(0,) * b.messages)

    def broken(self, state: Held) -> str:
        return ""

    def is_over(self, state: Held) -> bool:
        # Or the client would have to come once more than is looked at.
        waits = any(get.phase == "idle" or (get.heard and get.phase in LIVE) for get in state.gets)
        return state.known == self.bounds.messages or not waits

    def steps(self, state: Held) -> Iterator[Step[Held]]:
        yield from self._appends(state)
        opened = sum(get.phase != "idle" for get in state.gets)
        for number, get in enumerate(state.gets):
            if get.phase == "idle":
                if number == opened:
                    yield self._open(state, number)
                return
            yield from self._get(state, number, get)
            yield from self._faults(state, number, get)

    # Messages

    def _appends(self, state: Held) -> Iterator[Step[Held]]:
        for number, seen in enumerate(state.writers):
            if seen == -1 and self.rules.append_locked and self.rules.counted_on_row:
                yield self._append(state, number, state.row.last_seq)
            elif seen == -1:
                looked = state._replace(writers=_put(state.writers, number, state.row.last_seq))
                yield Step(f"writer {number} sees {state.row.last_seq} messages in its snapshot", looked)
            elif seen >= 0:
                yield self._append(state, number, seen)

    def _append(self, state: Held, number: int, last_seq: int) -> Step[Held]:
        after = state._replace(
            writers=_put(state.writers, number, -2),
            row=state.row._replace(last_seq=max(last_seq + 1, state.row.last_seq)),
        )
        broken = ONE_EACH if last_seq < state.row.last_seq else ""
        return Step(f"writer {number} appends message {last_seq + 1}", after, broken)

    # GETs

    def _open(self, state: Held, number: int) -> Step[Held]:
        gets = state.gets
        if self.bounds.cursors:
            gets = tuple(get._replace(heard=False) for get in gets)
        after = state._replace(gets=_put(gets, number, Get("take", place=state.known)))
        return Step(f"the client opens GET {number}", after)

    def _get(self, state: Held, number: int, get: Get) -> Iterator[Step[Held]]:
        name = f"GET {number}"
        if (get.told or not get.heard) and get.phase in ("settle", "stream", "write"):
            # A half-open connection is noticed late, if at all: nothing may depend on that.
            why = "was told to let go" if get.told else "notices that its client has gone"
            yield Step(f"{name} {why}", _with(state, number, get._replace(phase="leave")), fault=not get.told)
        if get.phase == "take" and not self.rules.take_locked:
            yield Step(f"{name} judges a snapshot", _with(state, number, get._replace(phase="judged", seen=state.row)))
        elif get.phase in ("take", "judged"):
            yield self._take(state, number, get)
        elif get.phase == "ring":
            phase = "stream" if get.settled else "settle"
            after = _with(state, number, get._replace(phase=phase))
            for place, rung in enumerate(state.gets):
                concerned = place == get.previous or self.rules.all_rung
                if concerned and rung.phase in ("ring", "settle", "stream", "write") and rung.epoch < get.epoch:
                    after = _with(after, place, rung._replace(told=True))
            yield Step(f"{name} rings {'all' if self.rules.all_rung else f'GET {get.previous}'}", after)
        elif get.phase == "settle":
            yield from self._settle(state, number, get)
        elif get.phase == "stream":
            if state.row.last_seq > get.place:
                page = get._replace(phase="write", page=state.row.last_seq)
                yield Step(f"{name} reads up to {page.page}", _with(state, number, page))
            if get.saved != get.place:
                yield self._save(state, number, get)
        elif get.phase == "write":
            yield self._write(state, number, get)
        elif get.phase == "leave" and not get.settled and self.rules.released_if_settled:
            # It outwaits the one before as well; then it can say how far the stream came.
            yield from self._settle(state, number, get)
        elif get.phase == "leave":
            yield self._release(state, number, get)

    def _take(self, state: Held, number: int, get: Get) -> Step[Held]:
        row = get.seen or state.row
        dead = row.holder >= 0 and state.gets[row.holder].phase == "buried"
        contested = row.released < row.epoch and not self._ends(row, row.epoch, dead)
        released = row.released if contested else row.epoch
        taken = row._replace(holder=number, previous=row.holder, epoch=row.epoch + 1, released=released)
        taken = taken._replace(last_seq=state.row.last_seq)
        phase = "stream" if row.holder < 0 else "ring"
        get = get._replace(epoch=taken.epoch, previous=row.holder, seen=None, phase=phase)
        if not contested or not self.rules.holder_waited_for:
            get = self._own(get, taken)
        how = "settled" if get.settled else "not settled"
        return Step(f"GET {number} takes the stream, {how}", _with(state, number, get)._replace(row=taken))

    def _own(self, get: Get, row: Row) -> Get:
        place = get.place if self.bounds.cursors else row.delivered
        return get._replace(settled=True, saved=row.delivered, place=place)

    def _settle(self, state: Held, number: int, get: Get) -> Iterator[Step[Held]]:
        name, row, leaves = f"GET {number}", state.row, get.phase == "leave"
        if row.epoch != get.epoch:
            over = Get("gone", heard=False) if leaves else get._replace(phase="leave")
            yield Step(f"{name} sees that it was taken over", _with(state, number, over))
            return
        dead = row.previous >= 0 and state.gets[row.previous].phase == "buried"
        dead = self._ends(row, get.epoch - 1, dead)
        settled = row._replace(released=max(row.released, get.epoch - 1))
        owned = self._own(get._replace(phase=get.phase if leaves else "stream"), row)
        if leaves:
            owned = owned._replace(place=row.delivered)
        after = _with(state, number, owned)._replace(row=settled)
        if row.released >= get.epoch - 1 or dead:
            yield Step(f"{name} is settled", after)
        elif not any(other.phase in LIVE and other.epoch < get.epoch for other in state.gets if other.epoch):
            # What lives has answered within the second; what is dead will not, even if nobody knows of it yet.
            yield Step(f"{name} has waited long enough", after)
        elif state.silences:
            older = [one._replace(given_up=one.epoch < get.epoch) for one in after.gets]
            forced = after._replace(silences=state.silences - 1, gets=tuple(older))
            for place, one in enumerate(older):
                if one.given_up:
                    forced = forced._replace(written=_without(forced.written, place))
            yield Step(f"{name} takes one that lives for gone", forced, fault=True)

    def _ends(self, row: Row, epoch: int, dead: bool) -> bool:
        """Whether a holder's death ends its hold, and all before it."""
        return dead and (row.released >= epoch - 1 or not self.rules.unsettled_no_end)

    def _save(self, state: Held, number: int, get: Get) -> Step[Held]:
        row = state.row
        if self.rules.saved_by_epoch and (row.epoch != get.epoch or row.released >= get.epoch):
            refused = _with(state, number, get._replace(phase="leave"))
            return Step(f"GET {number} may not save", refused, fault=True)
        saved = _with(state, number, get._replace(saved=get.place))
        # It comes with the keep-alive, so late that nothing may depend on it.
        saved = saved._replace(row=row._replace(delivered=get.place))
        return Step(f"GET {number} saves {get.place}", saved, fault=True)

    def _write(self, state: Held, number: int, get: Get) -> Step[Held]:
        messages = range(get.place + 1, get.page + 1)
        after = _with(state, number, get._replace(phase="stream", place=get.page, page=0))
        label = f"GET {number} writes {', '.join(map(str, messages))}"
        written, known = list(state.written), state.known
        for message in messages:
            if not get.given_up and not self.bounds.cursors:
                if written[message - 1] & ~(1 << number):
                    return Step(label, after, ONE_SOCKET)
                written[message - 1] |= 1 << number
            if get.heard:
                if message > known + 1:
                    return Step(label, after, NO_GAP)
                known = max(known, message)
        return Step(label, after._replace(written=tuple(written), known=known))

    def _release(self, state: Held, number: int, get: Get) -> Step[Held]:
        row, gone = state.row, _with(state, number, Get("gone", heard=False))
        guarded = row.released == get.epoch - 1 or not self.rules.released_if_settled
        if not guarded or row.epoch < get.epoch:
            return Step(f"GET {number} goes; its release is not wanted any more", gone)
        place = get.place if self.rules.position_released else row.delivered
        holder = -1 if row.epoch == get.epoch else row.holder
        epoch = max(get.epoch, row.epoch - 1)
        released = row._replace(released=epoch, delivered=place, holder=holder)
        return Step(f"GET {number} releases at {place}", gone._replace(row=released))

    # Faults

    def _faults(self, state: Held, number: int, get: Get) -> Iterator[Step[Held]]:
        last = number + 1 == self.bounds.gets
        if get.phase == "killed":
            yield Step(
                f"the death of GET {number}'s replica is recorded", _with(state, number, get._replace(phase="buried"))
            )
        elif get.phase not in ("gone", "buried") and not last:
            # The last one stays, or nobody would be left to hear the rest.
            if state.kills:
                written = _without(state.written, number)
                killed = _with(state, number, Get("killed", epoch=get.epoch, heard=False))
                killed = killed._replace(kills=state.kills - 1, written=written)
                yield Step(f"the replica of GET {number} is killed", killed, fault=True)
            if state.cuts and get.heard:
                cut = _with(state, number, get._replace(heard=False))._replace(cuts=state.cuts - 1)
                yield Step(f"GET {number}'s connection is cut", cut, fault=True)


def _with(state: Held, number: int, get: Get) -> Held:
    return state._replace(gets=_put(state.gets, number, get))


def _without(written: tuple[int, ...], number: int) -> tuple[int, ...]:
    return tuple(mask & ~(1 << number) for mask in written)


def _put(items: tuple[T, ...], number: int, item: T) -> tuple[T, ...]:
    return (*items[:number], item, *items[number + 1 :])
