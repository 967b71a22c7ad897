"""What each verb makes of the model of sessions, in the steps that are atomic.

Where two verbs run at once, any interleaving of their steps is allowed, and nothing else. What a verb cannot know
before (an id that is minted, an incarnation) is taken from what it answered in truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tests.sessions.model import Created, Done, Model, Op, Outcome, Row

Step = Callable[[Model], None]
Notes = dict[str, Any]


def steps_of(op: Op, outcome: Outcome) -> list[Step]:
    """The atomic steps of a verb that answered `outcome`; one of them raises Done with what it should have been."""
    return VERBS[op.verb](op, outcome, {})


def _created(outcome: Outcome) -> Created:
    """What a verb says that it has created; no session is what it is otherwise."""
    if isinstance(outcome, tuple) and isinstance(outcome[0], Created):
        outcome = outcome[0]
    return outcome if isinstance(outcome, Created) else Created()


# birth


def _entering(op: Op, outcome: Outcome, notes: Notes) -> list[Step]:
    created = (_created(outcome), True) if op.verb == "ensure" else _created(outcome)

    def attempt(model: Model) -> None:
        if model.is_free(op.id):
            model.enter(op, op.id, _created(outcome))
            raise Done(created)

    def look(model: Model) -> None:
        attempt(model)
        row = model.seen(op, op.id)
        if row is None or row.owner != op.new_owner:
            raise Done(("SessionExistsError", None))
        match op.verb:
            case "create":
                raise Done(("SessionExistsError", row.incarnation))
            case "ensure":
                raise Done((Created(row.incarnation, row.version), False))
        model.end(op.id)

    # What is replaced is ended first, and then somebody else may come.
    return [attempt, look, attempt, look, attempt] if op.verb == "register" else [attempt, look]


def _create_many(op: Op, outcome: Outcome, notes: Notes) -> list[Step]:
    def create(model: Model) -> None:
        if len(set(op.ids)) < len(op.ids) or not all(map(model.is_free, op.ids)):
            raise Done(("SessionExistsError", None))
        created = outcome if isinstance(outcome, list) else [Created()] * len(op.ids)
        for id_, one in zip(op.ids, created, strict=True):
            model.enter(op, id_, one)
        raise Done(created)

    return [create]


# verbs of one step


def _simple(answer: Callable[[Model, Op], Outcome]) -> Callable[[Op, Outcome, Notes], list[Step]]:
    def steps(op: Op, outcome: Outcome, notes: Notes) -> list[Step]:
        def step(model: Model) -> None:
            raise Done(answer(model, op))

        return [step]

    return steps


def _get(model: Model, op: Op) -> Outcome:
    row = model.seen(op, op.id)
    return None if row is None else replace(row).view


def _set_ttl(model: Model, op: Op) -> Outcome:
    if row := model.seen(op, op.id):
        row.ttl = op.ttl
    return row is not None


def _changed(change: Callable[[dict[str, Any], int], dict[str, Any]]) -> Callable[[Model, Op], Outcome]:
    def answer(model: Model, op: Op) -> Outcome:
        row = model.seen(op, op.id)
        if row is None:
            return "SessionNotFoundError"
        made = change(row.state, op.n)
        if made != row.state:
            row.state, row.version = made, row.version + 1
        return made

    return answer


def _failing(model: Model, op: Op) -> Outcome:
    return "UpdateFailedError" if model.seen(op, op.id) else "SessionNotFoundError"


def _ending(leaving: str | None, *, whole: bool = False) -> Callable[[Model, Op], Outcome]:
    def answer(model: Model, op: Op) -> Outcome:
        ended = [id_ for id_ in dict.fromkeys(op.ids if whole else op.ids[:1]) if model.seen(op, id_)]
        for id_ in ended:
            model.end(id_, leaving)
        return sorted(ended) if whole else bool(ended)

    return answer


def _expire(model: Model, op: Op) -> Outcome:
    if op.id in model.live:
        model.end(op.id, "expired")
    return None


def _reap(model: Model, op: Op) -> Outcome:
    model.dead = {id_: what for id_, what in model.dead.items() if what == "terminated"}
    return None


def _release(model: Model, op: Op) -> Outcome:
    row = model.live.get(op.id)
    if row is None or not row.claim or row.claim != op.claim:
        return False
    row.claim = ""
    return True


def _stats(model: Model, op: Op) -> Outcome:
    rows = model.live.values()
    tombstones = [what for what in model.dead.values() if what == "terminated"]
    return (
        len(rows),
        len([row for row in rows if row.initialized]),
        len(tombstones),
        len({row.owner for row in rows if row.owner}),
    )


# verbs of several


def _retrieve(op: Op, outcome: Outcome, notes: Notes) -> list[Step]:
    def touch(model: Model) -> None:
        if model.seen(op, op.id) is None:
            raise Done(None)

    def look(model: Model) -> None:
        raise Done(_get(model, op))

    return [touch, look]


def _compare_and_set(op: Op, outcome: Outcome, notes: Notes) -> list[Step]:
    def save(model: Model) -> None:
        row = model.seen(op, op.id)
        if row is not None and row.version == op.version:
            row.state, row.version = {"set": op.n}, row.version + 1
            raise Done(row.version)

    def look(model: Model) -> None:
        raise Done("StateConflictError" if model.seen(op, op.id) else "SessionNotFoundError")

    return [save, look]


def _clear_all(op: Op, outcome: Outcome, notes: Notes) -> list[Step]:
    def read(model: Model) -> None:
        notes["page"] = [id_ for id_ in model.owned(op) if id_ > notes.get("after", "")]
        notes["after"] = max([notes.get("after", ""), *notes["page"]])

    def end(model: Model) -> None:
        ended = [id_ for id_ in notes["page"] if model.seen(op, id_)]
        for id_ in ended:
            model.end(id_)
        notes["count"] = notes.get("count", 0) + len(ended)

    def answer(model: Model) -> None:
        raise Done(notes["count"])

    return [read, end, read, end, answer]


def _rotate(op: Op, outcome: Outcome, notes: Notes) -> list[Step]:
    new_id, incarnation = outcome if isinstance(outcome, tuple) else ("?", 0)

    def rotate(model: Model) -> None:
        row = model.seen(op, op.id)
        if row is None:
            raise Done("SessionNotFoundError")
        model.live[new_id] = replace(model.live.pop(op.id), incarnation=incarnation)
        model.dead[op.id] = "terminated"

    def look(model: Model) -> None:
        raise Done((new_id, incarnation) if new_id in model.live else "SessionNotFoundError")

    return [rotate, look]


def _initializing(
    may: Callable[[Row, Op], bool], does: Callable[[Row, Outcome], object]
) -> Callable[[Op, Outcome, Notes], list[Step]]:
    def steps(op: Op, outcome: Outcome, notes: Notes) -> list[Step]:
        def attempt(model: Model) -> None:
            row = model.seen(op, op.id)
            if row is not None and not row.failed and may(row, op):
                does(row, outcome)
                raise Done(outcome if op.verb == "claim" and isinstance(outcome, str) else None)

        def look(model: Model) -> None:
            raise Done("SessionNotFoundError" if model.seen(op, op.id) is None else "IllegalTransitionError")

        return [attempt, look]

    return steps


def _claimed(row: Row, outcome: Outcome) -> None:
    row.claim = str(outcome)


def _completed(row: Row, outcome: Outcome) -> None:
    row.claim, row.client = "", True


def _marked(row: Row, outcome: Outcome) -> None:
    row.initialized = True


def _failed(row: Row, outcome: Outcome) -> None:
    row.failed = True


VERBS: Mapping[str, Callable[[Op, Outcome, Notes], list[Step]]] = {
    "create": _entering,
    "ensure": _entering,
    "register": _entering,
    "create_many": _create_many,
    "get": _simple(_get),
    "get_many": _simple(lambda model, op: sorted(id_ for id_ in set(op.ids) if model.seen(op, id_))),
    "retrieve": _retrieve,
    "touch": _simple(lambda model, op: model.seen(op, op.id) is not None),
    "touch_many": _simple(lambda model, op: sorted(id_ for id_ in set(op.ids) if model.seen(op, id_))),
    "set_ttl": _simple(_set_ttl),
    "merge": _simple(_changed(lambda state, n: {**state, f"k{n % 2}": n})),
    "update": _simple(_changed(lambda state, n: {**state, "n": state.get("n", 0) + 1})),
    "update to nothing new": _simple(_changed(lambda state, n: state)),
    "update that fails": _simple(_failing),
    "compare_and_set": _compare_and_set,
    "rotate": _rotate,
    "delete": _simple(_ending(None)),
    "delete_many": _simple(_ending(None, whole=True)),
    "terminate": _simple(_ending("terminated")),
    "clear_all": _clear_all,
    "list": _simple(lambda model, op: model.owned(op)),
    "count": _simple(lambda model, op: len(model.owned(op))),
    "stats": _simple(_stats),
    "claim": _initializing(lambda row, op: row.phase == "pre_init", _claimed),
    "complete": _initializing(lambda row, op: bool(row.claim) and row.claim == op.claim, _completed),
    "release": _simple(_release),
    "mark_initialized": _initializing(lambda row, op: row.client, _marked),
    "fail": _initializing(lambda row, op: True, _failed),
    "expire": _simple(_expire),
    "reap": _simple(_reap),
}
