"""Text from elsewhere, made fit for a file or a terminal: no keys, no escapes, not long."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import quote

MASK = "[redacted]"
LIMIT = 200  # characters

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"  # OSC, DCS …: titles, links, clipboard
    r"|\x1b[@-Z\\-_]"
    r"|\x9b[0-?]*[ -/]*[@-~]",
    re.DOTALL,
)
_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0 and C1 controls
    "\u2028\u2029"  # line and paragraph separators
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks and overrides of direction
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # text that nobody sees
    "\ud800-\udfff]+"  # lone surrogates: no file takes them
)
_NOT_SHOWN = re.compile(f"(?!\n){_CONTROLS.pattern.removesuffix('+')}")
# What a CI system would obey if it stood in a log: GitHub's `::name`, Azure's and Actions' `##[`.
_COMMANDS = re.compile(r"(?<!\S)::(?=[A-Za-z])|##(?=(?:vso)?\[)")
FRAGMENT = 12  # so many characters of a secret in a row are masked, wherever a text cuts it
_PROBE = FRAGMENT // 2  # any such run holds a whole piece of this length at a multiple of it + 1
_KEYS = (
    # scheme://user:password@host
    (re.compile(r"(?<=://)[^/\s@:]*:[^/\s@]+(?=@)"), MASK),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE), rf"\1 {MASK}"),
    (
        re.compile(
            r"((?:api[-_ ]?key|(?:access|auth|refresh|id)[-_]token|authorization|secret|password)"
            r"[\"']?\s*[=:]\s*[\"']?)(?!bearer\b|basic\b|\[redacted\])[^\s\"'&,;}]{4,}",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    # OpenAI, Anthropic, OpenRouter … (also half-masked: sk-…****abcd); Google; GitHub, Slack …
    (re.compile(r"\b(?:sk|pk|rk)-[\w*.-]{6,}"), MASK),
    (re.compile(r"\bAIza[\w-]{10,}"), MASK),
    (re.compile(r"\b(?:gh[pousr]|hf|gsk|xai|xox[abpr]|r8|nvapi)[-_][\w-]{8,}"), MASK),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*"), MASK),  # JSON Web Tokens
)


def one_line(text: str) -> str:
    """`text` without line breaks, control characters, terminal escapes and CI commands."""
    clean = _CONTROLS.sub(" ", _ESCAPES.sub("", text)).strip()
    return _COMMANDS.sub(lambda found: " ".join(found[0]), clean)


def printable_json(text: str) -> str:
    """JSON with nothing in it that a terminal would obey: `\\u009b` is the same string."""
    return _NOT_SHOWN.sub(lambda found: json.dumps(found[0])[1:-1], text)


def redact(text: str, secrets: Iterable[str] = (), limit: int | None = LIMIT) -> str:
    """`text` on one line without credentials, control characters or terminal escapes.

    `secrets` are values known to be secret, masked wherever they stand (in any case, also in
    base64 or as JSON, a URL or Python would write them, also in part); shorter ones than 4
    characters are left alone, they would mask everything. At most `limit` characters (None: any
    length), the cut marked by `…`. Masking comes before cutting, so that half a key never
    survives.
    """
    clean = hide(one_line(text), secrets)
    for pattern, replacement in _KEYS:
        clean = pattern.sub(replacement, clean)
    if limit is not None and len(clean) > limit:
        clean = clean[: limit - 1] + "…"
    return clean


def hide(text: str, secrets: Iterable[str]) -> str:
    """`text` as it is, but for `secrets`: see `redact`."""
    for secret in sorted({s for s in secrets if len(s) >= 4}, key=len, reverse=True):
        for short in (one for one in _spellings(secret) if len(one) < FRAGMENT):
            text = re.sub(re.escape(short), MASK, text, flags=re.IGNORECASE)
        text = _masked(text, secret)
    return text


@lru_cache(maxsize=64)
def _spellings(secret: str) -> tuple[str, ...]:
    """How a text may write a secret, in lower case, the longest first."""
    coded = base64.b64encode(secret.encode()).decode().rstrip("=")
    urlsafe = base64.urlsafe_b64encode(secret.encode()).decode().rstrip("=")
    written = (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe=""))
    # A credential of the basic scheme: the user's name before it shifts what base64 makes of it.
    shifted = [
        base64.b64encode(b"x" * pad + secret.encode()).decode().rstrip("=")[pad + 2 : -2]
        for pad in (1, 2)
    ]
    found = {one.lower() for one in (*written, coded, urlsafe, *shifted) if len(one) >= 4}
    return tuple(sorted(found, key=len, reverse=True))


def _masked(text: str, secret: str) -> str:
    """`text` without `FRAGMENT` characters in a row of any spelling of `secret`."""
    lower, pieces = text.lower(), _pieces(secret)
    if len(lower) != len(text):  # a letter whose small one is longer: places would differ
        lower = "".join(one.lower() if len(one.lower()) == 1 else one for one in text)
    kept, begun, at = [], 0, 0  # from `begun` on nothing is kept yet
    while at <= len(lower) - _PROBE:
        run = _longest(lower, at, secret) if lower[at : at + _PROBE] in pieces else (at, at)
        if run[1] - run[0] < FRAGMENT:
            at += FRAGMENT - _PROBE + 1
            continue
        kept += [text[begun : max(begun, run[0])], MASK]
        begun = at = run[1]
    return "".join(kept) + text[begun:]


@lru_cache(maxsize=64)
def _pieces(secret: str) -> frozenset[str]:
    return frozenset(
        one[i : i + _PROBE] for one in _spellings(secret) for i in range(len(one) - _PROBE + 1)
    )


def _longest(text: str, at: int, secret: str) -> tuple[int, int]:
    """The longest stretch of `text` around the piece at `at` that stands so in a spelling."""
    piece, best = text[at : at + _PROBE], (at, at)
    for one in _spellings(secret):
        place = one.find(piece)
        while place >= 0:
            back = _alike(text[at - 1 :: -1] if at else "", one[place - 1 :: -1] if place else "")
            on = _alike(text[at : at + len(one)], one[place:])
            best = max(best, (at - back, at + on), key=lambda run: run[1] - run[0])
            place = one.find(piece, place + 1)
    return best


def _alike(one: str, other: str) -> int:
    """With how many equal characters both begin."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def redact_argv(argv: Iterable[str], secrets: Iterable[str] = ()) -> list[str]:
    """A command line fit for the manifest; the value of a key-like option is masked too."""
    known, result, hide_next = tuple(secrets), [], False
    for word in argv:
        name, equals, _ = word.partition("=")
        if hide_next:
            result.append(MASK)
        elif equals and _KEY_NAME.fullmatch(name):  # --set models.0.api_key=…
            result.append(f"{redact(name, known, limit=100)}={MASK}")
        else:
            result.append(redact(word, known, limit=1000))
        hide_next = bool(_KEY_OPTION.fullmatch(word))
    return result


_KEY_OPTION = re.compile(r"--?[\w-]*(?:api[-_]?key|password|secret|token)", re.IGNORECASE)
_KEY_NAME = re.compile(
    r"(?:.*[._-])?(?:api[-_]?key|authorization|passw(?:or)?d|secret"
    r"|(?:access|auth|bearer|id|refresh)[-_]token)",
    re.IGNORECASE,
)
