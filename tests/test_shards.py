"""Frames and shard files: whole or absent, whatever happens to the bytes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib import shards
from loadlib.errors import DataError
from loadlib.shards import MAGIC, ShardWriter

REPORTS = [
    {"kind": "interval", "seq": n, "rows": bytes(range(n)), "text": "ü" * n} for n in (1, 2, 3)
]
FRAMES = [shards.pack(report) for report in REPORTS]


def test_a_report_is_read_as_it_was_packed():
    assert [shards.unpack(frame) for frame in FRAMES] == REPORTS
    assert len({shards.checksum(frame) for frame in FRAMES}) == 3


@given(st.integers(0, len(FRAMES[2]) - 1), st.integers(1, 255))
def test_one_changed_byte_anywhere_is_noticed(place, change):
    damaged = bytearray(FRAMES[2])
    damaged[place] ^= change
    with pytest.raises(ValueError, match="damaged"):
        shards.unpack(bytes(damaged))


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"", "nothing"),
        (b"\0\0\0", "less than a head"),
        (FRAMES[0][:-1], "its end is torn off"),
        (FRAMES[0] + b"!", "something follows"),
        (shards.pack({"a": 1})[:8] + b"\x01", "other content than its head says"),
    ],
)
def test_what_is_no_frame_is_refused(frame, why):
    with pytest.raises(ValueError, match=r"damaged|too short"):
        shards.unpack(frame)
    assert why


def test_a_frame_that_holds_no_report_is_refused():
    number = shards.pack([1, 2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not a report"):
        shards.unpack(number)


def written(folder, frames=FRAMES):
    writer = ShardWriter(shards.path_of(folder, "host_1"))
    for frame in frames:
        writer.append(frame)
    assert writer.whole
    assert writer.problem is None
    return writer.path


@pytest.mark.parametrize("lost", [0, 1, 7, 8, 9, 30, len(FRAMES[2])])
def test_a_torn_end_is_passed_over(tmp_path, lost):
    path = written(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - lost])
    assert list(shards.read(path)) == (REPORTS if not lost else REPORTS[:2])


def test_a_damaged_frame_in_the_middle_costs_only_itself(tmp_path):
    path = written(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(MAGIC) + len(FRAMES[0]) + 12] ^= 1
    path.write_bytes(data)
    assert list(shards.read(path)) == [REPORTS[0], REPORTS[2]]


def test_an_absurd_length_ends_the_reading_without_taking_the_memory(tmp_path):
    path = written(tmp_path, FRAMES[:1])
    with path.open("ab") as file:
        file.write(b"\xff\xff\xff\xff\0\0\0\0" + FRAMES[1])
    assert list(shards.read(path)) == REPORTS[:1]


def test_another_file_is_refused_by_name(tmp_path):
    path = tmp_path / "x.shard"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"x\.shard: not a shard file"):
        list(shards.read(path))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("host_0a1b", "host_0a1b.shard"),
        ("../../etc/passwd", "etc-passwd.shard"),
        ("a/b\\c\nd", "a-b-c-d.shard"),
        ("..", "worker.shard"),
        ("", "worker.shard"),
        ("x" * 500, "x" * 120 + ".shard"),
    ],
)
def test_a_workers_name_is_no_path(tmp_path, source, name):
    assert shards.path_of(tmp_path, source) == tmp_path / "shards" / name


def test_a_disk_that_refuses_for_a_while_loses_nothing(tmp_path, monkeypatch):
    import os

    writer = ShardWriter(shards.path_of(tmp_path, "w"))
    real = os.write

    def full(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    writer.append(FRAMES[0])
    writer.append(FRAMES[1])
    assert not writer.whole
    assert writer.problem == "cannot write w.shard: No space left on device"
    monkeypatch.setattr(os, "write", real)
    writer.append(FRAMES[2])
    assert writer.whole
    assert list(shards.read(writer.path)) == REPORTS


def open_files():
    return {path.resolve() for path in Path("/proc/self/fd").iterdir()}


def test_a_disk_that_stays_full_does_not_fill_the_memory(tmp_path, monkeypatch):
    import os

    monkeypatch.setattr(shards, "MAX_WAITING", 3 * len(FRAMES[2]))
    writer = ShardWriter(shards.path_of(tmp_path, "w"))

    def full(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for _ in range(10):
        writer.append(FRAMES[2])
    assert writer._file is None
    assert not writer.whole
    assert writer.path not in open_files()


def test_a_folder_that_cannot_be_made_is_a_problem_and_no_error(tmp_path):
    (tmp_path / "shards").write_text("a file")
    writer = ShardWriter(shards.path_of(tmp_path, "w"))
    writer.append(FRAMES[0])
    assert writer.problem is not None
    assert "w.shard" in writer.problem
