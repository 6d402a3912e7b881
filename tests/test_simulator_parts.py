"""The parts of the simulator that need no socket: profiles, prompts, answers, options."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib import tokens
from loadlib.catalog import CATALOGUE, resolve
from loadlib.engine import Limits, Work, replica
from loadlib.errors import LoadlibError
from loadlib.scenario import ModelSpec
from loadlib.simulator.__main__ import main
from loadlib.simulator.answers import WORDS, Author
from loadlib.simulator.chat import parse
from loadlib.simulator.images import BASE_TOKENS
from loadlib.simulator.profiles import BUILT_IN, load
from loadlib.simulator.prompts import Counter

ENCODINGS = ("o200k_base", "cl100k_base")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_filler_word_is_one_token_in_any_place(encoding):
    assert len(WORDS) == len(set(WORDS)) > 200
    for word in WORDS:
        for form in (word, f" {word}", word.capitalize(), f" {word.capitalize()}"):
            assert tokens.count(form, encoding) == 1, form


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_answers_have_one_token_a_piece_wherever_the_book_is_opened(encoding):
    author = Author(seed=3)
    for luck in range(0, 4000, 37):
        request, messages = parse(
            json.dumps(
                {"model": "m", "max_tokens": 97, "messages": [{"role": "user", "content": "x"}]}
            ).encode()
        )
        answer = author.answer(request, messages, encoding, luck, None)
        assert len(answer.pieces) == tokens.count(answer.text, encoding) == 97


# --- prompts -------------------------------------------------------------------------------------

paragraph = st.text(
    alphabet=st.sampled_from("abcXYZ 0123 .,;!?'/\t\n\r-éßж漢🙂\u00a0"), max_size=400
)


@given(parts=st.lists(paragraph, max_size=30), encoding=st.sampled_from(ENCODINGS))
def test_counting_piece_by_piece_is_exact(parts, encoding):
    text = "\n\n".join(parts) + "x" * 2001  # long enough to be taken to pieces
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    counter = Counter()
    truth = tokens.chat_tokens(messages, encoding)
    assert counter.count(messages, encoding) == truth
    assert counter.count(messages, encoding) == truth  # now from memory


def test_long_unseen_text_is_left_to_the_thread_and_known_text_is_not():
    messages = [{"role": "user", "content": "Some rain.\n\n" * 3000}]
    counter = Counter()
    short = [{"role": "user", "content": "Hello"}]
    assert counter.count(short, "cl100k_base", inline=True) == 8
    assert counter.count(messages, "cl100k_base", inline=True) is None
    truth = counter.count(messages, "cl100k_base")
    assert truth == tokens.chat_tokens(messages, "cl100k_base")
    assert counter.count(messages, "cl100k_base", inline=True) == truth


def test_parts_names_and_images_are_counted():
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    plain = [{"role": "user", "name": "ann", "content": "Hello"}]
    counter = Counter()
    truth = tokens.chat_tokens(plain, "o200k_base")
    assert counter.count([{**plain[0], "content": parts}], "o200k_base") == truth
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    with_image = [{**plain[0], "content": [*parts, image]}]
    assert counter.count(with_image, "o200k_base") == truth + BASE_TOKENS


# --- profiles ------------------------------------------------------------------------------------


def first_ms(profile, prompt_tokens):
    engine = replica(profile.speed)
    sequence = engine.submit(Work(prompt_tokens, 1), 0)
    engine.advance(10**18)
    return sequence.first_ns / 1e6


def test_the_catalogue_is_plausible():
    profile = load("catalogue")
    fast, large, old = (profile.of(name) for name in ("gpt-4o-mini", "gpt-4o", "gpt-4"))
    for size in (1000, 8000):
        assert first_ms(fast, size) < first_ms(large, size) < first_ms(old, size)
    assert fast.speed.output_tok_s > large.speed.output_tok_s > old.speed.output_tok_s
    for model in profile.models.values():
        window = min(model.context_window, 128_000)
        assert first_ms(model, 1000) < first_ms(model, window) < 3000
        assert model.variation > 0
    assert profile.default is not None


def test_the_catalogue_has_limits_for_those_who_ask():
    plain, limited = load("catalogue"), load("catalogue", limited=True)
    for name, model in limited.models.items():
        assert plain.of(name).limits == Limits()
        assert None not in (model.limits.requests_per_minute, model.limits.tokens_per_minute)
        assert model.speed == plain.of(name).speed
    assert limited.default.limits == Limits()


def test_optional_limits_stand_in_for_those_that_always_hold(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "default: {requests_per_minute: 9, tokens_per_minute: 1k,\n"
        "          optional_limits: {requests_per_minute: 3}}\n"
    )
    assert load(str(path)).default.limits == Limits(9, 1000)
    assert load(str(path), limited=True).default.limits == Limits(3, 1000)


def test_instant_has_no_delays_and_no_limits():
    profile = load("instant")
    for model in (*profile.models.values(), profile.default):
        assert model.speed.prefill_tok_s == model.speed.output_tok_s == math.inf
        assert model.speed.first_token_delay_ns == 0
        assert model.speed.prefill_lanes is model.speed.max_running is None
        assert (model.context_window, model.variation) == (None, 0)
    assert set(profile.models) == set(load("catalogue").models)


def test_windows_and_encodings_are_those_of_the_clients_catalogue():
    profile = load("catalogue")
    assert set(CATALOGUE) == set(profile.models)
    for name in CATALOGUE:
        known = resolve(ModelSpec(name=name))
        served = profile.of(known.wire)
        assert served is profile.models[name]
        assert served.context_window == known.context_window
        assert served.encoding == known.encoding == load("instant").models[name].encoding


@pytest.mark.parametrize(
    ("wire", "name"),
    [
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-4-0613", "gpt-4"),
        ("claude-3-haiku-20240307", "claude-3-haiku"),
        ("models/gemini-1.5-flash-002", "gemini-1.5-flash"),
        ("openai/gpt-4o", "gpt-4o"),
        ("gpt-4-turbo", None),
    ],
)
def test_dated_and_prefixed_names_find_their_model(wire, name):
    profile = load("catalogue")
    assert profile.of(wire) is (profile.models[name] if name else profile.default)


BROKEN = {
    "models:\n  a: {speed: 3}\n": "p.yaml:2: unknown key 'speed'",
    "modles: {}\n": "p.yaml:1: unknown key 'modles' (did you mean 'models'?)",
    "models:\n  a:\n    prefil_tok_s: 3\n": "p.yaml:3: unknown key 'prefil_tok_s' (did you mean",
    "models: {a: {output_tok_s: 0}}\n": "p.yaml:1: models.a.output_tok_s: should be greater than 0",
    "models: {a: {output_tok_s: -4}}\n": "p.yaml:1: models.a.output_tok_s: should be greater",
    "models: {a: {output_tok_s: 1e-300}}\n": "models.a.output_tok_s: should be at least 0.001",
    "default: {step_ms: 1e300}\n": "p.yaml:1: default.step_ms: should be at most 86,400,000",
    "default: {block_tokens: 1000000000}\n": "p.yaml:1: default.block_tokens: should be at most",
    "default: {variation: 1000}\n": "p.yaml:1: default.variation: should be at most 3",
    "default: {max_running: 1000000000000000000}": "default.max_running: should be at most 1,000,0",
    "models: {' ': {}}\n": "p.yaml:1: the name of a model is empty",
    "models: {a: {output_tok_s: fast}}\n": "p.yaml:1: models.a.output_tok_s: 'fast' is not a num",
    "models: {a: {output_tok_s: .nan}}\n": "p.yaml:1: models.a.output_tok_s: ",
    "default:\n  max_running: 0\n": "p.yaml:2: default.max_running: should be at least 1",
    "default:\n  max_running: 1.5\n": "p.yaml:2: default.max_running: should be a whole number",
    "default: {max_running: true}\n": "p.yaml:1: default.max_running: ",
    "default: {encoding: gpt2}\n": "p.yaml:1: default.encoding: 'gpt2' is not o200k_base or cl1",
    "default: {a: 1}\ndefault: {}\n": "p.yaml:2: duplicate key 'default', first at line 1",
    "models: [a]\n": "p.yaml:1: models: should be a mapping",
    "default: 7\n": "p.yaml:1: default: should be a mapping",
    "- a\n": "p.yaml:1: should be a mapping",
    "": "p.yaml: a profile needs models, or a default",
    "models: {}\n": "a profile needs models, or a default",
    "models: {a: [\n": "p.yaml:2: not YAML: ",
    "default: {prefix_cache: 1}\n": "p.yaml:1: default.prefix_cache: should be true or false",
    "default:\n  step_ms: -1\n": "p.yaml:2: default.step_ms: should be at least 0",
    "default: {tokens_per_minute: 0}\n": "p.yaml:1: default.tokens_per_minute: should be",
    "default: {step_ms: 9, output_tok_s: 5}\n": "p.yaml:1: default: prefill_tok_s, output_tok_s",
    "default: {step_ms: 9, token_budget: 5}\n": "p.yaml:1: default: token_budget must be at least",
    "default: {optional_limits: 5}\n": "p.yaml:1: default.optional_limits: should be a mapping",
    "default: {optional_limits: {rpm: 5}}\n": "p.yaml:1: unknown key 'rpm'",
    "default: {optional_limits: {tokens_per_minute: 0}}\n": "default.optional_limits.tokens_per_mi",
    "default: {kv_blocks: 5}\n": "p.yaml:1: default: kv_blocks hold 80 tokens: needs a context_w",
}


@pytest.mark.parametrize(("text", "message"), BROKEN.items(), ids=range(len(BROKEN)))
def test_a_broken_profile_is_one_line_with_its_place(tmp_path, capsys, text, message):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    assert main(["--profile", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_the_profile_in_the_documentation_loads(tmp_path):
    page = Path(__file__).parent.parent.joinpath("docs", "simulator.md").read_text("utf-8")
    path = tmp_path / "p.yaml"
    path.write_text(page.partition("```yaml\n")[2].partition("```")[0])
    profile = load(str(path), limited=True)
    assert profile.of("mine").limits == Limits(500, 200_000)
    assert profile.of("replica").speed.step.token_budget == 2048
    assert profile.of("another") is profile.default


def test_a_profile_may_leave_anything_out(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("models:\n  a:\n  b: {prefill_tok_s: 1.5k, first_token_delay_ms: 0.5}\n")
    profile = load(str(path))
    assert profile.of("a").speed.output_tok_s == math.inf
    assert profile.of("b").speed.prefill_tok_s == 1500
    assert profile.of("b").speed.first_token_delay_ns == 500_000
    assert profile.of("c") is None


def test_a_replica_is_given_by_its_steps(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "default: {step_ms: 8, step_us_per_prefill_token: 32, step_us_per_sequence: 15,\n"
        "  step_ns_per_context_token: 0.049, max_running: 4, token_budget: 2048, kv_blocks: 1k,\n"
        "  prefix_cache: true, context_window: 16000, requests_per_minute: 60}\n"
    )
    model = load(str(path)).default
    step = model.speed.step
    assert (step.base_ns, step.prefill_token_ns, step.sequence_ns) == (8e6, 32e3, 15e3)
    assert (step.context_token_ns, step.token_budget, step.kv_blocks) == (0.049, 2048, 1000)
    assert (step.block_tokens, step.prefix_cache) == (16, True)
    assert model.limits == Limits(requests_per_minute=60)


@pytest.mark.parametrize("name", ["vllm-replica", "llamacpp-cpu"])
def test_a_replica_slows_down_in_company(name):
    model = load(name).default
    alone, crowd = [], []
    for count, latencies in ((1, alone), (4, crowd)):
        engine = replica(model.speed)
        sequences = [engine.submit(Work(500, 50), 0) for _ in range(count)]
        engine.advance(10**18)
        latencies += [s.last_ns for s in sequences]
        assert engine.load.kv_usage == 0
    assert max(crowd) > max(alone)
    assert model.limits == Limits()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "0.0.0.0"], "binds loopback only, not '0.0.0.0'"),
        (["--host", "example.com"], "binds loopback only"),
        (["--profile", "instent"], "no profile 'instent': neither catalogue, instant, "),
        (["--profile", "/"], "no profile '/'"),
        (["--profile", "instant", "--limits"], "--limits: no model of profile 'instant' has"),
        (["--require-key", "SIM_TEST_UNSET"], "'SIM_TEST_UNSET' is not set"),
    ],
)
def test_wrong_options_are_one_line(capsys, monkeypatch, flags, message):
    monkeypatch.delenv("SIM_TEST_UNSET", raising=False)
    assert main(flags) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--status", "200"], "--status: '200' should be a whole number from 400 to 599"),
        (["--every", "0"], "--every: '0' should be a whole number from 1 to "),
        (["--port", "99999"], "--port: '99999' should be a whole number from 0 to 65535"),
        (["--port", "http"], "--port: 'http' should be a whole number from 0 to 65535"),
        (["--stall-after-first", "-1"], "'-1' should be a number of seconds from 0 to less than"),
        (["--stall-after-first", "nan"], "'nan' should be a number of seconds from 0 to less"),
        (["--stall-after-first", "soon"], "'soon' should be a number of seconds from 0 to less"),
        (["--wrong-rate", "2"], "'2' should be a share such as 0.05 or 5 %"),
        (["--nope"], "unrecognized arguments: --nope"),
    ],
)
def test_options_out_of_range_are_refused_in_words(capsys, flags, message):
    with pytest.raises(SystemExit) as caught:
        main(flags)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


def test_built_in_profiles_load():
    assert [load(name).name for name in BUILT_IN] == list(BUILT_IN)
    with pytest.raises(LoadlibError):
        load("")
