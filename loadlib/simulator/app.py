"""The simulated service: routes, keys, models, and the way of a request to its answer."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
import zlib
from collections import Counter as Counts
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from loadlib import tokens
from loadlib.engine import Work
from loadlib.simulator import prefixes, prometheus, ratelimit, wire, wished
from loadlib.simulator.answers import Author
from loadlib.simulator.chat import OVERLOADED, ChatRequest, Messages, Refusal, parse
from loadlib.simulator.connection import Connection
from loadlib.simulator.crew import Crew
from loadlib.simulator.faults import NONE, Asked, Faults, Plan, Rule
from loadlib.simulator.generation import Generation, Order, Outlet, Served
from loadlib.simulator.pacer import Pacer
from loadlib.simulator.parsing import Request
from loadlib.simulator.profiles import ModelProfile, Profile
from loadlib.simulator.prompts import Counter
from loadlib.simulator.spoiled import Spoiled

_STATUS_ERRORS: dict[int, tuple[str, str, str | None]] = {
    401: ("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    403: ("You are not allowed to use this model.", "invalid_request_error", "access_denied"),
    429: ("Rate limit reached for requests.", "requests", "rate_limit_exceeded"),
}
_FREEZE_SLICE_S = 0.05
MAX_MODELS = 10_000  # different names asked for: each has an engine and counters of its own


@dataclass(frozen=True, slots=True)
class Settings:
    """How the service behaves.

    `key`: the bearer token it insists on, None for any or none. `rules`: faults, in order of
    precedence. `wrong_rate`: share of answers that are made wrong where there is a right one.
    `reasoning_tokens`: thoughts in front of every answer.
    """

    profile: Profile
    seed: int = 0
    key: str | None = None
    strict_models: bool = False
    rules: tuple[Rule, ...] = ()
    wrong_rate: float = 0.0
    reasoning_tokens: int = 0


def warm_up(settings: Settings) -> None:
    """Load what the first request would wait for: the tokenizers of the profile."""
    profile = settings.profile
    models = [*profile.models.values(), *([profile.default] if profile.default else ())]
    for encoding in {model.encoding for model in models}:
        tokens.count("warm", encoding)


class Service:
    """Answers requests; `handle` is what connections call."""

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop, crew: Crew) -> None:
        self._settings, self._loop, self._crew = settings, loop, crew
        # Identifiers and lots of several processes differ; one alone is what it always was.
        self._lot = f"{settings.seed}" if crew.size == 1 else f"{settings.seed}.{crew.number}"
        self._plan = Plan(settings.rules, self._lot)
        self._pacer = Pacer(loop)
        self._author = Author(settings.seed, settings.reasoning_tokens)
        self._counter = Counter()
        self._tokenizer = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._served: dict[str, Served] = {}
        self._started = int(time.time())
        self._ordinal = 0
        self._of_model: Counts[str] = Counts()
        self._frozen = False
        self._routes: dict[tuple[str, str], Callable[[Connection, Request], None]] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("GET", "/v1/models"): self._models,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/health"): lambda connection, _request: connection.respond(200, b""),
        }

    def close(self) -> None:
        """Stop; answers under way are not finished."""
        self._tokenizer.shutdown(wait=False, cancel_futures=True)
        self._loop.close()

    def handle(self, connection: Connection, request: Request) -> None:
        """Answer one request, now or later."""
        try:
            self._route(request)(connection, request)
        except Refusal as refusal:
            self._refuse(connection, refusal)
        except Exception:
            self._refuse(connection, Refusal(500, OVERLOADED, kind="server_error"))
            raise  # a bug of ours: let the loop print it

    # --- routes ------------------------------------------------------------------------------

    def _route(self, request: Request) -> Callable[[Connection, Request], None]:
        path = request.path.rstrip("/") or "/"
        if path.startswith("/v1/"):
            self._check_key(request)
        route = self._routes.get((request.method, path))
        if route is not None:
            return route
        if request.method == "GET" and path.startswith("/v1/models/"):
            return self._model
        if any(known == path for _, known in self._routes):
            raise Refusal(405, f"Not allowed to {request.method} on {path}.")
        raise Refusal(404, f"Unknown request URL: {request.method} {path}.", code="unknown_url")

    def _check_key(self, request: Request) -> None:
        key = self._settings.key
        if key is not None and request.headers.get("authorization") != f"Bearer {key}":
            message, kind, code = _STATUS_ERRORS[401]
            raise Refusal(401, message, kind=kind, code=code)

    def _models(self, connection: Connection, _request: Request) -> None:
        names = self._settings.profile.models
        data = [self._describe(name) for name in names]
        connection.respond(200, msgspec.json.encode({"object": "list", "data": data}))

    def _model(self, connection: Connection, request: Request) -> None:
        name = request.path.removeprefix("/v1/models/").rstrip("/")
        self._profile(name)
        connection.respond(200, msgspec.json.encode(self._describe(name)))

    def _describe(self, name: str) -> dict[str, object]:
        window = self._profile(name).context_window
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "loadlib-simulator",
            "max_model_len": window,
        }

    def _metrics(self, connection: Connection, _request: Request) -> None:
        page = prometheus.page({name: served.meter for name, served in self._served.items()})
        text = self._crew.remark + page
        connection.respond(200, text.encode(), prometheus.CONTENT_TYPE, self._crew.headers)

    # --- chat completions --------------------------------------------------------------------

    def _chat(self, connection: Connection, http: Request) -> None:
        self._ordinal += 1
        ordinal, fresh = self._ordinal, connection.fresh
        connection.fresh = False
        since_first_s = self._crew.since_first_ns(http.arrival_ns) / 1e9
        if ordinal == 1:
            self._plan_freezes(since_first_s)
        request, messages = parse(http.body)
        if request.model not in self._of_model and len(self._of_model) >= MAX_MODELS:
            raise Refusal(404, "Too many models.", param="model", code="model_not_found")
        self._of_model[request.model] += 1
        model_ordinal = self._of_model[request.model]
        faults = self._plan.of(Asked(ordinal, request.model, model_ordinal, since_first_s, fresh))
        if faults.instead is not None:
            self._replace(connection, faults)
            return
        wish = wished.read(http.headers)
        profile = self._profile(request.model)
        draft = _Draft(connection, http, request, messages, profile, faults, ordinal, wish)
        # The tokens are a property of the request: due instants count from its arrival, however
        # long it takes to find them out.
        count = self._count(draft, inline=True)
        if count is not None:
            self._begin(draft, count)
            return
        connection.on_gone = draft.leave
        future = self._loop.run_in_executor(self._tokenizer, self._count, draft)
        future.add_done_callback(lambda done: self._counted(draft, done))

    def _profile(self, model: str) -> ModelProfile:
        profile = self._settings.profile
        served = profile.of(model)
        if served is None or (self._settings.strict_models and served is profile.default):
            message = f"The model `{model}` does not exist or you do not have access to it."
            raise Refusal(404, message, param="model", code="model_not_found")
        return served

    def _count(self, draft: _Draft, inline: bool = False) -> int | None:
        """Prompt tokens; None where `inline` and the text is too long for the event loop."""
        encoding = draft.profile.encoding
        try:
            model = draft.request.model
            count = self._counter.count(draft.messages, encoding, model=model, inline=inline)
            if draft.request.tools and count is not None:
                text = msgspec.json.encode(draft.request.tools).decode()
                tools = self._counter.count_text(text, encoding, inline=inline)
                count = None if tools is None else count + tools
        except RecursionError:
            raise Refusal(400, "Invalid 'messages': nested too deeply.", param="messages") from None
        except ValueError as error:
            raise Refusal(400, f"Invalid 'messages': {error}.", param="messages") from None
        step = draft.profile.speed.step
        if count is not None and step is not None and step.prefix_cache:
            pieces = self._counter.pieces(draft.messages, encoding, draft.request.model)
            draft.prefix = prefixes.chain(pieces, count, step.block_tokens)
        return count

    def _counted(self, draft: _Draft, done: asyncio.Future[int | None]) -> None:
        if draft.gone:
            return
        draft.connection.on_gone = None
        try:
            self._begin(draft, done.result() or 0)
        except Refusal as refusal:
            self._refuse(draft.connection, refusal)
        except Exception:
            self._refuse(draft.connection, Refusal(500, OVERLOADED, kind="server_error"))
            raise

    def _begin(self, draft: _Draft, prompt_tokens: int) -> None:
        request, profile, seed = draft.request, draft.profile, self._settings.seed
        room = _room(request, profile, prompt_tokens)
        served = self._served.get(request.model)
        if served is None:
            served = self._served[request.model] = Served(profile)
        asked = prompt_tokens + (request.cap or 0)
        limits = ratelimit.admit(served.limiter, request.model, asked, draft.http.arrival_ns)
        model = zlib.crc32(request.model.encode(), seed & 0xFFFFFFFF)
        luck = zlib.crc32(bytes(request.messages), model)
        answer = self._author.answer(
            request, draft.messages, profile.encoding, luck, room, draft.wish, self._wrong(draft)
        )
        word = f"{self._lot}/{draft.ordinal}".encode()
        digest = hashlib.blake2b(word, digest_size=12).hexdigest()
        delay, pace = _factors(profile.variation, luck)
        order = Order(
            identity=wire.Identity(f"chatcmpl-{digest}", request.model, int(time.time())),
            answer=answer,
            work=Work(prompt_tokens, len(answer.pieces), delay, pace, draft.prefix),
            arrival_ns=draft.http.arrival_ns,
            headers={"x-request-id": f"req_{digest}", **self._crew.headers, **limits},
            streamed=bool(request.stream),
            include_usage=request.include_usage,
        )
        outlet: Outlet = draft.connection
        if draft.faults is not NONE:
            outlet = Spoiled(draft.connection, draft.faults, self._loop, len(answer.pieces))
        Generation(order, outlet, served, self._pacer)

    def _wrong(self, draft: _Draft) -> random.Random | None:
        """The luck of a wrong answer, None for a right one."""
        if self._settings.wrong_rate <= 0:
            return None
        luck = random.Random(f"{self._lot}/wrong/{draft.ordinal}")
        return luck if luck.random() < self._settings.wrong_rate else None

    def _replace(self, connection: Connection, faults: Faults) -> None:
        """Send what comes instead of an answer."""
        instead, refusal = faults.instead, None
        if instead is not None and instead.kind == "status":
            refusal = _status_error(instead.status, instead.code)
        Spoiled(connection, faults, self._loop).replace(refusal, self._refused_headers())

    def _refuse(self, connection: Connection, refusal: Refusal) -> None:
        connection.respond(
            refusal.status, refusal.body, headers={**self._refused_headers(), **refusal.headers}
        )

    def _refused_headers(self) -> dict[str, str]:
        digest = hashlib.blake2b(f"{self._lot}/refused/{self._ordinal}".encode())
        return {"x-request-id": f"req_{digest.hexdigest()[:24]}", **self._crew.headers}

    # --- the freeze --------------------------------------------------------------------------

    def _plan_freezes(self, since_first_s: float) -> None:
        for at_s, for_s in self._plan.freezes:
            if at_s >= since_first_s:
                self._loop.call_later(at_s - since_first_s, _freeze, for_s)


@dataclass(slots=True)
class _Draft:
    """A request on its way to an `Order`: its prompt is not counted yet."""

    connection: Connection
    http: Request
    request: ChatRequest
    messages: Messages
    profile: ModelProfile
    faults: Faults
    ordinal: int
    wish: wished.Wish | None
    prefix: tuple[int, ...] = ()
    gone: bool = False

    def leave(self) -> None:
        self.gone = True


def _room(request: ChatRequest, profile: ModelProfile, prompt_tokens: int) -> int | None:
    """Tokens the window leaves for the answer. Raises `Refusal` where that is not enough."""
    window = profile.context_window
    if window is None:
        return None
    asked = request.cap or max(1, request.floor)
    if prompt_tokens + asked > window:
        message = (
            f"This model's maximum context length is {window} tokens. However, you requested "
            f"{prompt_tokens + asked} tokens ({prompt_tokens} in the messages, {asked} in the "
            "completion). Please reduce the length of the messages or completion."
        )
        raise Refusal(400, message, param="messages", code="context_length_exceeded")
    return window - prompt_tokens


def _factors(variation: float, luck: int) -> tuple[float, float]:
    """Log-normal factors of delay and pace, median 1; the same for the same prompt."""
    if variation <= 0:
        return 1.0, 1.0
    draw = random.Random(luck)
    return draw.lognormvariate(0, variation), draw.lognormvariate(0, variation)


def _status_error(status: int, code: str | None) -> Refusal:
    unknown = (OVERLOADED, "server_error" if status >= 500 else "invalid_request_error", None)
    message, kind, usual = _STATUS_ERRORS.get(status, unknown)
    return Refusal(status, message, kind=code or kind, code=code or usual)


def _freeze(seconds: float) -> None:
    """Stand still as a whole; in slices, so that a signal ends the process in between."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _FREEZE_SLICE_S))
