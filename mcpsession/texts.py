"""Text that every store can hold: Unicode without NUL characters and lone surrogates; and requests' ids."""

from __future__ import annotations

import json

from mcpsession.errors import LimitExceededError, UnstorableTextError

# It goes into an index, whose rows have 2,700 bytes at most, beside a namespace and a session's id.
_LONGEST_URI = 1500
# So do these.
LONGEST_REQUEST_ID = 256
LONGEST_METHOD = 200


def storable(text: str) -> bool:
    """Whether a store can hold it; what it cannot hold is nowhere."""
    return fault_of(text) is None


def check_text(*texts: str) -> None:
    """Raises UnstorableTextError for the first that no store can hold."""
    for text in texts:
        if fault := fault_of(text):
            raise UnstorableTextError(fault)


def check_uri(uri: str) -> None:
    """Raises UnstorableTextError or LimitExceededError for what no session can be subscribed to."""
    if not isinstance(uri, str):
        raise UnstorableTextError(f"a URI is a text, not {type(uri).__name__}")
    check_text(uri)
    if (size := len(uri.encode())) > _LONGEST_URI:
        raise LimitExceededError("uri_bytes", _LONGEST_URI, size, remedy="a resource needs a shorter URI")


def is_request_id(value: object) -> bool:
    """Whether this can be a request's id: a text or a whole number, of bounded length."""
    if isinstance(value, str):
        return len(value) <= LONGEST_REQUEST_ID
    return isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= LONGEST_REQUEST_ID


def request_id_text(request_id: int | str) -> str:
    """A request's id as JSON text, as the log has it: `1` and `"1"` differ.

    Raises ValueError for what can be no id.
    """
    if not is_request_id(request_id):
        rule = f"a whole number or a text, at most {LONGEST_REQUEST_ID} characters"
        raise ValueError(f"this can be no request's id: {request_id!r:.80}; it is {rule}")
    text = json.dumps(request_id, ensure_ascii=False)
    check_text(text)
    return text


def is_deeper(value: object, text: str, levels: int) -> bool:
    """Whether a JSON value, whose text this is, is nested more deeply than so many levels."""
    return text.count("[") + text.count("{") > levels and _is_deeper(value, levels)


def method_text(method: str) -> str:
    """A request's method as the log has it; a client may send any text, and one that no server knows is of no use."""
    return method[:LONGEST_METHOD] if storable(method) else ""


def fault_of(text: str) -> str | None:
    """What keeps a text from being stored; None if nothing does."""
    if "\x00" in text:
        return "it has a NUL character"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "it has a lone surrogate"
    return None


def _is_deeper(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return False
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in value)


def check_owner(value: object, what: str) -> None:
    """Raises TypeError for what is no owner of sessions: a user that is missing must not become everybody."""
    if not isinstance(value, str):
        raise TypeError(f"an owner is text, not {type(value).__name__}; for the {what} of all, use layer.{what}")


def check_session_id(value: object) -> None:
    """Raises TypeError for what is no id of a session: the session itself, most often."""
    if not isinstance(value, str):
        raise TypeError(f"a session is named by its id, a text (session.id), not by a {type(value).__name__}")
