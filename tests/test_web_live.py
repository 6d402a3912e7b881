"""The LLM tab in a real browser, and behind it: a run clicked from its start to its report.

The tests of a process follow each other as a person would go on: the second looks at what the
first began. Two processes: one under a scenario with a base path and hostile names, one of a plain
locustfile behind a login.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from chromium import launched, sync_api
from locust_driver import Driver, folders, read

LIMIT_MS = 60_000
CANARY = "Quiet.Canary-7f3a91"
EVIL = "<img src=x onerror=alert(1)>"
PAIR = "</script><script>alert(2)</script>"

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with launched() as found:
        yield found


def page_of(browser, **options):
    context = browser.new_context(viewport={"width": 1360, "height": 900}, **options)
    context.set_default_timeout(LIMIT_MS)
    page = context.new_page()
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on(
        "console", lambda said: page.complaints.append(said.text) if said.type == "error" else 0
    )
    page.on("dialog", lambda dialog: page.complaints.append(f"dialog: {dialog.message}"))
    return page


@contextmanager
def running(driver, *command, **settings):
    try:
        with driver.web(*command, **settings) as web:
            yield web
            web.child.signal(signal.SIGINT, group=True)
            web.child.wait()
    finally:
        driver.close()


# -- a scenario, a worker of its own, a base path --------------------------------------------------

LOAD = (
    "[{phase: warmup, duration: 2s, arrival: constant, rate: 10/s},"
    " {phase: measure, duration: 300s, arrival: constant, rate: 20/s}]"
)
SLO = [
    "all: ttft.p50 < 60s, error_rate < 50%, tpot.p50 < 1ms, ttft.p99_9 < 60s",
    "all: ttft < 60s, goodput >= 10%",
]


@pytest.fixture(scope="module")
def ui(browser, paced, tmp_path_factory) -> Iterator:
    driver = Driver(tmp_path_factory.mktemp("ui"), paced.base_url)
    own = {"base_url": paced.base_url, "api_key_env": "MINE"}
    free = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}
    models = [
        {"name": EVIL, "model": "steady", "price": free, **own},
        {"name": "steady", "model": "steady", **own},
    ]
    name = driver.scenario(
        LOAD, name=PAIR, models=models, slo=SLO,
        workloads={"chat": {"kind": "chat", "output_tokens": 20}},
        order="interleaved", server_metrics=[{"url": paced.base_url.replace("/v1", "/metrics")}],
    )  # fmt: skip
    other = (driver.folder / name).read_text().replace(json.dumps(PAIR), "other")
    driver.write("other.yaml", other)
    driver.write("not-one.yaml", "version: 1\nthis: is no scenario\n")
    flags = "--processes", "1", "--allow-unhealthy", "--", "--web-base-path", "/lt"
    with running(driver, "loadlib", "ui", name, *flags, base="/lt", MINE=CANARY) as web:
        web.child.until(lambda: web.stats.get("workers") and len(web.stats["workers"]) == 1)
        yield SimpleNamespace(web=web, driver=driver, page=page_of(browser))


# The cells of the table as [model, workload, phase, in flight, offered, sent, ok, errors, 429,
# TTFT p50, …], the figures of the last ten seconds.
ROWS = """[...document.querySelector('loadlib-live').shadowRoot.querySelectorAll('tbody tr')].map(
    row => [...row.cells].map(cell => cell.firstChild.textContent.replaceAll(',', '')))"""


def wait_until(ui, condition: str, arg=None) -> None:
    """Until a function of the page is true of `arg`; fails with what loadlib says."""
    try:
        ui.page.wait_for_function(condition, arg=arg)
    except sync_api.TimeoutError:
        state = {name: ui.web.live[name] for name in ("state", "now", "rows", "verdict")}
        raise AssertionError(f"in vain: {condition}\n{state}\n{ui.web.child.err}") from None


def start(ui, **form):
    return ui.web.post("/swarm", **{"user_count": 200, "spawn_rate": 200, **form})


def test_before_the_first_start_the_document_is_valid_and_empty(ui):
    found = ui.web.live
    assert (found["state"], found["run"], found["rows"], found["gates"]) == ("idle", "", [], None)
    assert ui.web.ask("GET", "/llm/report").status == 404


def test_it_binds_loopback_where_nobody_says_otherwise(ui):
    assert "127.0.0.1" in ui.web.url  # the driver looks for a port that listens there alone
    assert "--web-host 127.0.0.1" in ui.web.child.err


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"rate": "many"}, "rate"),
        ({"rate": "20/s", "duration": "soon"}, "duration"),
        ({"max_usd": "lots"}, "max_usd 'lots': a budget is a number above 0"),
        ({"max_usd": "-1"}, "a budget is a number above 0"),
        ({"user_count": "0"}, "number of users: at least 1"),
        ({"max_usd": "nan"}, "a budget is a number above 0"),
        ({"scenario": "othre.yaml"}, "no scenario 'othre.yaml' (did you mean 'other.yaml'?)"),
        ({"scenario": "../../etc/passwd"}, "no scenario"),
        ({"scenario": "not-one.yaml"}, "no scenario"),
        ({"model": "gpt-4o"}, "this scenario has no model 'gpt-4o'"),
        ({"host": "http://example.com"}, "the scenario says where its models are"),
    ],
)
def test_a_wrong_value_of_the_form_is_a_sentence_and_starts_nothing(ui, form, words):
    found = start(ui, **form)
    assert found["success"] is False
    assert words in found["message"]
    assert "Traceback" not in found["message"]
    assert ui.web.live["state"] == "idle"
    assert folders(ui.driver.reports) == []


def test_no_other_sites_page_may_start_or_read_anything(ui):
    refused = ui.web.ask("POST", "/swarm", "user_count=1&spawn_rate=1", Sec_Fetch_Site="cross-site")
    assert refused.status == 403
    found = ui.web.ask("GET", "/llm/live.json", Origin="http://evil.example")
    assert found.status == 403
    assert "Access-Control-Allow-Origin" not in ui.web.ask("GET", "/llm/live.json").headers
    assert ui.web.live["state"] == "idle"


def test_the_page_has_what_this_builds_on(ui):
    """Where one of these fails, Locust's page has changed: see webtab.py, form.py and live.js."""
    page = ui.page
    page.goto(f"{ui.web.url}/")
    page.locator("form").wait_for()
    assert page.locator("script[src='./llm/live.js']").count() == 1, "the script is on the page"
    shut = page.locator("form [aria-expanded=false]").filter(has_text="Custom parameters")
    assert shut.count() == 0, "live.js opens the accordion of our fields"
    names = page.locator("form [name]").evaluate_all("all => all.map(one => one.name)")
    assert names[:3] == ["userCount", "spawnRate", "host"]
    assert [n for n in names if n in ("scenario", "model", "rate", "duration", "maxUsd")] == [
        "scenario", "model", "rate", "duration", "maxUsd",
    ], "our fields are in the form, in their order"  # fmt: skip
    options = page.locator("select[name=scenario] option").all_inner_texts()
    assert options == ["other.yaml", "scenario.yaml"]
    assert page.locator("select[name=scenario]").input_value() == "scenario.yaml"
    marked = page.locator("select[name=model]").evaluate(
        "select => [...select.selectedOptions].map(option => option.value)"
    )
    assert marked == [EVIL, "steady"]
    assert page.locator("input[name=userCount]").input_value() == "200"
    assert page.locator("input[type=password]").count() == 0
    assert page.complaints == []


def test_a_wrong_value_is_said_on_the_page(ui):
    page = ui.page
    page.locator("input[name=rate]").fill("many")
    page.get_by_role("button", name="Start").click()
    page.get_by_role("alert").filter(has_text="rate").wait_for()


def test_start_by_a_click_and_the_numbers_move(ui):
    page = ui.page
    page.locator("input[name=rate]").fill("30/s")
    page.locator("input[name=maxUsd]").fill("5")
    page.get_by_role("button", name="Start").click()
    page.get_by_role("tab", name="LLM").click()
    assert page.locator("[role=tablist]").evaluate(
        "tabs => tabs.closest('.MuiContainer-root') !== null"
    ), "live.js finds its place by this"
    assert "tab=llm" in page.url
    wait_until(ui, f"() => {ROWS}.some(row => row[2] === 'measure' && +row[6] > 0)")
    before = {row[0]: int(row[6]) for row in page.evaluate(ROWS)}
    wait_until(
        ui,
        f"before => {ROWS}.length === 2 && {ROWS}.every("
        "row => +row[6] > (before[row[0]] || 0) + 20 && +row[9] > 10)",
        before,
    )
    ui.web.child.until(lambda: ui.web.live["spent"]["usd"])


def test_hostile_names_are_text(ui):
    page = ui.page
    assert page.locator("loadlib-live h2").inner_text() == PAIR
    assert page.locator("loadlib-live th", has_text="onerror").first.inner_text() == EVIL
    assert page.locator("loadlib-live").locator("img, script").count() == 0
    assert page.complaints == []


def test_lights_health_charts_and_money_are_there(ui):
    page = ui.page
    light = page.locator("loadlib-live .light")
    for status, text in (
        ("pass", "ttft.p50 < 60s"), ("pass", "goodput >= 10%"), ("fail", "tpot.p50 < 1ms"),
        ("inconclusive", "ttft.p99_9 < 60s"),
    ):  # fmt: skip
        page.locator(f"loadlib-live .light.{status}", has_text=text).wait_for()
    assert light.count() == 5
    page.locator("loadlib-live [aria-label=Instrument] li", has_text="lost samples").wait_for()
    for title in ("Time to first token", "Time to first token by percentile", "Output tokens"):
        picture = page.get_by_role("img", name=f"{title}, now: {EVIL}")
        picture.wait_for()
        assert picture.locator("path.c1").get_attribute("d").count("L") >= 1
    page.get_by_role("img", name="Load, now: in flight").wait_for()
    page.locator("loadlib-live [aria-label=Servers] li", has_text="running").wait_for()
    page.locator("loadlib-live dd", has_text="of $5.00").wait_for()
    costs = page.locator("loadlib-live tbody td:last-child").all_inner_texts()
    assert any("$" in text for text in costs)
    assert "–" in costs, "no price is no 0"


def test_the_plain_table_needs_no_script_of_ours(ui, browser):
    page = page_of(browser)
    page.route("**/llm/live.js", lambda route: route.abort())
    page.goto(f"{ui.web.url}/?tab=llm")
    page.get_by_role("cell", name="steady", exact=True).first.wait_for()
    titles = page.locator("thead th").all_inner_texts()
    assert titles == [
        "Model", "Workload", "Phase", "In flight", "OK", "Errors", "429",
        "TTFT p50 (ms)", "TTFT p99 (ms)", "Tokens/s",
    ]  # fmt: skip
    assert page.locator("loadlib-live").count() == 0
    page.context.close()


def test_the_view_by_itself_obeys_its_policy_in_the_dark_and_on_a_phone(ui, browser):
    page = page_of(browser, color_scheme="dark")
    answer = page.goto(f"{ui.web.url}/llm/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page.locator("loadlib-live .chip", has_text="RUNNING").wait_for()
    page.get_by_role("img", name="Load, now: in flight").wait_for()
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(ground) == "rgb(20, 23, 26)"
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.complaints == []
    page.context.close()


def test_a_reader_is_told_what_changed_and_nothing_twice(ui):
    web = ui.web
    first = web.ask("GET", "/llm/live.json")
    doc = json.loads(first.body)
    assert (doc["state"], doc["partial"]) == ("running", False)
    assert first.headers["Cache-Control"] == "private, no-cache"
    points = doc["series"]["from"] + len(doc["series"]["seconds"])
    seen = ".".join(str(part) for part in (doc["run"], doc["revision"], 0, points))
    later = web.child.until(
        lambda: (
            found
            if (found := json.loads(web.get(f"/llm/live.json?seen={seen}")))["revision"]
            > doc["revision"]
            else None
        )
    )
    assert later["partial"]
    assert later["series"]["from"] == points
    assert "measure" in {row["phase"] for row in later["rows"]}
    for nonsense in ("x", f"other.{doc['revision']}.0.0", "a.1.2", "../../x.1.1.1", "%00.1.1.1"):
        assert json.loads(web.get(f"/llm/live.json?seen={nonsense}"))["partial"] is False


def test_what_a_start_would_choose_waits_for_the_next_start(ui):
    refused = start(ui, rate="50/s")
    assert refused["success"] is False
    assert "stop this run first" in refused["message"]
    assert start(ui, rate="30/s", max_usd="5")["success"], "what the form says of this run"


def test_a_report_of_what_is_there_so_far(ui):
    found = ui.web.ask("GET", "/llm/report?download=1")
    assert found.status == 200, ui.web.child.err
    assert "SO FAR" in found.body
    assert "the run goes on" in found.body
    (folder,) = folders(ui.driver.reports)
    assert found.headers["Content-Disposition"] == f"attachment; filename={folder.name}.html"
    assert not (folder / "summary.json").exists(), "nothing is written by it"
    assert ui.web.live["state"] == "running"
    for name in ("../" + folder.name, "/etc/passwd", "..%2f..%2fetc", "nobody"):
        assert ui.web.ask("GET", f"/llm/report?run={name}").status == 404


def test_no_page_has_the_key(ui):
    paths = (
        "/",
        "/llm/",
        "/llm/live.json",
        "/llm/live.js",
        "/stats/requests",
        "/logs",
        "/exceptions",
    )
    for path in paths:
        assert CANARY not in ui.web.get(path), path


def test_stop_by_a_click_and_open_the_report(ui, browser):
    page = ui.page
    page.get_by_role("button", name="Stop").click()
    wait_until(
        ui,
        "() => document.querySelector('loadlib-live').shadowRoot.querySelector('.chip')"
        ".textContent.includes('INCONCLUSIVE')",
    )
    assert page.locator("loadlib-live .light.fail", has_text="tpot.p50 < 1ms").count() == 1
    link = page.locator("loadlib-live .links a", has_text="Report").first
    report = page_of(browser)
    report.goto(link.get_attribute("href"))
    assert report.locator("h1").inner_text() == PAIR
    assert report.locator(".chip").inner_text().endswith("INCONCLUSIVE")
    assert report.locator("figure svg[role=img]").count() >= 3
    assert report.complaints == []
    report.context.close()
    (folder,) = folders(ui.driver.reports)
    summary = read(folder)
    (phase,) = [one for one in summary["scenario"]["load"] if one["phase"] == "measure"]
    assert phase["rate"] == "30/s"
    assert summary["scenario"]["budget"] == {"max_usd": 5}
    assert "chosen in the web UI: rate 30/s; max_usd 5" in summary["notices"]
    assert "30/s" in (folder / "scenario.yaml").read_text()
    live = ui.web.live
    assert live["gates"] == json.loads(json.dumps(summary["gates"]))
    assert live["verdict"]["status"] == summary["verdict"]["status"] == "inconclusive"
    assert live["verdict"]["reasons"][0] == "stopped before its plan was over"
    total = sum(group["requests"]["sent"] for group in summary["groups"])
    assert (
        sum(row["ok"] + row.get("failed", 0) + row.get("cancelled", 0) for row in live["rows"])
        == total
    )
    again = ui.web.ask(
        "GET", "/llm/live.json", If_None_Match=ui.web.ask("GET", "/llm/live.json").headers["ETag"]
    )
    assert again.status == 304
    assert page.complaints == []


def test_another_scenario_and_fewer_models_are_the_next_run(ui):
    elsewhere = ui.driver.folder / "elsewhere"
    hidden = {"loadlib_out": elsewhere, "loadlib_scenario": "scenario.yaml"}  # no fields of it
    assert start(ui, scenario="other.yaml", model="steady", duration="2s", **hidden)["success"]
    ui.web.child.until(lambda: "-other-" in ui.web.live["run"])
    ui.web.child.until(lambda: ui.web.live["state"] == "finished")
    summary = read(folders(ui.driver.reports)[1])
    assert summary["name"] == "other"
    assert {group["model"] for group in summary["groups"]} == {"steady"}
    assert (
        "chosen in the web UI: scenario other.yaml; model steady; duration 2s" in summary["notices"]
    )
    ui.web.child.until(lambda: len(ui.web.live["links"]["runs"]) == 2)
    assert not elsewhere.exists()


# -- a plain locustfile behind a login -------------------------------------------------------------

LOGIN = """
from flask import redirect, request
from flask_login import UserMixin, login_user
from locust import constant, events, task
from loadlib import LLMUser


class Other(LLMUser):
    models = ["steady"]
    wait_time = constant(0.05)

    @task
    def ask(self):
        self.llm.chat([{"role": "user", "content": "Hello"}], max_tokens=4)


class Somebody(UserMixin):
    id = "me"


@events.init.add_listener
def on_init(environment, **_):
    if not environment.web_ui:
        return
    web = environment.web_ui
    web.app.config["SECRET_KEY"] = "of a test"
    web.login_manager.user_loader(lambda name: Somebody() if name == "me" else None)
    web.auth_args = {"username_password_callback": "/enter"}

    @web.app.route("/enter", methods=["GET", "POST"])
    def enter():
        login_user(Somebody())
        return redirect("/")
"""


def test_behind_a_login_nothing_is_shown_to_strangers(browser, paced, tmp_path):
    driver = Driver(tmp_path, paced.base_url)
    driver.write("login.py", LOGIN)
    with running(
        driver, "locust", "-f", "login.py", "--base-url", paced.base_url, "--web-login"
    ) as web:
        for path in ("live.json", "", "live.js", "live.css", "report"):
            found = web.ask("GET", f"/llm/{path}")
            assert (found.status, "login" in found.headers["Location"]) == (302, True), path
        assert web.ask("POST", "/swarm", "user_count=1&spawn_rate=1").status == 302
        page = page_of(browser)
        page.goto(web.url)
        page.locator("input[name=username]").fill("me")
        page.locator("input[name=password]").fill("x")
        page.get_by_role("button", name="Login").click()
        page.locator("input[name=userCount]").fill("3")
        assert page.locator("[name=maxUsd]").count() == 0, "a scenario's fields need a scenario"
        page.get_by_role("button", name="Start").click()
        page.get_by_role("tab", name="LLM").click()
        page.locator("loadlib-live tbody th", has_text="steady").wait_for()
        assert page.locator("loadlib-live .light").count() == 0
        page.context.clear_cookies()
        page.locator("loadlib-live .say", has_text="log in again").wait_for()
        page.context.close()
