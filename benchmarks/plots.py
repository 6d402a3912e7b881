"""`python -m benchmarks.plots`: draw the two figures of docs/simulator.md from the engine."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import altair as alt
import vl_convert

from loadlib.engine import Speed, Work, replica, simulate
from loadlib.simulator import profiles

DOCS = Path(__file__).parent.parent / "docs"
NS_PER_MS = 1e6
COLOURS = ["#4269d0", "#ff725c", "#3ca951"]


def latency_against_load(speed: Speed, requests: int = 6000) -> list[dict[str, object]]:
    """TTFT and time per output token of Poisson arrivals at rising rates, the same work each."""
    found: list[dict[str, object]] = []
    for rate in (0.5, 1, 2, 4, 6, 8, 10, 11, 12, 13, 14, 14.5, 15, 15.5, 16, 16.5, 17, 18, 20):
        done = list(simulate(replica(speed), _poisson(rate, requests)))
        ttft = [(s.first_ns or 0) - s.arrival_ns for s in done]
        tpot = [((s.last_ns or 0) - (s.first_ns or 0)) / (s.done - 1) for s in done if s.done > 1]
        for name, value in (
            ("TTFT p50", _at(0.5, ttft)),
            ("TTFT p99", _at(0.99, ttft)),
            ("time per output token p50", _at(0.5, tpot)),
        ):
            found.append({"rate": rate, "figure": name, "ms": value / NS_PER_MS})
    return found


def ttft_against_prompt(speed: Speed) -> list[dict[str, object]]:
    """TTFT of one prompt: alone, beside 64 sequences that decode, and 90 % of it cached."""
    found: list[dict[str, object]] = []
    for power in range(8, 34):
        prompt = round(2 ** (power / 2))
        for name, ns in (
            ("alone", _first_ns(speed, prompt)),
            ("beside 64 that decode", _first_ns(speed, prompt, crowd=64)),
            ("90 % of it in the prefix cache", _first_ns(speed, prompt, cached=0.9)),
        ):
            found.append({"prompt": prompt, "figure": name, "ms": ns / NS_PER_MS})
    return found


def _first_ns(speed: Speed, prompt: int, crowd: int = 0, cached: float = 0.0) -> int:
    engine = replica(speed)
    for _ in range(crowd):
        engine.submit(Work(1000, 3000), 0)
    size = speed.step.block_tokens if speed.step else 16
    chain = tuple(range(int(cached * prompt) // size))
    if chain:
        engine.submit(Work(len(chain) * size, 1, prefix=chain), 0)
    at_ns = 5 * 10**9
    probe = engine.submit(Work(prompt, 1, prefix=chain), at_ns)
    engine.advance(at_ns + 3600 * 10**9)
    assert probe.first_ns is not None
    return probe.first_ns - at_ns


def _poisson(rate: float, count: int) -> Iterator[tuple[int, Work]]:
    """Lengths with the quantiles of Azure's chat trace: 1020 in, 129 out at the median."""
    draw, at_s = random.Random(7), 0.0
    for _ in range(count):
        at_s += draw.expovariate(1) / rate
        prompt = min(7000, max(1, round(draw.lognormvariate(6.93, 0.77))))
        output = min(1000, max(1, round(draw.lognormvariate(4.86, 0.9))))
        yield round(at_s * 1e9), Work(prompt, output)


def _at(p: float, values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(p * len(values)) - 1]


def draw(rows: list[dict[str, object]], x: str, title: str, logarithmic: bool) -> alt.Chart:
    """Lines over `x`, one per figure, in ms on a logarithmic axis."""
    scale = alt.Scale(type="log", nice=False) if logarithmic else alt.Scale(zero=True)
    order = list(dict.fromkeys(row["figure"] for row in rows))
    chart = alt.Chart(alt.Data(values=rows), width=560, height=300).mark_line(point={"size": 18})
    encoded = chart.encode(
        x=alt.X(f"{x}:Q", title=title, scale=scale),
        y=alt.Y("ms:Q", title="ms", scale=alt.Scale(type="log")),
        color=alt.Color(
            "figure:N", title=None, sort=order, scale=alt.Scale(domain=order, range=COLOURS)
        ),
    )
    return encoded.configure(background="white", legend=alt.LegendConfig(orient="top"))


def main() -> None:
    """Write both figures."""
    model = profiles.load("vllm-replica").default
    assert model is not None
    for name, chart in (
        (
            "simulator-load.svg",
            draw(latency_against_load(model.speed), "rate", "requests per second", False),
        ),
        (
            "simulator-ttft.svg",
            draw(ttft_against_prompt(model.speed), "prompt", "prompt tokens", True),
        ),
    ):
        (DOCS / name).write_text(vl_convert.vegalite_to_svg(chart.to_dict()), encoding="utf-8")


if __name__ == "__main__":
    main()
