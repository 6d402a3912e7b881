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
        for spelling in _spellings(secret):
            text = _masked(text, spelling)
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
    """`text` without `secret` (in lower case) and without `FRAGMENT` of its characters in a row."""
    if len(secret) < FRAGMENT:
        return re.sub(re.escape(secret), MASK, text, flags=re.IGNORECASE)
    lower = text.lower()
    if len(lower) != len(text):  # a letter whose small one is longer: places would differ
        return re.sub(re.escape(secret), MASK, text, flags=re.IGNORECASE)
    pieces, kept, at = _pieces(secret), [], 0
    begun = 0  # of what is not kept yet
    while at <= len(lower) - _PROBE:
        run = None
        if lower[at : at + _PROBE] in pieces:
            run = _longest(lower, at, secret)
        if run is None or run[1] - run[0] < FRAGMENT:
            at += FRAGMENT - _PROBE + 1
            continue
        kept += [text[begun : max(begun, run[0])], MASK]
        begun = at = run[1]
    return "".join(kept) + text[begun:]


@lru_cache(maxsize=512)
def _pieces(secret: str) -> frozenset[str]:
    return frozenset(secret[i : i + _PROBE] for i in range(len(secret) - _PROBE + 1))


def _longest(text: str, at: int, secret: str) -> tuple[int, int] | None:
    """The longest stretch of `text` around the piece at `at` that stands so in `secret`."""
    piece, best = text[at : at + _PROBE], None
    place = secret.find(piece)
    while place >= 0:
        left = right = 0
        while left < min(at, place) and text[at - left - 1] == secret[place - left - 1]:
            left += 1
        begin, end = at + _PROBE, place + _PROBE
        while (
            begin + right < len(text)
            and end + right < len(secret)
            and text[begin + right] == secret[end + right]
        ):
            right += 1
        if best is None or left + right > best[1] - best[0] - _PROBE:
            best = (at - left, begin + right)
        place = secret.find(piece, place + 1)
    return best


def redact_argv(argv: Iterable[str], secrets: Iterable[str] = ()) -> list[str]:
    """A command line fit for the manifest; the value after a key-like option is masked too."""
    known, result, hide = tuple(secrets), [], False
    for word in argv:
        result.append(MASK if hide else redact(word, known, limit=1000))
        hide = bool(_KEY_OPTION.fullmatch(word))
    return result


_KEY_OPTION = re.compile(r"--?[\w-]*(?:api[-_]?key|password|secret|token)", re.IGNORECASE)
