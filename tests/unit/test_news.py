"""What can be published, and what it is on the wire. F65."""

from __future__ import annotations

import json

import pytest

from mcpsession.errors import NewsError
from mcpsession.model import Gap, Mail, News
from mcpsession.news import checked, decode, log_message, newest_of, resource_updated
from mcpsession.sdk.news_texts import notification_text


@pytest.mark.parametrize(
    ("news", "expected"),
    [
        (News("test/x"), b'{"jsonrpc":"2.0","method":"test/x","params":{}}'),
        (News("test/x", None), b'{"jsonrpc":"2.0","method":"test/x","params":{}}'),
        (News("test/x", {}), b'{"jsonrpc":"2.0","method":"test/x","params":{}}'),
        (
            resource_updated("test://a", "A"),
            b'{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"test://a","title":"A"}}',
        ),
        (News("test/x", {"a": "ä\n"}), '{"jsonrpc":"2.0","method":"test/x","params":{"a":"ä\\n"}}'.encode()),
    ],
)
async def test_f65_the_frame_is_json_rpc_and_has_params_always(news, expected):
    assert expected == notification_text(news).encode()


@pytest.mark.parametrize("params", [None, {}, {"a": [1, {"b": None}], "ä": "\U0001f600"}])
async def test_f65_what_is_decoded_equals_what_was_checked(params):
    news = News("test/x", params)
    body = checked(news.method, news.params, None, 1000)
    assert body.isascii()
    assert news == decode(Mail("news", "sender", body=body))


async def test_f65_news_without_params_is_decoded_with_empty_ones():
    for body in ('{"method": "test/x"}', '{"method": "test/x", "params": null}'):
        assert News("test/x", {}) == decode(Mail("news", "sender", body=body))


async def test_a_backslash_before_ud_is_no_surrogate_and_a_pair_is_no_half():
    for text in ("\\ud800", "\U0001f600"):
        assert checked("test/x", {"a": text}, None, 1000)


async def test_two_hundred_levels_of_nesting_are_the_most():
    def nested(levels: int) -> object:
        value: object = {}
        for _ in range(levels):
            value = [value]
        return value

    # The message and its params are two of them, and the innermost is one.
    assert checked("test/x", {"a": nested(197)}, None, 10_000)
    with pytest.raises(NewsError):
        checked("test/x", {"a": nested(198)}, None, 10_000)
    wide = [[]] * 1000
    assert checked("test/x", {"a": wide}, None, 10_000)


async def test_of_changes_the_newest_counts_and_of_the_applications_own_all():
    assert newest_of(News("notifications/tools/list_changed"), to_one=True)
    assert newest_of(resource_updated("a"), to_one=False) != newest_of(resource_updated("b"), to_one=False)
    assert newest_of(resource_updated("a", "1"), to_one=False) == newest_of(resource_updated("a", "2"), to_one=False)
    assert None is newest_of(News("test/x"), to_one=False)
    assert None is newest_of(log_message("info", 1), to_one=True)


async def test_news_and_gaps_are_values():
    assert News("test/x", {"a": 1}) == News("test/x", {"a": 1})
    assert News("test/x") != Gap()
    assert json.dumps(Gap().params) == "{}"
