"""Made-up receipts and invoices in several countries' manners: what they say, and how they say it.

The shops, the addresses and the goods do not exist. Amounts are kept in hundredths.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal

Kind = Literal["receipt", "invoice"]

_DATA = Path(__file__).parent / "data" / "receipts.json"
_FIRST_DAY, _DAYS = date(2023, 1, 1), 1_000


@dataclass(frozen=True, slots=True)
class Locale:
    """How a country writes; `net_prices`: prices of a shop are without tax."""

    tag: str
    currency: str
    money: str
    decimal: str
    group: str
    date: str
    tax_percent: float
    net_prices: bool
    merchants: tuple[tuple[str, str], ...]
    items: tuple[str, ...]
    services: tuple[str, ...]
    words: Mapping[str, str]

    def amount(self, hundredths: int) -> str:
        """A number with two decimals."""
        whole, rest = divmod(hundredths, 100)
        return f"{whole:,}".replace(",", self.group) + f"{self.decimal}{rest:02d}"

    def price(self, hundredths: int) -> str:
        """An amount with its currency."""
        return self.money.format(self.amount(hundredths))

    @property
    def tax_name(self) -> str:
        """The tax with its rate."""
        percent = f"{self.tax_percent:g}".replace(".", self.decimal)
        return f"{self.words['tax']} {percent} %"


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a receipt; `price` of one, in hundredths."""

    name: str
    quantity: int
    price: int

    @property
    def amount(self) -> int:
        """Of all of them."""
        return self.quantity * self.price


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt or an invoice; `net` + `tax` = `total`."""

    kind: Kind
    locale: Locale
    merchant: str
    address: str
    buyer: str | None  # of an invoice
    number: str
    day: date
    items: tuple[Item, ...]
    net: int
    tax: int
    total: int
    added: bool  # whether the tax comes on top of the prices

    @property
    def printed_date(self) -> str:
        """The date as it stands on the paper."""
        return self.day.strftime(self.locale.date)

    def facts(self) -> dict[str, Any]:
        """What there is to be read, in the form of `SCHEMA`."""
        return {
            "merchant": self.merchant,
            "number": self.number,
            "date": self.day.isoformat(),
            "currency": self.locale.currency,
            "items": [
                {
                    "description": one.name,
                    "quantity": one.quantity,
                    "unit_price": one.price / 100,
                    "amount": one.amount / 100,
                }
                for one in self.items
            ],
            "net": self.net / 100,
            "tax_percent": self.locale.tax_percent,
            "tax": self.tax / 100,
            "total": self.total / 100,
        }

    def sums(self) -> list[tuple[str, str]]:
        """The last lines, in the order of the paper: what and how much."""
        words, price = self.locale.words, self.locale.price
        net, tax = (words["net"], price(self.net)), (self.locale.tax_name, price(self.tax))
        total = (words["total"], price(self.total))
        return [net, tax, total] if self.added else [total, net, tax]

    def text(self) -> str:
        """The paper as lines of text, as a scanner that knows no layout reads it."""
        words, amount = self.locale.words, self.locale.amount
        lines = [
            self.merchant,
            self.address,
            "",
            f"{words[self.kind]}  {words['number']} {self.number}",
            f"{words['date']}: {self.printed_date}",
            *([f"{words['bill_to']}: {self.buyer}"] if self.buyer else []),
            "",
            f"{words['quantity']}  {words['item']}  {words['price']}  {words['amount']}",
        ]
        lines += [
            f"{one.quantity} x {one.name}  {amount(one.price)}  {amount(one.amount)}"
            for one in self.items
        ]
        lines += ["", *(f"{what}  {much}" for what, much in self.sums())]
        if self.kind == "receipt":
            lines += ["", words["thanks"]]
        return "\n".join(lines)


def make(luck: random.Random, locale: Locale, kind: Kind, items: tuple[int, int]) -> Receipt:
    """A receipt with a number of different items within `items` (at most 10, invoices 6)."""
    goods, most = (locale.items, 10) if kind == "receipt" else (locale.services, 6)
    names = luck.sample(goods, min(most, luck.randint(*items)))
    dearer = (40 if kind == "invoice" else 1) * (10 if locale.currency in _SMALL else 1)
    sold = tuple(
        Item(name, luck.choice((1, 1, 1, 2, 3, 4)), luck.randint(89, 1999) * dearer)
        for name in names
    )
    added = locale.net_prices or kind == "invoice"
    sum_ = sum(one.amount for one in sold)
    share = Decimal(str(locale.tax_percent)) / 100
    tax = _round(sum_ * share if added else sum_ - sum_ / (1 + share))
    (merchant, address), (buyer, _) = luck.sample(locale.merchants, 2)
    prefix = "" if kind == "receipt" else luck.choice(("A-", "R", "2024/", "INV-"))
    return Receipt(
        kind=kind,
        locale=locale,
        merchant=merchant,
        address=address,
        buyer=buyer if kind == "invoice" else None,
        number=f"{prefix}{luck.randint(10_000, 99_999)}",
        day=_FIRST_DAY + timedelta(days=luck.randrange(_DAYS)),
        items=sold,
        net=sum_ if added else sum_ - tax,
        tax=tax,
        total=sum_ + tax if added else sum_,
        added=added,
    )


_SMALL = {"SEK", "UAH"}  # units worth a tenth of a euro, or less


def _round(value: Decimal) -> int:
    return int(value.quantize(Decimal(1), ROUND_HALF_UP))


@cache
def locales() -> Mapping[str, Locale]:
    """By tag, `de-DE`."""
    read: dict[str, dict[str, Any]] = json.loads(_DATA.read_text(encoding="utf-8"))
    return {
        tag: Locale(
            tag=tag,
            **{
                **row,
                "merchants": tuple(map(tuple, row["merchants"])),
                "items": tuple(row["items"]),
                "services": tuple(row["services"]),
            },
        )
        for tag, row in read.items()
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SCHEMA: dict[str, Any] = _object(
    {
        "merchant": {"type": "string", "description": "name of the seller, without address"},
        "number": {"type": "string", "description": "of the receipt or invoice"},
        "date": {"type": "string", "description": "YYYY-MM-DD"},
        "currency": {"type": "string", "description": "ISO 4217 code"},
        "items": {
            "type": "array",
            "items": _object(
                {
                    "description": {"type": "string"},
                    "quantity": {"type": "integer"},
                    "unit_price": {"type": "number"},
                    "amount": {"type": "number"},
                }
            ),
        },
        "net": {"type": "number", "description": "sum before tax"},
        "tax_percent": {"type": "number"},
        "tax": {"type": "number", "description": "amount of the tax"},
        "total": {"type": "number", "description": "sum with tax"},
    }
)
"""What is asked for; within what OpenAI's `strict` allows (every field required, none besides)."""
