"""Rules of faults without a socket: files, options, precedence; and what stands beside answers."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadlib.errors import UsageError
from loadlib.simulator import fault_rules
from loadlib.simulator.__main__ import main
from loadlib.simulator.faults import KINDS, NONE, Asked, Cut, Faults, Instead, Packets, Plan, Rule
from loadlib.simulator.options import parse

# --- files ---------------------------------------------------------------------------------------

GOOD = """\
faults:
  - no-done                       # short for a kind without options
  - kind: status
    status: 429
    retry_after: 2s
    probability: 5 %
    from: 10s
    until: 1m
  - {kind: drip, gap: 50ms, every: 10, model: gpt-4o}
  - {kind: freeze, for: 2s, from: 500ms}
"""


def test_a_file_is_read_as_it_looks(tmp_path):
    path = tmp_path / "faults.yaml"
    path.write_text(GOOD)
    assert fault_rules.read(str(path)) == [
        Rule("no-done"),
        Rule("status", {"status": 429, "retry_after": 2}, 1, 0.05, 10.0, 60.0),
        Rule("drip", {"gap": 0.05}, 10, model="gpt-4o"),
        Rule("freeze", {"for": 2.0}, from_s=0.5),
    ]


BROKEN = {
    "faults:\n  - kind: stal\n": "f.yaml:2: 'stal' is no kind of fault",
    "faults:\n  - kind: truncat\n": "(did you mean 'truncate'?)",
    "faults:\n  - kind: status\n": "f.yaml:2: status needs 'status'",
    "faults:\n  - kind: status\n    status: 200\n": "f.yaml:3: status: should be a status from 400",
    "faults:\n  - kind: status\n    status: yes\n": "f.yaml:3: status: should be a status",
    "faults:\n  - kind: stall-after-first\n    for: 2\n": "f.yaml:3: for: a duration needs a unit",
    "faults:\n  - kind: stall-after-first\n    for: -2s\n": "f.yaml:3: for: a duration cannot be",
    "faults:\n  - kind: stall-after-first\n    for: 25h\n": "f.yaml:3: for: is longer than a day",
    "faults:\n  - kind: html\n    evry: 2\n": "html has no key 'evry' (did you mean 'every",
    "faults:\n  - kind: html\n    every: 0\n": "f.yaml:3: every: should be at least 1",
    "faults:\n  - kind: html\n    every: 1.5\n": "f.yaml:3: every: ",
    "faults:\n  - kind: html\n    probability: 2\n": "f.yaml:3: probability: should be a share",
    "faults:\n  - kind: html\n    probability: often\n": "f.yaml:3: probability: should be a share",
    "faults:\n  - kind: html\n    from: 5s\n    until: 5s\n": "f.yaml:4: until should be later",
    "faults:\n  - kind: freeze\n    for: 1s\n    every: 2\n": "f.yaml:4: freeze has no key 'every'",
    'faults:\n  - kind: wrong-type\n    type: "a\\r\\nb: c"\n': "f.yaml:3: type: should be plain",
    "faults:\n  - kind: one-packet\n    size: 0\n": "f.yaml:3: size: should be at least 1",
    "faults:\n  - 7\n": "f.yaml:2: a fault is a mapping with a kind",
    "faults:\n  - every: 2\n": "f.yaml:2: a fault needs a kind",
    "faults: 7\n": "f.yaml:1: faults: should be a list of rules",
    "fautls: []\n": "f.yaml:1: unknown key 'fautls' (did you mean 'faults'?)",
    "- no-done\n": "f.yaml:1: should be a mapping with one key, faults",
    "": "f.yaml: should be a mapping",
    "faults: [\n": "f.yaml:2: not YAML: ",
    "faults: []\nfaults: []\n": "f.yaml:2: duplicate key 'faults', first at line 1",
}


@pytest.mark.parametrize(("text", "message"), BROKEN.items(), ids=range(len(BROKEN)))
def test_a_broken_file_is_one_line_with_its_place(tmp_path, capsys, text, message):
    path = tmp_path / "f.yaml"
    path.write_text(text)
    assert main(["--faults", str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--faults", "/nowhere.yaml"], "cannot read faults '/nowhere.yaml': No such file"),
        (["--fault", "stal"], "--fault stal: 'stal' is no kind of fault"),
        (["--fault", "status"], "--fault status: status needs 'status'"),
        (["--fault", "status,503"], "--fault status,503: '503' should be key=value"),
        (["--fault", "status,status=42"], "--fault status,status=42: status: should be a status"),
        (["--fault", "html,every=["], "--fault html,every=[: not YAML"),
        (["--tls", "/no.pem", "/no.key"], "--tls: cannot use /no.pem with /no.key: No such file"),
        (["--tls", "a", "b", "--bad-certificate", "self-signed"], "exclude each other"),
    ],
)
def test_wrong_options_are_one_line(capsys, flags, message):
    assert main(flags) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


@pytest.mark.parametrize(
    "flags",
    [
        ["--processes", "0"],
        ["--processes", "two"],
        ["--wrong-rate", "1.5"],
        ["--reasoning-tokens", "-1"],
        ["--request-timeout", "-1"],
        ["--bad-certificate", "good"],
        ["--tls", "one"],
    ],
)
def test_options_out_of_range_are_refused(capsys, flags):
    with pytest.raises(SystemExit) as caught:
        parse(flags, "simulate")
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_short_flags_are_rules_behind_those_of_fault_and_before_the_file(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text("faults: [truncate]")
    flags = ["--faults", str(path), "--status", "429", "--error-code", "x", "--every", "3"]
    flags += ["--stall-after-first", "2", "--fault", "html", "--freeze-at", "1"]
    flags += ["--freeze-for", "2", "--no-done"]
    assert parse(flags, "simulate")["rules"] == (
        Rule("html"),
        Rule("status", {"status": 429, "code": "x"}, 3),
        Rule("stall-after-first", {"for": 2.0}, 3),
        Rule("no-done", {}, 3),
        Rule("freeze", {"for": 2.0}, from_s=1.0),
        Rule("truncate"),
    )


@given(st.sampled_from(["", *KINDS]), st.text(max_size=40))
def test_whatever_the_option_the_error_is_the_users(kind, text):
    for rule in (kind + text, f"{kind},{text}", f"{kind},every={text}", f"{kind},for={text}"):
        with contextlib.suppress(UsageError):  # and no other
            assert fault_rules.parse(rule).kind in KINDS


# --- who gets what -------------------------------------------------------------------------------


def asked(ordinal=1, at=0.0, model="m", nth=1, fresh=True) -> Asked:
    return Asked(ordinal, model, nth, at, fresh)


S = {"for": 1.0}
PRECEDENCE = [
    ([], asked(), NONE, "no rules"),
    ([Rule("no-done")], asked(), Faults(no_done=True), "always, by default"),
    ([Rule("no-done", every=3)], asked(2), NONE, "not the third"),
    ([Rule("no-done", every=3)], asked(6), Faults(no_done=True), "the sixth is a third one"),
    ([Rule("no-done", from_s=5.0)], asked(at=4.9), NONE, "too early"),
    ([Rule("no-done", from_s=5.0)], asked(at=5.0), Faults(no_done=True), "the start is inside"),
    ([Rule("no-done", until_s=5.0)], asked(at=5.0), NONE, "the end is not"),
    ([Rule("no-done", probability=0.0)], asked(), NONE, "never"),
    ([Rule("no-done", model="x")], asked(), NONE, "another model"),
    ([Rule("no-done", every=2, model="m")], asked(2, nth=1), NONE, "the first of its model"),
    ([Rule("no-done", every=2, model="m")], asked(3, nth=2), Faults(no_done=True), "its second"),
    (
        [Rule("stall-after-first", S), Rule("stall-after-first", S), Rule("stall-mid-stream", S)],
        asked(),
        Faults(after_first_s=2.0, mid_stream_s=1.0),
        "delays add up",
    ),
    (
        [Rule("html"), Rule("status", {"status": 500})],
        asked(),
        Faults(instead=Instead("html", 502)),
        "one thing instead of an answer: the first",
    ),
    (
        [Rule("html", every=2), Rule("status", {"status": 500})],
        asked(),
        Faults(instead=Instead("status", 500)),
        "… that hits",
    ),
    (
        [Rule("truncate"), Rule("half-close"), Rule("drip"), Rule("one-packet")],
        asked(),
        Faults(cut=Cut("truncate"), packets=Packets("drip", 1, 0.1)),
        "one end, one way of packing",
    ),
    (
        [Rule("slow-start", S), Rule("gzip")],
        asked(fresh=False),
        Faults(gzip=True),
        "the connection has started",
    ),
    ([Rule("freeze", S)], asked(), NONE, "no matter of a request"),
]


@pytest.mark.parametrize(("rules", "request_", "faults", "why"), PRECEDENCE)
def test_precedence(rules, request_, faults, why):
    assert Plan(rules).of(request_) == faults, why


def test_every_kind_does_something():
    for kind, known in KINDS.items():
        options = {"for": 1.0, "status": 500}
        rule = Rule(kind, {name: options[name] for name in options if name in known.options})
        assert (Plan([rule]).of(asked()) != NONE) is (kind != "freeze")


@given(seed=st.integers(0, 9), share=st.floats(0.05, 0.95))
def test_lots_repeat_by_seed_and_rules_draw_apart(seed, share):
    rules = [Rule("gzip", probability=share), Rule("no-done", probability=share)]
    found = [Plan(rules, seed).of(asked(n)) for n in range(1, 401)]
    assert found == [Plan(rules, seed).of(asked(n)) for n in range(1, 401)]
    for hits in (
        [one.gzip for one in found],
        [one.no_done for one in found],
    ):
        assert abs(sum(hits) / 400 - share) < 0.13  # 5 sd at most
    both = sum(one.gzip and one.no_done for one in found) / 400
    assert abs(both - share * share) < 0.13
