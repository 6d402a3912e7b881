"""The tape: what counts as a stream, and content codings undone within bounds."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib import tape as tape_module
from loadlib.tape import Tape

SSE = b'data: {"choices": []}\n\n'


def tape(*reads: bytes, **headers: str) -> Tape:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Tape.of(enumerate(reads), status=200, headers=named)


@pytest.mark.parametrize(
    ("stream", "content_type", "reads", "reason"),
    [
        (True, "text/event-stream", [b"x"], "it is declared"),
        (True, "Text/Event-Stream; charset=utf-8", [b""], "however it is written"),
        (True, "text/plain", [SSE], "what it starts with counts, not what it is called"),
        (True, "application/json", [SSE], "no JSON starts so"),
        (True, None, [b"d", b"a", b"t", b"a", b":", b" x"], "under every split"),
        (True, None, [b"\xef\xbb", b"\xbfdata: x"], "byte order mark"),
        (True, None, [b"\r\n", b": keep-alive\n\n"], "a comment"),
        (True, None, [b"event: x\n"], "a name"),
        (False, "application/json", [b'{"data": 1}'], "JSON"),
        (False, "text/html", [b"<html>data: x"], "HTML"),
        (False, None, [], "nothing"),
        (False, None, [b"database"], "another word"),
    ],
)
def test_what_is_a_stream(
    stream: bool, content_type: str | None, reads: list[bytes], reason: str
) -> None:
    one = tape(*reads)
    if content_type is not None:
        one.headers["content-type"] = content_type
    assert one.is_stream is stream, reason


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP", "deflate"])
def test_codings_are_undone_piece_by_piece(coding: str) -> None:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | (0 if coding == "deflate" else 16))
    first = packer.compress(b"one ") + packer.flush(zlib.Z_SYNC_FLUSH)
    second = packer.compress(b"two") + packer.flush()
    one = tape(first[:2], first[2:], second, content_encoding=coding)
    assert list(one.plain_reads()) == [(1, b"one "), (2, b"two")]


@pytest.mark.parametrize("coding", ["", "identity", " Identity "])
def test_no_coding(coding: str) -> None:
    assert tape(b"a", b"b", content_encoding=coding).body == b"ab"


@pytest.mark.parametrize(
    ("data", "coding", "words"),
    [
        (b"x", "br", "refused"),
        (b"x", "gzip, br", "refused"),
        (b"not gzip at all", "gzip", "incorrect header"),
        (gzip.compress(b"", mtime=0)[:10] + b"\xff" * 20, "gzip", "invalid"),
    ],
    ids=["br", "two", "plain", "broken"],
)
def test_what_cannot_be_read_says_so(data: bytes, coding: str, words: str) -> None:
    with pytest.raises(zlib.error, match=words):
        _ = tape(data, content_encoding=coding).body


@given(st.integers(0, 400), st.integers(1, 40))
def test_a_bomb_inflates_up_to_the_limit_and_no_byte_further(size: int, step: int) -> None:
    """Also when a read ends exactly at the limit: zlib takes 0 for "no limit"."""
    packed = gzip.compress(b"\0" * size, mtime=0)
    reads = [packed[at : at + step] for at in range(0, len(packed), step)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tape_module, "MAX_BODY_BYTES", 200)
        bomb = tape(*reads, content_encoding="gzip")
        if size <= 200:
            assert bomb.body == b"\0" * size
        else:
            with pytest.raises(zlib.error, match="inflates past"):
                _ = bomb.body


def test_a_real_bomb_does_not_fill_the_memory() -> None:
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    block = b"\0" * 2**20
    packed = b"".join(packer.compress(block) for _ in range(200)) + packer.flush()
    assert len(packed) < 2**18
    with pytest.raises(zlib.error, match="inflates past"):
        list(tape(packed, content_encoding="gzip").plain_reads())


def test_what_follows_the_coded_data_is_left_alone() -> None:
    packed = gzip.compress(SSE)
    assert tape(packed + b"junk", b"junk" * 100, content_encoding="gzip").body == SSE
