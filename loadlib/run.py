"""The run folder: written while load runs, readable at any moment, judged from afterwards.

reports/20260101T120000Z-chat-1a2b3c/
    manifest.json        who ran what, where, when; state; SHA-256 of every file
    scenario.yaml        effective, redacted
    requests.jsonl.gz    one line per attempt (`Sample`), one gzip member per flush
    hdr/<metric>.hlog    interval histograms, about one per second and group
    timeseries.csv       one line per second and group
    server.csv           one line per scrape of a server's metrics, where there are any
    summary.json         `summary.Summary`
reports/latest           → the newest
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from loadlib import foreign, hlog, recover, rows, scenario_yaml, series, server_record
from loadlib.errors import DataError, LoadlibError, PreflightError, UsageError
from loadlib.folder import (
    MANIFEST,
    SHARDS,
    Appender,
    encode_json,
    hash_files,
    new_folder,
    point_latest,
    write_atomically,
)
from loadlib.histogram import Histogram
from loadlib.metrics import CATALOGUE
from loadlib.provenance import environment
from loadlib.recorder import NS, Interval, Key, Totals
from loadlib.redact import redact, redact_argv
from loadlib.sample import Brief, Sample
from loadlib.server_record import Scrape
from loadlib.server_targets import Target
from loadlib.summarise import SYSTEM_RATE, Window, system_rate
from loadlib.summary import SCHEMA_VERSION, Summary

SUMMARY, SCENARIO = "summary.json", "scenario.yaml"
REQUESTS, TIMESERIES, HDR = "requests.jsonl.gz", "timeseries.csv", "hdr"
SERVER = "server.csv"

State = Literal["complete", "interrupted"]


class RunWriter:
    """Writes one run folder. `create` makes it, `append` adds an interval, `finish` closes it.

    A disk that fills up stops nothing: what cannot be written is kept in memory, tried again
    with the next interval, and named in `problems`.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.problems: list[str] = []  # distinct, in the order of their appearance
        self._files: dict[str, Appender] = {}

    @classmethod
    def create(
        cls,
        root: Path,
        scenario_yaml: str,
        name: str,
        argv: Sequence[str] = (),
        *,
        secrets: Iterable[str] = (),
        extra: Mapping[str, Any] | None = None,
    ) -> RunWriter:
        """Make a new folder in `root` (made where missing) and point `latest` to it.

        `scenario_yaml` is the effective, redacted scenario; `argv` is redacted here, with the
        known `secrets`; `extra` is added to the environment. Raises `PreflightError` where
        nothing can be written.
        """
        now = datetime.now(UTC)
        try:
            folder = new_folder(Path(root), name, now)
            (folder / HDR).mkdir()
            manifest = {
                "manifest_version": "1.0",
                "id": folder.name,
                "name": name,
                "state": "running",
                "started_at": _iso(now),
                "ended_at": None,
                "argv": redact_argv(argv, secrets),
                **environment(extra),
                "phases": [],
                "problems": [],
                "files": {},
            }
            writer = cls(folder, manifest)
            write_atomically(folder / SCENARIO, scenario_yaml.encode())
            writer._write_manifest()
        except OSError as error:
            raise PreflightError(f"cannot write a run folder in {root}: {_why(error)}") from error
        point_latest(folder)
        return writer

    @property
    def environment(self) -> dict[str, Any]:
        """What `Summary.environment` should hold: versions, git, machine, argv."""
        names = ("argv", "versions", "git", "environment")
        return {name: self.manifest[name] for name in names}

    @property
    def unwritten_bytes(self) -> int:
        """What waits in memory for a disk that takes it."""
        return sum(file.pending for file in self._files.values())

    def append(
        self,
        interval: Interval,
        source: str = "local",
    ) -> None:
        """Add one interval: its rows, a gzip member already, and its histograms as log lines.

        `source` names the process in messages. Never raises for a disk: see `problems`.
        """
        if interval["rows"]:
            self._add(REQUESTS, interval["rows"], source)
        start_ns, end_ns = interval["start_ns"], interval["end_ns"]
        lines: dict[str, list[str]] = {}
        for model, workload, phase, metric, encoded in interval["hist"]:
            text = hlog.line((model, workload, phase), start_ns, end_ns, encoded)
            lines.setdefault(metric, []).append(text)
        for metric, texts in lines.items():
            if metric not in CATALOGUE:  # it becomes a file name
                raise ValueError(f"unknown metric {metric!r} from {source}")
            self._add(_log_name(metric), "".join(texts).encode(), source, start_ns)

    def watch(self, targets: Sequence[Target]) -> None:
        """Name the servers whose scrapes will come."""
        self.manifest["servers"] = targets
        self._try(MANIFEST, self._write_manifest)

    def append_scrape(self, scrape: Scrape) -> None:
        """Add one line to server.csv. Never raises for a disk: see `problems`."""
        head = b"" if SERVER in self._files else server_record.header()
        self._add(SERVER, head + server_record.line(scrape), scrape.server)

    def scrapes(self) -> Iterator[Scrape]:
        """Every scrape so far, the ones still waiting for the disk included."""
        path, file = self.folder / SERVER, self._files.get(SERVER)
        written = path.read_bytes() if path.exists() else b""
        waiting = file.waiting if file is not None else b""
        yield from server_record.parse(io.StringIO((written + waiting).decode()))

    def samples(self) -> Iterator[Sample]:
        """Every row so far, the ones still waiting for the disk included."""
        path = self.folder / REQUESTS
        if path.exists():
            yield from rows.read(path)
        if REQUESTS in self._files:
            yield from rows.decode(self._files[REQUESTS].waiting)

    def flush(self) -> bool:
        """Try again to write what a full disk refused; whether nothing waits any longer."""
        done = [self._try(name, file.flush) for name, file in self._files.items()]
        return all(done)

    def finish(
        self, summary: Summary, state: State, totals: Totals, windows: Sequence[Window] = ()
    ) -> Path:
        """Write summary, time series and hashes, and return the folder.

        Everything that can be written is; raises `LoadlibError` at the end if something could
        not. `state` is what the manifest says from now on.
        """
        whole = self.flush()
        rates = _system_rates(totals, windows)
        if rates:
            whole &= self._write(_log_name(SYSTEM_RATE), rates)
        whole &= self._write(TIMESERIES, series.write(series.rows(totals.seconds)))
        whole &= self._write(SUMMARY, encode_json(summary))
        self.close()
        self.manifest |= {
            "state": state,
            "ended_at": _iso(datetime.now(UTC)),
            "phases": [_window_row(window) for window in windows],
            "problems": self.problems,
        }
        whole &= self._try(MANIFEST, lambda: self._write_manifest(hashed=True))
        if not whole:
            left = f"{self.unwritten_bytes} bytes of measurements lost; "
            why = f"{left if self.unwritten_bytes else ''}{self.problems[-1]}"
            raise LoadlibError(f"run folder {self.folder} is incomplete: {why}")
        return self.folder

    def close(self) -> None:
        """Close the files; what waits in memory stays there."""
        for file in self._files.values():
            file.close()

    def _add(self, name: str, data: bytes, source: str, start_ns: int | None = None) -> None:
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = Appender(self.folder / name)
            if start_ns is not None:
                file.put(hlog.header(start_ns).encode())
        file.put(data)
        self._try(f"{name} ({source})", file.flush)

    def _write(self, name: str, data: bytes) -> bool:
        return self._try(name, lambda: write_atomically(self.folder / name, data))

    def _write_manifest(self, *, hashed: bool = False) -> None:
        if hashed:
            self.manifest["files"] = hash_files(self.folder)
        write_atomically(self.folder / MANIFEST, encode_json(self.manifest))

    def _try(self, what: str, action: Callable[[], None]) -> bool:
        try:
            action()
        except OSError as error:
            problem = f"cannot write {what}: {_why(error)}"
            if problem not in self.problems:
                self.problems.append(problem)
            return False
        return True


class Run:
    """A run folder, read. Made by `load`; nothing in it changes but by `settle`."""

    def __init__(
        self, path: Path, manifest: dict[str, Any], scenario: dict[str, Any], summary: Summary
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.scenario = scenario
        self.summary = summary
        self.so_far = False  # the run goes on: its verdict is not made yet
        self._logs: dict[str, dict[Key, Histogram]] = {}
        self._recovered: recover.Recovered | None = None

    def histogram(self, model: str, workload: str, phase: str, metric: str) -> Histogram:
        """The whole phase's histogram, empty where nothing was recorded.

        Raises `DataError` for a damaged log.
        """
        if metric not in self._logs:
            self._logs[metric] = self._read_log(metric)
        return self._logs[metric].get((model, workload, phase), Histogram())

    def intervals(self, metric: str) -> Iterator[hlog.Entry]:
        """The interval histograms of a metric in the order of the log, about one a second."""
        if metric not in CATALOGUE:
            raise UsageError(f"unknown metric {metric!r}")
        name = _log_name(metric)
        if (self.path / name).exists():
            yield from recover.read_log(self.path, name)

    def samples(self) -> Iterator[Sample]:
        """Every attempt, in the order in which they ended; instants in Unix epoch ns."""
        path = self.path / REQUESTS
        if path.exists():
            yield from rows.read(path)

    def brief(self) -> Iterator[Brief]:
        """As `samples`, with less of each in a third of the time."""
        path = self.path / REQUESTS
        return rows.read_brief(path) if path.exists() else iter(())

    def server(self) -> list[Scrape]:
        """Every scrape of the servers' own metrics, in the order of the file.

        Raises `DataError` for a damaged one.
        """
        return list(read_scrapes(self.path / SERVER))

    def seconds(self) -> list[dict[str, Any]]:
        """One dict of `series.COLUMNS` per second and group; after `kill -9` made from the rows."""
        path = self.path / TIMESERIES
        if not path.exists():
            found = self._recovered or recover.recover(self.samples(), {})
            return series.rows(found.totals.seconds)
        text = foreign.read(self.path, TIMESERIES, foreign.MAX_SERIES_BYTES)
        return series.read(text, str(path))

    def _read_log(self, metric: str) -> dict[Key, Histogram]:
        if metric not in CATALOGUE:
            raise UsageError(f"unknown metric {metric!r}")
        name = _log_name(metric)
        found = recover.sum_log(self.path, name) if (self.path / name).exists() else {}
        if self._recovered is not None and metric != "icl":  # rows know what a torn log does not
            found |= self._recovered.histograms(metric)
        return found


def load(path: Path | str, *, so_far: bool = False) -> Run:
    """Read a run folder (or `reports/latest`), whatever state it is in.

    Without a summary, as after `kill -9`, or with a damaged one, it is made from the rows and
    logs: its state is `interrupted`. So is one that was made before: the run may go on yet.
    `so_far` is for who knows that it does. Raises `UsageError` where there is no run, `DataError`
    for a damaged one.
    """
    folder = Path(path).resolve()
    if not (folder / MANIFEST).exists() and not (folder / SUMMARY).exists():
        more = "; --from-shards makes one of what it has" if (folder / SHARDS).is_dir() else ""
        raise UsageError(f"{path} is not a run folder: it has no {MANIFEST}{more}")
    manifest = _read_json(folder / MANIFEST) if (folder / MANIFEST).exists() else {}
    unfinished = recover.SO_FAR if so_far else recover.UNFINISHED
    if not (folder / SUMMARY).exists():
        return _recovered(folder, manifest, unfinished)
    has_rows = (folder / REQUESTS).exists()
    try:
        summary = _read_summary(folder / SUMMARY)
    except msgspec.MsgspecError as error:
        if not has_rows:
            raise DataError(str(error), file=str(folder / SUMMARY)) from None
        return _recovered(folder, manifest, f"{SUMMARY} is damaged ({error})")
    if has_rows and recover.NOTICE in summary.notices:
        why = summary.notices[1] if len(summary.notices) > 1 else unfinished
        return _recovered(folder, manifest, why)
    return Run(folder, manifest, summary.scenario or _read_scenario(folder), summary)


def _recovered(folder: Path, manifest: dict[str, Any], why: str) -> Run:
    scenario = _read_scenario(folder)
    path = folder / REQUESTS
    found = recover.recover(rows.read(path) if path.exists() else (), scenario, str(path))
    if (folder / _log_name("icl")).exists():
        found.take_gaps(recover.read_log(folder, _log_name("icl")))
    samples = rows.read(path) if path.exists() else iter(())
    summary = found.summary(samples, scenario, manifest, why, read_scrapes(folder / SERVER))
    run = Run(folder, manifest, scenario, summary)
    run._recovered, run.so_far = found, why == recover.SO_FAR
    return run


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return foreign.json_object(foreign.read(path.parent, path.name))
    except msgspec.MsgspecError as error:
        raise DataError(redact(str(error)), file=str(path)) from None


def _read_summary(path: Path) -> Summary:
    """Raises MsgspecError for what is no summary, `DataError` for another version's."""
    data = foreign.read(path.parent, path.name)
    found = foreign.json_object(data)
    major = str(found.get("schema_version", SCHEMA_VERSION)).partition(".")[0]
    if major != SCHEMA_VERSION.partition(".")[0]:
        major = redact(major, limit=20)
        raise DataError(f"schema_version {major}.x, this loadlib reads 1.x", file=str(path))
    summary = msgspec.json.decode(data, type=Summary)
    foreign.check_extent(len(summary.groups), 0, 0, str(path))
    return summary


def _read_scenario(folder: Path) -> dict[str, Any]:
    try:
        data = foreign.read(folder, SCENARIO, scenario_yaml.MAX_BYTES)
    except FileNotFoundError:
        return {}
    return foreign.yaml_object(data, str(folder / SCENARIO))


def read_scrapes(path: Path) -> Iterator[Scrape]:
    """The scrapes of a server.csv, none where there is no such file. Raises `DataError`."""
    if path.exists():
        with foreign.opened(path.parent, path.name) as raw:
            file = io.TextIOWrapper(raw, newline="", encoding="utf-8", errors="replace")
            try:
                yield from server_record.parse(file)
            except (ValueError, csv.Error) as error:
                raise DataError(str(error), file=str(path)) from None


def settle(run: Run) -> None:
    """Write what a killed run could not: its summary, and that it ended. Raises OSError."""
    if run._recovered is not None:
        write_atomically(run.path / SUMMARY, encode_json(run.summary))
    elif run.manifest.get("state") != "running":
        return
    if run.manifest:
        run.manifest |= {"state": run.summary.state, "files": hash_files(run.path)}
        write_atomically(run.path / MANIFEST, encode_json(run.manifest))


def seal(folder: Path) -> None:
    """Hash the files again, after pages were added to a finished run. Raises OSError."""
    manifest = _read_json(folder / MANIFEST)
    manifest["files"] = hash_files(folder)
    write_atomically(folder / MANIFEST, encode_json(manifest))


def _system_rates(totals: Totals, windows: Sequence[Window]) -> bytes:
    """The log of system throughput: one line per group, its interval the phase's window."""
    lines = [
        hlog.line(key, window.start_ns, window.end_ns, hist.encode())
        for window in windows
        for key in totals.counts
        if window.covers(key) and (hist := system_rate(totals, key, window)).n
    ]
    if not lines:
        return b""
    return (hlog.header(min(window.start_ns for window in windows)) + "".join(lines)).encode()


def _window_row(window: Window) -> dict[str, Any]:
    return {
        "phase": window.phase,
        "kind": window.kind,
        "model": window.model,
        "start": _iso(datetime.fromtimestamp(window.start_ns / NS, UTC)),
        "duration_s": window.duration_s,
        "load": window.load,
    }


def _log_name(metric: str) -> str:
    return f"{HDR}/{metric}.hlog"


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _why(error: OSError) -> str:
    return error.strerror or str(error)
