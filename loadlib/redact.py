"""Text from elsewhere, made fit for a file or a terminal: no keys, no escapes, not long."""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "[redacted]"
LIMIT = 200  # characters

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"  # OSC, DCS …: titles, links, clipboard
    r"|\x1b[@-Z\\-_]"
    r"|\x9b[0-?]*[ -/]*[@-~]",
    re.DOTALL,
)
# C0 and C1 controls, line separators, bidirectional overrides, lone surrogates
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
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


def redact(text: str, secrets: Iterable[str] = (), limit: int | None = LIMIT) -> str:
    """`text` on one line without credentials, control characters or terminal escapes.

    `secrets` are values known to be secret, masked wherever they stand (in any case); shorter
    ones than 4 characters are left alone, they would mask everything. At most `limit`
    characters (None: any length), the cut marked by `…`. Masking comes before cutting, so
    that half a key never survives.
    """
    clean = _CONTROLS.sub(" ", _ESCAPES.sub("", text)).strip()
    for secret in sorted({s for s in secrets if len(s) >= 4}, key=len, reverse=True):
        clean = re.sub(re.escape(secret), MASK, clean, flags=re.IGNORECASE)
    for pattern, replacement in _KEYS:
        clean = pattern.sub(replacement, clean)
    if limit is not None and len(clean) > limit:
        clean = clean[: limit - 1] + "…"
    return clean


def redact_argv(argv: Iterable[str], secrets: Iterable[str] = ()) -> list[str]:
    """A command line fit for the manifest; the value after a key-like option is masked too."""
    known, result, hide = tuple(secrets), [], False
    for word in argv:
        result.append(MASK if hide else redact(word, known, limit=1000))
        hide = bool(_KEY_OPTION.fullmatch(word))
    return result


_KEY_OPTION = re.compile(r"--?[\w-]*(?:api[-_]?key|password|secret|token)", re.IGNORECASE)
