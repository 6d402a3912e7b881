"""Lengths that are drawn: quantile functions, their inverse, means, and the published tables."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadlib import lengths
from loadlib.lengths import TABLES, LogNormal, Table, Uniform, nth

TRACES = Path(__file__).parents[2] / "shared" / "traces"
needs_traces = pytest.mark.skipif(not TRACES.is_dir(), reason="../shared/traces is not there")
DRAWS = 10_000

THREE = Table(((0.5, 1_000), (0.9, 4_000), (0.99, 8_000)))
WHOLE = Table(((0.0, 10), (0.5, 100), (0.99, 1_000), (1.0, 10_000)))


@pytest.mark.parametrize(
    ("length", "u", "tokens", "why"),
    [
        (Uniform(10, 19), 1e-9, 10, "the first of ten numbers"),
        (Uniform(10, 19), 0.0999, 10, "each has a tenth"),
        (Uniform(10, 19), 0.1001, 11, "and then the next"),
        (Uniform(10, 19), 1 - 1e-16, 19, "never beyond the last"),
        (Uniform(7, 7), 0.5, 7, "one number is a constant"),
        (LogNormal(500, 8_000), 0.5, 500, "its p50"),
        (LogNormal(500, 8_000), 0.99, 8_000, "its p99"),
        (LogNormal(500, 8_000), 0.01, 31, "500² / 8000: symmetric in the logarithm"),
        (LogNormal(500, 500), 0.3, 500, "no spread"),
        (LogNormal(2, 9_000), 1e-9, 1, "no length below one token"),
        (LogNormal(500, 8_000), 1 - 1e-16, 42_067, "ends at its p99.99: 500·16^(3.71902/2.32635)"),
        (THREE, 0.5, 1_000, "a quantile that was given"),
        (THREE, 0.9, 4_000, "another"),
        (THREE, 0.7, 2_000, "half-way between them, in the logarithm"),
        (THREE, 0.3, 500, "below the first the line goes on"),
        (THREE, 1 - 1e-16, 8_000, "above the last nothing is longer"),
        (WHOLE, 1e-12, 10, "min"),
        (WHOLE, 0.25, 32, "√(10·100) between min and p50"),
        (WHOLE, 0.999, 3_162, "a power law: a tenth of the tail is half of its length in decades"),
        (WHOLE, 0.9999, 10_000, "its last hundredth is max"),
        (WHOLE, 1 - 1e-16, 10_000, "and so is all beyond"),
        (Table(((0.25, 5), (0.5, 5), (0.75, 9))), 0.4, 5, "equal quantiles are a constant"),
        (Table(((0.9, 10), (0.99, 9_000))), 0.01, 1, "a line down to one token at most"),
        (TABLES["azure-conv"][0], 0.5, 1_020, "published, prompts"),
        (TABLES["azure-conv"][1], 0.99, 601, "published, answers"),
        (TABLES["servegen-r1"][1], 0.9, 3_432, "published, answers"),
    ],
)
def test_known_quantiles(length, u, tokens, why):
    assert length.at(u) == tokens, why


COUNTS = st.integers(1, 10**6)
SHARES = st.floats(0.01, 0.99)


@st.composite
def tables(draw):
    shares = sorted(draw(st.sets(SHARES, min_size=2, max_size=5)))
    counts = sorted(draw(st.lists(COUNTS, min_size=len(shares), max_size=len(shares))))
    points = list(zip(shares, counts, strict=True))
    if draw(st.booleans()):
        points.insert(0, (0.0, draw(st.integers(1, counts[0]))))
    if draw(st.booleans()):
        points.append((1.0, draw(st.integers(counts[-1], 10**7))))
    return Table(tuple(points))


PAIRS = st.tuples(COUNTS, COUNTS).map(sorted)
DISTRIBUTIONS = st.one_of(
    PAIRS.map(lambda pair: Uniform(*pair)),
    PAIRS.map(lambda pair: LogNormal(*pair)),
    tables(),
    st.sampled_from([side for both in TABLES.values() for side in both]),
)
INSIDE = st.floats(2**-54, 1 - 2**-53)


@settings(max_examples=100, deadline=None)
@given(length=DISTRIBUTIONS, us=st.lists(INSIDE, min_size=2, max_size=8).map(sorted))
def test_a_quantile_function_rises_within_its_bounds(length, us):
    found = [length.at(u) for u in us]
    assert found == sorted(found)
    assert 1 <= lengths.least(length) <= found[0]
    assert found[-1] <= lengths.most(length)
    if isinstance(length, Table):
        assert lengths.most(length) == length.points[-1][1]
        if length.points[0][0] == 0:
            assert lengths.least(length) == length.points[0][1]
    if isinstance(length, Uniform):
        assert (lengths.least(length), lengths.most(length)) == (length.low, length.high)


@settings(max_examples=100, deadline=None)
@given(length=tables())
def test_a_table_goes_through_its_points(length):
    for share, tokens in length.points:
        if 0 < share < 1:
            assert length.at(share) == tokens


@settings(max_examples=100, deadline=None)
@given(length=DISTRIBUTIONS, tokens=st.integers(0, 10**7), u=INSIDE)
def test_the_share_up_to_a_length_is_the_inverse(length, tokens, u):
    share = lengths.share_upto(length, tokens)
    assert 0 <= share <= 1
    if share > 0:
        assert length.at(max(u * share, 2**-54)) <= tokens or share < 2**-50
    if share < 1 - 1e-9:
        assert length.at(min(share + 1e-9, 1 - 2**-53)) >= tokens


def binomial_bound(p):
    """4.9 standard errors: one in a million draws of 10,000 lies further out."""
    return 4.9 * math.sqrt(p * (1 - p) / DRAWS)


@pytest.mark.parametrize(
    ("length", "quantiles"),
    [
        (Uniform(1, 1_000), {0.1: 100, 0.5: 500, 0.9: 900}),
        (LogNormal(500, 8_000), {0.5: 500, 0.99: 8_000}),
        (THREE, dict(THREE.points)),
        *((side, dict(side.points[1:-1])) for both in TABLES.values() for side in both),
    ],
)
def test_quantiles_of_ten_thousand_draws(length, quantiles):
    drawn = [nth(length, n, 42, "chat", "m", "prompt") for n in range(DRAWS)]
    for p, tokens in quantiles.items():
        below = sum(one < tokens for one in drawn) / DRAWS
        upto = sum(one <= tokens for one in drawn) / DRAWS
        # a quantile has at most p below it and at least p up to it (ties: the same figure twice)
        assert below <= p + binomial_bound(p)
        assert upto >= p - binomial_bound(p)
    mean = lengths.mean(length)
    error = 5 * math.sqrt(sum((one - mean) ** 2 for one in drawn) / DRAWS / DRAWS)
    assert abs(sum(drawn) / DRAWS - mean) <= error + 0.01 * mean


def test_a_draw_depends_on_its_key_and_number_alone():
    length = TABLES["azure-conv"][0]
    forward = [nth(length, n, 1, "chat", "m") for n in range(50)]
    assert [nth(length, n, 1, "chat", "m") for n in reversed(range(50))] == forward[::-1]
    for other in ((2, "chat", "m"), (1, "long", "m"), (1, "chat", "n")):
        assert [nth(length, n, *other) for n in range(50)] != forward
    code = "from loadlib.lengths import *; print(nth(TABLES['azure-conv'][0], 7, 1, 'chat', 'm'))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) == forward[7]


def test_a_list_goes_round_whatever_the_key():
    assert [nth((5, 6), n, "any") for n in range(4)] == [5, 6, 5, 6]
    assert (lengths.mean((5, 6)), lengths.least((5, 6)), lengths.most((5, 6))) == (5.5, 5, 6)


@pytest.mark.parametrize(
    ("points", "why"),
    [
        ((), "nothing"),
        (((0.5, 10),), "a single quantile says nothing of the spread"),
        (((0.0, 10), (1.0, 20)), "the ends alone: write uniform"),
        (((0.5, 10), (0.9, 9)), "it falls"),
    ],
)
def test_what_is_no_table(points, why):
    assert lengths.refusal(points), why


def test_what_is_a_table():
    assert not any(lengths.refusal(side.points) for both in TABLES.values() for side in both)
    assert not lengths.refusal([(0.0, 5), (0.5, 5)])


PUBLISHED = {
    "azure-conv": "azure2023_conv",
    "azure-code": "azure2023_code",
    "mooncake-conv": "mooncake_conversation",
    "mooncake-synthetic": "mooncake_synthetic",
    "ragpulse": "ragpulse",
    "servegen-r1": "servegen_deepseek-r1",
    "arxiv-summary": "vidur_arxiv_summarization",
}
COLUMNS = ("min", "p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "max")


@needs_traces
def test_the_published_figures_are_the_published_ones():
    stats = json.loads((TRACES / "trace_stats.json").read_text())
    assert PUBLISHED.keys() == TABLES.keys()
    for name, source in PUBLISHED.items():
        for side, column in zip(TABLES[name], ("input_tokens", "output_tokens"), strict=True):
            given = stats[source][column]
            for (_, tokens), quantile in zip(side.points, COLUMNS, strict=True):
                assert abs(tokens - given[quantile]) <= 0.5, (name, column, quantile)
            assert lengths.mean(side) == pytest.approx(given["mean"], rel=0.05), (name, column)


def ranks(values):
    """With the mean rank for equal ones."""
    ordered = sorted(values)
    first = {}
    for rank, value in enumerate(ordered):
        first.setdefault(value, [rank, rank])[1] = rank
    return [sum(first[value]) / 2 for value in values]


def correlation(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    both = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return both / math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))


@needs_traces
@pytest.mark.parametrize("name", ["conv", "code"])
def test_prompts_and_answers_of_real_traces_hardly_go_together(name):
    """Why they are drawn independently of each other (docs/decisions/0080)."""
    with (TRACES / f"AzureLLMInferenceTrace_{name}.csv").open() as file:
        rows = [(int(r["ContextTokens"]), int(r["GeneratedTokens"])) for r in csv.DictReader(file)]
    prompts, answers = (ranks(column) for column in zip(*rows, strict=True))
    assert abs(correlation(prompts, answers)) < 0.1
