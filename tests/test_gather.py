"""Shard files → a run folder: the same figures as the master's, and what is missing is named."""

import re
import struct
import zlib

import pytest
from record_samples import KEY, MS, events, sample

from loadlib import gather as gathering
from loadlib import run as runs
from loadlib import scenario, server_record, shards
from loadlib.errors import DataError, UsageError
from loadlib.lastword import LastWord, Span
from loadlib.recorder import NS, Recorder
from loadlib.server_record import Scrape

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


def shard(
    folder, index, *, count=2, requests=8, ends=True, skip=(), phases=(PHASE,), quiet=(), word=(),
    **changes,
):  # fmt: skip
    """A worker's shard file with a request a second, one report each, its time shared out.

    In the phases `quiet` nothing happens; `word` is what else its last word says.
    """
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
        share, titles = 8 * NS // (len(phases) + len(quiet)), (*phases, *quiet)
        spans = tuple(
            Span(phase=title, models=(MODEL,), start_ns=start, end_ns=start + share)
            for title, start in zip(titles, range(EPOCH, EPOCH + 8 * NS, share), strict=True)
        )
        said = {"seq": recorder.seq, "requests": requests, "checksum": checksum, "spans": spans}
        frames.append(shards.pack({"kind": "end", "word": LastWord(**said | dict(word))}))
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


def test_what_the_master_read_of_the_servers_is_taken_along(tmp_path):
    folder = tmp_path / "reports" / "20260101T000000Z-lost-abc123"
    watched = SCENARIO.replace("server_metrics: []", "server_metrics: [{every: 1s}]")
    shard(folder, 0, count=1, scenario=watched)
    assert runs.load(gathering.gather([folder]).folder).summary.servers == (), "it left nothing"
    lines = [server_record.header()]
    for second in range(-1, 10):
        stamp = EPOCH + second * NS
        told = {"running": 1.0, "output_tokens": 10.0 * max(0, second)}
        one = Scrape(server="127.0.0.1:1", before_ns=stamp, after_ns=stamp, values=told)
        lines.append(server_record.line(one))
    (folder / "server.csv").write_bytes(b"".join(lines))
    run = runs.load(gathering.gather([folder]).folder)
    (server,) = run.summary.servers
    assert (server.name, server.scrapes, len(run.server())) == ("127.0.0.1:1", 11, 11)
    assert (server.output_tokens, server.ours_output_tokens) == (90, 80)
    assert server.phases[0].running.max == 1
    assert run.manifest["servers"][0]["url"] == "http://127.0.0.1:1/metrics"


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


LEFT = "worker host_1 left before the end; its share is missing"
STOPPED = "stopped before its plan was over"
CUT = {"cut": True}


@pytest.mark.parametrize(
    ("words", "verdict", "state", "missing", "reason", "why"),
    [
        (({}, CUT | {"left": True}), "inconclusive", "complete", (LEFT,), "gaps", "one's SIGTERM"),
        ((CUT | {"signal": 143},) * 2, "interrupted", "interrupted", (), "SIGTERM", "the master's"),
        ((CUT, CUT | {"aborted": "no money"}), "aborted", "interrupted", (), "no money", "its own"),
        ((CUT, {}), "inconclusive", "interrupted", (), STOPPED, "by Locust, or in its web UI"),
        ((CUT | {"left": True},) * 2, "inconclusive", "interrupted", (), STOPPED, "no master left"),
    ],
)
def test_a_run_that_was_stopped_is_judged_so(tmp_path, words, verdict, state, missing, reason, why):
    folder = tmp_path / "reports" / "r"
    for index, word in enumerate(words):
        shard(folder, index, word=word)
    found = gathering.gather([folder])
    summary = runs.load(found.folder).summary
    assert (summary.verdict.status, summary.state, found.missing) == (verdict, state, missing), why
    assert reason in summary.verdict.reasons[0], why
    assert summary.gates[0].status == "pass", "which must not make a pass of it"


def test_a_torn_copy_beside_the_whole_file_takes_nothing_away(tmp_path):
    path = shard(tmp_path / "reports" / "r", 0, count=1)
    torn = tmp_path / "a.shard"
    torn.write_bytes(path.read_bytes()[:-400])
    for given in ([torn, path], [path, torn]):
        assert gathering.gather(given, tmp_path / "out").missing == ()


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


def test_what_a_worker_left_is_no_run_folder_yet_and_that_is_said(tmp_path):
    shard(tmp_path, 0)
    with pytest.raises(UsageError, match=r"it has no manifest\.json; --from-shards makes one"):
        runs.load(tmp_path)


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


@pytest.mark.parametrize(
    ("left", "why"),
    [
        (0, "the machine went down before the disk had anything"),
        (5, "… or within the first line"),
        (len(shards.MAGIC), "killed between the first line and the first frame"),
        (100, "… or within that frame"),
    ],
)
def test_a_file_torn_at_its_beginning_is_a_gap_and_the_others_count(tmp_path, left, why):
    folder = tmp_path / "reports" / "r"
    whole, torn = shard(folder, 0), shard(folder, 1)
    torn.write_bytes(torn.read_bytes()[:left])
    found = gathering.gather([folder])
    assert (found.workers, found.requests) == (1, 8), why
    assert found.missing == (
        "shard 2 of 2 is not there: what its worker sent is missing",
        "host_1.shard is damaged where it says what its run is: nothing of it is here",
    )
    assert runs.load(found.folder).summary.verdict.status == "inconclusive"
    copy = tmp_path / whole.name  # of the other one, as small
    copy.write_bytes(shards.MAGIC)
    alone = shard(tmp_path / "alone", 0, count=1)
    assert gathering.gather([alone, copy], tmp_path / "out").missing == (), "there is a better one"


def test_a_worker_that_only_a_torn_file_tells_of_is_a_gap(tmp_path):
    """Without a scenario workers join at any time, so no shard is known to be absent."""
    folder = tmp_path / "reports" / "r"
    shard(folder, 0, count=1, free=True)
    (folder / "shards" / "host_9.shard").write_bytes(shards.MAGIC)
    found = gathering.gather([folder])
    assert len(found.missing) == 1
    (reason,) = runs.load(found.folder).summary.verdict.reasons
    assert "sequence gaps is 1" in reason


def test_a_phase_that_an_edit_opened_is_a_row_of_its_own(tmp_path):
    folder = tmp_path / "reports" / "r"
    shard(folder, 0, count=1, free=True, phases=(PHASE, f"{PHASE}-2"))
    found = gathering.gather([folder])
    groups = runs.load(found.folder).summary.groups
    assert {group.phase: group.requests.ok for group in groups} == {PHASE: 4, f"{PHASE}-2": 4}
    assert [group.duration_s for group in groups] == [4, 4]
    assert runs.load(found.folder).summary.gates == ()


def test_an_edit_just_before_the_end_opened_a_phase_without_requests(tmp_path):
    folder = tmp_path / "reports" / "r"
    shard(folder, 0, count=1, free=True, quiet=(f"{PHASE}-2",))
    run = runs.load(gathering.gather([folder]).folder)
    counts = {group.phase: group.requests.scheduled for group in run.summary.groups}
    assert counts == {PHASE: 8, f"{PHASE}-2": 0}
    lasted = {phase["name"]: phase["duration"] for phase in run.scenario["load"]}
    assert lasted == {PHASE: "4s", f"{PHASE}-2": "4s"}, "as Locust had it, not as was implied"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"shard": [0, 10**9]}, "not of this loadlib: shard 0 of 1000000000"),
        ({"shard": [2, 2]}, "not of this loadlib: shard 2 of 2"),
        ({"word": {"seq": 10**9}}, "worker host_0: report 1,000,000,000 after report 8"),
    ],
)
def test_absurd_numbers_do_not_take_the_memory(tmp_path, given, why):
    path = shard(tmp_path, 0, count=1, **given)
    with pytest.raises(DataError, match=re.escape(why)):
        gathering.gather([path], tmp_path / "out")


@pytest.mark.parametrize("report", [{"interval": {"seq": 1}}, {"interval": {"end_ns": "x"}}, {}])
def test_a_report_of_another_shape_is_an_error_that_names_the_file(tmp_path, report):
    writer = shards.ShardWriter(tmp_path / "x.shard")
    writer.append(shards.pack(begin(0, 1)))
    writer.append(shards.pack({"kind": "interval", **report}))
    with pytest.raises(DataError, match=r"x\.shard: not of this loadlib"):
        gathering.gather([tmp_path / "x.shard"], tmp_path)


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


# -- shards from elsewhere -------------------------------------------------------------------------


def last(folder, **changed):
    """A shard whose last interval is another."""
    recorder = Recorder(EPOCH)
    recorder.scheduled(KEY)
    recorder.add(sample(), events(sample()))
    interval = recorder.drain(NS) | changed
    path = shards.path_of(folder, "host_0")
    path.parent.mkdir(parents=True)
    frames = [begin(0, 1), {"kind": "interval", "phase": PHASE, "interval": interval}]
    path.write_bytes(shards.MAGIC + b"".join(map(shards.pack, frames)))
    return path


NAMES = [MODEL, WORKLOAD, PHASE]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seq": 10**13}, "not of this loadlib"),
        ({"seq": "1"}, "not of this loadlib"),
        ({"end_ns": 10**18}, "that is no run"),
        ({"seconds": [[10**11, *NAMES, *[1] * 8]]}, "that is no run"),
        ({"seconds": [[1, *NAMES]]}, "not of this loadlib"),
        ({"counts": [[*NAMES, -1, {}]]}, "not of this loadlib"),
        ({"hist": [[*NAMES, "ttft", b"junk"]]}, "not an HDR V2 payload"),
        ({"hist": [[*NAMES, "../../x", b""]]}, "not an HDR V2 payload"),
        ({"notes": 3}, "not of this loadlib"),
        ({"rows": b"junk"}, None),
    ],
)
def test_what_no_worker_has_reported_is_refused(tmp_path, changed, words):
    path = last(tmp_path / "run", **changed)
    if words is None:
        assert gathering.gather([path], tmp_path / "out").requests == 1
        return
    with pytest.raises(DataError, match=words):
        gathering.gather([path], tmp_path / "out")


def test_two_workers_of_one_name_do_not_pass_for_one(tmp_path):
    """The second one's reports would be taken for duplicates, and half of a run would pass."""
    files = [shard(tmp_path / "a", 0), shard(tmp_path / "b", 1, worker="host_0")]
    with pytest.raises(DataError, match=r"host_1\.shard: its worker has another shard"):
        gathering.gather(files, tmp_path / "out")


def test_a_last_word_of_another_scenario_is_refused(tmp_path):
    path = shard(tmp_path, 0, count=1, phases=("another",))
    with pytest.raises(DataError, match="host_0: its last word has a phase of another scenario"):
        gathering.gather([path], tmp_path / "out")


def test_a_link_in_a_folder_is_not_followed_and_one_that_is_named_is(tmp_path):
    path = shard(tmp_path / "mine", 0, count=1)
    link = shards.path_of(tmp_path / "theirs", "host_0")
    link.parent.mkdir(parents=True)
    link.symlink_to(path)
    with pytest.raises(DataError, match="leads out of"):
        gathering.gather([tmp_path / "theirs"], tmp_path / "out")
    assert gathering.gather([link], tmp_path / "out").requests == 8


def test_a_shard_that_is_a_link_out_or_nested_without_end(tmp_path):
    path = last(tmp_path / "run")
    outside = tmp_path / "elsewhere.shard"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(DataError, match="leads out of"):
        list(shards.read(path))
    deep = b"\x91" * 100_000 + b"\xc0"  # lists of one list each
    frame = struct.pack(">II", len(deep), zlib.crc32(deep)) + deep
    with pytest.raises(ValueError, match="not a report"):
        shards.unpack(frame)
