"""Text that every store can hold: Unicode without NUL characters and lone surrogates."""

from __future__ import annotations

from mcpsession.errors import UnstorableTextError


def storable(text: str) -> bool:
    """Whether a store can hold it; what it cannot hold is nowhere."""
    return fault_of(text) is None


def check_text(*texts: str) -> None:
    """Raises UnstorableTextError for the first that no store can hold."""
    for text in texts:
        if fault := fault_of(text):
            raise UnstorableTextError(fault)


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
