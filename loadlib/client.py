"""`Prompt` → `Sample`, through the openai SDK on a recording transport.

Only programming errors raise from `Client.send`; everything a server can do is an `Outcome`.
What providers want differently is in `quirks`, what they answer differently in `chunk`.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import msgspec
import openai

from loadlib import keys, limit_headers
from loadlib.answer import MESSAGE_CHARS, Answer, decode
from loadlib.catalog import AZURE_DEPLOYMENTS, Model
from loadlib.errors import PreflightError, UsageError
from loadlib.guard import CAP_FIELDS, output_cap
from loadlib.outcome import Counts, Problem, error_object, is_good, outcome_of, usage_of
from loadlib.prompt import Prompt
from loadlib.quality import Said, judged
from loadlib.quirks import asks_for_usage, cap_field
from loadlib.redact import redact
from loadlib.reserve import most_output
from loadlib.sample import Outcome, Sample
from loadlib.tape import Fault, Tape
from loadlib.transport import (
    CHAT,
    TAPE,
    Channel,
    LiveAzureSdk,
    LiveSdk,
    LiveTransport,
    SdkTransport,
    TapeTransport,
    begin_tape,
    current_tape,
    proxy_for,
    tape_of,
    tls_context,
    with_body,
)
from loadlib.wire import Deadlines, Pool, Readings, Reel
from loadlib.workloads.spec import OWN_BODY_KEYS

__all__ = [
    "Call", "Client", "Prepared", "Sdk", "current_tape",
]  # fmt: skip

Sdk = openai.OpenAI
"""For those who hand the SDK on; they need not import it."""

PLACEHOLDER_KEY = "none"  # the SDK insists on a key; servers without authentication ignore it
DEFAULT_MAX_TOKENS = 256  # an output cap is always sent
PREPARED = "loadlib.prepared"
WORD_CHARS, WORDS = 20, 100  # of what is remembered: finish reasons, not request ids
CHECK_S = 30.0  # how long preflight waits for the list of models


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt with the bytes that will be sent for it."""

    prompt: Prompt
    body: bytes
    sha: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """Which arrival a request answers. `intended_ns` is on the monotonic clock."""

    index: int
    phase: str
    model: str
    workload: str
    intended_ns: int
    attempt: int = 1
    turn: int = 1
    name: str | None = None


Post = Callable[[bytes, Mapping[str, str]], tuple[Tape, Problem | None]]
Deliver = Callable[[Call, Sample, Answer], None]
Begin = Callable[[Prepared | None], Call]  # with what own code is about to send, if a chat


class Client:
    """One per process. `deliver` gets every finished attempt exactly once.

    `pause` is called now and then while a long answer is decoded, for others to run.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        deadlines: Deadlines,
        deliver: Deliver,
        *,
        mode: str = "tape",
        simulated: bool = False,
        environ: Mapping[str, str] = os.environ,
        pause: Callable[[], object] | None = None,
    ) -> None:
        self.models, self._deadlines, self._deliver = models, deadlines, deliver
        self._mode, self._environ, self._pause = mode, environ, pause
        self._simulated = simulated  # the target is our simulator: it may be told what is right
        self.secrets = keys.named(models.values(), environ)
        self.listed: dict[str, tuple[str, ...] | None] = {}  # what `check` saw an endpoint serve
        self._pool = Pool(tls_context)
        self._words: dict[str, str] = {}  # as they came → as they may be kept
        self._posts: dict[tuple[str | None, ...], Post] = {}
        self._closing: list[Callable[[], None]] = [self._pool.close]
        self._live: list[LiveTransport] = []

    # -- before the run ------------------------------------------------------------------------

    def notices(self) -> tuple[str, ...]:
        """What a reader must know about the clock that measures each endpoint."""
        proxied = [m.name for m in self.models.values() if proxy_for(m.base_url) is not None]
        said = [f"{name}: through a proxy, on the SDK's own transport" for name in proxied]
        if not Reel.here().kernel_clock:
            said.append("no kernel receive times here: events are stamped as they are read")
        if self._mode == "sdk":
            said.append("client: sdk: measured through the SDK's own transport")
        return tuple(said)

    def warm(self) -> None:
        """Run every code path of a request once, without the network (first use costs 60 ms)."""
        chunk = b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'

        tape = Tape.of([(1, chunk)], status=200, sent_ns=0, first_byte_ns=1, end_ns=1,
                    headers={"content-type": "text/event-stream"})  # fmt: skip
        for model in self.models.values():
            prepared = self.prepare(
                Prompt(model.name, "warm", [{"role": "user", "content": "x"}], 1)
            )
            self._post(model)
            self._sample(Call(0, "warm", model.name, "warm", 0), prepared, tape, None)

    def check(self, model: Model) -> str | None:
        """Preflight: `GET {base_url}/models`, no completion. A remark, or None where all is well.

        Raises:
            PreflightError: no key, unreachable, TLS failure, or the key is refused.
        """
        if model.api_key_env:
            _check_key(model, self._environ.get(model.api_key_env, "").strip())
        limits = replace(self._deadlines, total_s=min(self._deadlines.total_s, CHECK_S))
        transport = self._sdk_transport(model, limits) or TapeTransport(limits)
        try:
            with _sdk(model, _key(model, self._environ), transport) as sdk:
                response = sdk.get("/models", cast_to=httpx2.Response)
                self.listed[model.name] = _ids(tape_of(response.request))
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                key = f" in {model.api_key_env}" if model.api_key_env else ""
                reason = f"refuses the key{key} (HTTP {error.status_code})"
                raise self._refusal(model, reason) from None
            if error.status_code not in (404, 405):
                return f"{model.name}: GET /models answered HTTP {error.status_code}"
        except openai.APIConnectionError as error:
            via = "through the proxy: " if proxy_for(model.base_url) else ""
            raise self._refusal(model, f"{via}{error.__cause__ or error}") from None
        return None

    def _refusal(self, model: Model, reason: str) -> PreflightError:
        return PreflightError(redact(f"{model.name}: {model.base_url}: {reason}", self.secrets))

    def prepare(self, prompt: Prompt) -> Prepared:
        """Build the request body, before its clock starts.

        Raises:
            UsageError: `extra_body` sets what loadlib itself must set, such as the output cap.
        """
        for key in sorted(OWN_BODY_KEYS.keys() & prompt.extra_body.keys()):
            raise UsageError(f"{key} in the body is set by loadlib itself ({OWN_BODY_KEYS[key]})")
        model = self.models[prompt.model]
        usage = {"stream_options": {"include_usage": True}} if asks_for_usage(model) else {}
        body = msgspec.json.encode(
            {
                "model": model.wire,  # the SDK's order: our bytes are its own
                "stream": True,
                "messages": prompt.messages,
                cap_field(model): prompt.max_tokens,
                **usage,
                **prompt.extra_body,
            }
        )
        headers = dict(prompt.headers)
        if self._simulated and prompt.right is not None:
            headers["X-Simulate-Answer"] = _wish(prompt.right)
        return _prepared(prompt, body, headers)

    # -- during the run ------------------------------------------------------------------------

    def send(self, prepared: Prepared, call: Call) -> tuple[Sample, Answer]:
        """Send one prepared request, wait until it is over, deliver and return its sample."""
        post = self._post(self.models[call.model])
        problem: Problem | None = None
        tape = begin_tape()
        try:
            tape, problem = post(prepared.body, prepared.headers)
        except BaseException:
            # The greenlet was killed: what is on the tape so far still counts, as cancelled.
            tape = current_tape()
            tape.fault = Fault(Outcome.CANCELLED, "cancelled", "stopped by the load generator")
            raise
        finally:
            sample, answer = self._sample(call, prepared, tape, problem)
            self._deliver(call, sample, answer)
        return sample, answer

    def live(self, model: Model, begin: Begin) -> openai.OpenAI:
        """The SDK for a user's own code; each request it makes becomes one delivered sample."""

        def start(request: httpx2.Request) -> tuple[httpx2.Request, Call]:
            prepared = None
            if request.method == "POST" and request.url.path.endswith(CHAT):
                request, prepared = _capped(request, model)
            request.extensions[PREPARED] = prepared
            return request, begin(prepared)

        def finish(call: object, request: httpx2.Request, tape: Tape) -> None:
            assert isinstance(call, Call)
            prepared, chat = request.extensions[PREPARED], request.url.path.endswith(CHAT)
            sample, answer = self._sample(call, prepared, tape, None, chat=chat)
            self._deliver(call, sample, answer)

        through = self._sdk_transport(model, self._deadlines)
        transport = LiveTransport(self._deadlines, start, finish, through)
        self._live.append(transport)
        return _sdk(model, _key(model, self._environ), transport, live=True)

    def let_go(self, call: Call) -> None:
        """A user's own code is done with this request, also where it left the stream open."""
        for transport in self._live:
            transport.let_go(call)

    def take_readings(self) -> Readings:
        """What the instrument saw of itself since it was last asked."""
        return Reel.here().take_readings()

    def close(self) -> None:
        """Close idle connections."""
        for close in self._closing:
            close()

    # -- inside --------------------------------------------------------------------------------

    def _post(self, model: Model) -> Post:
        """How requests for a model are sent: one way an endpoint and key."""
        where = (model.base_url, model.api_key_env, model.api_version, model.auth)
        if where not in self._posts:
            self._posts[where] = self._new_post(model)
        return self._posts[where]

    def _new_post(self, model: Model) -> Post:
        key, transport = _key(model, self._environ), self._sdk_transport(model, self._deadlines)
        if transport is None:
            channel = Channel(functools.partial(_sdk, model, key), self._pool, self._deadlines)
            return channel.post
        sdk = _sdk(model, key, transport)
        self._closing.append(sdk.close)
        return functools.partial(_post, sdk)

    def _sdk_transport(self, model: Model, limits: Deadlines) -> SdkTransport | None:
        """The SDK's own network path, where a proxy or the scenario wants it."""
        proxy = proxy_for(model.base_url)
        if proxy is None and self._mode != "sdk":
            return None
        try:
            return SdkTransport(limits, proxy)
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            raise self._refusal(model, f"the proxy {proxy} cannot be used: {error}") from None
        except OSError as error:
            raise self._refusal(model, f"no trusted certificates: {error}") from None

    def _sample(
        self,
        call: Call,
        prepared: Prepared | None,
        tape: Tape,
        problem: Problem | None,
        *,
        chat: bool = True,
    ) -> tuple[Sample, Answer]:
        answer = decode(tape, self._pause) if chat and is_good(tape) else Answer(done=is_good(tape))
        outcome, cause, message = outcome_of(tape, answer, problem)
        prompt = prepared.prompt if prepared else None
        model = self.models[call.model]
        usage = usage_of(answer, prompt, model) if chat else Counts()
        events = answer.event_ns
        judgement = None
        if prompt and prompt.check and outcome is Outcome.OK:
            judgement = judged(prompt.check, answer.said)
            message = judgement.note
        end_ns = tape.end_ns or tape.sent_ns or call.intended_ns
        if outcome is Outcome.OK and tape.fault is not None:
            end_ns = tape.arrived_ns[-1]  # nothing was awaited after [DONE]
        sample = Sample(
            index=call.index, phase=call.phase, model=call.model, workload=call.workload,
            attempt=call.attempt, outcome=outcome, cause=self._word(cause),
            error=redact(message, self.secrets) if message else None,
            intended_ns=call.intended_ns, sent_ns=tape.sent_ns, flushed_ns=tape.flushed_ns,
            first_byte_ns=tape.first_byte_ns,
            first_token_ns=int(events[0]) if len(events) else None,
            first_output_ns=answer.first_output_ns,
            first_call_ns=answer.first_call_ns,
            second_token_ns=int(events[1]) if len(events) > 1 else None,
            last_token_ns=int(events[-1]) if len(events) else None,
            end_ns=end_ns, status=tape.status, finish_reason=self._word(answer.finish_reason),
            events=len(events), coalesced=answer.coalesced, longest_gap_ns=answer.longest_gap_ns,
            connect_ns=tape.connect_ns, tls_ns=tape.tls_ns, conn_reused=tape.conn_reused,
            request_id=self._word(tape.headers.get("x-request-id"), limit=100),
            retry_after_ms=None if is_good(tape) else _asked_to_wait_ms(tape),
            rate_limit=limit_headers.read(tape.headers),
            reserved_tokens=_reserved(prompt, usage.input),
            service_tier=self._word(answer.service_tier),
            prompt_sha=prepared.sha if prepared else None,
            prompt_bytes=len(prepared.body) if prepared else None,
            asked_tokens=prompt.asked_tokens if prompt else None,
            cut_tokens=prompt.cut_tokens if prompt else None,
            turn=call.turn, variant=prompt.variant if prompt else None,
            quality=judgement.passed if judgement else None,
            flaw=judgement.flaw if judgement else None,
            score=judgement.score if judgement else None,
            cost_usd=model.cost_usd(usage.input, usage.output, usage.cached),
            input_tokens=usage.input, output_tokens=usage.output, cached_tokens=usage.cached,
            reasoning_tokens=usage.reasoning, tokens_source=usage.source,
        )  # fmt: skip
        return sample, answer

    def _word(self, text: str | None, limit: int = 40) -> str | None:
        """A server's short word, fit for a file. Masking costs 4 µs, and most say `stop`."""
        if not text:
            return None
        word = self._words.get(text)
        if word is None:
            word = redact(text, self.secrets, limit)
            if len(text) < WORD_CHARS and len(self._words) < WORDS:
                self._words[text] = word
        return word or None


def _ids(tape: Tape) -> tuple[str, ...] | None:
    """The names in a list of models; None where it is none."""
    try:
        rows = msgspec.json.decode(tape.body)["data"]
        return tuple(str(row["id"])[:MESSAGE_CHARS] for row in rows)
    except (ValueError, TypeError, LookupError, RecursionError, zlib.error):
        return None


def _asked_to_wait_ms(tape: Tape) -> int | None:
    try:
        return limit_headers.retry_after_ms(tape.headers, error_object(tape.body))
    except zlib.error:
        return limit_headers.retry_after_ms(tape.headers)


def _reserved(prompt: Prompt | None, sent: int | None) -> int | None:
    """Prompt and output cap: what a provider counts before it knows the answer."""
    if prompt is None:
        return None
    before = prompt.tokens if prompt.tokens is not None else sent
    if before is None:
        return None
    return before + most_output(prompt)


def _prepared(prompt: Prompt, body: bytes, headers: Mapping[str, str] | None = None) -> Prepared:
    return Prepared(prompt, body, hashlib.sha256(body).hexdigest()[:16], headers or {})


def _wish(right: Said) -> str:
    """An answer as the simulator takes it in a header."""
    calls = [{"name": name, "arguments": arguments} for name, arguments in right.calls]
    wish: dict[str, Any] = {"tool_calls": calls} if calls else {"content": right.text}
    return base64.b64encode(msgspec.json.encode(wish)).decode()


def _capped(request: httpx2.Request, model: Model) -> tuple[httpx2.Request, Prepared | None]:
    """A request of a user's own code, with an output cap where it sets none; and what it holds."""
    try:
        asked = msgspec.json.decode(request.read(), type=dict[str, Any])
        messages = [one for one in asked["messages"] if isinstance(one, dict)]
    except (ValueError, TypeError, LookupError, RecursionError):
        return request, None  # the server's to refuse
    cap = output_cap(asked)
    if cap is None:
        cap = DEFAULT_MAX_TOKENS
        asked = {key: value for key, value in asked.items() if key not in CAP_FIELDS}
        asked[cap_field(model, str(asked.get("model")))] = cap
        request = with_body(request, msgspec.json.encode(asked))
    prompt = Prompt(model.name, "own", messages, cap, extra_body=asked)
    return request, _prepared(prompt, request.read())


def _check_key(model: Model, key: str) -> None:
    if not key:
        raise PreflightError(
            f"{model.name}: environment variable {model.api_key_env} is not set or empty"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise PreflightError(
            f"{model.name}: environment variable {model.api_key_env} holds characters that no"
            " key has (a line break, a space, a quotation mark of a word processor?)"
        )


def _key(model: Model, environ: Mapping[str, str]) -> str:
    return environ.get(model.api_key_env or "", "").strip() or PLACEHOLDER_KEY


def _sdk(
    model: Model, key: str, transport: httpx2.BaseTransport, *, live: bool = False
) -> openai.OpenAI:
    # No redirects: a key must not follow one to another host. No retries: each is a sample.
    http = httpx2.Client(transport=transport, follow_redirects=False, trust_env=False)
    common: dict[str, Any] = {"max_retries": 0, "http_client": http}
    if model.api_version is not None:
        kind: Any = LiveAzureSdk if live else openai.AzureOpenAI
        credential = "azure_ad_token" if model.auth == "bearer" else "api_key"
        own = {credential: key, "api_version": model.api_version, **_azure_place(model)}
        azure: openai.OpenAI = kind(**common, **own)
        return _quiet(azure, key)
    if model.auth == "api-key":
        http.event_hooks = {"request": [_as_api_key]}
    sdk = (LiveSdk if live else openai.OpenAI)(api_key=key, base_url=model.base_url, **common)
    return _quiet(sdk, key)


def _quiet(sdk: openai.OpenAI, key: str) -> openai.OpenAI:
    """Its errors do without the key that a server may repeat in them."""
    if isinstance(sdk, LiveSdk | LiveAzureSdk):
        sdk.secret = key
    return sdk


def _as_api_key(request: httpx2.Request) -> None:
    request.headers["api-key"] = request.headers.pop("Authorization").removeprefix("Bearer ")


def _azure_place(model: Model) -> dict[str, str]:
    """As the SDK wants it; told the deployment, it finds the resource's list of models, too."""
    endpoint, found, deployment = model.base_url.partition(AZURE_DEPLOYMENTS)
    if not found or "/" in deployment:
        return {"base_url": model.base_url}
    return {"azure_endpoint": endpoint, "azure_deployment": deployment}


def _post(
    sdk: openai.OpenAI, body: bytes, headers: Mapping[str, str]
) -> tuple[Tape, Problem | None]:
    try:
        options: Any = {"headers": headers}
        response = sdk.post(CHAT, content=body, cast_to=httpx2.Response, options=options)
    except openai.APIStatusError as error:
        return tape_of(error.response.request), error
    except openai.APIConnectionError as error:
        if TAPE not in error.request.extensions:
            raise  # it never came to a request
        return tape_of(error.request), error
    return tape_of(response.request), None
