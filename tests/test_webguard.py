"""Who may talk to the web UI: the rule as a table, then every route of a real one."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from pathlib import Path

import pytest
from locust_driver import Driver, Web

SITE = "Sec-Fetch-Site"
NAVIGATE = {"Sec-Fetch-Mode": "navigate"}
HERE = "127.0.0.1:8089"

REFUSALS = [
    ("locust.swarm", {}, HERE, True, True, "a program: no browser says where it comes from"),
    ("locust.swarm", {SITE: "same-origin"}, HERE, True, True, "the page itself"),
    ("locust.index", {SITE: "none", **NAVIGATE}, HERE, True, True, "an address that was typed"),
    ("locust.swarm", {SITE: "cross-site"}, HERE, True, False, "another site starts load"),
    ("locust.swarm", {SITE: "same-site"}, HERE, True, False, "another port of this machine"),
    ("locust.swarm", {SITE: "cross-site", **NAVIGATE}, HERE, True, False, "a form of another site"),
    ("locust.request_stats", {SITE: "cross-site"}, HERE, True, False, "another site reads"),
    ("locust.stop", {SITE: "cross-site", **NAVIGATE}, HERE, True, False, "a link that stops"),
    ("locust.index", {SITE: "cross-site", **NAVIGATE}, HERE, True, True, "a link to the page"),
    ("locust.index", {SITE: "cross-site"}, HERE, True, False, "the page read by another one"),
    ("oauth", {SITE: "cross-site", **NAVIGATE}, "x.test", False, True, "back from a login"),
    ("oauth", {SITE: "cross-site"}, "x.test", False, False, "one's own route, read"),
    ("locust.swarm", {"Origin": f"http://{HERE}"}, HERE, True, True, "an old browser, our page"),
    ("locust.swarm", {"Origin": "http://evil.test"}, HERE, True, False, "… and another's"),
    ("locust.swarm", {"Origin": "null"}, HERE, True, False, "… a file, or a frame in a sandbox"),
    ("locust.swarm", {"Origin": "https://load.test", "X-Forwarded-Host": "load.test"},
     "10.0.0.1:8089", False, True, "behind a proxy"),
    ("locust.index", {}, "evil.test:8089", True, False, "a name that was rebound to loopback"),
    ("locust.index", {SITE: "same-origin"}, "evil.test", True, False, "… is its own origin"),
    ("locust.index", {}, "localhost:8089", True, True, "a name of this machine"),
    ("locust.index", {}, "[::1]:8089", True, True, "the other loopback"),
    ("locust.index", {}, "load.test", False, True, "bound elsewhere, or with a login"),
    ("locust.index", {}, "[oops", True, False, "no host at all"),
]  # fmt: skip


def test_the_rule():
    """Read off the source: this process must not import what imports Locust."""
    path = Path(__file__).parents[1] / "loadlib" / "swarm" / "webguard.py"
    code = (
        "import json, sys, types\n"
        f"module = types.ModuleType('guard'); exec(open({str(path)!r}).read(), module.__dict__)\n"
        "rows = json.load(sys.stdin)\n"
        "print(json.dumps([module.refusal(e, h, host, loopback_only=alone) is None"
        " for e, h, host, alone in rows]))"
    )
    rows = [row[:4] for row in REFUSALS]
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(rows), capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    wrong = [
        row
        for row, allowed in zip(REFUSALS, json.loads(done.stdout), strict=True)
        if row[4] is not allowed
    ]
    assert wrong == []


# -- every route of a real one ---------------------------------------------------------------------

WALK = """
import json

from flask import redirect, request
from flask_login import UserMixin, login_user
from locust import constant, events
from loadlib import ChatUser


class Chat(ChatUser):
    models = ["fast"]
    wait_time = constant(1)


class Person(UserMixin):
    id = "someone"


@events.init.add_listener
def login(environment, web_ui, **kwargs):
    web_ui.app.secret_key = "only a test"
    web_ui.login_manager.user_loader(lambda name: Person())

    @web_ui.app.route("/let-me-in", methods=["POST"])
    def let_me_in():
        login_user(Person())
        return redirect("/")


@events.test_start.add_listener
def never(**kwargs):
    print("A RUN WAS STARTED", flush=True)


@events.init.add_listener
def routes(web_ui, **kwargs):  # after loadlib's own, which were added when the module was imported
    found = web_ui.app.url_map.iter_rules()
    rules = [[rule.rule, rule.endpoint, sorted(rule.methods)] for rule in found]
    with open("routes.json", "w") as file:
        json.dump(rules, file)
"""
FREE_TO_SEE = {"locust.login", "locust.send_assets", "static", "let_me_in"}
"""The way in, and files that are the same for everybody."""


def ask(web: Web, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=40)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in {"Content-Length": "0", **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def web(paced, tmp_path_factory):
    driver = Driver(tmp_path_factory.mktemp("walk"), paced.base_url)
    try:
        driver.write("walk.py", WALK)
        flags = "--base-url", driver.base_url, "--web-login", "--class-picker"
        with driver.web("locust", "-f", "walk.py", *flags) as found:
            yield found
    finally:
        driver.close()


@pytest.fixture(scope="module")
def routes(web) -> list[tuple[str, str, str]]:
    """(method, path, endpoint) of everything the web UI answers to, what loadlib added included."""
    rules = json.loads((web.child.cwd / "routes.json").read_text())
    return [
        (
            method,
            rule.replace("<path:", "<").replace("<filename>", "x").replace("<path>", "x"),
            name,
        )
        for rule, name, methods in rules
        for method in methods
        if method != "OPTIONS"  # says which methods there are
    ]


def test_every_route_that_shows_or_changes_something_asks_who_you_are(web, routes):
    guarded = [route for route in routes if route[2] not in FREE_TO_SEE]
    assert {"locust.index", "locust.swarm", "locust.stop", "locust.request_stats"} <= {
        name for _, _, name in guarded
    }
    answers = {(method, path): ask(web, method, path) for method, path, _ in guarded}
    assert not {where: a for where, a in answers.items() if a[0] not in (302, 401)}
    assert all("/login" in a[1].get("Location", "/login") for a in answers.values())
    assert "A RUN WAS STARTED" not in Path(web.child._out.name).read_text()


def test_and_knows_you_afterwards(web, routes):
    """Else the test above would pass for a web UI that shows nobody anything."""
    status, headers, _ = ask(web, "POST", "/let-me-in")
    assert status == 302
    cookie = headers["Set-Cookie"].split(";")[0]
    shown = [(m, p) for m, p, name in routes if m == "GET" and name not in FREE_TO_SEE]
    quiet = [(m, p) for m, p in shown if p not in ("/stop", "/stats/reset")]
    statuses = {path: ask(web, method, path, Cookie=cookie)[0] for method, path in quiet}
    assert statuses["/"] == statuses["/stats/requests"] == statuses["/logs"] == 200
    assert not {path for path, status in statuses.items() if status in (302, 401, 403)}
    others = {SITE: "cross-site", "Cookie": cookie}
    refusals = {(m, p): ask(web, m, p, **others)[0] for m, p, _ in routes}
    assert set(refusals.values()) == {403}


def test_no_other_site_may_read_or_frame_it(web):
    status, headers, _ = ask(web, "GET", "/login", Origin="http://evil.test")
    assert status == 403
    assert not [name for name in headers if name.lower().startswith("access-control-")]
    status, headers, _ = ask(web, "GET", "/login", Host="load.test")
    assert status == 200  # with a login any name will do: the cookie knows its own
    assert headers["X-Frame-Options"] == "SAMEORIGIN"
    assert not [name for name in headers if name.lower().startswith("access-control-")]
