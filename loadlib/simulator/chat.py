"""A chat completion request: JSON → checked values, or a refusal in OpenAI's shape."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

MAX_STOPS = 4
MAX_OUTPUT_TOKENS = 262_144  # of one answer: it is kept in memory
MAX_TOOLS = 128
TOOL_CHOICES = ("none", "auto", "required")

OVERLOADED = "The server had an error while processing your request."


class Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    """An HTTP error response: `{"error": {message, type, param, code}}` with its status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.error = {"message": message, "type": kind, "param": param, "code": code}

    @property
    def body(self) -> bytes:
        """The response body."""
        return msgspec.json.encode({"error": self.error})


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`."""

    include_usage: bool | None = None


class Function(msgspec.Struct, frozen=True):
    """A function the model may call; `parameters` is a JSON schema."""

    name: str
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct, frozen=True):
    """An entry of `tools`."""

    function: Function
    type: str = "function"


class JsonSchema(msgspec.Struct, frozen=True):
    """`response_format.json_schema`."""

    name: str | None = None
    schema: dict[str, Any] | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """`response_format`."""

    type: str
    json_schema: JsonSchema | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """What the simulator heeds of a request body; sampling parameters are accepted unread."""

    model: str
    messages: msgspec.Raw
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop: str | list[str] | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None

    @property
    def cap(self) -> int | None:
        """The most tokens the answer may have."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def floor(self) -> int:
        """The fewest tokens it must have."""
        if self.ignore_eos and self.cap is not None:
            return self.cap
        return self.min_tokens or 0

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that carries usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


Messages = list[dict[str, Any]]

_request = msgspec.json.Decoder(ChatRequest)
_messages = msgspec.json.Decoder(Messages)
_FIELD = re.compile(r"`\$\.?([\w.\[\]]*)")
_MISSING = re.compile(r"missing required field `(\w+)`")


def parse(body: bytes) -> tuple[ChatRequest, Messages]:
    """Read a request body. Raises `Refusal`."""
    part = ""
    try:
        request = _request.decode(body)
        part = "messages"
        messages = _messages.decode(request.messages)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), part) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refusal(400, "We could not parse the JSON body of your request.") from None
    _check(request, messages)
    return request, messages


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message's content, its parts joined; images have none."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(part["text"] for part in content if isinstance(part.get("text"), str))


def images_of(messages: Messages) -> Iterator[Mapping[str, Any]]:
    """`image_url` of every image in the messages: `{url, detail}`."""
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if part.get("type") == "image_url":
                image = part.get("image_url")
                yield image if isinstance(image, dict) else {}


def _invalid(problem: str, part: str) -> Refusal:
    missing, field = _MISSING.search(problem), _FIELD.search(problem)
    name = part + (missing[1] if missing else field[1] if field else "")
    return Refusal(400, f"Invalid request body: {problem}.", param=name or None)


def _check(request: ChatRequest, messages: Messages) -> None:
    for param, message in _complaints(request, messages):
        raise Refusal(400, message, param=param)


def _complaints(request: ChatRequest, messages: Messages) -> Iterator[tuple[str, str]]:
    if not request.model:
        yield "model", "you must provide a model parameter"
    yield from _message_complaints(messages)
    yield from _limit_complaints(request)
    yield from _tool_complaints(request)
    if request.response_format is not None:
        yield from _format_complaints(request.response_format)


def _message_complaints(messages: Messages) -> Iterator[tuple[str, str]]:
    if not messages:
        yield "messages", "[] is too short - 'messages'"
    for i, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            yield f"messages[{i}].role", f"Missing required parameter: 'messages[{i}].role'."
        if not _is_content(message.get("content")):
            where = f"messages[{i}].content"
            yield where, f"Invalid type for '{where}': expected a string or a list of parts."


def _limit_complaints(request: ChatRequest) -> Iterator[tuple[str, str]]:
    if request.n not in (None, 1):
        yield "n", f"{request.n} is not supported: 'n' must be 1 here."
    for name in ("max_tokens", "max_completion_tokens"):
        limit = getattr(request, name)
        if limit is not None and not 1 <= limit <= MAX_OUTPUT_TOKENS:
            yield name, f"{limit} is not between 1 and {MAX_OUTPUT_TOKENS} - '{name}'"
    if not 0 <= (request.min_tokens or 0) <= (request.cap or MAX_OUTPUT_TOKENS):
        yield "min_tokens", "'min_tokens' must be between 0 and the maximum of output tokens."
    if len(request.stops) > MAX_STOPS or "" in request.stops:
        yield "stop", f"'stop' takes up to {MAX_STOPS} strings that are not empty."


def _tool_complaints(request: ChatRequest) -> Iterator[tuple[str, str]]:
    names = [tool.function.name for tool in request.tools or ()]
    if request.tools == []:
        yield "tools", "[] is too short - 'tools'"
    if len(names) > MAX_TOOLS:
        yield "tools", f"'tools' takes up to {MAX_TOOLS} functions."
    if isinstance(request.tool_choice, str) and request.tool_choice not in TOOL_CHOICES:
        yield "tool_choice", f"Invalid value: '{request.tool_choice[:40]}'."
    if isinstance(request.tool_choice, dict) and wanted_tool(request) not in names:
        yield "tool_choice", "'tool_choice' names a function that is not among 'tools'."
    if request.tool_choice == "required" and not names:
        yield "tool_choice", "'tool_choice' is only allowed when 'tools' are specified."


def _format_complaints(wanted: ResponseFormat) -> Iterator[tuple[str, str]]:
    if wanted.type not in ("text", "json_object", "json_schema"):
        yield "response_format.type", f"Invalid value: '{wanted.type}'."
    if wanted.type == "json_schema" and (
        wanted.json_schema is None or wanted.json_schema.schema is None
    ):
        where = "response_format.json_schema.schema"
        yield where, f"Missing required parameter: '{where}'."


def _is_content(content: Any) -> bool:
    if isinstance(content, list):
        return all(isinstance(part, dict) for part in content)
    return content is None or isinstance(content, str)


def wanted_tool(request: ChatRequest) -> str | None:
    """The function that `tool_choice` names, if it names one."""
    choice = request.tool_choice
    if not isinstance(choice, dict) or not isinstance(choice.get("function"), dict):
        return None
    name = choice["function"].get("name")
    return name if isinstance(name, str) else None
