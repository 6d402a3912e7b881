"""What became of a request, from its tape and what was decoded from it. Pure.

The network's word comes first, but an error status stands even if its page was cut short, and so
does an answer that was said to be over.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from loadlib import tokens
from loadlib.answer import MESSAGE_CHARS, Answer
from loadlib.catalog import Model
from loadlib.prompt import Prompt
from loadlib.sample import Outcome
from loadlib.tape import Fault, Tape


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
    if problem is not None:
        return _code(problem.code, problem.type), problem.message
    try:
        body = tape.body
    except zlib.error:
        return "", "an error page that cannot be read"
    try:
        said = msgspec.json.decode(body)["error"]
        return _code(said.get("code"), said.get("type")), str(said.get("message") or said)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return "", body[:MESSAGE_CHARS].decode("utf-8", "replace")


def _code(code: object, kind: object) -> str:
    """The more telling of an error's `code` and `type`: a numeric code (llama.cpp, vLLM) is only
    the HTTP status again."""
    said = str(code or "")
    return str(kind or said) if said.isdigit() else said or str(kind or "")


class Counts(NamedTuple):
    """Tokens of one request, and whose word that is (`server`, `local`, `estimate`)."""

    input: int | None
    output: int | None
    cached: int | None
    source: str | None


def usage_of(answer: Answer, prompt: Prompt | None, model: Model) -> Counts:
    """Token counts: the server's where it gave them, local ones where it answered without."""
    sent, got, cached = answer.input_tokens, answer.output_tokens, answer.cached_tokens
    if sent is not None and got is not None:
        return Counts(sent, got, cached, "server")
    if not answer.complete:
        return Counts(sent, got, cached, None)
    if sent is None and prompt is not None:
        sent = prompt.tokens if prompt.tokens is not None else _prompt_tokens(prompt, model)
    if got is None:
        got = _quietly(lambda: tokens.count(answer.generated, model.encoding))
    known = sent is not None or got is not None
    source = "local" if model.exact else "estimate"
    return Counts(sent, got, cached, source if known else None)


def _prompt_tokens(prompt: Prompt, model: Model) -> int | None:
    return _quietly(lambda: tokens.chat_tokens(prompt.messages, model.encoding))


def _quietly(count: Callable[[], int]) -> int | None:
    """A local count, or None where there is none (images; text the tokenizer gives up on)."""
    try:
        return count()
    except ValueError:
        return None
