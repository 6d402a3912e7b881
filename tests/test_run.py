import csv
import errno
import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from record_samples import KEY, events, sample

from loadlib import folder as folder_module
from loadlib import health, hlog, rows
from loadlib.errors import DataError, LoadlibError, PreflightError, UsageError
from loadlib.health import Readings
from loadlib.histogram import HIGHEST, Histogram
from loadlib.recorder import NS, Recorder, Totals
from loadlib.report.view import headline
from loadlib.run import RunWriter, load, seal, settle
from loadlib.sample import Outcome
from loadlib.summarise import Window, summarise
from loadlib.summary import Summary, Verdict, json_schema

EPOCH = 1_700_000_000
ODD = ("org/model, v1", "größer als 5%", "measure=2")
SCENARIO = """\
name: t
slo: ["all: ttft < 1s"]
load:
  - {phase: warmup, arrival: closed}
  - {phase: measure, arrival: poisson}
"""
WINDOW = Window(phase="measure", start_ns=EPOCH * NS, end_ns=(EPOCH + 10) * NS)


class Session:
    """A run folder being written, and the totals beside it."""

    def __init__(self, root, **kwargs):
        self.recorder, self.totals = Recorder(EPOCH * NS), Totals()
        self.writer = RunWriter.create(root, SCENARIO, "chat", ["loadlib", "run"], **kwargs)
        self.clock = 0

    def second(self, *samples):
        for one in samples:
            self.recorder.scheduled((one.model, one.workload, one.phase))
            self.recorder.add(one, events(one) if one.outcome is Outcome.OK else ())
        self.clock += NS
        interval = self.recorder.drain(self.clock)
        self.totals.merge(interval)
        self.writer.append(interval)

    def finish(self, state="complete"):
        groups = summarise(self.totals, self.writer.samples(), [WINDOW])
        summary = Summary(
            name="chat",
            verdict=Verdict(status="pass"),
            groups=groups,
            health=health.judge(Readings()),
            environment=self.writer.environment,
        )
        return self.writer.finish(summary, state, self.totals, [WINDOW])


@pytest.fixture
def session(tmp_path):
    session = Session(tmp_path)
    session.second(*(sample(ttft=100 + n, at=n) for n in range(20)))
    session.second(sample(key=ODD, ttft=77), sample(Outcome.TIMEOUT))
    yield session
    session.writer.close()


def test_everything_that_was_written_is_read(session):
    run = load(session.finish())
    assert run.manifest["state"] == "complete"
    assert run.summary.state == "complete"
    assert len(run.summary.groups) == 2
    rows_read = list(run.samples())
    assert len(rows_read) == 22
    assert rows_read[0] == sample(ttft=100).shifted(EPOCH * NS)
    for metric in ("ttft", "icl", "tpot", "output_tok_s"):
        expected = session.totals.histogram(*KEY, metric)
        found = run.histogram(*KEY, metric)
        if metric == "output_tok_s":
            assert found.n == 10
        else:
            assert found.n == expected.n
            for p in (0, 0.5, 0.99, 1):
                assert found.quantile(p) == pytest.approx(expected.quantile(p), rel=0.001)
    assert run.histogram(*ODD, "ttft").n == 1, "names are free text"
    assert run.histogram("nobody", "chat", "measure", "ttft").n == 0
    assert [entry.length_s for entry in run.intervals("ttft")] == [1.0, 1.0]


def test_summary_json_validates_against_the_shipped_schema(session):
    shipped = json.loads(
        (Path(folder_module.__file__).parent / "schemas/summary.schema.json").read_text("utf-8")
    )
    current = json.loads(json.dumps(json_schema()))
    assert shipped == current, "regenerate it from summary.json_schema()"
    jsonschema.Draft202012Validator.check_schema(shipped)
    data = json.loads((session.finish() / "summary.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(shipped).validate(data)
    data["groups"][0]["requests"]["ok"] = "many"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(shipped).validate(data)


def test_the_library_reads_our_logs(session):
    path = session.finish() / "hdr" / "ttft.hlog"
    reader = HistogramLogReader(str(path), HdrHistogram(1, HIGHEST, 3))
    found = {}
    while (hist := reader.get_next_interval_histogram()) is not None:
        found[hist.get_tag()] = hist
    reader.close()
    assert set(found) == {hlog.tag(KEY), hlog.tag(ODD)}
    mine = found[hlog.tag(KEY)]
    assert mine.get_total_count() == 20
    assert mine.get_value_at_percentile(50) == pytest.approx(109_000, rel=0.001)
    assert mine.get_start_time_stamp() == EPOCH * 1000
    assert hlog.tag(ODD) == "org%2Fmodel%2C%20v1/gr%C3%B6%C3%9Fer%20als%205%25/measure%3D2"


def test_the_manifest_tells_where_it_came_from_and_seals_what_is_there(session):
    path = session.finish()
    (path / "report.html").write_text("page", "utf-8")
    seal(path)
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    assert manifest["versions"]["python"]
    assert manifest["environment"]["cpus"]
    assert manifest["argv"] == ["loadlib", "run"]
    assert manifest["id"] == path.name
    assert {"summary.json", "scenario.yaml", "requests.jsonl.gz", "report.html"} <= set(
        manifest["files"]
    )
    assert "manifest.json" not in manifest["files"]
    for name, row in manifest["files"].items():
        data = (path / name).read_bytes()
        assert row == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    assert not [p for p in path.rglob("*") if p.name.startswith(".")], "no temporary file is left"


def test_time_series(session):
    path = session.finish()
    seconds = list(load(path).seconds())
    with (path / "timeseries.csv").open(encoding="utf-8", newline="") as file:
        assert [row["model"] for row in csv.DictReader(file)] == [r["model"] for r in seconds]
    mine = [row for row in seconds if row["model"] == "m"]
    assert sum(row["scheduled"] for row in mine) == 21
    assert sum(row["output_tokens"] for row in mine) == 200
    assert mine[-1]["in_flight"] == 0, "everything has ended"
    assert all(isinstance(row["second"], int) for row in seconds)


def test_two_runs_never_meet_and_latest_is_the_newer(tmp_path):
    first, second = (Session(tmp_path).writer.folder for _ in range(2))
    assert first != second
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "latest").readlink() == Path(second.name), (
        "relative: the folder may be moved"
    )
    assert load(tmp_path / "latest").path == second


def test_a_latest_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "latest").mkdir()
    Session(tmp_path)
    assert not (tmp_path / "latest").is_symlink()


def test_a_file_system_without_links_will_do(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert load(Session(tmp_path).finish()).summary.name == "chat"
    assert not (tmp_path / "latest").exists()


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("../../etc/passwd", "-etc-passwd-"),
        ("/abs", "-abs-"),
        ("a b/ç\n", "-a-b-"),
        ("..", "-run-"),
        ("", "-run-"),
        ("x" * 500, "-" + "x" * 60 + "-"),
    ],
)
def test_a_name_is_no_path(tmp_path, name, part):
    writer = RunWriter.create(tmp_path / "out", "", name)
    assert writer.folder.parent == tmp_path / "out"
    assert part in writer.folder.name
    assert len(writer.folder.name) < 100


def test_secrets_stay_out(tmp_path):
    key = "sk-" + "abcdef123456"
    argv = ["loadlib", "--api-key", "hunter22", f"--set=k={key}", "my-passphrase"]
    path = RunWriter.create(tmp_path, "", "x", argv, secrets=["my-passphrase"]).folder
    text = (path / "manifest.json").read_text("utf-8")
    assert not any(word in text for word in ("hunter22", key, "my-passphrase"))


def test_an_unwritable_folder_is_a_preflight_error(tmp_path):
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(PreflightError, match="cannot write a run folder in"):
        RunWriter.create(tmp_path / "file" / "reports", "", "x")


def test_a_full_disk_at_the_start_is_a_preflight_error(tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("loadlib.folder.os.fsync", full)
    with pytest.raises(PreflightError, match="No space left on device"):
        RunWriter.create(tmp_path, "", "x")


class Disk:
    """`os.write` that takes `room` bytes and no more."""

    def __init__(self, monkeypatch):
        self.room = None
        self._write = os.write
        monkeypatch.setattr("loadlib.folder.os.write", self)

    def __call__(self, fd, data):
        if self.room is None:
            return self._write(fd, data)
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._write(fd, data[: self.room])
        self.room -= written
        return written


def test_a_disk_that_fills_up_for_a_while_loses_nothing(session, monkeypatch):
    disk = Disk(monkeypatch)
    disk.room = 50
    session.second(sample(ttft=1), sample(ttft=2))
    assert "No space left on device" in session.writer.problems[0]
    assert session.writer.unwritten_bytes > 0
    assert len(list(session.writer.samples())) == 24, "what waits is counted"
    path = session.writer.folder / "requests.jsonl.gz"
    assert len(list(rows.read(path))) == 22, "no torn member in the middle"
    disk.room = None
    session.second(sample(ttft=3))
    assert session.writer.unwritten_bytes == 0
    run = load(session.finish())
    assert len(list(run.samples())) == 25
    assert run.histogram(*KEY, "ttft").n == 23
    assert run.manifest["problems"] == session.writer.problems


def test_a_disk_that_stays_full_is_an_error_at_the_end(session, monkeypatch):
    Disk(monkeypatch).room = 0
    session.second(sample())
    with pytest.raises(LoadlibError, match=r"incomplete: .* bytes of measurements lost"):
        session.finish()
    assert load(session.writer.folder).manifest["problems"], "the rest is there, and says so"


def test_after_kill_9_everything_flushed_is_there(tmp_path):
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_run import Session, sample, KEY
session = Session(Path({str(tmp_path)!r}))
session.second(*(sample(ttft=100 + n, at=n) for n in range(20)))
session.second(*(sample(key=("m", "chat", "warmup"), at=n) for n in range(5)))
with (session.writer.folder / "requests.jsonl.gz").open("ab") as file:
    file.write(__import__("gzip").compress(b'{{"index": 1}}' * 1000)[:-20])
with (session.writer.folder / "hdr/icl.hlog").open("ab") as file:
    file.write(b"Tag=m/chat/measure,17000")
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    run = load(tmp_path / "latest")
    assert len(list(run.samples())) == 25
    assert run.manifest["state"] == "running"
    summary = run.summary
    assert (summary.state, summary.verdict.status) == ("interrupted", "interrupted")
    assert summary.verdict.exit_code == 143
    assert "25 requests" in summary.verdict.reasons[0]
    assert [(g.phase, g.kind, g.requests.ok) for g in summary.groups] == [
        ("measure", "measure", 20),
        ("warmup", "warmup", 5),
    ]
    measure = summary.groups[0]
    assert measure.metrics["ttft"].p50 == pytest.approx(109, rel=0.001)
    assert measure.metrics["icl"].n == 180, "from the log: no row holds the gaps"
    assert measure.metrics["icl"].p50 == pytest.approx(10, rel=0.001)
    assert measure.goodput.share == 1
    assert run.histogram(*KEY, "ttft").n == 20
    assert run.histogram(*KEY, "icl").n == 180
    assert sum(row["output_tokens"] for row in run.seconds()) == 250
    jsonschema.Draft202012Validator(json_schema()).validate(
        json.loads(msgspec.json.encode(summary))
    )


def test_a_run_that_never_got_a_request_can_be_read(tmp_path):
    run = load(Session(tmp_path).writer.folder)
    assert run.summary.groups == ()
    assert list(run.seconds()) == []
    assert list(run.samples()) == []


@pytest.mark.parametrize("keep", [0, 1, 10, 11, 300, 10**6])
def test_any_torn_end_is_passed_over(tmp_path, keep):
    lines = [msgspec.json.encode(sample(at=n)) + b"\n" for n in range(3)]
    whole, torn = gzip.compress(lines[0]), gzip.compress(lines[1] + lines[2])
    path = tmp_path / "requests.jsonl.gz"
    path.write_bytes(whole + torn[:keep])
    found = list(rows.read(path))
    assert found[0] == sample(at=0)
    assert len(found) <= 3
    if keep >= len(torn):
        assert len(found) == 3
    assert list(rows.decode(path.read_bytes())) == found


def test_a_row_that_is_none_is_named(tmp_path):
    path = tmp_path / "requests.jsonl.gz"
    path.write_bytes(gzip.compress(msgspec.json.encode(sample()) + b"\nnonsense\n"))
    with pytest.raises(DataError, match=r"requests\.jsonl\.gz:2: not a request row"):
        list(rows.read(path))


def test_what_is_no_run_is_refused(tmp_path, session):
    with pytest.raises(UsageError, match="not a run folder"):
        load(tmp_path / "nowhere")
    path = session.finish()
    summary = path / "summary.json"
    text = summary.read_text("utf-8")
    summary.write_text(text.replace('"schema_version": "1.0"', '"schema_version": "2.0"'), "utf-8")
    with pytest.raises(DataError, match="schema_version"):
        load(path)
    log = path / "hdr" / "ttft.hlog"
    log.write_text(log.read_text("utf-8") + "Tag=a/b/c,1,1,1,HISTnonsense\n", "utf-8")
    summary.write_text(text, "utf-8")
    with pytest.raises(DataError, match=r"ttft\.hlog: line 6"):
        load(path).histogram(*KEY, "ttft")


@pytest.mark.parametrize(
    "text", ["", '{"name": "chat"', "[]", "{}", '{"verdict": "pass"}', "\udcff"]
)
def test_a_damaged_summary_is_made_again_from_the_rows(session, text):
    path = session.finish()
    (path / "summary.json").write_bytes(text.encode(errors="surrogateescape"))
    for _again in range(2):  # the second time it is read from what was rebuilt
        run = load(path)
        assert run.summary.verdict.reasons[0].startswith("summary.json is damaged (")
        assert "22 requests were found" in run.summary.verdict.reasons[0]
        assert any("summary.json is damaged (" in notice for notice in run.summary.notices)
        assert run.histogram(*KEY, "ttft").n == 20
        settle(run)
    assert msgspec.json.decode((path / "summary.json").read_bytes(), type=Summary) == run.summary
    assert load(path).manifest["state"] == "interrupted"


def test_a_damaged_summary_without_rows_is_refused(session):
    path = session.finish()
    (path / "requests.jsonl.gz").unlink()
    (path / "summary.json").write_text("{", "utf-8")
    with pytest.raises(DataError, match=r"summary\.json"):
        load(path)


def test_a_rebuilt_summary_stands_alone(session):
    path = session.writer.folder
    settle(load(path))
    (path / "requests.jsonl.gz").unlink()
    assert sum(group.requests.sent for group in load(path).summary.groups) == 22


def test_a_run_that_was_only_looked_at_goes_on(session):
    path = session.writer.folder
    settle(load(path))
    session.second(sample(at=50))
    assert sum(group.requests.sent for group in load(path).summary.groups) == 23
    run = load(session.finish())
    assert (run.manifest["state"], run.summary.state) == ("complete", "complete")


def test_who_knows_that_a_run_goes_on_is_told_what_is_there_so_far(session):
    path = session.writer.folder
    run = load(path, so_far=True)
    assert run.so_far
    assert run.summary.verdict.reasons == ("the run goes on; 22 requests were found",)
    assert headline(run.summary, so_far=run.so_far).word == "SO FAR"
    assert not (path / "summary.json").exists()
    settle(load(path))  # somebody made the pages of the run that goes on
    assert load(path, so_far=True).so_far
    assert not load(session.finish(), so_far=True).so_far, "it is over by now"


def test_killed_between_summary_and_manifest_the_summary_decides(session):
    path = session.finish()
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text("utf-8").replace('"complete"', '"running"'), "utf-8")
    before = (path / "summary.json").read_bytes()
    settle(load(path))
    assert load(path).manifest["state"] == "complete"
    assert (path / "summary.json").read_bytes() == before


def test_a_newer_minor_version_can_be_read(session):
    path = session.finish()
    data = json.loads((path / "summary.json").read_text("utf-8"))
    data |= {"schema_version": "1.9", "novelty": {"x": 1}}
    (path / "summary.json").write_text(json.dumps(data), "utf-8")
    assert load(path).summary.name == "chat"


def test_a_metric_that_is_none_becomes_no_file(session):
    interval = session.recorder.drain(session.clock + NS)
    interval["hist"] = [[*KEY, "../../x", Histogram([1]).encode()]]
    with pytest.raises(ValueError, match="unknown metric"):
        session.writer.append(interval, "w1")
