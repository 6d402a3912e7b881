"""Which reports of which process have come: no gap goes unseen, nothing is counted twice."""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_MISSING = 1_000_000  # reports in a row: eleven days of them


@dataclass(slots=True)
class Account:
    """The reports of one process. They are numbered from 1 and may come in any order."""

    last: int = 0  # the highest number known to exist
    missing: set[int] = field(default_factory=set)
    requests: int = 0  # finished ones that the accepted reports held, the dropped included
    checksum: int = 0  # sum of the CRC-32 of their frames

    def accept(self, seq: int) -> bool:
        """Whether this report is new."""
        if seq in self.missing:
            self.missing.remove(seq)
            return True
        if seq <= self.last:
            return False
        self.expect(seq - 1)
        self.last = seq
        return True

    def expect(self, seq: int) -> None:
        """So many reports exist: what has not come of them is missing.

        Raises ValueError for a number that can only be damage.
        """
        if seq - self.last > MOST_MISSING:
            raise ValueError(f"report {seq:,} after report {self.last:,}")
        if seq > self.last:
            self.missing.update(range(self.last + 1, seq + 1))
            self.last = seq

    @property
    def upto(self) -> int:
        """Every report up to this one has come."""
        return min(self.missing) - 1 if self.missing else self.last


class Ledger:
    """The accounts of all processes that have reported."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.duplicates = 0  # reports that came twice and were counted once

    def __getitem__(self, source: str) -> Account:
        """The account of a process, opened where there was none."""
        return self.accounts.setdefault(source, Account())

    def __len__(self) -> int:
        return len(self.accounts)

    def accept(self, source: str, seq: int) -> bool:
        """Whether a report is new; False for one that came before."""
        new = self[source].accept(seq)
        self.duplicates += not new
        return new

    @property
    def gaps(self) -> int:
        """Reports known to exist that never came."""
        return sum(len(account.missing) for account in self.accounts.values())
