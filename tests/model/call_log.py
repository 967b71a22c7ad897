"""The log's statements on one stream's row, as in `mcpsession/postgres/`, and what is promised of it."""

from __future__ import annotations

from tests.model.call_states import FINALS, Batch, Call, CallRules, Reader, Row

ONE_FINAL = "one final, ever, and nothing after it"
ONE_EACH = "one event a number"
EARNED = "an error only for a reason: a death, or messages that cannot be stored"


def accepts(row: Row | None, batch: Batch, rules: CallRules) -> bool:
    """Whether WRITE takes this part: no row where it opens one, else its own unfinished row that has not moved on."""
    if batch.opens:
        return row is None
    at_base = row is not None and (row.last_seq == batch.base or not rules.base_checked)
    return row is not None and row.producer == batch.producer and not row.finished and at_base


def written(row: Row | None, batch: Batch) -> Row:
    """The row after an accepted part."""
    if row is None:
        row = Row(batch.producer, 0, False, False, "", ())
    last_seq = row.last_seq + len(batch.events)
    # The numbers are the writer's own, which the base check has found to be the row's.
    return _ended(row, batch.events, batch.base, finished=batch.finished)._replace(last_seq=last_seq)


def landed(row: Row | None, batch: Batch) -> bool:
    """What LANDED answers."""
    last_seq = batch.base + len(batch.events)
    return row is not None and row.producer == batch.producer and row.last_seq >= last_seq


def is_orphan(call: Call) -> bool:
    """Unfinished, and its producer's death is recorded."""
    row = call.row
    return row is not None and not row.finished and row.producer == "A" and call.dead


def taken_over(row: Row, asked: int, rules: CallRules) -> Row:
    """The row after TAKE_OVER."""
    base = max(row.last_seq, asked) if rules.asked_skipped else row.last_seq
    return _ended(row, ("X",), base, finished=True)._replace(taken=True, producer="B")


def page(row: Row, reader: Reader, rules: CallRules) -> tuple[tuple[tuple[int, str], ...], bool]:
    """What `sdk/resume.py` makes of one read: the frames, and whether they are the last."""
    seq, frames = reader.seq, list[tuple[int, str]]()
    for number, content in row.events:
        if number <= reader.seq:
            continue
        if number != seq + 1 and not (row.taken and number > row.last_seq - 1):
            return (*frames, (seq + 1, "G")), True
        frames.append((number, content))
        seq = number
    if row.finished and not frames and seq >= row.last_seq:
        if not row.taken:
            return ((seq + 1, "G"),), True
        return (((seq + 1, "X"),), True) if rules.end_repeated else ((), False)
    return tuple(frames), row.finished and seq >= row.last_seq


def broken(call: Call, *, poison: bool) -> str:
    """The promise of the log that a state breaks."""
    row = call.row
    if row is None:
        return ""
    numbers = [number for number, _ in row.events]
    contents = [content for _, content in row.events]
    if len(set(numbers)) < len(numbers) or len(set(contents)) < len(contents):
        return ONE_EACH
    if sum(content in FINALS for content in contents) > 1 or any(content in FINALS for content in contents[:-1]):
        return ONE_FINAL
    if row.finished != (bool(contents) and contents[-1] in FINALS):
        return ONE_FINAL
    if ("X" in contents and not call.dead) or ("E" in contents and not poison):
        return EARNED
    return ""


def _ended(row: Row, contents: tuple[str, ...], base: int, *, finished: bool) -> Row:
    events = row.events + tuple((base + place, content) for place, content in enumerate(contents, 1))
    last_seq = base + len(contents) if contents else row.last_seq
    return row._replace(last_seq=last_seq, finished=row.finished or finished, events=events)
