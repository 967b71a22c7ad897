"""What can be published, how it is written down, and which of it replaces which."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mcpsession.errors import NewsError
from mcpsession.model import Mail, News
from mcpsession.texts import is_deeper

TOOLS_CHANGED = News("notifications/tools/list_changed")
PROMPTS_CHANGED = News("notifications/prompts/list_changed")
RESOURCES_CHANGED = News("notifications/resources/list_changed")

EVERYTHING_CHANGED = (TOOLS_CHANGED, PROMPTS_CHANGED, RESOURCES_CHANGED)
"""What a listener is told when news may have been missed."""

RESOURCE_UPDATED = "notifications/resources/updated"
LOG_MESSAGE = "notifications/message"

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""RFC 5424's, as in the specification, the least important first."""

_CHANGES = frozenset(news.method for news in EVERYTHING_CHANGED)
# They belong to one request and travel on its stream, or not at all.
_OF_A_REQUEST = frozenset({"notifications/progress", "notifications/cancelled", "notifications/initialized"})
_OURS = "mcpsession/"
_LONGEST_METHOD = 200
_LONGEST_TOPIC = 1000
# What writes the frames (pydantic) gives up at 255, and the message is some levels itself.
_DEEPEST = 200


def resource_updated(uri: str, title: str | None = None) -> News:
    """A resource has changed: for those who subscribed to it."""
    return News(RESOURCE_UPDATED, {"uri": uri} if title is None else {"uri": uri, "title": title})


def everything_changed(uris: Iterable[str]) -> list[News]:
    """What someone is told that may have missed news, and has subscribed to these resources."""
    return [*EVERYTHING_CHANGED, *map(resource_updated, uris)]


def log_message(level: str, data: Any, name: str | None = None) -> News:
    """A message of the server's log, under the name of a logger.

    Raises NewsError for a level that the specification does not have.
    """
    if level not in LEVELS:
        raise NewsError(f"there is no log level {level!r:.60}; take one of {', '.join(LEVELS)}")
    logger = {} if name is None else {"logger": name}
    return News(LOG_MESSAGE, {"level": level, **logger, "data": data})


def is_for_clients(news: News) -> bool:
    """Whether it is a notification that clients can hear; else it is the application's own."""
    return news.method.startswith("notifications/")


def uri_of(news: News) -> str | None:
    """The resource that it is about."""
    uri = news.params.get("uri") if news.method == RESOURCE_UPDATED else None
    return uri if isinstance(uri, str) else None


def newest_of(news: News, *, to_one: bool) -> str | None:
    """Of news with the same key only the newest matters to who was away; None: all of it does.

    Changes are levels, so one of each kind (and resource) is enough; of a logger's messages to all, the last
    of each level, because who wants only the important ones must not miss them for others that came after them.
    """
    if news.method in _CHANGES:
        return news.method
    if (uri := uri_of(news)) is not None:
        return f"{news.method} {uri}"
    if news.method == LOG_MESSAGE and not to_one:
        return f"{news.method} {news.params.get('level', '')} {news.params.get('logger', '')}"
    return None


def checked(method: object, params: object, topic: object, max_bytes: int) -> str:
    """The JSON text of news.

    Raises NewsError for what is no notification, cannot be JSON, or is longer than `max_bytes`.
    """
    check_method(method)
    if method in _OF_A_REQUEST:
        raise NewsError(f"{method} belongs to one request; inside a tool use broadcaster.progress")
    if isinstance(method, str) and method.startswith(_OURS):
        raise NewsError(f"methods that begin with {_OURS} are what the broadcaster itself tells its subscribers")
    if topic is not None and (not isinstance(topic, str) or not 0 < len(topic) <= _LONGEST_TOPIC):
        raise NewsError(f"its topic must be a text of 1 to {_LONGEST_TOPIC} characters, or None")
    given = as_object(params)
    if method == RESOURCE_UPDATED and not isinstance(given.get("uri"), str):
        raise NewsError(f"the params of {method} must name the resource: a text as uri")
    if method == LOG_MESSAGE and (given.get("level") not in LEVELS or "data" not in given):
        raise NewsError(f"the params of {method} must have data, and a level: one of {', '.join(LEVELS)}")
    return as_json({"method": method, "params": given}, max_bytes)


def check_method(method: object) -> None:
    """Raises NewsError for what is not the name of a method."""
    if not isinstance(method, str) or not 0 < len(method) <= _LONGEST_METHOD:
        raise NewsError(f"its method must be a text of 1 to {_LONGEST_METHOD} characters")


def as_object(params: object) -> dict[str, Any]:
    """Params as a dict of their own.

    Raises NewsError for what is no mapping.
    """
    if not isinstance(params, Mapping):
        raise NewsError(f"its params must be a dict of JSON values, not {type(params).__name__}")
    return dict(params)


def as_json(value: Mapping[str, Any], max_bytes: int) -> str:
    """The JSON text of a value, in ASCII.

    Raises NewsError for what cannot be JSON, or is longer than `max_bytes`.
    """
    try:
        text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise NewsError(f"its params must be a dict of JSON values: {error}") from None
    # ASCII: as many characters as bytes.
    if len(text) > max_bytes:
        raise NewsError(f"it has {len(text)} bytes as JSON, at most {max_bytes} are allowed (max_news_bytes)")
    if fault := _fault_of(value, text):
        raise NewsError(fault)
    return text


def decode(mail: Mail) -> News | None:
    """The news of a mail; None if it is malformed."""
    try:
        raw = json.loads(mail.body)
        method, params = raw["method"], raw.get("params")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    params = {} if params is None else params
    if not isinstance(method, str) or not isinstance(params, dict) or _fault_of(raw, mail.body):
        return None
    return News(method, params)


def _fault_of(value: object, text: str) -> str | None:
    """Why no frame can be made of a JSON value, whose text this is."""
    if r"\ud" in text or r"\uD" in text:
        # Half of a pair, perhaps.
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return "it has a lone surrogate"
    if is_deeper(value, text, _DEEPEST):
        return f"it is nested more than {_DEEPEST} levels deep"
    return None
