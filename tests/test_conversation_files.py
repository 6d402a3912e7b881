"""Conversation files: every form is read, every kind of damage is named with its line."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib.errors import DataError
from loadlib.workloads import conversations
from loadlib.workloads.conversations import load

REAL = Path(__file__).parents[2] / "shared" / "conversations"

MESSAGES = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Where is my order?"},
    ],
    "lang": "en",
}
SHAREGPT = {
    "id": "a1",
    "conversations": [
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello!"},
        {"from": "human", "value": "Where is my order?"},
    ],
}
MTBENCH = {
    "task": "GR",
    "id": 1,
    "history": [{"user": "Hi", "bot": "Hello!"}, {"user": "Where is my order?", "bot": "Here."}],
}


@pytest.fixture
def write(tmp_path):
    def write(content, name="data.jsonl"):
        path = tmp_path / name
        if isinstance(content, list):
            content = "".join(json.dumps(record) + "\n" for record in content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def said(conversation):
    return [(m["role"], m["content"]) for m in conversation.messages]


BODY = [("user", "Hi"), ("assistant", "Hello!"), ("user", "Where is my order?")]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (MESSAGES, [("system", "Be brief."), *BODY]),
        (SHAREGPT, BODY),
        (MTBENCH, [*BODY, ("assistant", "Here.")]),
    ],
    ids=["messages", "ShareGPT", "MT-Bench-101"],
)
def test_every_form_as_lines_as_an_array_and_packed(write, record, expected):
    lines = json.dumps(record) + "\n\n" + json.dumps(record)  # a blank line, no newline at the end
    for content in (
        lines,
        "\ufeff" + lines.replace("\n", "\r\n"),
        json.dumps([record, record]),
        " \n" + json.dumps([record, record], indent=2) + "\n",
        gzip.compress(lines.encode()),
        gzip.compress(json.dumps([record, record], ensure_ascii=False).encode()),
    ):
        found = load(write(content))
        assert [said(one) for one in found.conversations] == [expected, expected]
        assert found.invalid == 0


def test_turns_are_where_an_answer_is_due(write):
    [one] = load(write([MESSAGES])).conversations
    assert (one.starts, one.ends, one.lang) == ((1, 3), (2, 4), "en")


def test_several_user_messages_in_a_row_are_one_turn():
    pairs = [("user", "a"), ("user", "b"), ("assistant", "c"), ("user", "d")]
    one = conversations.conversation(pairs)
    assert (one.starts, one.ends) == ((0, 3), (2, 4))


def test_answers_before_the_first_question_are_left_out():
    one = conversations.conversation(
        [("assistant", "Welcome!"), ("user", "Hi"), ("assistant", "?")]
    )
    assert said(one) == [("user", "Hi"), ("assistant", "?")]
    assert conversations.conversation([("system", "x"), ("assistant", "Welcome!")]) is None


def test_an_unanswered_last_turn_and_text_parts_are_fine(write):
    history = {"history": [{"user": "Hi", "bot": "Hello!"}, {"user": "Bye"}]}
    assert said(load(write([history])).conversations[0])[-1] == ("user", "Bye")
    parts = {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}
    assert said(load(write([parts])).conversations[0]) == [("user", "Hi")]


def user(content):
    return {"messages": [{"role": "user", "content": content}]}


BROKEN = {
    "cut off": ('{"messages": [{"role": "us', "not JSON"),
    "not UTF-8": (b'{"messages": [{"role": "user", "content": "\xff"}]}', r"not UTF-8 \(byte 44"),
    "deeply nested": ('{"messages": ' + "[" * 200_000 + "]" * 200_000 + "}", "nested too deeply"),
    "digits": ('{"id": ' + "9" * 5000 + "}", "too many digits"),
    "a list": ("[1, 2]", "a conversation is a JSON object"),
    "another form": (json.dumps(SHAREGPT), "no 'messages' .*form messages from line 1 on"),
    "no list": ('{"messages": {"role": "user"}}', "'messages' is not a list"),
    "empty": ('{"messages": []}', "no user message"),
    "nobody asks": ('{"messages": [{"role": "assistant", "content": "Hi"}]}', "no user message"),
    "message is text": ('{"messages": ["Hi"]}', "message 1 is not a JSON object"),
    "no role": ('{"messages": [{"content": "Hi"}]}', "message 1 has no 'role'"),
    "no content": ('{"messages": [{"role": "user"}]}', "message 1 has no 'content'"),
    "a tool": (
        '{"messages": [{"role": "tool", "content": "1"}]}',
        "message 1 has a role other than system, developer, user, assistant",
    ),
    "null": (json.dumps(user(None)), "the text of message 1 is not a string"),
    "blank": (json.dumps(user(" \n")), "message 1 has no text"),
    "image": (
        json.dumps(user([{"type": "image_url", "image_url": {"url": "x"}}])),
        "message 1 holds something other than text: not supported yet",
    ),
    "surrogate": (json.dumps(user("\ud800")), "half a surrogate pair"),
    "endless blank": (json.dumps(user("a" + " " * 400_000)), "400,000 blanks in a row"),
}


@pytest.mark.parametrize(("bad", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_line_is_named_or_skipped_and_counted(write, bad, reason):
    good = json.dumps(user("Hi")).encode()
    raw = bad.encode() if isinstance(bad, str) else bad
    path = write(b"\n".join((good, b"", raw, good)))
    with pytest.raises(DataError, match=reason) as caught:
        load(path)
    assert (caught.value.file, caught.value.line) == (str(path), 3)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 150
    found = load(path, skip_invalid=True)
    assert (len(found.conversations), found.invalid) == (2, 1)


def test_a_line_that_is_too_long_is_never_held(write, monkeypatch):
    monkeypatch.setattr(conversations, "MAX_RECORD_BYTES", 1000)
    good = json.dumps(user("Hi"))
    for size in (900, 999 - len(good), 1000 - len(good), 5000, 3_000_000):
        path = write("\n".join((good, json.dumps(user("Hi" + "i" * size)), good, good)))
        found = load(path, skip_invalid=True)
        fits = size < 1000 - len(good)  # its newline included
        assert (len(found.conversations), found.invalid) == ((4, 0) if fits else (3, 1))
        if not fits:
            with pytest.raises(DataError, match=r":2: a record of more than 0 MiB"):
                load(path)


def test_the_limits_are_those_documented():
    assert conversations.MAX_RECORD_BYTES == 16 * 1024 * 1024
    assert conversations.MAX_FILE_BYTES == 1024 * 1024 * 1024


@pytest.mark.parametrize("shape", ["lines", "one line", "array"])
def test_a_file_that_unpacks_to_more_than_the_limit(write, monkeypatch, shape):
    monkeypatch.setattr(conversations, "MAX_FILE_BYTES", 100_000)
    monkeypatch.setattr(conversations, "MAX_RECORD_BYTES", 1000)
    line = json.dumps(user("Hi")) + "\n"
    content = {
        "lines": line * 5000,
        "one line": line + "x" * 500_000,
        "array": "[" + line + ("," + line) * 5000 + "]",
    }[shape]
    with pytest.raises(DataError, match="unpacked: split it"):
        load(write(gzip.compress(content.encode())), skip_invalid=True)


BROKEN_ARRAYS = {
    "cut off": ("[\n%s,\n%s", 3, "does not end here"),
    "trailing comma": ("[%s,\n%s,\n]", 3, "Expecting value"),
    "no comma": ("[%s\n%s]", 2, "does not end here"),
    "more after it": ("[%s,\n%s]\nx", 3, "does not end here|not JSON"),
    "broken element": ('[%s,\n{"messages": [}, %s]', 2, "not JSON"),
    "deep": ("[%s,\n" + "[" * 200_000 + "]" * 200_000 + ", %s]", 2, "nested too deeply"),
    "digits": ("[%s,\n" + "9" * 5000 + ", %s]", 2, "a number too long"),
}


@pytest.mark.parametrize(
    ("pattern", "line", "reason"), BROKEN_ARRAYS.values(), ids=BROKEN_ARRAYS.keys()
)
@pytest.mark.parametrize("skip_invalid", [False, True])
def test_an_array_with_broken_json_is_an_error_even_when_skipping(
    write, pattern, line, reason, skip_invalid
):
    good = json.dumps(user("Hi"))
    path = write(pattern.replace("%s", good))
    with pytest.raises(DataError, match=reason) as caught:
        load(path, skip_invalid=skip_invalid)
    assert caught.value.line in (line, line - 1)


def test_an_array_element_that_is_no_conversation_can_be_skipped(write):
    path = write("[\n%s,\n{},\n%s]" % ((json.dumps(SHAREGPT),) * 2))
    with pytest.raises(DataError, match=":3: no 'conversations'"):
        load(path)
    found = load(path, skip_invalid=True)
    assert (len(found.conversations), found.invalid) == (2, 1)


def test_an_array_that_is_not_utf8_is_an_error_with_its_line(write):
    with pytest.raises(DataError, match=r":2: not UTF-8"):
        load(write(b'[{"messages": []},\n"\xff"]'), skip_invalid=True)


@pytest.mark.parametrize("content", ["", " \n\n ", "[]", "[ ]\n", gzip.compress(b"", mtime=0)])
def test_an_empty_file(write, content):
    with pytest.raises(DataError, match="no conversation in it"):
        load(write(content))


def test_a_file_of_nothing_but_broken_lines(write):
    with pytest.raises(DataError, match=r"no conversation in it \(2 broken records left out\)"):
        load(write("{}\nnope\n"), skip_invalid=True)


def test_unknown_forms_name_the_known_ones(write):
    with pytest.raises(DataError, match=r":1: .*'messages' or 'conversations' or 'history'"):
        load(write('{"prompt": "Hi"}\n'))


@pytest.mark.parametrize("damage", ["short", "garbage", "checksum"])
def test_damaged_gzip(write, damage):
    packed = bytearray(gzip.compress((json.dumps(user("Hi")) + "\n").encode() * 1000))
    if damage == "short":
        del packed[-20:]
    elif damage == "garbage":
        packed[12:40] = b"\xff" * 28
    else:
        packed[-8] ^= 1
    with pytest.raises(DataError, match="gzip data is damaged or ends early"):
        load(write(bytes(packed)))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"missing\.jsonl: cannot be read: No such file"):
        load(tmp_path / "missing.jsonl")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        load(tmp_path)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "conversations", "history", "role", "content", "from", "value"]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(records=st.lists(ANYTHING, max_size=5), as_array=st.booleans())
def test_any_json_is_read_or_refused(tmp_path_factory, records, as_array):
    path = tmp_path_factory.getbasetemp() / "anything.json"
    lines = "\n".join(json.dumps(record) for record in records)
    path.write_text(json.dumps(records) if as_array else lines, encoding="utf-8")
    try:
        found = load(path, skip_invalid=True)
    except DataError:
        return
    for one in found.conversations:
        assert len(one.starts) == len(one.ends) > 0
        assert all(one.messages[end - 1]["role"] == "user" for end in one.ends)


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/conversations is not there")
@pytest.mark.parametrize(
    ("name", "size"), [("mtbench101.jsonl", 1388), ("crosswoz_val.jsonl", 500)]
)
def test_real_files(name, size):
    found = load(REAL / name)
    assert (len(found.conversations), found.invalid) == (size, 0)
    for one in found.conversations:
        assert one.starts[0] == 0
        assert all(one.messages[start]["role"] == "user" for start in one.starts)
