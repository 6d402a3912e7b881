"""Conversation files: ShareGPT, MT-Bench-101 and `{"messages": […]}`, told apart by content.

    form            one record                                                  file
    messages        {"messages": [{"role": "user", "content": "…"}, …]}         JSONL or JSON array
    ShareGPT        {"id": "…", "conversations": [{"from": "human", "value": "…"}, …]}     likewise
    MT-Bench-101    {"task": "…", "id": 1, "history": [{"user": "…", "bot": "…"}, …]}      likewise

Any of them may be gzipped. A file has one form, that of its first readable record. A broken record
is a `DataError` with its line, or is left out and counted with `skip_invalid`; a broken *file*
(unreadable, empty, no end to its array, larger than 1 GiB unpacked) is always an error.

Files come from anywhere: no line is read beyond 16 MiB, nesting and sizes are bounded, and no text
of a file is repeated in a message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from loadlib.errors import DataError
from loadlib.prompt import Message
from loadlib.workloads.files import opened

MAX_RECORD_BYTES = 16 * 2**20
MAX_FILE_BYTES = 2**30  # after unpacking

_HEAD_BYTES = 2**16
_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*")
# tiktoken gives up on about half a million whitespace characters in a row (tokens.encode)
_ENDLESS_SPACE = 400_000
_GAP = re.compile(rf"\s{{{_ENDLESS_SPACE}}}")

_LANGUAGE = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8}){0,3}")  # BCP 47: zh, pt-BR, zh-Hant

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_SHAREGPT_ROLES = {
    **_ROLES,
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
}


@dataclass(frozen=True, slots=True)
class Conversation:
    """Recorded messages, and where in them a user's turn starts and a request is due.

    Turn i is the messages `starts[i]:ends[i]` (one user message, or several in a row); the request
    for it carries `messages[:ends[i]]`. Everything before `starts[0]` is system messages.
    """

    messages: tuple[Message, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    lang: str | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """What a file held: its conversations in file order, and how many records were left out."""

    conversations: tuple[Conversation, ...]
    invalid: int


def load(path: Path | str, *, skip_invalid: bool = False) -> Recording:
    """Read a conversation file of any of the known forms.

    Raises DataError (with file and line) for a broken file, for the first broken record unless
    `skip_invalid`, and when no conversation remains.
    """
    name = str(path)
    with opened(path) as file:
        return _collect(_records(file, name), name, skip_invalid)


def conversation(messages: list[tuple[str, str]], lang: str | None = None) -> Conversation | None:
    """A conversation of (role, text) pairs, or None when no user says anything in it.

    Answers before the first question are left out: providers refuse a chat that opens with one.
    """
    lead = next((i for i, (role, _) in enumerate(messages) if role != "system"), len(messages))
    head, rest = messages[:lead], messages[lead:]
    while rest and rest[0][0] != "user":
        rest = rest[1:]
    if not rest:
        return None
    roles = [role for role, _ in head + rest]
    first, size = len(head), len(roles)
    is_user = [role == "user" for role in roles]
    return Conversation(
        messages=tuple({"role": role, "content": text} for role, text in head + rest),
        starts=tuple(i for i in range(first, size) if is_user[i] and not (i and is_user[i - 1])),
        ends=tuple(
            i + 1
            for i in range(first, size)
            if is_user[i] and not (i + 1 < size and is_user[i + 1])
        ),
        lang=lang,
    )


# Records: (line, how to get the value), so that a value that cannot be had is one record's fault.

_Get = Callable[[], Any]


class _InvalidError(Exception):
    """What is wrong with one record."""


def _collect(records: Iterator[tuple[int, _Get]], name: str, skip_invalid: bool) -> Recording:
    found: list[Conversation] = []
    invalid, form, form_line = 0, None, 0
    for line, get in records:
        try:
            record = get()
            if form is None:
                form, form_line = _form(record), line
            found.append(_convert(record, form, form_line))
        except _InvalidError as error:
            if not skip_invalid:
                raise DataError(str(error), file=name, line=line) from error
            invalid += 1
    if not found:
        left_out = f" ({invalid} broken records left out)" if invalid else ""
        raise DataError(f"no conversation in it{left_out}", file=name)
    return Recording(tuple(found), invalid)


def _records(file: BinaryIO, name: str) -> Iterator[tuple[int, _Get]]:
    head = file.read(_HEAD_BYTES)
    if head.removeprefix(_BOM).lstrip()[:1] == b"[":
        rest = file.read(MAX_FILE_BYTES - len(head) + 1)
        if len(head) + len(rest) > MAX_FILE_BYTES:
            raise _too_large(name)
        return _elements((head + rest).removeprefix(_BOM), name)
    file.seek(0)
    return _lines(file, name)


def _too_large(name: str) -> DataError:
    return DataError(f"larger than {MAX_FILE_BYTES >> 20} MiB unpacked: split it", file=name)


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[int, _Get]]:
    """The lines of a JSONL file, blank ones left out; one that is too long is not kept."""
    number, total = 0, 0
    while raw := file.readline(MAX_RECORD_BYTES + 1):
        number += 1
        size = len(raw)
        if size > MAX_RECORD_BYTES:
            ended, raw = raw.endswith(b"\n"), b""
            while not ended and size + total <= MAX_FILE_BYTES and (more := file.readline(2**20)):
                size += len(more)
                ended = more.endswith(b"\n")
            yield number, _refuse_size
        total += size
        if total > MAX_FILE_BYTES:
            raise _too_large(name)
        raw = raw.removeprefix(_BOM) if number == 1 else raw
        if raw.strip():
            yield number, partial(_parse, raw)


def _refuse_size() -> Any:
    raise _InvalidError(f"a record of more than {MAX_RECORD_BYTES >> 20} MiB")


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise _InvalidError(f"not UTF-8 (byte {error.start + 1} of the line)") from error
    except RecursionError as error:
        raise _InvalidError("nested too deeply") from error
    except json.JSONDecodeError as error:
        raise _InvalidError(f"not JSON: {error.msg} (column {error.colno})") from error
    except ValueError as error:
        raise _InvalidError("not JSON: a number with too many digits") from error


def _elements(data: bytes, name: str) -> Iterator[tuple[int, _Get]]:
    """The elements of a JSON array one by one. After broken JSON nothing can be resumed."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError("not UTF-8", file=name, line=line) from error
    del data
    decode = json.JSONDecoder().raw_decode
    line, seen = 1, 0
    at = _skip(text, text.index("[") + 1)
    if text[at : at + 1] == "]":
        return
    while True:
        line, seen = line + text.count("\n", seen, at), at
        try:
            value, end = decode(text, at)
        except RecursionError as error:
            raise DataError("nested too deeply", file=name, line=line) from error
        except json.JSONDecodeError as error:
            raise DataError(f"not JSON: {error.msg}", file=name, line=error.lineno) from error
        except ValueError as error:
            raise DataError("not JSON: a number too long", file=name, line=line) from error
        yield line, _refuse_size if end - at > MAX_RECORD_BYTES else partial(_same, value)
        at = _skip(text, end)
        if text[at : at + 1] != ",":
            break
        at = _skip(text, at + 1)
    line += text.count("\n", seen, at)
    if text[at : at + 1] != "]" or _skip(text, at + 1) != len(text):
        raise DataError("not JSON: the array does not end here as it should", file=name, line=line)


def _same(value: Any) -> Any:
    return value


def _skip(text: str, at: int) -> int:
    blank = _SPACE.match(text, at)
    assert blank is not None  # the pattern matches the empty string
    return blank.end()


# Forms: a key that only this form has → (its name, a reader giving (role, text) pairs).

_Pairs = list[tuple[str, str]]


def _from_messages(entries: list[Any]) -> _Pairs:
    return [
        (_role(_field(entry, "role", i), _ROLES, i), _text(_field(entry, "content", i), i))
        for i, entry in enumerate(entries, 1)
    ]


def _from_sharegpt(entries: list[Any]) -> _Pairs:
    return [
        (_role(_field(entry, "from", i), _SHAREGPT_ROLES, i), _text(_field(entry, "value", i), i))
        for i, entry in enumerate(entries, 1)
    ]


def _from_mtbench(entries: list[Any]) -> _Pairs:
    pairs: _Pairs = []
    for i, entry in enumerate(entries, 1):
        pairs.append(("user", _text(_field(entry, "user", i), i)))
        if i < len(entries) or "bot" in entry:  # the last turn may be still unanswered
            pairs.append(("assistant", _text(_field(entry, "bot", i), i)))
    return pairs


_FORMS: dict[str, tuple[str, Callable[[list[Any]], _Pairs]]] = {
    "messages": ("messages", _from_messages),
    "conversations": ("ShareGPT", _from_sharegpt),
    "history": ("MT-Bench-101", _from_mtbench),
}


def _form(record: Any) -> str:
    if not isinstance(record, dict):
        raise _InvalidError("a conversation is a JSON object")
    for key in _FORMS:
        if key in record:
            return key
    wanted = " or ".join(repr(key) for key in _FORMS)
    raise _InvalidError(f"no conversation form known: a record has {wanted}")


def _convert(record: Any, form: str, form_line: int) -> Conversation:
    if not isinstance(record, dict):
        raise _InvalidError("a conversation is a JSON object")
    title, read = _FORMS[form]
    if form not in record:
        raise _InvalidError(f"no {form!r} (the file has the form {title} from line {form_line} on)")
    entries = record[form]
    if not isinstance(entries, list):
        raise _InvalidError(f"{form!r} is not a list")
    lang = record.get("lang")
    is_tag = isinstance(lang, str) and _LANGUAGE.fullmatch(lang)
    made = conversation(read(entries), lang if is_tag else None)
    if made is None:
        raise _InvalidError("no user message")
    return made


def _field(entry: Any, key: str, number: int) -> Any:
    if not isinstance(entry, dict):
        raise _InvalidError(f"message {number} is not a JSON object")
    if key not in entry:
        raise _InvalidError(f"message {number} has no {key!r}")
    return entry[key]


def _role(value: Any, known: dict[str, str], number: int) -> str:
    role = known.get(value.lower()) if isinstance(value, str) else None
    if role is None:
        raise _InvalidError(f"message {number} has a role other than {', '.join(known)}")
    return role


def _text(value: Any, number: int) -> str:
    if isinstance(value, list):
        value = "".join(_part(part, number) for part in value)
    if not isinstance(value, str):
        raise _InvalidError(f"the text of message {number} is not a string")
    if not value.strip():
        raise _InvalidError(f"message {number} has no text")
    if len(value) > _ENDLESS_SPACE and _GAP.search(value):
        raise _InvalidError(f"message {number} has {_ENDLESS_SPACE:,} blanks in a row")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _InvalidError(f"message {number} has half a surrogate pair") from error
    return value


def _part(part: Any, number: int) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise _InvalidError(f"message {number} holds something other than text: not supported yet")
    return text
