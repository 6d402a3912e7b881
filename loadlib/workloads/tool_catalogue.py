"""A big catalogue of functions: what agents are offered that are wired up to a whole business.

Twenty kinds of records with six functions each, of realistic size and nesting. None of them does
what a function of data/tools.json does, so which one fits stays clear.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loadlib.workloads.tool_stories import TOOLS, Tool

# Record → what it is, its states, and fields of its own (name → schema).
_Fields = Mapping[str, Mapping[str, Any]]
_TEXT: Mapping[str, Any] = {"type": "string", "minLength": 1}
_DAY: Mapping[str, Any] = {"type": "string", "format": "date"}
_MONEY: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "value": {"type": "number"},
        "currency": {"type": "string", "pattern": "^[A-Z]{3}$"},
    },
    "required": ["value", "currency"],
    "additionalProperties": False,
}
_WHOLE: Mapping[str, Any] = {"type": "integer", "minimum": 0}

_RECORDS: Mapping[str, tuple[str, tuple[str, ...], _Fields]] = {
    "invoice": ("an invoice to a company", ("draft", "sent", "paid", "overdue"),
                {"net": _MONEY, "due": _DAY, "purchase_reference": _TEXT}),
    "supplier": ("a supplier", ("candidate", "approved", "blocked"),
                 {"name": _TEXT, "tax_number": _TEXT, "payment_days": _WHOLE}),
    "contract": ("a contract with a company", ("draft", "signed", "ended"),
                 {"partner": _TEXT, "begins": _DAY, "ends": _DAY, "yearly_value": _MONEY}),
    "employee": ("an employee's record", ("active", "on_leave", "left"),
                 {"name": _TEXT, "team": _TEXT, "hired": _DAY}),
    "vacancy": ("an open position", ("planned", "open", "filled"),
                {"position": _TEXT, "site": _TEXT, "salary": _MONEY}),
    "applicant": ("an application for a position", ("new", "invited", "rejected", "hired"),
                  {"name": _TEXT, "received": _DAY, "years_of_experience": _WHOLE}),
    "campaign": ("an advertising campaign", ("planned", "running", "over"),
                 {"slogan": _TEXT, "budget": _MONEY, "begins": _DAY}),
    "warehouse": ("a warehouse", ("open", "closed"), {"site": _TEXT, "square_metres": _WHOLE}),
    "vehicle": ("a vehicle of the fleet", ("in_use", "in_repair", "sold"),
                {"plate": _TEXT, "mileage_km": _WHOLE, "next_inspection": _DAY}),
    "machine": ("a machine of the workshop", ("running", "idle", "broken"),
                {"model": _TEXT, "bought": _DAY, "operating_hours": _WHOLE}),
    "insurance_claim": ("a claim against the insurance", ("reported", "accepted", "denied"),
                        {"damage": _TEXT, "happened": _DAY, "estimate": _MONEY}),
    "audit": ("an internal audit", ("planned", "under_way", "closed"),
              {"subject": _TEXT, "begins": _DAY, "findings": _WHOLE}),
    "training": ("a course for staff", ("planned", "full", "held"),
                 {"subject": _TEXT, "held": _DAY, "seats": _WHOLE}),
    "business_trip": ("a business trip", ("asked_for", "approved", "settled"),
                      {"destination": _TEXT, "begins": _DAY, "cost": _MONEY}),
    "software_licence": ("a software licence", ("active", "expired"),
                         {"product": _TEXT, "seats": _WHOLE, "expires": _DAY}),
    "server": ("a server of the data centre", ("running", "stopped", "retired"),
               {"host": _TEXT, "cores": _WHOLE, "memory_gib": _WHOLE}),
    "incident": ("an outage of a service", ("open", "mitigated", "resolved"),
                 {"service": _TEXT, "began": _DAY, "users_affected": _WHOLE}),
    "press_release": ("a press release", ("draft", "published"),
                      {"headline": _TEXT, "embargo": _DAY}),
    "donation": ("a donation received", ("pledged", "received"),
                 {"donor": _TEXT, "sum": _MONEY, "received": _DAY}),
    "laboratory_sample": ("a sample in the laboratory", ("taken", "analysed", "discarded"),
                          {"substance": _TEXT, "taken": _DAY, "milligrams": _WHOLE}),
}  # fmt: skip


def _object(properties: _Fields, required: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _functions(record: str) -> list[Tool]:
    what, states, fields = _RECORDS[record]
    number = {f"{record}_id": {"type": "string", "description": f"number of {what}"}}
    state = {"type": "string", "enum": list(states)}
    page = _object({"size": {"type": "integer", "minimum": 1, "maximum": 100}, "cursor": _TEXT})
    only = {
        "state": state,
        "changed": _object({"from": _DAY, "to": _DAY}),
        "owner": {"type": "string", "format": "email"},
    }
    ways: list[tuple[str, str, dict[str, Any]]] = [
        (f"get_{record}", f"Read {what}.", _object(number, tuple(number))),
        (f"list_{record}s", f"List records, each of which is {what}.",
         _object({"only": _object(only), "page": page})),
        (f"create_{record}", f"Create {what}.",
         _object({"fields": _object(fields, tuple(fields)), "state": state}, ("fields",))),
        (f"update_{record}", f"Change fields of {what}.",
         _object({**number, "changes": _object({**fields, "state": state})},
                 (*number, "changes"))),
        (f"archive_{record}", f"Archive {what}.",
         _object({**number, "reason": _TEXT}, tuple(number))),
        (f"export_{record}s", f"Export records to a file, each of which is {what}.",
         _object({"only": _object(only),
                  "format": {"type": "string", "enum": ["csv", "xlsx", "json"]}}, ("format",))),
    ]  # fmt: skip
    return [
        {"type": "function", "function": {"name": name, "description": said, "parameters": schema}}
        for name, said, schema in ways
    ]


EVERY: tuple[Tool, ...] = (*TOOLS, *(one for record in _RECORDS for one in _functions(record)))
"""All functions, those that are asked for first."""
