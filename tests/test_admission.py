"""The gate: a ceiling that holds, a line that is fair, and patience that ends."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from loadlib.admission import Gate


def test_the_ceiling_then_the_line_then_in_order() -> None:
    gate: Gate[str] = Gate(ceiling=2, patience_ns=10)
    assert [gate.offer(name, 0) for name in "abcd"] == ["go", "go", "wait", "wait"]
    assert (gate.in_flight, gate.waiting, gate.is_full) == (2, 2, True)
    assert gate.admit() == []
    gate.leave()
    assert gate.offer("e", 1) == "wait", "not past those who wait"
    assert gate.admit() == ["c"]
    gate.leave()
    gate.leave()
    assert gate.admit() == ["d", "e"]
    assert (gate.in_flight, gate.waiting) == (2, 0)


def test_when_full_drop_never_waits() -> None:
    gate: Gate[str] = Gate(ceiling=1, patience_ns=10, when_full="drop")
    assert [gate.offer(name, 0) for name in "ab"] == ["go", "drop"]
    assert gate.waiting == 0
    gate.leave()
    assert gate.offer("c", 0) == "go"


def test_patience_is_over_at_its_instant() -> None:
    gate: Gate[str] = Gate(ceiling=0, patience_ns=10)
    gate.offer("a", 0)
    gate.offer("b", 5)
    assert gate.expire(9) == []
    assert gate.expire(10) == ["a"]
    assert gate.expire(100) == ["b"]
    assert gate.expire(100) == []


def test_a_raised_ceiling_lets_the_line_in_and_a_lowered_one_interrupts_nobody() -> None:
    gate: Gate[str] = Gate(ceiling=1, patience_ns=10)
    for name in "abc":
        gate.offer(name, 0)
    gate.ceiling = 3
    assert gate.admit() == ["b", "c"]
    gate.ceiling = 1
    assert gate.in_flight == 3
    gate.offer("d", 0)
    gate.leave()
    gate.leave()
    assert gate.admit() == []
    gate.leave()
    assert gate.admit() == ["d"]


def test_a_closed_loop_enters_by_itself_and_clear_empties_the_line() -> None:
    gate: Gate[str] = Gate(ceiling=1, patience_ns=10)
    gate.enter()
    assert gate.is_full
    gate.offer("a", 0)
    assert gate.clear() == ["a"]
    assert (gate.in_flight, gate.waiting) == (1, 0)


class Door(RuleBasedStateMachine):
    """Against a model: a list of who waits, and a count."""

    PATIENCE = 7

    def __init__(self) -> None:
        super().__init__()
        self.gate: Gate[int] = Gate(ceiling=3, patience_ns=self.PATIENCE)
        self.now = self.next = self.inside = 0
        self.line: list[tuple[int, int]] = []
        self.started: list[int] = []
        self.lowered = False  # more are inside than the ceiling allows, since it was lowered

    @rule(wait=st.integers(0, 4))
    def arrive(self, wait: int) -> None:
        self.now += wait
        room = self.inside < self.gate.ceiling and not self.line
        assert self.gate.offer(self.next, self.now) == ("go" if room else "wait")
        if room:
            self.inside += 1
            self.started.append(self.next)
        else:
            self.line.append((self.now, self.next))
        self.next += 1

    @precondition(lambda self: self.inside)
    @rule()
    def leave(self) -> None:
        self.gate.leave()
        self.inside -= 1

    @rule()
    def admit(self) -> None:
        room = max(0, self.gate.ceiling - self.inside)
        going, self.line = self.line[:room], self.line[room:]
        assert self.gate.admit() == [who for _, who in going]
        self.inside += len(going)
        self.started += [who for _, who in going]

    @rule(wait=st.integers(0, 9))
    def expire(self, wait: int) -> None:
        self.now += wait
        gone = [who for since, who in self.line if self.now - since >= self.PATIENCE]
        self.line = [one for one in self.line if one[1] not in gone]
        assert self.gate.expire(self.now) == gone

    @rule(ceiling=st.integers(0, 5))
    def change(self, ceiling: int) -> None:
        self.lowered = self.inside > ceiling
        self.gate.ceiling = ceiling

    @invariant()
    def holds(self) -> None:
        self.lowered = self.lowered and self.inside > self.gate.ceiling
        assert self.gate.in_flight == self.inside
        assert self.gate.waiting == len(self.line)
        assert self.inside <= self.gate.ceiling or self.lowered
        assert self.started == sorted(self.started), "first come, first served"


TestDoor = Door.TestCase
