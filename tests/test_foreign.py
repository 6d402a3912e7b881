"""A run folder from elsewhere is a `DataError` or a run: it fills no memory, follows no link out,
and steers no terminal."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import shutil
import zlib
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from commandline import batch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from record_samples import events, sample

from loadlib import foreign, health, recover, rows, series
from loadlib.errors import DataError, LoadlibError
from loadlib.health import Readings
from loadlib.histogram import Histogram
from loadlib.recorder import NS, Recorder, Totals
from loadlib.run import RunWriter, load
from loadlib.summarise import Window, summarise
from loadlib.summary import Summary, Verdict

EPOCH = 1_700_000_000
EVIL = "\x1b]52;c;ZXZpbA==\x07\x9b31m\u202eevil=<img src=x>`![x](//e)::error::"
FORMULA = '=HYPERLINK("http://e","x")'
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    recorder, totals = Recorder(EPOCH * NS), Totals()
    scenario = "name: t\nload: [{phase: measure, arrival: poisson}]\n"
    writer = RunWriter.create(tmp_path_factory.mktemp("run"), scenario, "chat", ["loadlib", "run"])
    for key in (("m", "chat", "measure"), (FORMULA, "@x", "-p"), ("'m", "+w", "measure")):
        for n in range(4):
            recorder.scheduled(key)
            one = sample(key=key, ttft=100 + n, at=n)
            recorder.add(one, events(one))
    interval = recorder.drain(5 * NS)
    totals.merge(interval)
    writer.append(interval)
    window = Window(phase="measure", start_ns=EPOCH * NS, end_ns=(EPOCH + 10) * NS)
    summary = Summary(
        name="chat", verdict=Verdict(status="pass"), health=health.judge(Readings()),
        groups=summarise(totals, writer.samples(), [window]), environment=writer.environment,
    )  # fmt: skip
    return writer.finish(summary, "complete", totals, [window])


@pytest.fixture
def copied(original, tmp_path) -> Path:
    return shutil.copytree(original, tmp_path / "copy")


def everything(folder: Path) -> None:
    """What the pages read."""
    run = load(folder)
    run.seconds()
    for _ in run.samples():
        pass
    for group in run.summary.groups:
        run.histogram(group.model, group.workload, group.phase, "ttft")


def killed(folder: Path) -> None:
    """As after `kill -9`: the rows are what there is."""
    (folder / "summary.json").unlink()


def text(name: str, content: str | bytes) -> Change:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def row(**changed: object) -> Change:
    """The first row, changed, as the only one of a killed run."""

    def change(folder: Path) -> None:
        killed(folder)
        path = folder / "requests.jsonl.gz"
        with gzip.open(path) as file:
            first = json.loads(file.readline())
        path.write_bytes(gzip.compress(json.dumps({**first, **changed}).encode() + b"\n"))

    return change


def dead(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        killed(folder)
        for one in changes:
            one(folder)

    return change


def replaced(name: str, make: Callable[[Path], object]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def payload(inflated: bytes) -> str:
    packed = zlib.compress(inflated, 9)
    head = 0x1C849304.to_bytes(4, "big") + len(packed).to_bytes(4, "big")
    return b64encode(head + packed).decode()


DEEP = "[" * 200_000 + "]" * 200_000
BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)
HEADER = ",".join(series.COLUMNS)
REFUSED: dict[str, tuple[Change, str]] = {
    "JSON nested too deeply": (text("manifest.json", f'{{"a":{DEEP}}}'), "nested too deeply"),
    "JSON nested a little": (
        text("manifest.json", '{"a":' + "[" * 60 + "]" * 60 + "}"), "nested too deeply"),
    "a number nobody counted": (text("manifest.json", f'{{"n": {10**400}}}'), "none of ours"),
    "YAML whose aliases multiply": (dead(text("scenario.yaml", BOMB)), "too many values"),
    "YAML inside itself": (dead(text("scenario.yaml", "a: &a [*a]\n")), "nested too deeply"),
    "YAML nested too deeply": (dead(text("scenario.yaml", "[" * 3000)), "nested too deeply"),
    "YAML that is none": (dead(text("scenario.yaml", b"\xff\xfe")), "not UTF-8"),
    "YAML of megabytes": (dead(text("scenario.yaml", "#" * 300_000)), "larger than"),
    "a gzip bomb of one line": (
        dead(text("requests.jsonl.gz", gzip.compress(b"x" * (1 << 26)))), "a row of more than"),
    "a gzip bomb of rows": (
        dead(text("requests.jsonl.gz", gzip.compress(b"1\n" * (1 << 24)))), "not a request row"),
    "an instant beyond time": (row(end_ns=10**30), "not a request row"),
    "an instant before time": (row(intended_ns=-1), "not a request row"),
    "tokens beyond belief": (row(output_tokens=10**13), "not a request row"),
    "a limit beyond belief": (row(rate_limit={"requests_limit": 10**40}), "not a request row"),
    "an attempt of a century": (row(last_token_ns=2**62, end_ns=2**62), "more than a day"),
    "a line of control characters": (row(outcome=EVIL), "not a request row"),
    "a series of no numbers": (
        text("timeseries.csv", f"{HEADER}\nx,a,b,c,1,1,1,1,1,1,1,1,1\n"), "not a time series"),
    "a series with a huge cell": (
        text("timeseries.csv", f"{HEADER}\n1,{'a' * 200_000},b,c\n"), "not a time series"),
    "a series without columns": (text("timeseries.csv", "a\n1\n"), "not a time series"),
    "a series of bytes": (text("timeseries.csv", b"\xff\xfe\x00\n" * 9), "not a time series"),
    "a series of a million years": (
        text("timeseries.csv", f"{HEADER}\n1,a,b,c,0,0,0,0,0,0,0,0,0\n"
             f"{10**14},a,b,c,0,0,0,0,0,0,0,0,0\n"), "that is no run"),
    "a log of no histograms": (text("hdr/ttft.hlog", "Tag=a/b/c,1,1,1,HISTF\n"), "line 1: not an"),
    "a log of bytes": (text("hdr/ttft.hlog", b"\xff\xfe\n"), "codec"),
    "a log of one line": (text("hdr/ttft.hlog", "x" * (1 << 21)), "a line of more than"),
    "a histogram that inflates": (
        text("hdr/ttft.hlog", f"Tag=a/b/c,1,1,1,{payload(bytes(1 << 24))}\n"), "inflates past"),
    "a summary that is a device": (
        replaced("summary.json", lambda path: path.symlink_to("/dev/zero")), "leads out of"),
    "a scenario that is our file": (
        dead(replaced("scenario.yaml", lambda path: path.symlink_to("/etc/passwd"))),
        "leads out of"),
    "records that are a pipe": (dead(replaced("requests.jsonl.gz", os.mkfifo)), "is not a file"),
    "a series that is a folder": (replaced("timeseries.csv", Path.mkdir), "is not a file"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_run_has_written_is_refused_by_its_file(copied, name):
    change, words = REFUSED[name]
    change(copied)
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        everything(copied)
    assert str(copied) in str(caught.value)
    assert str(caught.value).isprintable()


def test_logs_beside_a_link_out_of_the_folder(copied):
    shutil.rmtree(copied / "hdr")
    (copied / "hdr").symlink_to("/etc")
    with pytest.raises(DataError, match="leads out of"):
        foreign.read(copied, "hdr/passwd")


def test_a_link_within_the_folder_is_followed_and_not_hashed(copied):
    (copied / "timeseries.csv").rename(copied / "kept.csv")
    (copied / "timeseries.csv").symlink_to("kept.csv")
    everything(copied)
    from loadlib.folder import hash_files

    assert "kept.csv" in hash_files(copied)
    assert "timeseries.csv" not in hash_files(copied)


def test_too_many_groups_in_a_moment(copied, monkeypatch):
    """Each has histograms and rows of its own: what is refused is their number."""
    monkeypatch.setattr(foreign, "MAX_GROUPS", 50)
    with gzip.open(copied / "requests.jsonl.gz") as file:
        first = json.loads(file.readline())
    lines = b"".join(json.dumps({**first, "model": f"m{n}"}).encode() + b"\n" for n in range(60))
    (copied / "requests.jsonl.gz").write_bytes(gzip.compress(lines))
    killed(copied)
    with pytest.raises(DataError, match="more than 50 models, workloads and phases"):
        load(copied)


def test_a_bomb_of_rows_is_found_by_what_it_unpacks_to(copied, monkeypatch):
    with gzip.open(copied / "requests.jsonl.gz") as file:
        line = file.readline()
    (copied / "requests.jsonl.gz").write_bytes(gzip.compress(line * 50_000))
    monkeypatch.setattr(rows, "MAX_RATIO", 20)
    with pytest.raises(DataError, match="unpacks to more than 20 times its size"):
        list(rows.read(copied / "requests.jsonl.gz"))


def test_rows_that_all_say_the_same_are_no_bomb(copied):
    """Half a minute of refused connections packs best of all that a run writes."""
    with gzip.open(copied / "requests.jsonl.gz") as file:
        first = json.loads(file.readline())
    said = {"outcome": "disconnected", "cause": "connect", "error": "Connection refused " * 10}
    lines = b"".join(
        json.dumps({**first, **said, "index": n, "end_ns": first["end_ns"] + n}).encode() + b"\n"
        for n in range(20_000)
    )
    (copied / "requests.jsonl.gz").write_bytes(rows.pack(lines))
    assert len(list(rows.read(copied / "requests.jsonl.gz"))) == 20_000


def test_an_answer_of_a_million_million_events_is_a_second_of_them(copied):
    """Only recovery makes instants up, and no more than tell seconds apart."""
    row(events=10**12)(copied)
    assert load(copied).summary.groups[0].requests.ok == 1
    assert recover._POINTS <= 10_000


# -- names -----------------------------------------------------------------------------------------


def test_no_cell_of_the_series_begins_a_formula_and_names_come_back(original):
    with (original / "timeseries.csv").open(newline="") as file:
        cells = [cell for line in list(csv.reader(file))[1:] for cell in line]
    assert any("HYPERLINK" in cell for cell in cells)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    names = {(r["model"], r["workload"], r["phase"]) for r in load(original).seconds()}
    assert names == {("m", "chat", "measure"), (FORMULA, "@x", "-p"), ("'m", "+w", "measure")}


NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20)  # names are printable


@settings(deadline=None)  # a busy machine is no failure
@given(st.tuples(NAMES, NAMES, NAMES))
def test_any_name_survives_the_series(names):
    made = dict.fromkeys(series.COLUMNS, 1) | dict(zip(("phase", "model", "workload"), names))  # noqa: B905
    assert series.read(series.write([made]), "f") == [made]


def hostile(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"name": EVIL, "notices": [EVIL], "skipped": [EVIL], "started_at": EVIL}
    for group in summary["groups"]:
        group |= {"model": EVIL, "workload": EVIL, "phase": EVIL, "load": EVIL}
        group |= {"errors": {EVIL: 3}, "causes": {EVIL: 2}}
        group["quality"]["variants"] = {EVIL: {"checked": 5, "passed": 1}}
    summary["environment"] = {EVIL: EVIL}
    summary["scenario"] = {"name": EVIL, EVIL: [EVIL]}
    summary["models"] = {EVIL: {"wire": EVIL, "price_source": EVIL}}
    summary["verdict"] = {"status": "fail", "reasons": [EVIL], "exit_code": 5}
    (folder / "summary.json").write_text(json.dumps(summary))
    manifest = {"id": EVIL, "argv": [EVIL], "files": {"../../x": EVIL, "summary.json": EVIL}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.slow
def test_nothing_printed_or_written_steers_a_terminal_a_page_or_a_ci(original, copied, tmp_path):
    hostile(copied)
    said = batch(["report", copied], ["compare", original, copied], ["compare", copied, copied],
                 ["compare", copied, copied, "--json"])  # fmt: skip
    pages = [(copied / name).read_text() for name in ("report.html", "summary.md", "junit.xml")]
    for shown in (*(done.out + done.err for done in said), *pages):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", shown)
        assert not re.search(r"(?m)^\s*::\w", shown)
    assert [done.code for done in said] == [0, 0, 0, 0]
    assert "<img" not in pages[0]
    assert "![x](" not in pages[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]  # nothing beside it


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(["summary.json", "manifest.json", "scenario.yaml", "timeseries.csv",
                        "hdr/ttft.hlog", "requests.jsonl.gz"]),
       st.binary(max_size=60) | JSON.map(lambda found: json.dumps(found).encode()), st.booleans(),
       st.booleans())  # fmt: skip
def test_any_bytes_in_any_file_are_a_run_or_one_line(original, copied, name, data, packed, alive):
    shutil.rmtree(copied)
    shutil.copytree(original, copied)
    (copied / name).write_bytes(gzip.compress(data) if packed else data)
    if not alive and name != "summary.json":
        killed(copied)
    with suppress(LoadlibError):
        everything(copied)


@settings(deadline=None)  # a busy machine is no failure
@given(st.binary(max_size=200))
def test_any_payload_is_a_histogram_or_a_value_error(data):
    for coded in (data, b64encode(data), payload(data).encode()):
        try:
            Histogram.decode(coded)
        except ValueError:
            continue
