"""Shard files → a run folder: the same figures as the master's, and what is missing is named."""

import pytest
from record_samples import KEY, MS, events, sample

from loadlib import gather as gathering
from loadlib import run as runs
from loadlib import scenario, shards
from loadlib.errors import DataError, UsageError
from loadlib.lastword import LastWord, Span
from loadlib.recorder import NS, Recorder

MODEL, WORKLOAD, PHASE = KEY
SCENARIO = scenario.to_yaml(
    scenario.parse(
        f"""
version: 1
name: lost
models: [{{name: {MODEL}, base_url: "http://127.0.0.1:1/v1"}}]
workloads: {{{WORKLOAD}: {{kind: chat, output_tokens: 8}}}}
load: [{{phase: measure, name: {PHASE}, duration: 8s, arrival: constant, rate: 2/s}}]
slo: ["all: ttft.p50 < 5s"]
""",
        "<test>",
    )
)
EPOCH = 1_700_000_000 * NS


def begin(index, count=2, **changes):
    return {
        "kind": "begin", "run": "20260101T000000Z-lost-abc123", "worker": f"host_{index}",
        "shard": [index, count], "started_ns": EPOCH, "scenario": SCENARIO, "free": False,
        "rates": {PHASE: {MODEL: 2.0}}, "unserved": [], "notices": ["as it was"], "skipped": [],
        "allow_unhealthy": False, "argv": ["loadlib", "run"], "base_url": None, **changes,
    }  # fmt: skip


def shard(folder, index, *, count=2, requests=8, ends=True, skip=(), phases=(PHASE,), **changes):
    """A worker's shard file with a request a second, one report each, its time shared out."""
    recorder = Recorder(EPOCH)
    frames = [shards.pack(begin(index, count, **changes))]
    checksum = 0
    for n in range(requests):
        key = (MODEL, WORKLOAD, phases[n * len(phases) // requests])
        recorder.scheduled(key)
        one = sample(index=count * n + index, at=1000 * n + index, key=key)
        recorder.add(one, events(one))
        interval = recorder.drain((n + 1) * NS)
        frame = shards.pack({"kind": "interval", "phase": PHASE, "interval": interval})
        checksum += shards.checksum(frame)
        if n not in skip:
            frames.append(frame)
    if ends:
        share = 8 * NS // len(phases)
        spans = tuple(
            Span(phase=title, models=(MODEL,), start_ns=start, end_ns=start + share)
            for title, start in zip(phases, range(EPOCH, EPOCH + 8 * NS, share), strict=True)
        )
        word = LastWord(seq=recorder.seq, requests=requests, checksum=checksum, spans=spans)
        frames.append(shards.pack({"kind": "end", "word": word}))
    path = shards.path_of(folder, f"host_{index}")
    writer = shards.ShardWriter(path)
    for frame in frames:
        writer.append(frame)
    return path


def group(folder):
    (found,) = runs.load(folder).summary.groups
    return found


def test_two_shards_are_one_run(tmp_path):
    folder = tmp_path / "reports" / "20260101T000000Z-lost-abc123"
    for index in (0, 1):
        shard(folder, index)
    found = gathering.gather([folder])
    assert found.folder.parent == folder.parent
    assert (found.workers, found.requests, found.missing) == (2, 16, ())
    run = runs.load(found.folder)
    assert run.summary.state == "complete"
    assert run.summary.verdict.status in ("pass", "inconclusive"), run.summary.verdict
    assert run.summary.notices[:2] == ("as it was", "made of 2 shard files")
    assert run.manifest["environment"]["gathered_from"] == "20260101T000000Z-lost-abc123"
    requests = group(found.folder).requests
    assert (requests.scheduled, requests.ok, requests.lost) == (16, 16, 0)
    assert group(found.folder).duration_s == 8
    assert group(found.folder).metrics["icl"].n == 16 * 9
    rows = list(run.samples())
    assert sorted(row.index for row in rows) == list(range(16))
    assert [row.end_ns for row in rows] == sorted(row.end_ns for row in rows), "in order of time"
    assert run.summary.gates[0].status == "pass"


def test_what_is_given_twice_counts_once(tmp_path):
    path = shard(tmp_path / "reports" / "r", 0, count=1)
    copy = tmp_path / "copy.shard"
    copy.write_bytes(path.read_bytes())
    found = gathering.gather([path, copy, path.parent.parent], tmp_path / "out")
    assert (found.workers, found.requests, found.missing) == (1, 8, ())
    assert len(list(runs.load(found.folder).samples())) == 8


@pytest.mark.parametrize(
    ("given", "requests", "missing", "why"),
    [
        ({"ends": False}, 16, "worker host_1 ended without a last word", "killed"),
        ({"skip": (2, 3)}, 14, "worker host_1: 2 reports are damaged or missing", "a full disk"),
        ({"skip": (7,)}, 15, "worker host_1: 1 reports are damaged or missing", "the last of all"),
        (None, 8, "shard 2 of 2 is not there", "its machine is gone"),
    ],
)
def test_what_is_missing_is_named_counted_and_no_pass(tmp_path, given, requests, missing, why):
    folder = tmp_path / "reports" / "r"
    shard(folder, 0)
    if given is not None:
        shard(folder, 1, **given)
    found = gathering.gather([folder])
    assert found.requests == requests, why
    (line,) = found.missing
    assert line.startswith(missing)
    summary = runs.load(found.folder).summary
    assert line in summary.notices
    assert summary.verdict.status == "inconclusive"
    assert any("sequence gaps" in reason for reason in summary.verdict.reasons)


def test_a_torn_file_gives_what_is_whole(tmp_path):
    folder = tmp_path / "reports" / "r"
    path = shard(folder, 0, count=1)
    path.write_bytes(path.read_bytes()[:-400])
    found = gathering.gather([folder])
    assert found.requests == 7
    assert "without a last word" in found.missing[0]
    assert group(found.folder).duration_s >= 6, "from the seconds in which something happened"


def test_files_of_two_runs_are_refused(tmp_path):
    first = shard(tmp_path / "a", 0)
    second = shard(tmp_path / "b", 1, run="another")
    with pytest.raises(DataError, match=r"host_1\.shard.*of run another"):
        gathering.gather([first, second], tmp_path)


def test_nothing_is_a_usage_error_that_says_what_to_do(tmp_path):
    with pytest.raises(UsageError, match=r"holds no shard files.*`loadlib report"):
        gathering.gather([tmp_path])


def test_a_file_that_does_not_begin_is_refused(tmp_path):
    writer = shards.ShardWriter(tmp_path / "x.shard")
    writer.append(shards.pack({"kind": "interval"}))
    with pytest.raises(DataError, match="does not begin with what its run is"):
        gathering.gather([tmp_path / "x.shard"])
    other = shards.ShardWriter(tmp_path / "y.shard")
    other.append(shards.pack({"kind": "begin", "run": 7}))
    with pytest.raises(DataError, match="not of this loadlib"):
        gathering.gather([tmp_path / "y.shard"])


def test_a_phase_that_an_edit_opened_is_a_row_of_its_own(tmp_path):
    folder = tmp_path / "reports" / "r"
    shard(folder, 0, count=1, free=True, phases=(PHASE, f"{PHASE}-2"))
    found = gathering.gather([folder])
    groups = runs.load(found.folder).summary.groups
    assert {group.phase: group.requests.ok for group in groups} == {PHASE: 4, f"{PHASE}-2": 4}
    assert [group.duration_s for group in groups] == [4, 4]
    assert runs.load(found.folder).summary.gates == ()


def test_an_untold_lag_is_no_part_of_it(tmp_path):
    """A request that was scheduled and never came is lost, by count."""
    folder = tmp_path / "reports" / "r"
    recorder = Recorder(EPOCH)
    recorder.scheduled(KEY, 5 * MS)
    writer = shards.ShardWriter(shards.path_of(folder, "host_0"))
    writer.append(shards.pack(begin(0, 1)))
    interval = recorder.drain(NS)
    writer.append(shards.pack({"kind": "interval", "phase": PHASE, "interval": interval}))
    found = gathering.gather([folder])
    requests = group(found.folder).requests
    assert (requests.scheduled, requests.lost) == (1, 1)
