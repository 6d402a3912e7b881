"""The catalogue: its own rows, genai-prices behind it, endpoints of the user's, and no network."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date

import pytest

from loadlib.catalog import CATALOGUE, PROVIDERS, is_public, names, resolve
from loadlib.scenario_spec import ModelSpec, Price

SIX = ("gpt-4o-mini", "gpt-4o", "gpt-3.5-turbo", "gpt-4", "gemini-1.5-flash", "claude-3-haiku")


def spec(name, **settings):
    return ModelSpec(name=name, **settings)


def test_the_six_are_there():
    assert names() == SIX


@pytest.mark.parametrize(
    ("name", "wire", "key", "window", "encoding", "exact"),
    [
        ("gpt-4o-mini", "gpt-4o-mini", "OPENAI_API_KEY", 128_000, "o200k_base", True),
        ("gpt-4o", "gpt-4o", "OPENAI_API_KEY", 128_000, "o200k_base", True),
        ("gpt-3.5-turbo", "gpt-3.5-turbo", "OPENAI_API_KEY", 16_385, "cl100k_base", True),
        ("gpt-4", "gpt-4", "OPENAI_API_KEY", 8_192, "cl100k_base", True),
        ("gemini-1.5-flash", "gemini-1.5-flash", "GEMINI_API_KEY", 1_000_000, "o200k_base", False),
        (
            "claude-3-haiku",
            "claude-3-haiku-20240307",
            "ANTHROPIC_API_KEY",
            200_000,
            "o200k_base",
            False,
        ),
    ],
)
def test_rows(name, wire, key, window, encoding, exact):
    model = resolve(spec(name))
    assert (model.name, model.wire, model.api_key_env) == (name, wire, key)
    assert (model.context_window, model.encoding, model.exact) == (window, encoding, exact)
    assert model.base_url == PROVIDERS[model.provider].base_url
    assert not model.own
    assert is_public(model.host)


@pytest.mark.parametrize(
    ("name", "today", "status", "why"),
    [
        ("gpt-4o", date(2026, 11, 22), "deprecated", "announced, not yet reached"),
        ("gpt-4o", date(2027, 1, 14), "shutdown", "the day itself"),
        ("gpt-4", date(2026, 10, 22), "deprecated", "the day before"),
        ("gpt-4", date(2026, 11, 22), "shutdown", "past"),
        ("gpt-3.5-turbo", date(2026, 11, 22), "shutdown", "past"),
        ("gemini-1.5-flash", date(2026, 11, 22), "shutdown", "past"),
        ("claude-3-haiku", date(2026, 11, 22), "shutdown", "past"),
    ],
)
def test_lifecycle_by_date(name, today, status, why):
    model = resolve(spec(name), today=today)
    assert model.status == status, why
    assert model.replacement
    assert model.source.startswith("https://")
    assert model.status_date == CATALOGUE[name].shutdown


def test_a_name_of_ones_own_for_a_catalogue_model():
    model = resolve(spec("cheap", model="gpt-4o-mini", context_window=4096, api_key_env="TEAM_KEY"))
    assert (model.name, model.wire, model.api_key_env) == ("cheap", "gpt-4o-mini", "TEAM_KEY")
    assert (model.context_window, model.provider) == (4096, "openai")


def test_an_endpoint_of_ones_own_gets_no_key_and_no_price():
    model = resolve(spec("local", model="smollm2-135m", base_url="http://127.0.0.1:8080/v1/"))
    assert (model.wire, model.base_url) == ("smollm2-135m", "http://127.0.0.1:8080/v1")
    assert (model.own, model.provider, model.api_key_env) == (True, None, None)
    assert (model.status, model.context_window, model.exact) == ("active", None, False)
    assert model.cost_usd(1000, 1000) is None
    assert not model.priced


def test_a_provider_key_never_goes_to_another_host():
    model = resolve(spec("gpt-4o", base_url="https://gateway.example/v1"))
    assert (model.own, model.api_key_env, model.provider) == (True, None, None)
    assert (model.encoding, model.exact, model.context_window) == ("o200k_base", True, 128_000)
    assert model.status == "active", "what the provider retired, a gateway may still serve"


@pytest.mark.parametrize(
    "base_url",
    [
        "https://api.openai.com.evil.example/v1",
        "http://api.openai.com/v1",
        "https://api.openai.com:8443/v1",
    ],
)
def test_nearly_a_provider_is_not_one(base_url):
    assert resolve(spec("gpt-4o", base_url=base_url)).api_key_env is None


def test_a_price_of_ones_own():
    price = Price(input_usd_per_mtok=1, output_usd_per_mtok=2.5)
    model = resolve(spec("local", base_url="http://127.0.0.1:1/v1", price=price))
    assert model.cost_usd(1_000_000, 2_000_000) == 6
    assert model.cost_usd(None, 10) is None, "unknown tokens cost something unknown, not nothing"
    assert model.describe()["price"] == {
        "input_usd_per_mtok": 1,
        "output_usd_per_mtok": 2.5,
        "source": "scenario",
    }
    json.dumps(model.describe())


def test_what_a_cache_served_has_a_price_of_its_own_where_one_is_given():
    own = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 0}
    full = resolve(spec("local", base_url="http://127.0.0.1:1/v1", price=Price(**own)))
    price = Price(**own, cached_usd_per_mtok=0.25)
    less = resolve(spec("local", base_url="http://127.0.0.1:1/v1", price=price))
    assert full.cost_usd(1_000_000, 0, 400_000) == 1, "unknown: as input"
    assert less.cost_usd(1_000_000, 0, 400_000) == 0.7
    assert less.cost_usd(1_000_000, 0, 9_000_000) == 0.25, "no more than the prompt"
    assert less.cost_usd(1_000_000, 0) == 1


PUBLIC = ["8.8.8.8", "api.openai.com", "::ffff:8.8.8.8", "2606:4700::1", "vllm", "[2606:4700::1]"]
DISGUISED = ["localhost.evil.example", "127.1", "0x7f000001", "2130706433", "10.0.0.1.example"]
PRIVATE = ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "10.0.0.1", "192.168.1.1", "172.16.0.9"]
NEAR = ["169.254.1.1", "fe80::1%eth0", "fd00::1", "0.0.0.0", "::ffff:10.0.0.1"]
NAMED = ["localhost", "LOCALHOST.", "api.localhost", "nas.local"]


@pytest.mark.parametrize("host", [*PUBLIC, *DISGUISED])
def test_public_hosts(host):
    assert is_public(host)


@pytest.mark.parametrize("host", [*PRIVATE, *NEAR, *NAMED])
def test_hosts_that_are_not_public(host):
    assert not is_public(host)


# genai-prices imports an HTTP client it then does not use. The test process stays free of that,
# so what needs prices runs once, in a child with the network taken away.
ASK = """
import json, socket, sys
def refuse(*_):
    raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
from loadlib.catalog import CATALOGUE, PROVIDERS, resolve
from loadlib.prices import _snapshot, info
from loadlib.errors import UsageError
from loadlib.scenario_spec import ModelSpec
answers = {"lazy": "genai_prices" not in sys.modules}
for name in CATALOGUE:
    resolve(ModelSpec(name=name))
answers["names are free"] = "genai_prices" not in sys.modules
for name, row in CATALOGUE.items():
    model = resolve(ModelSpec(name=name))
    answers[name] = {
        "window": info(row.provider, row.wire).context_window,
        "price": model.describe()["price"],
        "cost": model.cost_usd(1_000_000, 1_000_000),
        "cached": model.cost_usd(1000, 0, 1000),
        "over-reported cache": model.cost_usd(1000, 0, 5000),
        "nothing": model.cost_usd(0, 0),
        "priced": model.priced,
    }
known = {provider.id for provider in _snapshot().providers}
answers["providers"] = sorted(set(PROVIDERS) - known)
for name in json.loads(sys.argv[1]):
    try:
        model = resolve(ModelSpec(name=name))
        answers[name] = model.describe() | {"cost": model.cost_usd(1000, 1000)}
    except UsageError as error:
        answers[name] = str(error)
model = resolve(ModelSpec(name="mine", model="gpt-4o", base_url="https://api.openai.com/v1"))
answers["by url"] = model.describe()
tiers = resolve(ModelSpec(name="gemini-1.5-flash"))
answers["tiers"] = [tiers.cost_usd(100_000, 0), tiers.cost_usd(200_000, 0)]
answers["threads"] = __import__("threading").active_count()
print(json.dumps(answers))
"""
ASKED = [
    "openai/gpt-4o-2024-08-06",
    "openai/gpt-4.1",
    "anthropic/claude-haiku-4-5",
    "openrouter/openai/gpt-4o",
    "gpt-4o-mimi",
    "gpt-4.1",
    "openai/gpt-4o-minni",
    "azure/gpt-4o",
    "nobody/knows",
]


@pytest.fixture(scope="module")
def answers():
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", ASK, json.dumps(ASKED)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_prices_are_loaded_late_and_without_network(answers):
    assert answers["lazy"]
    assert answers["names are free"]
    assert answers["threads"] == 1, "no updater in the background"


@pytest.mark.parametrize("name", SIX)
def test_rows_agree_with_genai_prices(answers, name):
    assert answers[name]["window"] == CATALOGUE[name].context_window
    assert answers[name]["priced"]
    assert answers[name]["nothing"] == 0
    assert answers[name]["over-reported cache"] == answers[name]["cached"]


def test_what_people_quote(answers):
    """15 cents per million input tokens and 60 per million output."""
    assert answers["gpt-4o-mini"]["price"]["input_usd_per_mtok"] == 0.15
    assert answers["gpt-4o-mini"]["price"]["output_usd_per_mtok"] == 0.60
    assert answers["gpt-4o-mini"]["cost"] == pytest.approx(0.75)
    assert answers["gpt-4o-mini"]["cached"] == pytest.approx(0.000075), "half price from the cache"
    assert answers["gpt-4"]["cost"] == pytest.approx(90)


def test_price_tiers_hold_per_request(answers):
    small, large = answers["tiers"]
    assert large > 2.5 * small, "beyond 128k every token of the request costs double"


def test_every_endpoint_belongs_to_a_provider_genai_prices_knows(answers):
    assert answers["providers"] == []


def test_provider_slash_model(answers):
    dated = answers["openai/gpt-4o-2024-08-06"]
    assert (dated["wire"], dated["context_window"]) == ("gpt-4o-2024-08-06", 128_000)
    assert (dated["replacement"], dated["exact"]) == ("gpt-6-luna", True), "a snapshot of gpt-4o"
    other = answers["openai/gpt-4.1"]
    assert (other["wire"], other["encoding"], other["exact"]) == ("gpt-4.1", "o200k_base", True)
    assert other["context_window"] >= 1_000_000
    claude = answers["anthropic/claude-haiku-4-5"]
    assert (claude["api_key_env"], claude["exact"]) == ("ANTHROPIC_API_KEY", False)
    routed = answers["openrouter/openai/gpt-4o"]
    assert (routed["wire"], routed["host"]) == ("openai/gpt-4o", "openrouter.ai")
    assert all(answers[name]["cost"] > 0 for name in ASKED[:4])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpt-4o-mimi", "unknown model 'gpt-4o-mimi' (did you mean 'gpt-4o-mini'?)"),
        ("gpt-4.1", "did you mean 'openai/gpt-4.1'?"),
        ("openai/gpt-4o-minni", "did you mean 'openai/gpt-4o-mini'?"),
        ("azure/gpt-4o", "no OpenAI-compatible endpoint of azure is known, give its base_url"),
        ("nobody/knows", "an endpoint of your own needs base_url"),
    ],
)
def test_unknown_models_name_the_nearest(answers, name, message):
    assert message in answers[name]


def test_a_provider_by_its_url(answers):
    model = answers["by url"]
    assert (model["provider"], model["own"], model["api_key_env"]) == (
        "openai",
        False,
        "OPENAI_API_KEY",
    )
    assert model["price"]["input_usd_per_mtok"] == 2.5


# The price of a request is worked out from rates that were asked for once. Every model that can
# be named must cost to the last bit what genai-prices itself says: edges of tiers, off-peak hours
# and fees per request included.
CALC = """
import json, random, sys, warnings
from datetime import UTC, datetime
from genai_prices import Usage
from genai_prices.types import ModelPrice, TieredPrices
from loadlib import catalog, prices

class Clock(datetime):
    at = None
    @classmethod
    def now(cls, zone=None):
        return cls.at

prices.datetime = Clock
random.seed(7)
snapshot = prices._snapshot()
models = {("openai", "gpt-4o-mini"), ("openai", "gpt-4o"), ("openai", "gpt-3.5-turbo"),
          ("openai", "gpt-4"), ("google", "gemini-1.5-flash"),
          ("anthropic", "claude-3-haiku-20240307")}
assert models == {(row.provider, row.wire) for row in catalog.CATALOGUE.values()}
named = [(p.id, m) for p in snapshot.providers if p.id in catalog.PROVIDERS for m in p.models]
models |= {(provider, model.id) for provider, model in named}
instants = [datetime(2024, 9, 1, 12, tzinfo=UTC), datetime(2025, 8, 1, 3, tzinfo=UTC),
            datetime(2026, 11, 22, 17, 30, tzinfo=UTC)]
seen = {"models": 0, "tiers": 0, "dated": 0, "unequal": []}
for provider, ref in sorted(models):
    info = prices.info(provider, ref)
    if info is None:
        continue
    dated = not isinstance(info.prices, ModelPrice)
    choices = [info.get_prices(at) for at in instants]
    starts = {tier.start for choice in choices for price in vars(choice).values()
              if isinstance(price, TieredPrices) for tier in price.tiers}
    sent = {0, 1, random.randrange(10**6)} | {at + d for at in starts for d in (-1, 0, 1, 2)}
    seen["models"] += 1
    seen["tiers"] += bool(starts)
    seen["dated"] += dated
    for at in instants if dated else instants[-1:]:
        Clock.at = at
        for n in sorted(sent):
            got, cached = random.randrange(10**4), random.choice([0, 1, n // 3, n])
            cached = min(cached, n)
            usage = Usage(input_tokens=n, output_tokens=got, cache_read_tokens=cached)
            asked = snapshot.calc(usage, ref, provider, None, at)
            ours = prices.usd(provider, ref, n, got, cached)
            if ours != float(asked.total_price):
                seen["unequal"].append([provider, ref, n, got, cached, ours])
print(json.dumps(seen))
"""


def test_what_a_request_costs_is_what_genai_prices_says():
    run = subprocess.run(
        [sys.executable, "-c", CALC], capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    assert seen["unequal"] == []
    assert seen["models"] > 300
    assert seen["tiers"] > 20
    assert seen["dated"] > 20
