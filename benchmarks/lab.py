"""One measurement: a truth server on one core, a client on the other, and what both say of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import processes
from benchmarks.arithmetic import Shape, Usage, delivered, rate_per_s
from benchmarks.processes import Cores, Cost, MeasurementError
from benchmarks.programs import build
from loadlib import rows
from loadlib.calibrate.protocol import weighted_quantile
from loadlib.calibrate.truth import Errors, Truth, errors, fetch, quantile
from loadlib.sample import Sample

BODY_BYTES = 400  # of the floor client's requests: a short chat
DRAIN_S = 180.0  # what a run may take beyond its load: start, streams in flight, pages
FIGURES = (0, 5, 6, 7)  # exit codes of a run that has figures: a verdict is not our business
MODEL = {"name": "truth", "context_window": 200_000}


@dataclass(frozen=True, slots=True)
class Server:
    """A running truth server, pinned."""

    port: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def truth(self) -> Truth:
        """What it did since the last time."""
        return fetch(self.base_url)


@dataclass(frozen=True)
class LoadlibRun:
    """One `loadlib run`, with what its server did."""

    cost: Cost
    folder: Path
    truth: Truth

    @cached_property
    def summary(self) -> dict[str, Any]:
        return json.loads(self.cost.out)  # type: ignore[no-any-return]

    @cached_property
    def errors(self) -> Errors:
        return errors(self.folder, self.truth)

    def samples(self) -> Iterator[Sample]:
        return rows.read(self.folder / "requests.jsonl.gz")

    @cached_property
    def events(self) -> int:
        return sum(sample.events for sample in self.samples())

    @property
    def requests(self) -> int:
        return self._counted("sent")

    @property
    def failed(self) -> int:
        return self.requests - self._counted("ok")

    def _counted(self, what: str) -> int:
        return sum(group["requests"][what] for group in self.summary["groups"])

    @property
    def by_event(self) -> Usage:
        return Usage(self.cost.cpu_s, self.events)

    @property
    def by_request(self) -> Usage:
        return Usage(self.cost.cpu_s, self.requests)

    def delivered(self, shape: Shape) -> float | None:
        return delivered(self.truth.requests, shape, self.events)

    def events_per_s(self) -> float:
        """From the first request sent to the last token received."""
        spans = (
            (sample.sent_ns, sample.last_token_ns, sample.events)
            for sample in self.samples()
            if sample.sent_ns is not None and sample.last_token_ns is not None
        )
        return rate_per_s(spans)

    def checks(self) -> list[dict[str, Any]]:
        return list(self.summary["health"]["checks"])

    def remarks(self) -> str:
        """What the run says about itself that a reader of its figures should know; mostly ''."""
        said = [f"{c['name']} {c['value']:g}" for c in self.checks() if c["status"] != "ok"]
        if self.failed:
            said.append(f"{self.failed} of {self.requests} requests failed")
        if self.errors.unmatched:
            said.append(f"{self.errors.unmatched} requests unknown to the server")
        return ", ".join(said)


class FloorRow(msgspec.Struct, frozen=True):
    """One line of the floor client's `--rows`."""

    id: str
    sent_ns: int
    first_ns: int
    last_ns: int
    events: int


@dataclass(frozen=True)
class FloorRun:
    """One run of the floor client, with what its server did."""

    figures: Mapping[str, Any]  # its JSON line
    rows: tuple[FloorRow, ...]
    truth: Truth

    def ttft_error_ms(self, p: float) -> float:
        """Quantile of the client − quantile of the truth, over the same requests."""
        served = {request.id: request for request in self.truth.requests}
        pairs = [(row, served[row.id]) for row in self.rows if row.id in served]
        mine = quantile(np.array([row.first_ns - row.sent_ns for row, _ in pairs]), p)
        theirs = quantile(np.array([request.ttft_ns for _, request in pairs]), p)
        if mine is None or theirs is None:
            raise MeasurementError("the floor client's requests are not those of the server")
        return (mine - theirs) / 1e6

    def icl_error_ms(self, p: float) -> float | None:
        mine = self.figures[f"icl_p{round(100 * p)}_ms"]
        theirs = weighted_quantile(self.truth.gaps, p)
        return None if mine is None or theirs is None else float(mine) - theirs / 1000

    def cpu_s_per(self, events: int) -> float:
        return float(self.figures["cpu_s"]) * events / int(self.figures["events"])

    @property
    def cpu_s_per_request(self) -> float:
        return float(self.figures["cpu_s"]) / int(self.figures["requests"])

    @property
    def events_per_s(self) -> float:
        return float(self.figures["events"]) / float(self.figures["wall_s"])

    def delivered(self, shape: Shape) -> float | None:
        return delivered(self.truth.requests, shape, int(self.figures["events"]))


@dataclass
class Lab:
    """Where it is measured: the cores, a folder for everything that is written, the programs."""

    cores: Cores
    folder: Path
    quick: bool
    server_program: Path | None = field(default_factory=lambda: build("truth_server"))
    floor_program: Path | None = field(default_factory=lambda: build("floor_client"))
    _names: Iterator[int] = field(default_factory=count)

    def fresh_folder(self) -> Path:
        found = self.folder / f"{next(self._names):03}"
        found.mkdir()
        return found

    @contextmanager
    def serve(self, shape: Shape) -> Iterator[Server]:
        """A truth server of this shape on the server's core."""
        program: list[object] = [self.server_program]
        if self.server_program is None:
            program = [sys.executable, "-m", "loadlib.calibrate.server"]
        options = {
            "--ttft-ms": shape.ttft_ms,
            "--gap-ms": shape.gap_ms,
            "--tokens": shape.tokens,
            "--spread": shape.spread,
        }
        command = [*program, "--port", 0, *(part for pair in options.items() for part in pair)]
        with processes.started(command, self.cores.server, until='{"port"') as (_, line):
            yield Server(json.loads(line)["port"])

    def scenario(
        self, server: Server, shape: Shape, load: Mapping[str, object], workload: Mapping[str, Any]
    ) -> Path:
        """A scenario file: a closed loop of the shape's streams, `load` says for how long."""
        phase = {"phase": "measure", "arrival": "closed", "users": shape.streams, **load}
        text = {
            "version": 1,
            "name": "bench",
            "target": "live",
            "models": [{**MODEL, "base_url": server.base_url}],
            "workloads": {"bench": {**workload, "output_tokens": shape.tokens}},
            "load": [phase],
        }
        path = self.fresh_folder() / "scenario.yaml"
        path.write_text(json.dumps(text, indent=1))
        return path

    def loadlib(
        self,
        server: Server,
        shape: Shape,
        *,
        duration_s: float | None = None,
        requests: int | None = None,
        n_processes: int = 1,
        workload: Mapping[str, Any] | None = None,
        within_s: float | None = None,
        pinned: bool = True,
    ) -> LoadlibRun:
        """`loadlib run` in a closed loop, all its processes on the client's core if `pinned`."""
        load: dict[str, object] = {"requests": requests}
        if requests is None:
            load = {"duration": f"{duration_s}s"}
        chat = {"kind": "chat", "turns": 1}
        path = self.scenario(server, shape, load, workload or chat)
        more = ["--processes", n_processes] if n_processes > 1 else []
        limit_s = DRAIN_S + (duration_s or 0) + 10 * shape.cycle_s
        server.truth()  # forget what was before
        command = [*LOADLIB, "run", path.name, "--out", "runs", "--json", *more]
        core = self.cores.client if pinned else None
        cost = processes.run(command, core, path.parent, within_s=within_s or limit_s)
        if cost.code not in FIGURES:
            raise MeasurementError(
                f"loadlib run ended with exit code {cost.code}:\n{cost.err[-2000:]}"
            )
        folder = (path.parent / "runs" / "latest").resolve()
        return LoadlibRun(cost, folder, server.truth())

    def floor(
        self,
        server: Server,
        shape: Shape,
        *,
        duration_s: float | None = None,
        requests: int | None = None,
        body_bytes: int = BODY_BYTES,
    ) -> FloorRun | None:
        """The floor client with the same load; None without a compiler."""
        server.truth()
        folder = self.fresh_folder()
        figures = self._floor(
            folder, server.port, shape, duration_s=duration_s, requests=requests,
            body_bytes=body_bytes, more=("--rows", "rows"),
        )  # fmt: skip
        if figures is None:
            return None
        decoder = msgspec.json.Decoder(FloorRow)
        lines = (folder / "rows").read_bytes().splitlines()
        found = tuple(decoder.decode(line) for line in lines)
        return FloorRun(figures, found, server.truth())

    def floor_alone(
        self, port: int, shape: Shape, *, duration_s: float
    ) -> Mapping[str, Any] | None:
        """The floor client's own figures at any server; None without a compiler."""
        return self._floor(self.fresh_folder(), port, shape, duration_s=duration_s)

    def _floor(
        self,
        folder: Path,
        port: int,
        shape: Shape,
        *,
        duration_s: float | None = None,
        requests: int | None = None,
        body_bytes: int = BODY_BYTES,
        more: tuple[str, ...] = (),
    ) -> Mapping[str, Any] | None:
        if self.floor_program is None:
            return None
        command = [
            self.floor_program,
            *("--port", port, "--streams", shape.streams, "--tokens", shape.tokens),
            *("--body-bytes", body_bytes, *more),
            *(("--requests", requests) if requests else ("--duration", duration_s)),
        ]
        limit_s = DRAIN_S + (duration_s or 0)
        cost = processes.run(command, self.cores.client, folder, within_s=limit_s)
        if cost.code:
            raise MeasurementError(f"the floor client failed: {cost.err}")
        return json.loads(cost.out)  # type: ignore[no-any-return]


LOADLIB = (sys.executable, "-m", "loadlib")
