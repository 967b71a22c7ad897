"""A call's stream goes on where its client was cut, on any replica: every event once, in order, and the answer."""

from __future__ import annotations

import pytest

from tests.cluster.client import Client, Stream, text_of
from tests.cluster.conftest import Connect, Files

STEPS = 6


async def cut_after(client: Client, files: Files, step: int, *, replica: int) -> Stream:
    """Begin to talk on a replica, and lose the connection when that step was heard."""
    files.touch(*(f"gate.{number}" for number in range(1, step + 1)))
    arguments = {"steps": STEPS, "gate": files("gate")}
    async with client.calling("talk", arguments, id=7, replica=replica) as stream:
        await stream.until(lambda: stream.steps == list(range(1, step + 1)))
    return stream


def go_on(files: Files, *steps: int | str) -> None:
    files.touch(*(f"gate.{step}" for step in steps))


def assert_whole(*parts: Stream, steps: int = STEPS) -> None:
    """What arrived in parts is the whole stream: nothing twice, nothing missing, one answer, at the end."""
    messages = [message for part in parts for message in part.messages]
    assert [step for part in parts for step in part.steps] == list(range(1, steps + 1))
    assert [message.get("id") for message in messages] == [None] * steps + [7]
    ids = [frame.id for part in parts for frame in part.frames if frame.message]
    assert len(set(ids)) == len(ids) == steps + 1
    assert text_of(messages[-1]).startswith(f"talked {steps} on ")


@pytest.mark.parametrize("elsewhere", [0, 1, 2])
async def test_a_call_that_runs_on_replica_0_is_resumed_anywhere(client: Client, files: Files, elsewhere: int) -> None:
    before = await cut_after(client, files, 2, replica=0)

    async with client.listening(before.last_id, replica=elsewhere) as after:
        await after.open()
        go_on(files, 3)
        await after.until(lambda: after.steps == [3])
        go_on(files, 4, 5, 6, "end")
        await after.end()

    assert_whole(before, after)


async def test_what_was_sent_while_nobody_listened_arrives_at_the_resume(client: Client, files: Files) -> None:
    before = await cut_after(client, files, 1, replica=0)
    go_on(files, 2, 3, 4, 5)
    async with client.listening(before.last_id, replica=2) as after:
        await after.until(lambda: after.steps == [2, 3, 4, 5])
        go_on(files, 6, "end")
        await after.end()

    assert_whole(before, after)


async def test_a_finished_call_is_resumed_from_its_first_event_and_from_its_last(client: Client, files: Files) -> None:
    go_on(files, 1, 2, 3, 4, 5, 6, "end")
    arguments = {"steps": STEPS, "gate": files("gate")}
    async with client.calling("talk", arguments, id=7, replica=0) as whole:
        await whole.end()
    assert_whole(whole)

    async with client.listening(whole.ids[0], replica=1) as again:
        await again.end()
    assert again.messages == whole.messages

    async with client.listening(whole.ids[-2], replica=2) as last:
        await last.end()
    assert last.messages == whole.messages[-1:]


async def test_two_resumes_in_a_row_on_two_replicas_lose_nothing(client: Client, files: Files) -> None:
    first = await cut_after(client, files, 1, replica=0)
    async with client.listening(first.last_id, replica=1) as second:
        go_on(files, 2, 3)
        await second.until(lambda: second.steps == [2, 3])
    async with client.listening(second.last_id, replica=2) as third:
        go_on(files, 4)
        await third.until(lambda: third.steps == [4])
    async with client.listening(third.last_id, replica=0) as fourth:
        go_on(files, 5, 6, "end")
        await fourth.end()

    assert_whole(first, second, third, fourth)


async def test_a_resume_takes_the_stream_from_a_socket_that_was_never_cut(client: Client, files: Files) -> None:
    """A half-open connection: the client is gone, the replica has not heard of it."""
    go_on(files, 1)
    arguments = {"steps": STEPS, "gate": files("gate")}
    async with client.calling("talk", arguments, id=7, replica=0) as old:
        await old.until(lambda: old.steps == [1])
        async with client.listening(old.last_id, replica=1) as new:
            await new.open()
            go_on(files, 2, 3)
            await new.until(lambda: new.steps == [2, 3])
            await old.end()
            go_on(files, 4, 5, 6, "end")
            await new.end()

    assert [2, 3, 4, 5, 6] == new.steps
    assert 1 == len(new.finals)
    # What was on its way may have reached the old one too; never an answer, and nothing out of order.
    assert old.finals == []
    assert old.steps == list(range(1, len(old.steps) + 1))


async def test_a_newer_resume_on_another_replica_takes_over_from_an_open_one(client: Client, files: Files) -> None:
    before = await cut_after(client, files, 1, replica=0)
    async with client.listening(before.last_id, replica=1) as older:
        await older.open()
        async with client.listening(before.last_id, replica=2) as newer:
            await newer.open()
            go_on(files, 2, 3, 4, 5, 6, "end")
            await newer.end()

    assert_whole(before, newer)


async def test_a_tool_that_closes_its_stream_is_heard_by_the_client_that_comes_back(
    client: Client, files: Files
) -> None:
    async with client.calling("close_stream", {"gate": files("gate")}, id=7, replica=0) as closed:
        await closed.end()
    assert closed.messages == []
    assert closed.frames[0].data == ""
    assert closed.frames[0].retry is not None

    async with client.listening(closed.last_id, replica=1) as after:
        await after.open()
        files.touch("gate")
        await after.end()
    assert ["closed and went on"] == [text_of(message) for message in after.messages]


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18"])
async def test_older_clients_get_no_priming_event_but_can_resume(connect: Connect, files: Files, version: str) -> None:
    client = await connect(version=version, replica=0)
    before = await cut_after(client, files, 2, replica=0)
    # A frame without a message is what these clients cannot read.
    assert all(frame.message for frame in before.frames if frame.id)

    go_on(files, 3, 4, 5, 6, "end")
    async with client.listening(before.last_id, replica=1) as after:
        await after.end()
    assert_whole(before, after)


async def test_the_priming_event_has_an_id_no_data_and_a_retry(client: Client) -> None:
    async with client.calling("whoami", replica=0) as stream:
        await stream.end()
    priming = stream.frames[0]
    assert (priming.data, priming.retry) == ("", 1000)
    assert priming.id is not None
    assert priming.id.endswith(".0")


async def at_most(stream: Stream, messages: int) -> None:
    await stream.until(lambda: len(stream.messages) >= messages or stream.ended)


async def test_two_hundred_steps_over_many_cuts_arrive_once_and_in_order(client: Client) -> None:
    async with client.calling("talk", {"steps": 200}, id=7, replica=0) as stream:
        await at_most(stream, 3)
    parts = [stream]
    while not parts[-1].finals:
        async with client.listening(parts[-1].last_id, replica=len(parts) % 3) as part:
            await at_most(part, 20)
        parts.append(part)
    assert_whole(*parts, steps=200)
