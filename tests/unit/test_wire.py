"""Frames, cursors and headers."""

from __future__ import annotations

import json

import pytest

from mcpsession.errors import MessageTooLargeError, UnstorableTextError
from mcpsession.model import new_stream_id
from mcpsession.sdk import wire


def test_a_request_streams_cursor_comes_back_as_it_was_sent():
    stream_id = new_stream_id()
    assert wire.Cursor(stream_id, 7, "") == wire.parse_cursor(f"{stream_id}.7")


def test_a_standalone_cursor_carries_both_positions():
    event_id = wire.standalone_event_id(3, "731:735:732,733@1790000000.25")
    assert wire.Cursor("s", 3, "731:735:732,733@1790000000.25") == wire.parse_cursor(event_id)


@pytest.mark.parametrize(
    "text",
    ["", "x", "1", "s.1", "s.x.1:1:@1", "a" * 16, "a" * 16 + ".", "a" * 16 + ".-1", "a" * 16 + "." + "9" * 19,
     "s.1.1:1:@1\n", "' OR 1=1", "s.1." + "1" * 17_000],
)  # fmt: skip
def test_anything_else_is_no_cursor(text):
    assert wire.parse_cursor(text) is None


@pytest.mark.parametrize("value", [b"", b"a b", b"\x7f", b"a\n", b"x" * 129, "ä".encode()])
def test_what_cannot_be_a_session_id_is_none(value):
    assert wire.session_id_of(value) is None


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (b"application/json, text/event-stream", (True, True)),
        (b"Text/Event-Stream;q=0.9", (False, True)),
        (b"*/*", (True, True)),
        (b"application/*", (True, False)),
        (b"text/html", (False, False)),
        (b"", (False, False)),
    ],
)
def test_accept_headers_are_read_with_wildcards_and_without_regard_to_case(accept, expected):
    assert expected == wire.accepts(accept)


def test_a_priming_frame_has_an_id_a_retry_and_an_empty_data_line():
    assert b"id: abc.0\nretry: 500\ndata: \n\n" == wire.priming("abc.0", 500)


def test_text_that_is_not_unicode_is_refused_with_a_typed_error():
    with pytest.raises(UnstorableTextError, match="cannot be stored"):
        wire.dump({"jsonrpc": "2.0", "method": "m", "params": {"text": "\ud800"}})


def test_a_nul_character_travels_escaped_and_harmless():
    assert "\x00" not in wire.dump({"text": "a\x00b"})
    assert {"text": "a\x00b"} == json.loads(wire.dump({"text": "a\x00b"}))


def test_a_message_over_the_limit_is_refused_with_both_numbers():
    with pytest.raises(MessageTooLargeError, match=r"has \d+ bytes, at most 10 are allowed"):
        wire.dump({"text": "x" * 100}, 10)


def test_an_error_without_a_request_has_no_id():
    assert "id" not in wire.error_message(None, -32600, "no")


def test_ids_as_json_text_differ_by_type():
    assert ("1", '"1"') == (wire.dump_id(1), wire.dump_id("1"))


@pytest.mark.parametrize("id_", [None, {}, [1], True, 1.5, "x" * 257, 10**100])
def test_an_id_that_is_no_id_is_refused_and_the_rule_is_named(id_):
    body = json.dumps({"jsonrpc": "2.0", "id": id_, "method": "ping"}).encode()
    with pytest.raises(wire.NotAMessageError, match="a request's id is a whole number or a text, at most 256"):
        wire.parse_message(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{bad", "Parse error: "),
        (b"", "Parse error: "),
        (b"[" * 100_000, "Parse error: "),
        (b"[]", "Batches are not supported"),
        (b"1", "Not a JSON-RPC message"),
        (b'{"jsonrpc":"2.0"}', "Not a JSON-RPC message"),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', "Not a JSON-RPC message"),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', "Not a JSON-RPC message"),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}', "Not a JSON-RPC message"),
        (b'{"jsonrpc":"2.0","id":1,"result":7}', "Not a JSON-RPC message"),
    ],
)
def test_a_body_that_is_no_message_is_refused_and_says_why(body, message):
    with pytest.raises(wire.NotAMessageError, match=message):
        wire.parse_message(body)


def test_what_is_not_a_number_leaves_as_null_and_does_not_come_in():
    assert '{"progress":null}' == wire.dump({"progress": float("nan")})
    with pytest.raises(wire.NotAMessageError, match="Parse error"):
        wire.parse_message(b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":NaN}}')
