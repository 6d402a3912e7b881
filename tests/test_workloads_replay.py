"""Traces: what a file says, what is made of it, and which requests a window holds."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workload_stand_ins import Model, says

from loadlib import scenario, tokens
from loadlib.errors import DataError, ScenarioError, UsageError
from loadlib.schedule import S
from loadlib.session import Choice, estimate_usd, open_session
from loadlib.workloads import build
from loadlib.workloads.replay import ReplaySpec

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
DAY = "2023-11-16 18:17:0"
AZURE = HEADER + f"{DAY}3.9799600,4808,10\n{DAY}4.0319600,3180,8\n{DAY}4,7000,0\n"
MOONCAKE = "".join(
    json.dumps({"timestamp": at, "input_length": 10 * n, "output_length": n}) + "\n"
    for n, at in enumerate((0, 0, 3000, 3000, 6000), 20)
)


@dataclass(frozen=True)
class Phase:
    speed: float = 1.0
    duration_ns: int | None = None
    requests: int | None = None


@pytest.fixture
def file(tmp_path):
    def write(content, name="trace"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


@pytest.fixture
def replay(file):
    def make(content, seed=1, **more):
        return build("prod", ReplaySpec(kind="replay", data=file(content), **more), seed)

    return make


# -- prompts ---------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(0, 3000), min_size=1, max_size=5),
    encoding=st.sampled_from(sorted(tokens.VOCABULARIES)),
    system=st.sampled_from([None, "Be brief.", "Réponds en français. 🙂\n"]),
    ordinal=st.integers(0, 10**6),
)
@settings(max_examples=80, deadline=None)
def test_prompts_are_exactly_as_long_as_recorded(
    tmp_path_factory, lengths, encoding, system, ordinal
):
    path = tmp_path_factory.getbasetemp() / "lengths.csv"
    path.write_text(HEADER + "".join(f"{DAY}1,{n},{n + 1}\n" for n in lengths))
    workload = build("prod", ReplaySpec(kind="replay", data=str(path), system=system), 3)
    prompt = workload.prompt(Model(encoding=encoding), ordinal)
    asked = lengths[ordinal % len(lengths)]
    bare = [{"role": "user", "content": ""}]
    if system:
        bare.insert(0, {"role": "system", "content": system})
    least = tokens.chat_tokens(bare, encoding) + 2
    assert prompt.tokens == tokens.chat_tokens(prompt.messages, encoding) == max(asked, least)
    assert (prompt.asked_tokens, prompt.max_tokens) == (asked, asked + 1)
    assert prompt.cut_tokens == (None if asked >= least else least)
    assert prompt.messages[-1]["content"].strip()


def test_no_two_requests_start_alike(replay):
    workload = replay(MOONCAKE)
    texts = [workload.prompt(Model(), n).messages[0]["content"] for n in range(50)]
    texts += [workload.prompt(Model(name="other"), n).messages[0]["content"] for n in range(5)]
    assert len({text[:18] for text in texts}) == 55
    again = replay(MOONCAKE).prompt(Model(), 7).messages[0]["content"]
    assert again == texts[7], "the same for the same seed"
    assert replay(MOONCAKE, seed=2).prompt(Model(), 7).messages[0]["content"] != again


def test_settings_of_every_kind_hold(replay):
    workload = replay(MOONCAKE, extra_body={"temperature": 0})
    prompt = workload.prompt(Model(encoding=None, exact=False), 0)
    assert prompt.extra_body == {"temperature": 0}
    assert not prompt.exact, "an estimate says so"
    assert prompt.check is not None
    assert says(prompt, "yes")
    assert not says(prompt, " \n")
    assert replay(MOONCAKE, check=False).prompt(Model(), 0).check is None


# -- windows ---------------------------------------------------------------------------------------

SMALL = Model(context_window=241)
"""Holds prompts of 200 and 210 with their answers of 20 and 21, and of 220 and more without."""


def test_what_a_window_holds(replay):
    workload = replay(MOONCAKE.replace('"input_length": 240', '"input_length": 242'))
    sent = [workload.prompt(SMALL, n) for n in range(6)]
    assert [p.asked_tokens for p in sent] == [200, 210, 220, 230, 200, 210], "242 is left out"
    assert [p.tokens for p in sent] == [200, 210, 219, 218, 200, 210], "window − output"
    assert [p.cut_tokens for p in sent] == [None, None, 219, 218, None, None]
    assert workload.skipped(SMALL) == (
        "prod: 1 of 5 requests skipped for m (its window is 241 tokens)",
        "prod: 2 of 5 requests cut for m to what their answers leave (its window is 241 tokens)",
    )
    assert workload.expected_tokens(SMALL) == ((200 + 210 + 219 + 218) / 4, 21.5)
    assert workload.skipped(Model()) == ()
    assert workload.expected_tokens(Model()) == (220.4, 22)


def test_a_window_that_holds_nothing(replay):
    tiny = Model(context_window=25)
    workload = replay(MOONCAKE)
    assert not workload.serves(tiny)
    assert workload.expected_tokens(tiny) == (0, 0)
    assert workload.skipped(tiny) == (
        "prod: 5 of 5 requests skipped for m (its window is 25 tokens)",
    )
    with pytest.raises(ValueError, match="no request of the trace fits"):
        workload.prompt(tiny, 0)


def test_an_answer_alone_can_be_too_long(replay):
    workload = replay(HEADER + f"{DAY}1,10,500\n{DAY}2,10,5\n")
    assert [workload.prompt(Model(context_window=100), n).max_tokens for n in (0, 1)] == [5, 5]


def test_short_requests_are_said(replay):
    assert replay(HEADER + f"{DAY}1,3,0\n{DAY}2,50,1\n").skipped(Model()) == (
        "prod: 1 of 2 requests are shorter than a message for m: sent with 9",
    )


# -- streams ---------------------------------------------------------------------------------------


def test_an_arrival_gets_the_lengths_of_its_row(replay):
    workload = replay(MOONCAKE)
    small = Model(name="s", context_window=225)  # holds 200, 210 and 220
    alone, both = workload.stream([Model()], 7), workload.stream([Model(), small], 7)
    assert alone.instants.tolist() == [0, 0, 3 * S, 3 * S, 6 * S]
    assert both.instants.tolist() == [0, 0, 3 * S], "what one of them cannot take is left out"
    for stream, models in ((alone, [Model()]), (both, [Model(), small])):
        for index in range(len(stream.instants)):
            for model in models:
                prompt = workload.prompt(model, stream.ordinal(model, index))
                assert prompt.asked_tokens == 200 + 10 * index
    assert workload.stream([], 7).instants.tolist() == alone.instants.tolist()


def test_a_second_phase_sends_other_words_of_the_same_lengths(replay):
    workload = replay(MOONCAKE)
    first, second = (
        workload.prompt(Model(), workload.stream([Model()], lap).ordinal(Model(), 3))
        for lap in (1, 2)
    )
    assert first.tokens == second.tokens
    assert first.messages != second.messages


@pytest.mark.parametrize(
    ("phase", "requests", "rate", "error", "notice", "why"),
    [
        (Phase(duration_ns=3 * S), 2, 2 / 3, "", "", "the end is not in it"),
        (Phase(duration_ns=3 * S, speed=2), 4, 4 / 3, "", "", "twice as fast"),
        (Phase(duration_ns=10 * S), 5, 0.5, "", "its trace ends after 6s", "a quiet tail"),
        (Phase(duration_ns=4 * S, speed=2), 5, 1.25, "", "its trace ends after 3s", "and its end"),
        (Phase(requests=4), 4, 1, "", "", "three gaps in three seconds"),
        (Phase(requests=2), 2, None, "", "", "two at one instant have no rate"),
        (Phase(requests=6), 5, 4 / 6, "asks for 6 requests, its trace has 5", "", "too many"),
    ],
)
def test_what_a_phase_plays(replay, phase, requests, rate, error, notice, why):
    stream = replay(MOONCAKE).stream([Model()], 1)
    assert stream.requests(phase) == requests, why
    assert stream.rate(phase) == (None if rate is None else pytest.approx(rate)), why
    found = stream.shortfall(phase)
    assert (found[0].startswith(error), found[1].startswith(notice)) == (True, True), why
    assert tuple(map(bool, found)) == (bool(error), bool(notice)), why


def test_a_phase_before_the_first_request_that_fits(replay):
    late = Model(context_window=100)
    stream = replay(HEADER + f"{DAY}0,900,1\n{DAY}8,50,1\n").stream([late], 1)
    assert stream.shortfall(Phase(duration_ns=4 * S))[0] == (
        "no request of the trace falls into it; the first that fits comes after 8s"
    )
    assert stream.shortfall(Phase(duration_ns=4 * S, speed=4))[0] == ""


# -- a whole scenario ------------------------------------------------------------------------------

SCENARIO = """\
version: 1
target: simulator
models: [gpt-4o-mini, gpt-4]
workloads:
  prod: {kind: replay, data: trace}
load:
  - {phase: measure, duration: 5s, arrival: trace}
  - {phase: measure, requests: 4, arrival: trace, speed: 2}
"""


def opened(tmp_path, *changes, content=MOONCAKE):
    (tmp_path / "trace").write_text(content)
    text = SCENARIO
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (tmp_path / "s.yaml").write_text(text)
    return open_session(Choice(file=str(tmp_path / "s.yaml")))


def test_a_session_knows_what_its_trace_holds(tmp_path):
    session = opened(tmp_path)
    counted = [session.scenario.expected(phase, session.reach) for phase in session.scenario.load]
    assert [found["gpt-4", "prod"] for found in counted] == [4, 4]
    plan = session.plan([])
    assert [plan.rates(phase) for phase in session.scenario.load] == [
        {"gpt-4o-mini": 0.8, "gpt-4": 0.8},
        {"gpt-4o-mini": pytest.approx(2), "gpt-4": pytest.approx(2)},
    ]
    mini = session.models["gpt-4o-mini"].cost_usd(220, 22)
    four = session.models["gpt-4"].cost_usd(220, 22)
    assert estimate_usd(session).usd == pytest.approx(8 * (mini + four))
    assert scenario.parse(scenario.to_yaml(session.scenario)) == session.scenario


def test_per_total_deals_one_trace_out(tmp_path):
    session = opened(tmp_path, ("workloads:", "per: total\nworkloads:"))
    phase = session.scenario.load[0]
    counted = session.scenario.expected(phase, session.reach)
    assert counted == {("gpt-4o-mini", "prod"): 2, ("gpt-4", "prod"): 2}
    assert session.plan([]).rates(phase) == {"gpt-4o-mini": 0.4, "gpt-4": 0.4}


def test_each_phase_has_words_of_its_own(tmp_path):
    session = opened(tmp_path)
    plan, replayed = session.plan([]), session.workloads["prod"]
    model = session.models["gpt-4"]
    laps = [plan.stream(phase, [("gpt-4", "prod")]) for phase in session.scenario.load]
    texts = {str(replayed.prompt(model, lap.ordinal(model, 1)).messages) for lap in laps}
    texts.add(str(replayed.prompt(model, 1).messages))
    assert len(texts) == 3


def test_notices_of_a_trace(tmp_path):
    late = MOONCAKE + '{"timestamp": 1000, "input_length": 9, "output_length": 1}\n'
    session = opened(tmp_path, ("duration: 5s", "duration: 9s"), content=late)
    moved = "workload prod: 1 of its trace stood out of order, put in order of time"
    assert moved in session.notices
    tail = "phase measure: its trace ends after 6s, nothing arrives from then on"
    assert session.notices.count(tail) == 1, "once, not once a model"


@pytest.mark.parametrize(
    ("old", "new", "kind", "message"),
    [
        ("requests: 4", "requests: 40", UsageError, "phase measure-2: asks for 40 requests, its"),
        ("data: trace", "data: nowhere", DataError, "nowhere: cannot be read"),
    ],
)
def test_a_plan_that_its_trace_cannot_fill(tmp_path, old, new, kind, message):
    with pytest.raises(kind, match=message):
        opened(tmp_path, (old, new))


# -- blocks: equal ids are equal text --------------------------------------------------------------


def blocky(*rows):
    """(prompt tokens, ids): a request a second."""
    return "".join(
        json.dumps({"timestamp": 1000 * n, "input_length": size, "output_length": 3,
                    "hash_ids": list(ids)}) + "\n"
        for n, (size, ids) in enumerate(rows)
    )  # fmt: skip


SHARED = blocky((1536, (0, 1, 2)), (2000, (0, 1, 3, 4)), (1030, (0, 1, 5)), (700, (6, 7)))


def common(one: str, other: str) -> int:
    """How many characters two texts begin alike."""
    alike = (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(alike, min(len(one), len(other)))


@given(
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=4),
    encoding=st.sampled_from(sorted(tokens.VOCABULARIES)),
    system=st.sampled_from([None, "Be brief.", "Réponds en français. 🙂\n" * 90]),
    window=st.sampled_from([None, 1700]),
)
@settings(max_examples=80, deadline=None)
def test_prompts_of_blocks_are_exactly_as_long_as_recorded(
    tmp_path_factory, sizes, encoding, system, window
):
    """Also where a system message is longer than a block, and where a window cuts."""
    path = tmp_path_factory.getbasetemp() / "blocks.jsonl"
    path.write_text(blocky(*((size, range(-(-size // 512))) for size in sizes)))
    workload = build("prod", ReplaySpec(kind="replay", data=str(path), system=system), 3)
    model = Model(encoding=encoding, context_window=window)
    kept = [size for size in sizes if window is None or size <= window]
    for ordinal, size in enumerate(kept):
        prompt = workload.prompt(model, ordinal)
        assert prompt.asked_tokens == size
        assert prompt.tokens == tokens.chat_tokens(prompt.messages, encoding)
        least = tokens.chat_tokens([*prompt.messages[:-1], {"role": "user", "content": ""}],
                                   encoding) + 2  # fmt: skip
        assert prompt.tokens == min(max(size, least), (window or 10**6) - 3)


@pytest.mark.parametrize("encoding", sorted(tokens.VOCABULARIES))
@pytest.mark.parametrize("system", [None, "Be brief.", "word " * 600])
def test_equal_ids_are_equal_tokens_in_place(replay, encoding, system):
    """Of the whole prompt as the server's template puts it together: the template's own tokens
    and the system message stand in place of the first tokens of the first blocks."""
    workload = replay(SHARED, system=system)
    messages = [workload.prompt(Model(encoding=encoding), n).messages for n in range(4)]
    before = tokens.chat_tokens(
        [*messages[0][:-1], {"role": "user", "content": ""}], encoding
    ) - 4  # fmt: skip
    whole = [[None] * before + tokens.encode(m[-1]["content"], encoding) for m in messages]
    assert whole[0][:1024] == whole[1][:1024], "two blocks"
    assert whole[0][1024:1040] != whole[1][1024:1040], "and not the third"
    assert whole[0][:1024] == whole[2][:1024], "cut in the third, of which four tokens are the end"
    texts = [m[-1]["content"] for m in messages]
    if before < 512:
        assert common(texts[0], texts[3]) < 100, "no block in common"
    assert texts[2].startswith(texts[0][: common(texts[0], texts[1])][:-20]), "byte by byte"


def test_a_part_of_a_block_is_its_beginning(replay):
    short, long = replay(blocky((600, (0, 1)), (900, (0, 1)))), 2
    first, second = (short.prompt(Model(), n).messages[-1]["content"] for n in range(long))
    assert second.startswith(first)


def test_no_two_blocks_are_alike(replay):
    workload = replay(blocky(*((512, (n,)) for n in range(400))))
    found = [workload.prompt(Model(), n).messages[-1]["content"] for n in range(400)]
    assert len({text[:30] for text in found}) == 400


def test_a_lap_a_model_and_a_seed_have_blocks_of_their_own(replay):
    workload = replay(SHARED)
    first = workload.prompt(Model(), 0).messages[-1]["content"]
    assert workload.prompt(Model(), 4).messages[-1]["content"] != first, "the second lap"
    assert common(workload.prompt(Model(), 4).messages[-1]["content"],
                  workload.prompt(Model(), 5).messages[-1]["content"]) > 3000  # fmt: skip
    assert workload.prompt(Model(name="other"), 0).messages[-1]["content"] != first
    assert replay(SHARED, seed=2).prompt(Model(), 0).messages[-1]["content"] != first
    assert replay(SHARED).prompt(Model(), 0).messages[-1]["content"] == first


def test_blocks_have_four_bytes_a_token(replay):
    """As English usually has, and as the simulator's prefix cache counts."""
    text = replay(blocky((51_200, range(100)))).prompt(Model(), 0).messages[-1]["content"]
    assert 3.9 < len(text) / 51_193 < 4.1


# -- parts of a trace ------------------------------------------------------------------------------


def test_windows(replay):
    workload = replay(MOONCAKE, window=(1 * S, 6 * S))
    stream = workload.stream([Model()], 1)
    assert stream.instants.tolist() == [2 * S, 2 * S], "from the window's beginning, its end not"
    assert [workload.prompt(Model(), n).asked_tokens for n in range(3)] == [220, 230, 220]
    assert stream.shortfall(Phase(duration_ns=5 * S)) == ("", ""), "quiet, and yet not the end"
    notice = "its trace ends after 5s, nothing arrives from then on"
    assert stream.shortfall(Phase(duration_ns=6 * S)) == ("", notice)
    assert stream.shortfall(Phase(duration_ns=2 * S))[0] == (
        "no request of the trace falls into it; the first that fits comes after 2s"
    )
    late = replay(MOONCAKE, window=(1 * S, 60 * S)).stream([Model()], 1)
    assert late.lasts_ns == 5 * S, "the trace ends before the window does"


def test_shards_are_the_trace(replay):
    parts = [replay(MOONCAKE, shard=f"{k}/3").stream([Model()], 1) for k in (1, 2, 3)]
    assert [part.instants.tolist() for part in parts] == [[0, 3 * S], [0, 6 * S], [3 * S]]
    alone = replay(MOONCAKE, window=(3 * S, 9 * S), shard="2/2")
    assert alone.stream([Model()], 1).instants.tolist() == [0]
    assert alone.prompt(Model(), 0).asked_tokens == 230


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"window": (7 * S, 9 * S)}, r"prod\.window: nothing .* is left: it has 5 requests in 6s"),
        ({"shard": "6/6"}, r"prod\.shard: nothing of the trace is left"),
        ({"output_tokens": 9}, r"prod\.output_tokens: Mooncake traces have their own"),
        ({"only": {"model": "m"}}, r"prod\.only: Mooncake traces know no model"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_with_the_trace(replay, more, message):
    with pytest.raises(ScenarioError, match=message):
        replay(MOONCAKE, **more)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("window", "[5s, 5s]", "should be [from, to], the later one second"),
        ("window", "[5, 10]", "a duration needs a unit"),
        ("window", "[5s]", "should be [from, to], such as [0s, 10m]"),
        ("window", "10m", "should be [from, to], such as [0s, 10m]"),
        ("shard", "0/4", "should be a part of the trace such as 1/4"),
        ("shard", "5/4", "should be a part of the trace such as 1/4"),
        ("shard", "0.25", "should be a part of the trace such as 1/4"),
        ("only", "{model: []}", "only.model: should not be empty"),
        ("only", "chat", "only: should be a mapping"),
        ("output_tokens", "0", "output_tokens: should be 1 or more"),
        ("prompt_tokens", "5", "prompt_tokens comes from the trace: leave it out"),
    ],
)
def test_settings_that_nobody_means(key, value, message):
    text = SCENARIO.replace("data: trace", f"data: trace, {key}: {value}")
    with pytest.raises(ScenarioError) as caught:
        scenario.parse(text)
    assert message in str(caught.value)


def test_settings_are_written_back():
    more = "window: [0s, 90s], shard: 2/4, only: {model: GPT-4, log_type: [a, b]}"
    found = scenario.parse(SCENARIO.replace("data: trace", f"data: trace, {more}"))
    spec = found.workloads["prod"]
    assert (spec.window, spec.shard) == ((0, 90 * S), "2/4")
    assert spec.only == {"model": ("GPT-4",), "log_type": ("a", "b")}
    assert scenario.parse(scenario.to_yaml(found)) == found


# -- whole requests --------------------------------------------------------------------------------


def batched(content="Hi", **body):
    body = {"model": "gpt-x", "messages": [{"role": "user", "content": content}], **body}
    return json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions",
                       "body": body}) + "\n"  # fmt: skip


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def test_bodies_are_sent_as_they_are(replay):
    workload = replay(
        batched(max_tokens=5, temperature=0.25, stream=False)
        + batched(tools=TOOLS, response_format={"type": "json_object"}),
        extra_body={"temperature": 0, "seed": 1},
    )
    first, second, again = (workload.prompt(Model(), n) for n in range(3))
    assert first.messages == [{"role": "user", "content": "Hi"}]
    assert (first.max_tokens, first.tokens, first.exact) == (5, 8, True)
    assert first.extra_body == {"temperature": 0, "seed": 1}, "the scenario's settings rule"
    assert second.extra_body == {
        "tools": TOOLS, "response_format": {"type": "json_object"}, "temperature": 0, "seed": 1,
    }  # fmt: skip
    assert (second.max_tokens, second.exact) == (256, False), "tools are counted by estimate"
    assert second.tokens > 8
    assert again == first, "and from the first again"
    assert replay(batched(), output_tokens=9).prompt(Model(), 0).max_tokens == 9


def test_what_bodies_cost(replay):
    workload = replay(batched(max_tokens=6, n=2) + batched("Hello there", max_tokens=4))
    assert workload.expected_tokens(Model()) == (8.5, 8), "two answers of 6, one of 4"
    ours = replay(batched(max_tokens=6, n=2), extra_body={"n": 3})
    assert ours.expected_tokens(Model()) == (8, 6), "the estimate knows of the scenario's own n"


def test_bodies_that_a_window_does_not_hold(replay):
    image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 900}}]
    workload = replay(
        batched("word " * 100, max_tokens=90) + batched("word " * 100, max_tokens=200)
        + batched(image, max_tokens=5)
    )  # fmt: skip
    small = Model(context_window=200)
    sent = [workload.prompt(small, n) for n in range(2)]
    assert [prompt.max_tokens for prompt in sent] == [90, 5]
    assert sent[1].tokens is None, "nobody knows what an image takes"
    assert workload.expected_tokens(small)[0] == sent[0].tokens, "taken to be like the others"
    assert workload.skipped(small) == (
        "prod: 1 of 3 requests skipped for m (its window is 200 tokens)",
    )


def test_a_batch_does_not_say_when(replay, tmp_path):
    workload = replay(batched())
    assert workload.stream([Model()], 1).shortfall(Phase(requests=1)) == (
        "its data does not say when: take another arrival, such as poisson", ""
    )  # fmt: skip
    with pytest.raises(ScenarioError, match="window: OpenAI batch files do not say when"):
        replay(batched(), window=(0, S))
    with pytest.raises(ScenarioError, match=r"prod\.system: the requests of a batch are sent as"):
        replay(batched(), system="Be brief.")
    with pytest.raises(UsageError, match="phase measure: its data does not say when"):
        opened(tmp_path, content=batched())


def test_what_was_left_out_is_said(tmp_path):
    burst = (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "0,a,9,9,18,x\n1,a,9,0,9,x\n2,a,9,9,18,x\n3,a,9,9,18,x\n4,a,9,9,18,x\n"
    )
    session = opened(tmp_path, content=burst)
    left_out = "workload prod: 1 of its trace left out: no answer, or none that was counted"
    assert left_out in session.notices
