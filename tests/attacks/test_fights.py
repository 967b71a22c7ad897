"""Two clients that both want the one standalone stream of their session, and do not give up."""

from __future__ import annotations

import anyio

from tests.attacks.served import tell
from tests.attacks.sockets import Socket
from tests.sdk.gates import until
from tests.sdk.replicas import Client, Replica

MESSAGES = 40
CLIENTS = 4


async def test_clients_that_fight_for_a_stream_are_refused_at_times_and_lose_no_message(
    here: Replica, there: Replica, client: Client
) -> None:
    """All begin at once, and come back at once with the cursor that they have, as a client does that was cut. What one
    was sent, another may be sent as well: from its own cursor on."""
    sockets: list[Socket] = []
    refused = 0
    start, over = anyio.Event(), anyio.Event()

    async def fight(at: Replica) -> None:
        nonlocal refused
        cursor = ""
        await start.wait()
        while not over.is_set():
            socket = Socket(client, "GET", last_event_id=cursor)
            sockets.append(socket)
            await socket.run(at)
            cursor = next(
                (frame.id for frame in reversed(socket.frames if socket.status == 200 else []) if frame.id), cursor
            )
            if socket.status == 409:
                refused += 1
                await anyio.sleep(0.05)

    def numbers(socket: Socket) -> list[int]:
        return [message["params"]["number"] for message in socket.messages] if socket.status == 200 else []

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(CLIENTS):
                tasks.start_soon(fight, here if number % 2 else there)
            start.set()
            for number in range(MESSAGES):
                tell(here if number % 2 else there, client, number)
                await (here if number % 2 else there).parts.journal.flushed()
                await anyio.sleep(0.01)
            await until(lambda: any(MESSAGES - 1 in numbers(socket) for socket in sockets))
            over.set()
            for socket in sockets:
                socket.hang_up()
    heard = [number for socket in sockets for number in numbers(socket)]
    assert set(range(MESSAGES)) == set(heard)
    # In order at each.
    for socket in sockets:
        assert sorted(numbers(socket)) == numbers(socket)
    assert refused > 0
