"""What tools answer that is large: prose, tables of numbers, and pictures as base64. The same in each run."""

import base64
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pydoc_data.topics import topics
from typing import Any

KINDS = ("prose", "table", "base64")

# Different ones of each kind and size: what is compressed again and again would lie in the processor's cache.
DIFFERENT = 16


@cache
def payloads(kind: str, size: int) -> Sequence[str]:
    """JSON-RPC responses of a tool, each about `size` bytes long."""
    chance = random.Random(f"{kind} {size}")
    make = {"prose": _prose, "table": _table, "base64": _picture}[kind]
    return [_response(number, make(chance, size)) for number in range(DIFFERENT)]


def _response(number: int, content: Mapping[str, Any]) -> str:
    result = {"content": [content], "isError": False}
    return json.dumps({"jsonrpc": "2.0", "id": number, "result": result}, separators=(",", ":"), ensure_ascii=False)


def _prose(chance: random.Random, size: int) -> Mapping[str, Any]:
    # The Python reference: real sentences, half a megabyte of them, and on every machine.
    texts = [topics[name] for name in sorted(topics)]
    whole = "\n".join(texts)
    start = chance.randrange(len(whole))
    # Past its end it begins again: far outside of what zlib, pglz and lz4 look back.
    text = "".join(itertools.islice(itertools.cycle(whole), start, start + size))
    # Line breaks and quotes grow in JSON, so what is cut off here is little.
    return {"type": "text", "text": _fitting(text, size)}


def _table(chance: random.Random, size: int) -> Mapping[str, Any]:
    rows: list[Mapping[str, Any]] = []
    written = 0
    while written < size:
        row = {
            "id": chance.randrange(10**6),
            "at": f"2026-{chance.randrange(1, 13):02}-{chance.randrange(1, 29):02}T{chance.randrange(24):02}:00:00Z",
            "price": round(chance.uniform(1, 1000), 2),
            "volume": chance.randrange(10**5),
            "change": round(chance.gauss(0, 1), 4),
        }
        rows.append(row)
        # Its quotes are escaped in the message.
        text = json.dumps(row)
        written += len(text) + text.count('"') + 2
    return {"type": "text", "text": json.dumps(rows)}


def _picture(chance: random.Random, size: int) -> Mapping[str, Any]:
    # A picture's bytes are compressed already, so any bytes will do.
    data = base64.b64encode(chance.randbytes(size * 3 // 4)).decode()
    return {"type": "image", "data": data, "mimeType": "image/png"}


def _fitting(text: str, size: int) -> str:
    """As much of the text as JSON of this size holds."""
    over = len(json.dumps(text, ensure_ascii=False).encode()) / size
    return text[: int(len(text) / over)] if over > 1 else text
