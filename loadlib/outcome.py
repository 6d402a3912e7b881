"""What became of a request, from its tape and what was decoded from it. Pure.

The network's word comes first, but an error status stands even if its page was cut short, and so
does an answer that was said to be over.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from loadlib import tokens
from loadlib.answer import MESSAGE_CHARS, Answer
from loadlib.catalog import Model
from loadlib.prompt import Prompt
from loadlib.quirks import quirk_of
from loadlib.sample import Outcome
from loadlib.tape import Fault, Tape

MAX_COUNTED = 1_000_000  # characters that are counted here: a second of work, more than models say


class Problem(Protocol):
    """An error response as the SDK reads it (`openai.APIStatusError`)."""

    code: str | None
    type: str | None
    message: str


def outcome_of(
    tape: Tape, answer: Answer, problem: Problem | None
) -> tuple[Outcome, str | None, str | None]:
    """(outcome, cause, message) of an exchange; `problem` is the SDK's view of it, if any."""
    fault = tape.fault
    if fault is not None and not _settled(tape, answer, fault):
        return fault.outcome, fault.cause, fault.message
    if not is_good(tape):
        return _status_outcome(tape, problem)
    if answer.error is not None:
        return Outcome.SERVER_ERROR, "in_stream", answer.error
    if answer.malformed is not None:
        return Outcome.MALFORMED, "body", answer.malformed
    if not answer.complete and tape.let_go:
        # Reading as far as one wants is a use of a stream, not a failure of it; before the first
        # token there was nothing to want.
        enough = Outcome.OK if len(answer.event_ns) else Outcome.CANCELLED
        return enough, "let_go", "the user's code stopped reading"
    if not answer.complete:
        return Outcome.TRUNCATED, "no_end", "the stream ended without finish_reason or [DONE]"
    return Outcome.OK, "resent" if tape.resent else None, None


def is_good(tape: Tape) -> bool:
    """Whether the server accepted the request."""
    return tape.status is not None and 200 <= tape.status < 300


def _settled(tape: Tape, answer: Answer, fault: Fault) -> bool:
    """Whether the server had said all that matters before `fault`."""
    if fault.outcome is Outcome.CANCELLED:
        return False
    if not is_good(tape):
        return tape.status is not None
    lost = fault.outcome in (Outcome.TIMEOUT, Outcome.DISCONNECTED)
    return lost and tape.is_stream and answer.done


def _status_outcome(tape: Tape, problem: Problem | None) -> tuple[Outcome, str, str]:
    status = tape.status or 0
    code, message = _error_words(tape, problem)
    if status in (429, 529):
        return Outcome.THROTTLED, "quota" if "quota" in code else str(status), message
    if status in (401, 403):
        return Outcome.REJECTED, "auth", message
    if status >= 500:
        return Outcome.SERVER_ERROR, str(status), message
    if 300 <= status < 400:
        return Outcome.REJECTED, "redirect", "redirected; loadlib does not follow with a key"
    return Outcome.REJECTED, code or str(status), message


def _error_words(tape: Tape, problem: Problem | None) -> tuple[str, str]:
    """(code, message) of an error response, from the SDK or from the tape of a user's own call."""
    try:
        said = error_object(tape.body)
    except zlib.error:
        return "", "an error page that cannot be read"
    word = _code(said.get("code"), said.get("type") or said.get("status"))
    text = said.get("message") or said.get("detail") or said
    if problem is not None:  # which knows no list, and no more than the page where it is no JSON
        word = _code(problem.code, problem.type) or word
        text = problem.message if not said or not isinstance(text, str) else text
    elif not said:
        text = tape.body[:MESSAGE_CHARS].decode("utf-8", "replace")
    if tape.status == 429 and _is_daily(said):
        word = "quota"
    return word, str(text)[:MESSAGE_CHARS] + _remedy(tape.status, str(text))


def error_object(body: bytes) -> dict[str, Any]:
    """What an error response says of itself; empty where it is no JSON object.

    OpenAI wraps it in `error`, Gemini that in a list, FastAPI and older vLLM in nothing.
    """
    try:
        found = msgspec.json.decode(body)
        if isinstance(found, list) and len(found) == 1:
            found = found[0]
        inner = found.get("error", found) if isinstance(found, dict) else {}
    except (ValueError, RecursionError):
        return {}
    return inner if isinstance(inner, dict) else {"message": inner} if inner else {}


def _code(code: object, kind: object) -> str:
    """The more telling of an error's `code` and `type`: a numeric code (llama.cpp, vLLM) is only
    the HTTP status again."""
    said = str(code or "")
    return str(kind or said) if said.isdigit() else said or str(kind or "")


def _is_daily(said: Mapping[str, Any]) -> bool:
    """Google's 429 of a quota that is full again tomorrow: waiting a minute is in vain."""
    details = said.get("details")
    return any(
        "PerDay" in str(violation.get("quotaId"))
        for detail in (details[:10] if isinstance(details, list) else ())
        if isinstance(detail, dict) and isinstance(detail.get("violations"), list)
        for violation in detail["violations"][:10]
        if isinstance(violation, dict)
    )


def _remedy(status: int | None, text: str) -> str:
    """What to write in the scenario where a server refuses a field that loadlib sends."""
    if status not in (400, 422) or _REFUSES.search(text) is None:
        return ""
    field = _FIELD.search(text)
    key = None if field is None else _INSTEAD[field[0]]
    return "" if key is None else f" (write `{key}` for this model in the scenario)"


_REFUSES = re.compile(
    r"(?i)unsupported|not supported|un(known|recogni[sz]ed|expected)|not (permitted|allowed)|extra"
)
_INSTEAD = {
    "max_tokens": "output_cap: max_completion_tokens",
    "max_completion_tokens": "output_cap: max_tokens",
    "stream_options": "stream_usage: false",
    "include_usage": "stream_usage: false",
}
_FIELD = re.compile(rf"\b({'|'.join(_INSTEAD)})\b")
"""The one named first is the one refused: "unsupported 'max_tokens', use …"."""


class Counts(NamedTuple):
    """Tokens of one request, and whose word that is (`server`, `local`, `estimate`).

    `reasoning` are part of `output`, as they are billed; `cached` part of `input`.
    """

    input: int | None = None
    output: int | None = None
    cached: int | None = None
    reasoning: int | None = None
    source: str | None = None


def usage_of(answer: Answer, prompt: Prompt | None, model: Model) -> Counts:
    """Token counts: the server's where it gave them, local ones where it answered without."""
    sent, cached = answer.input_tokens, answer.cached_tokens
    got, reasoning = _with_reasoning(answer, model)
    if sent is not None and got is not None:
        return Counts(sent, got, cached, reasoning, "server")
    if not answer.complete:
        return Counts(sent, got, cached, reasoning)
    if sent is None and prompt is not None:
        sent = prompt.tokens if prompt.tokens is not None else _prompt_tokens(prompt, model)
    if got is None:
        got = _quietly(lambda: _generated_tokens(answer, model))
    known = sent is not None or got is not None
    source = "local" if model.exact else "estimate"
    return Counts(sent, got, cached, reasoning, source if known else None)


def _with_reasoning(answer: Answer, model: Model) -> tuple[int | None, int | None]:
    """(output, reasoning) as billed: some servers leave reasoning out of the completion tokens,
    and only the total shows it."""
    sent, got, reasoning = answer.input_tokens, answer.output_tokens, answer.reasoning_tokens
    total = answer.total_tokens
    if sent is None or got is None or total is None:
        return got, reasoning
    beside = total - sent - got
    if beside > 0 and (
        beside == reasoning or (reasoning is None and quirk_of(model).hidden_reasoning)
    ):
        return got + beside, beside
    return got, reasoning


def _prompt_tokens(prompt: Prompt, model: Model) -> int | None:
    return _quietly(lambda: tokens.chat_tokens(prompt.messages, model.encoding))


def _generated_tokens(answer: Answer, model: Model) -> int:
    """Raises ValueError for text that nobody should be kept waiting for."""
    if len(text := answer.generated) > MAX_COUNTED:
        raise ValueError(f"more than {MAX_COUNTED:,} characters")
    return tokens.count(text, model.encoding)


def _quietly(count: Callable[[], int]) -> int | None:
    """A local count, or None where there is none (images; text the tokenizer gives up on)."""
    try:
        return count()
    except ValueError:
        return None
