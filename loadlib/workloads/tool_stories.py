"""What the functions of data/tools.json are asked for: requests whose arguments are settled by
their words, and stories in which one call leads to the next. Drawn by seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from loadlib.workloads.calls import Call

Tool = Mapping[str, Any]

TOOLS: tuple[Tool, ...] = tuple(
    json.loads((Path(__file__).parent / "data" / "tools.json").read_text(encoding="utf-8"))
)
NAMES = tuple(tool["function"]["name"] for tool in TOOLS)


@dataclass(frozen=True, slots=True)
class Step:
    """A call that is due, and what it returns."""

    call: Call
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Story:
    """A question, the calls it takes one after the other, and what the answer must say."""

    question: str
    steps: tuple[Step, ...]
    answer: str


# City, country, its code, airport.
_CITIES = (
    ("Lyon", "France", "FR", "LYS"),
    ("Kyoto", "Japan", "JP", "KIX"),
    ("Porto", "Portugal", "PT", "OPO"),
    ("Chengdu", "China", "CN", "CTU"),
    ("Leipzig", "Germany", "DE", "LEJ"),
    ("Seville", "Spain", "ES", "SVQ"),
    ("Casablanca", "Morocco", "MA", "CMN"),
    ("Montreal", "Canada", "CA", "YUL"),
    ("Nairobi", "Kenya", "KE", "NBO"),
    ("Recife", "Brazil", "BR", "REC"),
    ("Gdansk", "Poland", "PL", "GDN"),
    ("Auckland", "New Zealand", "NZ", "AKL"),
)
_STREETS = ("12 Mill Lane", "7 Harbour Street", "88 Station Road", "3 Garden Close")
_PEOPLE = ("amara.okafor", "li.wen", "jonas.berg", "sofia.reyes", "noor.haddad", "emma.clarke")
_MONEY = (("euros", "EUR"), ("US dollars", "USD"), ("Japanese yen", "JPY"), ("Swiss francs", "CHF"),
          ("pounds sterling", "GBP"), ("Indian rupees", "INR"))  # fmt: skip
_GOODS = (("espresso machine", "kitchen"), ("garden hose", "garden"), ("yoga mat", "sports"),
          ("wooden train", "toys"), ("desk lamp", "office"))  # fmt: skip
_TITLES = ("Budget review", "Release planning", "Design critique", "Hiring round", "Stand-up")
_CARRIERS = ("dhl", "ups", "fedex", "gls")
_REASONS = (("arrived damaged", "damaged"), ("came too late", "late"),
            ("was the wrong item", "wrong_item"))  # fmt: skip


def _order(luck: random.Random) -> str:
    return f"A-{luck.randint(10_000, 99_999)}"


def _customer(luck: random.Random) -> str:
    return f"C-{luck.randint(1000, 9999)}"


def _sku(luck: random.Random) -> str:
    return f"{''.join(luck.choices('ABCDEFGHKLMN', k=2))}-{luck.randint(100, 999)}"


def _email(luck: random.Random) -> str:
    return f"{luck.choice(_PEOPLE)}{luck.randint(2, 99)}@example.com"


def _day(luck: random.Random) -> date:
    return date(2027, 1, 1) + timedelta(days=luck.randrange(360))


def _spoken(day: date) -> str:
    return f"{day.day} {day:%B %Y}"


# -- requests of one call ----------------------------------------------------------------------

Ask = tuple[str, Call]
"""A request in words, and the one call it takes."""


def _weather(luck: random.Random) -> Ask:
    city, country, code, _ = luck.choice(_CITIES)
    days, units = luck.randint(2, 7), luck.choice(("metric", "imperial"))
    words = (
        f"Get the weather forecast for {city}, {country} for the next {days} days, in {units}"
        " units."
    )
    place = {"city": city, "country": code}
    return words, Call("get_weather", {"place": place, "days": days, "units": units})


def _status(luck: random.Random) -> Ask:
    order = _order(luck)
    return f"Look up order {order}.", Call("get_order", {"order_id": order})


def _purchase(luck: random.Random) -> Ask:
    items = [
        {"sku": sku, "quantity": luck.randint(1, 9)}
        for sku in sorted({_sku(luck) for _ in range(luck.randint(1, 3))})
    ]
    customer, method = _customer(luck), luck.choice(("standard", "express"))
    city, country, code, _ = luck.choice(_CITIES)
    street, postal = luck.choice(_STREETS), str(luck.randint(10_000, 99_999))
    goods = " and ".join(f"{one['quantity']} of {one['sku']}" for one in items)
    words = (
        f"Place an order for customer {customer}: {goods}. Ship it by {method} delivery to"
        f" {street}, {postal} {city}, {country}."
    )
    address = {"street": street, "city": city, "postal_code": postal, "country": code}
    shipping = {"method": method, "address": address}
    return words, Call(
        "place_order", {"customer_id": customer, "items": items, "shipping": shipping}
    )


def _refund(luck: random.Random) -> Ask:
    order, (said, reason) = _order(luck), luck.choice(_REASONS)
    value, (name, code) = luck.randint(500, 29_999) / 100, luck.choice(_MONEY[:2])
    words = f"Refund {value:.2f} {name} of order {order}: it {said}."
    amount = {"value": value, "currency": code}
    return words, Call("refund_order", {"order_id": order, "amount": amount, "reason": reason})


def _search(luck: random.Random) -> Ask:
    goods, category = luck.choice(_GOODS)
    least = luck.randint(2, 20) * 5
    most, limit = least + luck.randint(4, 40) * 5, luck.randint(3, 9)
    words = (
        f'Search the {category} category for "{goods}" between {least} and {most} euros, only what'
        f" is in stock, cheapest first, at most {limit} results."
    )
    price = {"min": least, "max": most}
    return words, Call(
        "search_products",
        {
            "query": goods,
            "filters": {"category": category, "price": price, "in_stock": True},
            "sort": "price_ascending",
            "limit": limit,
        },
    )


def _lookup(luck: random.Random) -> Ask:
    email = _email(luck)
    return f"Find the customer with the address {email}.", Call("find_customer", {"email": email})


def _ticket(luck: random.Random) -> Ask:
    customer, category = _customer(luck), luck.choice(("delivery", "billing", "account"))
    priority, channel = luck.choice(("low", "high")), luck.choice(("email", "phone", "chat"))
    language, code = luck.choice((("German", "de"), ("Spanish", "es"), ("Chinese", "zh")))
    words = (
        f"Open a ticket about {category} for customer {customer}, of {priority} priority; the"
        f" customer wants to be contacted by {channel} in {language}."
    )
    contact = {"channel": channel, "language": code}
    return words, Call(
        "open_ticket",
        {"customer_id": customer, "category": category, "priority": priority, "contact": contact},
    )


def _parcel(luck: random.Random) -> Ask:
    carrier, number = luck.choice(_CARRIERS), _tracking(luck)
    words = f"Track the {carrier.upper()} parcel {number}."
    return words, Call("track_parcel", {"carrier": carrier, "number": number})


def _tracking(luck: random.Random) -> str:
    return f"{''.join(luck.choices('JDXZ', k=2))}{luck.randint(10**9, 10**10 - 1)}"


def _event(luck: random.Random) -> Ask:
    title, day, minutes = luck.choice(_TITLES), _day(luck), luck.choice((15, 30, 45, 60, 90))
    hour, half, before = luck.randint(7, 18), luck.choice((0, 30)), luck.choice((5, 10, 20))
    guests = sorted({_email(luck) for _ in range(luck.randint(1, 3))})
    words = (
        f'Put "{title}" into the calendar on {_spoken(day)} at {hour:02d}:{half:02d} UTC for'
        f" {minutes} minutes with {', '.join(guests)}, and remind me by e-mail {before} minutes"
        " before."
    )
    return words, Call(
        "create_event",
        {
            "title": title,
            "start": f"{day}T{hour:02d}:{half:02d}:00Z",
            "duration_minutes": minutes,
            "attendees": guests,
            "reminder": {"minutes_before": before, "channel": "email"},
        },
    )


def _exchange(luck: random.Random) -> Ask:
    (name, code), (other, wanted) = luck.sample(_MONEY, 2)
    amount, day = luck.randint(5, 900) * 5, _day(luck)
    words = f"Convert {amount} {name} into {other} at the rate of {_spoken(day)}."
    return words, Call(
        "convert_currency", {"amount": amount, "from": code, "to": wanted, "date": str(day)}
    )


def _flight(luck: random.Random) -> Ask:
    (city, _, _, leaves), (other, _, _, lands) = luck.sample(_CITIES, 2)
    day, adults, children = _day(luck), luck.randint(2, 5), luck.randint(2, 4)
    cabin = luck.choice(("economy", "business", "first"))
    words = (
        f"Search for flights from {city} ({leaves}) to {other} ({lands}) on {_spoken(day)} for"
        f" {adults} adults and {children} children in {cabin} class."
    )
    return words, Call(
        "search_flights",
        {
            "from": leaves,
            "to": lands,
            "departure": str(day),
            "passengers": {"adults": adults, "children": children},
            "cabin": cabin,
        },
    )


def _heating(luck: random.Random) -> Ask:
    room, celsius = luck.choice(("kitchen", "bedroom", "office")), luck.randint(30, 48) / 2
    until = f"{luck.randint(18, 23)}:{luck.choice((15, 30, 45))}"
    words = f"Heat the {room} to {celsius:g} degrees Celsius until {until}."
    return words, Call(
        "set_thermostat", {"room": room, "target": {"celsius": celsius, "until": until}}
    )


ASKS: Mapping[str, Callable[[random.Random], Ask]] = {
    "get_weather": _weather,
    "get_order": _status,
    "place_order": _purchase,
    "refund_order": _refund,
    "search_products": _search,
    "find_customer": _lookup,
    "open_ticket": _ticket,
    "track_parcel": _parcel,
    "create_event": _event,
    "convert_currency": _exchange,
    "search_flights": _flight,
    "set_thermostat": _heating,
}
"""Function → a request that takes one call of it."""


# -- stories of several steps ------------------------------------------------------------------


def _where(luck: random.Random) -> Story:
    order, carrier, number = _order(luck), luck.choice(_CARRIERS), _tracking(luck)
    (start, _, code, _), (here, _, this, _) = luck.sample(_CITIES, 2)
    day = _day(luck)
    return Story(
        f"Which town is the parcel of order {order} in now? Reply with the name of the town only.",
        (
            Step(
                Call("get_order", {"order_id": order}),
                {
                    "order_id": order,
                    "state": "shipped",
                    "parcel": {"carrier": carrier, "number": number},
                },
            ),
            Step(
                Call("track_parcel", {"carrier": carrier, "number": number}),
                {
                    "number": number,
                    "events": [
                        {"day": str(day), "what": "collected", "city": start, "country": code},
                        {
                            "day": str(day + timedelta(days=2)),
                            "what": "arrived, not yet forwarded",
                            "city": here,
                            "country": this,
                        },
                    ],
                },
            ),
        ),
        here,
    )


def _complaint(luck: random.Random) -> Story:
    email, customer = _email(luck), _customer(luck)
    category, number = luck.choice(("delivery", "billing")), f"T-{luck.randint(1000, 9999)}"
    arguments = {"customer_id": customer, "category": category, "priority": "high"}
    return Story(
        f"The customer with the address {email} has called. Open a ticket about {category} of high"
        " priority for this customer, then reply with the ticket's number only.",
        (
            Step(
                Call("find_customer", {"email": email}),
                {"customer_id": customer, "email": email, "since": str(_day(luck).replace(2021))},
            ),
            Step(Call("open_ticket", arguments), {"ticket": number, "state": "open"}),
        ),
        number,
    )


def _rate(luck: random.Random) -> Story:
    words, call = _exchange(luck)
    whole = call.arguments["amount"] * luck.randint(2, 9)
    result = round(whole + luck.choice((0.17, 0.38, 0.64, 0.92)), 2)
    shown = {"amount": call.arguments["amount"], "result": result, "currency": call.arguments["to"]}
    return Story(f"{words} Reply with the number only.", (Step(call, shown),), f"{result:.2f}")


def _warmest(luck: random.Random) -> Story:
    city, country, code, _ = luck.choice(_CITIES)
    count, first = luck.randint(3, 6), _day(luck)
    highs = luck.sample(range(8, 34), count)
    dates = [str(first + timedelta(days=n)) for n in range(count)]
    days = [
        {"date": day, "high": high, "low": high - luck.randint(4, 9)}
        for day, high in zip(dates, highs, strict=True)
    ]
    place = {"city": city, "country": code}
    arguments = {"place": place, "days": count, "units": "metric"}
    return Story(
        f"Which of the next {count} days, today included, will be the warmest in {city}, {country}?"
        " Use metric units. Reply with the date only, in the form YYYY-MM-DD.",
        (Step(Call("get_weather", arguments), {"place": place, "days": days}),),
        dates[highs.index(max(highs))],
    )


def _cheapest(luck: random.Random) -> Story:
    goods, category = luck.choice(_GOODS)
    customer, number = _customer(luck), _order(luck)
    codes = list(dict.fromkeys(_sku(luck) for _ in range(9)))[:3]
    prices = luck.sample(range(20, 90), 3)
    found = [
        {"sku": sku, "price_eur": price + 0.9} for sku, price in zip(codes, prices, strict=True)
    ]
    best = codes[prices.index(min(prices))]
    return Story(
        f'Search the {category} category for "{goods}", only what is in stock, cheapest first.'
        f" Order one piece of the cheapest you find for customer {customer}, to be picked up at the"
        " shop, and reply with the order number only.",
        (
            Step(
                Call(
                    "search_products",
                    {
                        "query": goods,
                        "filters": {"category": category, "in_stock": True},
                        "sort": "price_ascending",
                    },
                ),
                {"found": found},
            ),
            Step(
                Call(
                    "place_order",
                    {
                        "customer_id": customer,
                        "items": [{"sku": best, "quantity": 1}],
                        "shipping": {"method": "pickup"},
                    },
                ),
                {"order_id": number, "state": "accepted"},
            ),
        ),
        number,
    )


STORIES: tuple[Callable[[random.Random], Story], ...] = (
    _where,
    _complaint,
    _rate,
    _warmest,
    _cheapest,
)

# -- questions that need no function -----------------------------------------------------------

PLAIN: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("What is the capital of Australia?", ("Canberra",)),
    ("How many sides does a hexagon have?", ("6", "six")),
    ("Which planet is the largest of the solar system?", ("Jupiter",)),
    ("What is the chemical symbol of gold?", ("Au",)),
    ("What does the abbreviation VAT stand for?", ("value added tax", "value-added tax")),
    ("How many minutes are there in two hours?", ("120", "one hundred and twenty")),
    ("What is the opposite of the word “expensive”?", ("cheap", "inexpensive", "affordable")),
    ("Which ocean lies between Portugal and Canada?", ("Atlantic",)),
    ("What is the plural of the word “invoice”?", ("invoices",)),
    ("In which month does the winter solstice of the northern hemisphere fall?", ("December",)),
    ("What is 7 times 8?", ("56", "fifty-six")),
    ("Which gas do plants take out of the air to grow?", ("carbon dioxide", "CO2", "CO₂")),
)
"""Questions whose answers everybody knows, and what an answer must say one of."""
