"""Text that every store can hold: Unicode without NUL characters and lone surrogates."""

from __future__ import annotations

from mcpsession.errors import LimitExceededError, UnstorableTextError

# It goes into an index, whose rows have 2,700 bytes at most, beside a namespace and a session's id.
_LONGEST_URI = 1500


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
