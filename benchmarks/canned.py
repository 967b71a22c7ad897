"""A server that does nothing but answer: `python -m benchmarks.canned --port N`. What it reaches is the load's ceiling.

Its responses have the shape of the real ones (chunked SSE, the right id and text), cut from the request by hand.
"""

import argparse
import asyncio

from examples.replica import end_with_parent

SSE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nmcp-session-id: canned\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
ACCEPTED = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"
DELETED = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"

INITIALIZED = (
    b'event: message\r\ndata: {"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{},'
    b'"serverInfo":{"name":"canned","version":"1"}}}\r\n\r\n'
)
RESULT = (
    b'event: message\r\ndata: {"jsonrpc":"2.0","id":%b,"result":{"content":[{"type":"text","text":%b}],'
    b'"structuredContent":{"result":%b},"isError":false}}\r\n\r\n'
)


class Canned(asyncio.Protocol):
    """One connection of the load generator, which sends a whole request and then waits."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(_answer(data))


def _answer(request: bytes) -> bytes:
    if request.startswith(b"DELETE"):
        return DELETED
    body = request[request.index(b"\r\n\r\n") + 4 :]
    if b'"tools/call"' in body:
        id = body[body.index(b'"id":') + 5 : body.index(b',"method"')]
        text = body[body.index(b'"text":') + 7 : -3]
        return _sse(RESULT % (id, text, text))
    return _sse(INITIALIZED) if b'"initialize"' in body else ACCEPTED


def _sse(event: bytes) -> bytes:
    return b"%b%x\r\n%b\r\n0\r\n\r\n" % (SSE, len(event), event)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Serve until the parent ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.canned", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args()
    if arguments.parent is not None:
        end_with_parent(arguments.parent)
    asyncio.run(_serve(arguments.port))


if __name__ == "__main__":
    main()
