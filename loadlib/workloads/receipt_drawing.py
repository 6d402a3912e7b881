"""Receipts and invoices as pictures: a sheet of paper on a table."""

from __future__ import annotations

import random

from loadlib.workloads.drawing import line, polygon, rect, sheet, text
from loadlib.workloads.receipts import Receipt

_TABLES = ("#8a9a8f", "#b08d6a", "#6f7f95", "#a3a199", "#7d6a5c")
_INK, _PALE, _RULE = "#2a2a2e", "#6a6a72", "#9a9aa2"
_ACCENTS = ("#1f5f8b", "#7a2f4b", "#2f6b4f", "#5a4a8a")

_NARROW, _EDGE, _STEP = 300, 22, 36  # a till roll: width, margin, height of an item
_WIDE, _MARGIN, _ROW = 620, 48, 30  # an invoice's page


def picture(receipt: Receipt, size: tuple[int, int], luck: random.Random) -> str:
    """The SVG of a receipt as it lies there, slightly askew, in a picture of this size."""
    inside, width, height = _roll(receipt, luck) if receipt.kind == "receipt" else _page(receipt)
    tilt = luck.uniform(-2.0, 2.0)
    # turned by up to 2° it needs a little more room
    room_w, room_h = width + 0.035 * height, height + 0.035 * width
    zoom = min(size[0] * 0.94 / room_w, size[1] * 0.94 / room_h)
    shadow = "".join(  # in strips: to blend the whole sheet takes twice as long as all the rest
        rect(width, spread, spread, height, "#000", opacity=0.07)
        + rect(spread, height - 4, width - spread, spread + 4, "#000", opacity=0.07)
        for spread in (2, 4, 6)
    )
    placed = (
        f'<g transform="translate({size[0] / 2:.1f} {size[1] / 2:.1f}) rotate({tilt:.2f})'
        f' scale({zoom:.4f}) translate({-width / 2} {-height / 2})">{shadow}{inside}</g>'
    )
    return sheet(*size, luck.choice(_TABLES), placed)


def _roll(receipt: Receipt, luck: random.Random) -> tuple[str, float, float]:
    """A till roll: (SVG, width, height)."""
    words, locale = receipt.locale.words, receipt.locale
    left, right, middle = _EDGE, _NARROW - _EDGE, _NARROW / 2
    y = 42.0
    out = [
        text((middle, y), receipt.merchant, 19, _INK, anchor="middle", bold=True),
        text((middle, y + 18), receipt.address, 10.5, _PALE, anchor="middle"),
    ]
    y += 34
    out.append(line((left, y), (right, y), _RULE, 1, "4 3"))
    y += 20
    out += [
        text((left, y), words[receipt.kind], 12, _INK, bold=True),
        text((right, y), f"{words['number']} {receipt.number}", 12, _INK, anchor="end"),
        text((left, y + 18), words["date"], 12, _PALE),
        text((right, y + 18), receipt.printed_date, 12, _INK, anchor="end"),
    ]
    y += 30
    out.append(line((left, y), (right, y), _RULE, 1, "4 3"))
    for item in receipt.items:
        out += [
            text((left, y + 18), item.name, 13, _INK),
            text((right, y + 18), locale.amount(item.amount), 13, _INK, anchor="end"),
            text((left + 10, y + 32), f"{item.quantity} × {locale.amount(item.price)}", 11, _PALE),
        ]
        y += _STEP
    y += 6
    out.append(line((left, y), (right, y), _RULE, 1, "4 3"))
    for what, much in receipt.sums():
        whole = what == words["total"]
        size = 17 if whole else 12
        y += 26 if whole else 19
        out += [
            text((left, y), what, size, _INK, bold=whole),
            text((right, y), much, size, _INK, anchor="end", bold=whole),
        ]
    y += 34
    out.append(text((middle, y), words["thanks"], 11, _PALE, anchor="middle"))
    out.append(_barcode(middle, y + 12, luck))
    height = y + 70
    return _paper(height) + "".join(out), _NARROW, height


def _paper(height: float) -> str:
    """Torn off along a saw."""
    teeth = [(x, height - (4 if i % 2 else 0)) for i, x in enumerate(range(_NARROW, -1, -6))]
    return polygon([(0, 0), (_NARROW, 0), *teeth], "#fcfbf7")


def _barcode(middle: float, y: float, luck: random.Random) -> str:
    out, x = [], middle - 70
    while x < middle + 70:
        width = luck.choice((1.2, 1.2, 2.4, 3.6))
        out.append(rect(x, y, width, 32, _INK))
        x += width + luck.choice((1.2, 2.4))
    return "".join(out)


def _page(receipt: Receipt) -> tuple[str, float, float]:
    """An invoice's page: (SVG, width, height)."""
    words, locale = receipt.locale.words, receipt.locale
    left, right = _MARGIN, _WIDE - _MARGIN
    accent = _ACCENTS[len(receipt.merchant) % len(_ACCENTS)]
    out = [
        rect(0, 0, _WIDE, 10, accent),
        text((left, 70), receipt.merchant, 24, accent, bold=True),
        text((left, 92), receipt.address, 12.5, _PALE),
        text((left, 150), words[receipt.kind], 22, _INK, bold=True),
        text((left, 174), f"{words['bill_to']}: {receipt.buyer}", 14, _INK),
        text((right, 150), f"{words['number']} {receipt.number}", 14, _INK, anchor="end"),
        text((right, 172), f"{words['date']} {receipt.printed_date}", 14, _INK, anchor="end"),
    ]
    ends = (left + 300, left + 410, right)
    y = 210.0
    out.append(rect(left - 8, y, right - left + 16, 30, accent, opacity=0.12))
    heads = (words["quantity"], words["price"], words["amount"])
    out.append(text((left, y + 20), words["item"], 13, _INK, bold=True))
    out += [
        text((x, y + 20), head, 13, _INK, anchor="end", bold=True)
        for x, head in zip(ends, heads, strict=True)
    ]
    y += 30
    for item in receipt.items:
        cells = (str(item.quantity), locale.amount(item.price), locale.amount(item.amount))
        out.append(text((left, y + 20), item.name, 13.5, _INK))
        out += [
            text((x, y + 20), cell, 13.5, _INK, anchor="end")
            for x, cell in zip(ends, cells, strict=True)
        ]
        y += _ROW
        out.append(line((left - 8, y), (right + 8, y), "#dcdce2"))
    y += 14
    for what, much in receipt.sums():
        whole = what == words["total"]
        y += 34 if whole else 26
        size = 18 if whole else 14
        out += [
            text((right - 150, y), what, size, _INK, anchor="end", bold=whole),
            text((right, y), much, size, _INK, anchor="end", bold=whole),
        ]
    tall = max(y + 120, 640)
    out.append(line((left, tall - 56), (right, tall - 56), "#dcdce2"))
    out.append(text((left, tall - 36), f"{receipt.merchant} · {receipt.address}", 11, _PALE))
    return rect(0, 0, _WIDE, tall, "#fefefe") + "".join(out), _WIDE, tall
