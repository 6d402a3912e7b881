"""Documents of an exact length: every count is checked by encoding the whole prompt once."""

import hashlib
import re
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workload_stand_ins import Model, says

from loadlib import catalog, scenario, tokens
from loadlib.errors import ScenarioError
from loadlib.lengths import TABLES, Uniform
from loadlib.quality import Judged, Said, judged
from loadlib.workloads import build
from loadlib.workloads.filler import END, Filler, _vocabulary, filler, words
from loadlib.workloads.haystack import NAMES, QUESTION, question
from loadlib.workloads.long_context import LongContextSpec

LENGTHS = (1_000, 2_000, 8_000, 32_000, 64_000, 128_000)
BOTH = tuple(tokens.VOCABULARIES)


def long(seed=42, name="long", **given):
    given = {"prompt_tokens": LENGTHS, "output_tokens": (64,), **given}
    return build(name, LongContextSpec(kind="long_context", **given), seed)


def document(prompt):
    return prompt.messages[-1]["content"]


def position(prompt):
    """Where the fact stands, as a share of the tokens before the question."""
    text = document(prompt)
    at = text.index("The vault code is")
    fact = re.match(r"The vault code is \d{4}-\d{4}\.\n\n", text[at:]).end()
    before = tokens.count(text[:at], "o200k_base")
    after = tokens.count(text[at + fact : -len(QUESTION)], "o200k_base")
    return before / (before + after)


@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("prefix", ["unique", "shared"])
def test_exact_by_encoding_the_whole_prompt(encoding, length, prefix):
    workload = long(prompt_tokens=(length,), prefix=prefix)
    prompt = workload.prompt(Model(encoding=encoding), 7)
    assert tokens.chat_tokens(prompt.messages, encoding) == length
    assert (prompt.tokens, prompt.asked_tokens, prompt.cut_tokens) == (length, length, None)
    assert prompt.exact
    assert prompt.max_tokens == 64


@settings(max_examples=60, deadline=None)
@given(
    encoding=st.sampled_from(BOTH),
    length=st.integers(60, 3_000),
    depth=st.floats(0, 1),
    seed=st.integers(0, 3),
    ordinal=st.integers(0, 10**6),
    system=st.sampled_from([None, "Be brief.", "Réponds en français. 🙂\n"]),
    prefix=st.sampled_from(["unique", "shared"]),
)
def test_exact_for_any_settings(encoding, length, depth, seed, ordinal, system, prefix):
    made = {"prompt_tokens": (length,), "depth": (depth,), "system": system, "prefix": prefix}
    try:
        workload = long(seed, **made)
    except ScenarioError:
        assert length < 90
        return
    prompt = workload.prompt(Model(encoding=encoding), ordinal)
    assert tokens.chat_tokens(prompt.messages, encoding) == length == prompt.tokens


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 10**6)), min_size=1, max_size=4),
    tail=st.text(max_size=30).filter(lambda text: text[:1] not in ("\r", "\n", "/")),
    encoding=st.sampled_from(BOTH),
)
def test_counts_of_filler_add_up_whatever_follows(pieces, tail, encoding):
    ring = filler(1, encoding)
    text = "".join(ring.exactly(budget, start) for budget, start in pieces) + tail
    expected = sum(budget for budget, _ in pieces) + tokens.count(tail, encoding)
    assert tokens.count(text, encoding) == expected


@pytest.mark.parametrize("encoding", BOTH)
def test_a_text_longer_than_the_ring_goes_round(encoding):
    ring = Filler(5, encoding)
    text = ring.exactly(400_000, 1_000)
    assert tokens.count(text, encoding) == 400_000


@pytest.mark.parametrize("encoding", BOTH)
def test_what_the_addition_rests_on(encoding):
    def is_one_token(text):
        return tokens.count(text, encoding) == 1

    first, *others = _vocabulary()["passage"]
    assert is_one_token(END)
    assert is_one_token(first)
    assert all(is_one_token(f" {word}") for word in others)
    assert is_one_token(f" {first}")  # where the passage starts over
    assert all(is_one_token(f"{n:03d}") for n in range(1000))
    assert all(is_one_token(str(n)) for n in range(10))
    assert all(tokens.count(words(n), encoding) == n for n in range(300))


def test_a_ring_never_mentions_the_vault():
    assert "vault" not in filler(42, "o200k_base").take(10**6, 0)[0]


def test_the_first_tokens_differ_and_nothing_long_is_shared():
    workload = long(prompt_tokens=(1_000, 2_000))
    asked = [(Model(name), n) for name in ("a", "b") for n in range(300)]
    heads = [tokens.encode(document(workload.prompt(*one)), "o200k_base")[:6] for one in asked]
    assert len({tuple(head) for head in heads}) == len(asked)
    assert len({head[0] for head in heads}) > 300  # of 1,000 possible: as many as chance gives
    assert len({tuple(head[:2]) for head in heads}) == len(asked)


@settings(max_examples=100, deadline=None)
@given(
    ordinals=st.sets(st.integers(0, 10**18 - 1), min_size=2, max_size=4),
    name=st.text(max_size=5),
    seed=st.integers(0, 2),
)
def test_distinct_ordinals_give_distinct_documents(ordinals, name, seed):
    workload = long(seed, prompt_tokens=(200,))
    texts = {document(workload.prompt(Model(name), n))[:18] for n in ordinals}
    assert len(texts) == len(ordinals)


@settings(max_examples=40, deadline=None)
@given(order=st.permutations(range(12)), encoding=st.sampled_from(BOTH))
def test_access_is_random_and_pure(order, encoding):
    model = Model(encoding=encoding)
    expected = [long(prompt_tokens=(300, 500)).prompt(model, n) for n in range(12)]
    workload = long(prompt_tokens=(300, 500))
    assert {n: workload.prompt(model, n) for n in order} == dict(enumerate(expected))


def test_seed_workload_and_model_change_the_document():
    made = [
        long(1).prompt(Model("a"), 0),
        long(2).prompt(Model("a"), 0),
        long(1, name="other").prompt(Model("a"), 0),
        long(1).prompt(Model("b"), 0),
    ]
    assert len({document(prompt) for prompt in made}) == 4
    assert len({prompt.check.codes for prompt in made}) == 4


SAME_ELSEWHERE = """
import sys; sys.path.insert(0, "tests")
from test_workloads_long_context import Model, document, long
import hashlib
print(hashlib.sha256(document(long().prompt(Model(), 3)).encode()).hexdigest())
"""


def test_another_process_makes_the_same_document(pytestconfig):
    done = subprocess.run(
        [sys.executable, "-c", SAME_ELSEWHERE],
        capture_output=True,
        text=True,
        cwd=pytestconfig.rootpath,
        env={"PYTHONHASHSEED": "7", "PATH": ""},
        timeout=60,
        check=True,
    )
    here = hashlib.sha256(document(long().prompt(Model(), 3)).encode()).hexdigest()
    assert done.stdout.strip() == here


def test_the_fact_is_there_once_and_the_question_comes_last():
    for n in range(20):
        prompt = long(prompt_tokens=(500, 5_000)).prompt(Model(), n)
        text = document(prompt)
        [code] = re.findall(r"vault code is (\d{4}-\d{4})", text)
        assert text.endswith("\n\n" + QUESTION)
        assert says(prompt, f"{code}")
        assert says(prompt, f"The code is **{code.replace('-', '–')}**.")
        assert not says(prompt, "The code is 0000-0001.")
        assert not says(prompt, "")


def test_check_false_leaves_the_answer_alone():
    assert long(check=False).prompt(Model(), 0).check is None
    assert long(check=True).prompt(Model(), 0).check is not None


@pytest.mark.parametrize("depth", [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("length", [2_000, 32_000])
def test_the_fact_is_planted_at_the_depth_asked(depth, length):
    for n in range(3):
        found = position(long(prompt_tokens=(length,), depth=(depth,)).prompt(Model(), n))
        # a paragraph has at most 200 tokens; the reference number stands before everything
        assert abs(found - depth) <= 220 / length


def test_depths_are_spread_by_default_over_every_length():
    workload = long(prompt_tokens=(1_000, 4_000))
    for offset in (0, 1):
        found = sorted(position(workload.prompt(Model(), 2 * n + offset)) for n in range(20))
        gaps = [b - a for a, b in zip([0, *found], [*found, 1], strict=True)]
        assert max(gaps) < 0.25


def test_every_length_meets_every_depth():
    workload = long(prompt_tokens=(2_000, 3_000), depth=(0, 1))
    prompts = [workload.prompt(Model(), n) for n in range(4)]
    met = {(prompt.asked_tokens, round(position(prompt))) for prompt in prompts}
    assert met == {(2_000, 0), (3_000, 0), (2_000, 1), (3_000, 1)}


def test_lengths_and_output_caps_go_round():
    workload = long(prompt_tokens=(500, 600, 700), output_tokens=(10, 20))
    made = [workload.prompt(Model(), n) for n in range(6)]
    assert [prompt.tokens for prompt in made] == [500, 600, 700, 500, 600, 700]
    assert [prompt.max_tokens for prompt in made] == [10, 20, 10, 20, 10, 20]
    assert workload.expected_tokens(Model()) == (600, 15)


def test_a_shared_prefix_is_shared_up_to_a_number_at_the_end():
    workload = long(prompt_tokens=(4_000,), prefix="shared")
    one, two = (document(workload.prompt(Model(), n)) for n in (0, 1))
    other_model = document(workload.prompt(Model("other"), 0))
    assert one != two
    assert one != other_model
    for text in (two, other_model):
        same = next(i for i, (a, b) in enumerate(zip(one, text, strict=False)) if a != b)
        assert tokens.count(one[:same], "o200k_base") > 3_950
    assert workload.prompt(Model(), 0).check == workload.prompt(Model(), 1).check


def test_system_and_extra_body_are_sent_as_they_are():
    workload = long(system="Be brief.", extra_body={"top_k": 1}, prompt_tokens=(900,))
    prompt = workload.prompt(Model(), 0)
    assert prompt.messages[0] == {"role": "system", "content": "Be brief."}
    assert prompt.extra_body == {"top_k": 1}
    assert prompt.tokens == tokens.chat_tokens(prompt.messages, "o200k_base") == 900


def test_a_length_beyond_the_window_is_skipped_and_said_so():
    model = Model("gpt-4", "cl100k_base", context_window=8_192)
    workload = long()
    assert workload.serves(model)
    assert [workload.prompt(model, n).tokens for n in range(4)] == [1_000, 2_000, 8_000, 1_000]
    assert workload.skipped(model) == tuple(
        f"long: {length} prompt tokens skipped for gpt-4 (its window is 8,192 tokens)"
        for length in ("32,000", "64,000", "128,000")
    )
    assert workload.expected_tokens(model) == (pytest.approx(11_000 / 3), 64)


def test_a_length_that_fits_only_without_its_answer_is_cut():
    model = Model("gpt-4o-mini", context_window=128_000)
    workload = long(prompt_tokens=(128_000,), output_tokens=(64, 1_000))
    for n, limit in ((0, 127_936), (1, 127_000)):
        prompt = workload.prompt(model, n)
        assert (prompt.asked_tokens, prompt.cut_tokens, prompt.tokens) == (128_000, limit, limit)
        assert tokens.chat_tokens(prompt.messages, "o200k_base") + prompt.max_tokens == 128_000
        assert says(prompt, prompt.check.codes[0])
    assert workload.skipped(model) == tuple(
        f"long: 128,000 prompt tokens cut to {limit} for gpt-4o-mini "
        f"(window 128,000 − {output} for the answer)"
        for limit, output in (("127,936", "64"), ("127,000", "1,000"))
    )
    assert workload.expected_tokens(model) == (127_468, 532)


@pytest.mark.parametrize(
    ("window", "kept"),
    [(1_063, [1_000]), (1_000, [936]), (999, []), (130, []), (10, [])],
)
def test_at_the_edge_of_the_window(window, kept):
    model = Model(context_window=window)
    workload = long(prompt_tokens=(1_000,))
    assert workload.serves(model) is bool(kept)
    if kept and window < 1_064:
        assert workload.prompt(model, 0).tokens == min(1_000, window - 64)
    elif not kept:
        assert "skipped" in workload.skipped(model)[0]
        assert workload.expected_tokens(model) == (0, 0)
        with pytest.raises(ValueError, match="fits the window of m"):
            workload.prompt(model, 0)


def test_a_window_with_no_room_beside_the_answer_skips_all():
    model = Model(context_window=1_000)
    workload = long(prompt_tokens=(500,), output_tokens=(990,))
    assert not workload.serves(model)
    assert len(workload.skipped(model)) == 1


def test_no_window_known_no_limit():
    assert long(prompt_tokens=(200_000,)).prompt(Model(), 0).tokens == 200_000
    assert long().skipped(Model()) == ()


def test_a_tokenizer_that_is_not_known_is_estimated_and_says_so():
    for model in (Model(encoding=None), Model(encoding="o200k_base", exact=False)):
        prompt = long(prompt_tokens=(1_000,)).prompt(model, 0)
        assert prompt.exact is False
        assert prompt.tokens == tokens.chat_tokens(prompt.messages, "o200k_base") == 1_000


def test_a_length_too_short_for_the_fact_is_refused():
    with pytest.raises(ScenarioError, match=r"workloads\.long\.prompt_tokens: 40 is too short"):
        long(prompt_tokens=(1_000, 40))
    with pytest.raises(ScenarioError, match="300 is too short"):
        long(prompt_tokens=(300,), system="word " * 400)
    assert long(prompt_tokens=(1_000,), system="word " * 400).prompt(Model(), 0).tokens == 1_000


def test_a_document_costs_two_slices_not_an_encoding(monkeypatch):
    workload = long(prompt_tokens=(128_000,))
    workload.prompt(Model(), 0)

    def refuse(*_):
        raise AssertionError("a prompt must not be encoded")

    monkeypatch.setattr(tokens, "encode", refuse)
    assert workload.prompt(Model(), 1).tokens == 128_000


# Lengths that are drawn


@pytest.mark.parametrize("encoding", BOTH)
def test_drawn_lengths_are_exact(encoding):
    prompts, outputs = TABLES["mooncake-conv"]
    workload = long(prompt_tokens=prompts, output_tokens=outputs)
    model = Model(encoding=encoding, context_window=128_000)
    made = [workload.prompt(model, n) for n in range(8)]
    for prompt in made:
        assert tokens.chat_tokens(prompt.messages, encoding) == prompt.tokens
        assert prompt.tokens == prompt.asked_tokens
    assert len({prompt.tokens for prompt in made}) == 8
    assert long(prompt_tokens=prompts, output_tokens=outputs).prompt(model, 7) == made[7]
    bands = {prompt.variant.split()[0] for prompt in made}
    assert all(re.fullmatch(r"(512|\d+Ki)-\d+Ki", band) for band in bands)


def test_a_draw_shorter_than_the_question_is_sent_as_that_and_said():
    workload = long(prompt_tokens=TABLES["azure-conv"][0])
    lines = workload.skipped(Model())
    made = [workload.prompt(Model(), n) for n in range(300)]
    least = min(prompt.tokens for prompt in made)
    assert lines == (
        # p1 is 29 and p5 181: 44 is at 0.01 + 0.04 · ln(43.5/29) / ln(181/29)
        f"long: 1.9 % of the prompt lengths are below the shortest prompt for m: sent with {least}",
    )
    assert any(prompt.asked_tokens < least for prompt in made)
    mean, cap = workload.expected_tokens(Model())
    sent = [prompt.tokens for prompt in made]
    assert mean == pytest.approx(sum(sent) / len(sent), rel=0.2)
    assert cap == 64


# Several needles


def planted(prompt, needles):
    """(depth, name, code) of each fact, a depth as a share of the tokens of the paragraphs."""
    text = document(prompt).removesuffix(question(needles))
    facts = list(re.finditer(r"The (\w+) vault code is (\d{4}-\d{4})\.\n\n", text))
    used = sum(tokens.count(one[0], "o200k_base") for one in facts)
    whole = tokens.count(text, "o200k_base") - used
    found = []
    for number, one in enumerate(facts):
        before = tokens.count(text[: one.start()], "o200k_base")
        before -= sum(tokens.count(other[0], "o200k_base") for other in facts[:number])
        found.append((before / whole, one[1], one[2]))
    return found


@pytest.mark.parametrize("depth", [None, (0.0, 0.4, 0.5, 1.0), (0.9,)])
@pytest.mark.parametrize("needles", [2, 5, 16])
def test_several_needles_stand_at_depths_of_their_own(needles, depth):
    workload = long(prompt_tokens=(20_000,), output_tokens=(200,), needles=needles, depth=depth)
    for n in (0, 3):
        prompt = workload.prompt(Model(), n)
        assert tokens.chat_tokens(prompt.messages, "o200k_base") == prompt.tokens == 20_000
        found = planted(prompt, needles)
        assert {name for _, name, _ in found} == set(NAMES[:needles])
        assert sorted(code for *_, code in found) == sorted(prompt.check.codes)
        assert len(set(prompt.check.codes)) == needles
        by_name = {name: at for at, name, _ in found}
        for nth, name in enumerate(NAMES[:needles]):
            if depth is None:
                wanted = (0.5 + (n * needles + nth) * 0.6180339887498949) % 1
            else:
                wanted = depth[(n + nth) % len(depth)]
            assert abs(by_name[name] - wanted) < 220 / 20_000
    if depth is None and needles > 2:
        gaps = sorted(by_name.values())
        assert max(b - a for a, b in pairwise([0, *gaps, 1])) < 2.2 / needles


def test_all_needles_pass_and_each_counts():
    prompt = long(prompt_tokens=(3_000,), needles=4).prompt(Model(), 0)
    codes = prompt.check.codes
    assert document(prompt).endswith(
        "What are the vault codes of amber, birch, cobalt and dahlia? "
        "Reply with the codes only, in this order."
    )
    assert says(prompt, f"{codes[3]} {codes[2]}, {codes[1].replace('-', '–')}: {codes[0]}")
    half = judged(prompt.check, Said(f"{codes[0]}, 0000-0000, {codes[2]}"))
    assert (half.passed, half.flaw, half.score, half.note) == (False, "wrong", 0.5, "2 of 4 codes")
    assert judged(prompt.check, Said("no idea")).score == 0
    assert judged(prompt.check, Said(", ".join(codes))) == Judged(passed=True, score=1.0)


@settings(max_examples=40, deadline=None)
@given(
    encoding=st.sampled_from(BOTH),
    length=st.integers(600, 3_000),
    needles=st.integers(1, 16),
    depth=st.none() | st.lists(st.floats(0.5, 1), min_size=1, max_size=4).map(tuple),
    prefix=st.sampled_from(["unique", "shared", "warm", 0.3, 0.5]),
    ordinal=st.integers(0, 10**6),
)
def test_exact_with_any_needles_and_prefix(encoding, length, needles, depth, prefix, ordinal):
    workload = long(
        prompt_tokens=(length,), output_tokens=(120,), needles=needles, depth=depth, prefix=prefix
    )
    prompt = workload.prompt(Model(encoding=encoding), ordinal)
    assert tokens.chat_tokens(prompt.messages, encoding) == length == prompt.tokens
    assert all(code in document(prompt) for code in prompt.check.codes)


# What prefix caches can make of it


def alike(one, two):
    """How many of their first tokens two prompts have in common, in front of the text included."""
    pairs = zip(*(tokens.encode(document(p), "o200k_base") for p in (one, two)), strict=False)
    return 4 + next(n for n, (a, b) in enumerate(pairs) if a != b)


@pytest.mark.parametrize("share", [0.3, 0.05, 0.9])
@pytest.mark.parametrize("length", [1_000, 32_000])
def test_a_share_of_the_tokens_is_the_same_and_no_more(share, length):
    workload = long(prompt_tokens=(length,), prefix=share)
    made = [workload.prompt(Model(), n) for n in range(4)]
    made.append(workload.prompt(Model("other"), 0))
    for other in made[1:]:
        assert abs(alike(made[0], other) - share * length) <= 16
    assert len({prompt.check.codes for prompt in made}) == 5
    assert all(document(p).index("vault code is") > share * len(document(p)) * 0.9 for p in made)
    same = long(prompt_tokens=(length,), prefix=share, system="Be brief.")
    with_system = [same.prompt(Model(), n) for n in range(2)]
    front = tokens.message_tokens(with_system[0].messages[0], "o200k_base")
    assert abs(front + alike(*with_system) - share * length) <= 16


def test_unique_documents_share_nothing_to_speak_of():
    workload = long(prompt_tokens=(8_000,))
    first, *others = (workload.prompt(Model(), n) for n in range(6))
    assert max(alike(first, other) for other in others) < 16


def test_warm_documents_come_again_with_another_end():
    workload = long(prompt_tokens=(2_000, 3_000), prefix="warm", documents=4)
    made = [workload.prompt(Model(), n) for n in range(12)]
    assert [prompt.tokens for prompt in made[:4]] == [2_000, 3_000, 2_000, 3_000]
    for n in range(4):
        first, again, third = made[n], made[n + 4], made[n + 8]
        assert first.tokens - alike(first, again) < 40  # a number and the question
        assert again.check == first.check == third.check
        assert len({document(p) for p in (first, again, third)}) == 3
        assert first.variant.endswith(" cold")
        assert again.variant == third.variant == first.variant.replace("cold", "warm")
    assert max(alike(made[0], other) for other in made[1:4]) < 16
    assert alike(made[0], workload.prompt(Model("other"), 0)) < 16


def test_there_are_as_many_warm_documents_as_lengths_and_depths():
    def pool(**given):
        workload = long(prefix="warm", **given)
        return next(n for n in range(100) if workload.prompt(Model(), n).variant.endswith("warm"))

    assert pool(prompt_tokens=(900,)) == 8
    assert pool(prompt_tokens=(900, 800), depth=(0, 0.2, 0.4, 0.6, 0.8)) == 10
    assert pool(prompt_tokens=(900,), documents=3) == 3
    assert pool(prompt_tokens=Uniform(700, 900)) == 8


# Variants


@pytest.mark.parametrize(
    ("given", "ordinal", "said", "why"),
    [
        ({"prompt_tokens": (32_000,), "depth": (0.25,)}, 0, "32k depth 25 %", "as it was asked"),
        ({"prompt_tokens": (1_024,), "depth": (0.125,)}, 0, "1Ki depth 12.5 %", "in its unit"),
        ({"prompt_tokens": (1_500,), "depth": (1.0,)}, 0, "1500 depth 100 %", "the very end"),
        ({"prompt_tokens": (8_000,)}, 0, "8k depth 40-60 %", "spread: a fifth of the document"),
        ({"prompt_tokens": (8_000,)}, 1, "8k depth 0-20 %", "0.5 + golden ratio, less 1"),
        ({"prompt_tokens": (8_000,), "prefix": "shared"}, 5, "8k depth 50 %", "all in the middle"),
        ({"prompt_tokens": (8_000,), "prefix": 0.5}, 0, "8k depth 60-80 %", "of the unshared half"),
        ({"prompt_tokens": (8_000,), "needles": 3}, 0, "8k 3 needles", "no depth is that of all"),
        ({"prompt_tokens": Uniform(5_000, 8_000)}, 0, "4Ki-8Ki depth 40-60 %", "drawn: a band"),
        ({"prompt_tokens": (900,), "prefix": "warm"}, 0, "900 depth 40-60 % cold", "sent first"),
        ({"prompt_tokens": (900,), "prefix": "warm"}, 8, "900 depth 40-60 % warm", "sent again"),
    ],
)
def test_a_variant_says_length_and_depth(given, ordinal, said, why):
    assert long(**given).prompt(Model(), ordinal).variant == said, why


def test_a_grid_has_fewer_variants_than_a_summary_keeps():
    grid = long(prompt_tokens=tuple(1_000 * 2**n for n in range(8)), prefix="warm", documents=80)
    assert len({grid.prompt(Model(), n).variant for n in range(240)}) == 80


SCENARIO = """
version: 1
target: simulator
models: [gpt-4o-mini, gpt-4o, gpt-3.5-turbo, gpt-4, gemini-1.5-flash, claude-3-haiku]
workloads:
  chat: {kind: chat, output_tokens: 16}
  long: {kind: long_context, prompt_tokens: [1k, 8k, 128k], output_tokens: 64, depth: 0.5}
load: [{phase: measure, requests: 10, arrival: closed, users: 1}]
"""


def test_with_a_real_scenario_and_the_catalogue():
    plan = scenario.parse(SCENARIO)
    workloads = {name: build(name, spec, plan.seed) for name, spec in plan.workloads.items()}
    longest = {}
    for spec in plan.models:
        model = catalog.resolve(spec)
        for workload in workloads.values():
            assert workload.serves(model)
            for n in range(3):
                prompt = workload.prompt(model, n)
                assert prompt.tokens == tokens.chat_tokens(prompt.messages, model.encoding)
                assert prompt.exact is model.exact
        longest[model.name] = max(workloads["long"].prompt(model, n).tokens for n in range(3))
    assert longest == {
        "gpt-4o-mini": 127_936,
        "gpt-4o": 127_936,
        "gpt-3.5-turbo": 8_000,
        "gpt-4": 8_000,
        "gemini-1.5-flash": 128_000,
        "claude-3-haiku": 128_000,
    }
