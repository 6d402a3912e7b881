"""The Locust contract in the web UI, through HTTP; a real browser is in `test_web_live.py`."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from commandline import WITH_PAGE
from locust_driver import folders, read, rows

TWO = """
from locust import constant, task
from loadlib import ChatUser, LLMUser

class Chat(ChatUser):
    models = ["fast"]
    workload = {"output_tokens": 4}
    wait_time = constant(0.05)

class Other(LLMUser):
    models = ["fast"]
    wait_time = constant(0.05)

    @task
    def ask(self):
        self.llm.chat([{"role": "user", "content": "Hello"}], max_tokens=4)
"""
FREE = "locust", "-f", "two.py"


def groups(folder: Path) -> dict[tuple[str, str], dict]:
    return {(g["workload"], g["phase"]): g for g in read(folder)["groups"]}


def finished(driver, count: int) -> bool:
    found = folders(driver.reports) if driver.reports.exists() else []
    return len(found) == count and all((f / "junit.xml").exists() for f in found)


def test_each_start_stop_is_one_run_folder_and_edit_opens_a_new_row(driver):
    driver.write("two.py", TWO)
    with driver.web(*FREE, "--base-url", driver.base_url) as web:
        web.start(users=2)
        web.child.until(lambda: [row for row in web.llm if row["ok"] > 5])
        assert {row["phase"] for row in web.llm} == {"measure"}
        web.start(users=6)  # what the page's Edit sends
        web.child.until(lambda: {r["phase"] for r in web.llm} == {"measure", "measure-2"})
        web.child.until(lambda: [r for r in web.llm if r["phase"] == "measure-2" and r["ok"] > 5])
        web.start(users=6)  # no change: no row
        web.stop()
        assert finished(driver, 1)
        web.start(users=1)
        web.child.until(lambda: {row["phase"] for row in web.llm} == {"measure"})
        web.child.until(lambda: [row for row in web.llm if row["ok"] > 1])
        web.stop()
        assert finished(driver, 2)
        web.child.signal(signal.SIGTERM)
        ended = web.child.wait()
    assert ended.code == 0, ended.err
    first, second = folders(driver.reports)
    assert [p["users"] for p in read(first)["scenario"]["load"]] == [2, 6]
    assert [p["users"] for p in read(second)["scenario"]["load"]] == [1]
    found = groups(first)
    assert set(found) == {
        (workload, phase) for workload in ("Chat", "Other") for phase in ("measure", "measure-2")
    }
    assert all(g["duration_s"] > 0.2 for g in found.values())
    sent = sum(g["requests"]["sent"] for g in found.values())
    assert sent == len(rows(first))
    assert (first / "scenario.yaml").read_text().count("phase: measure") == 2
    assert read(first)["state"] == "complete"


def test_under_a_scenario_the_users_field_is_a_ceiling_and_an_edit_is_noted(driver):
    name = driver.scenario("[{phase: measure, duration: 6s, arrival: constant, rate: 20/s}]")
    with driver.web("loadlib", "ui", name) as web:
        # Not a LoadTestShape: Locust shows its Users field, filled in.
        page = web.get("/")
        assert page is not None
        assert '"hide_common_options": null' in page or '"hide_common_options": false' in page, page
        driver.reports.write_text("a file")
        refused = web.post("/swarm", user_count=100, spawn_rate=100)
        assert refused == {
            "success": False,
            "message": "cannot write a run folder in reports: File exists",
        }
        driver.reports.unlink()
        web.start(users=100)
        web.child.until(lambda: [row for row in web.llm if row["ok"] > 5])
        web.start(users=50)
        web.child.until(lambda: finished(driver, 1))
        web.child.until(lambda: web.stats["state"] in ("stopped", "ready"))
        web.child.signal(signal.SIGINT)
        assert web.child.wait().code == 0
    (folder,) = folders(driver.reports)
    assert groups(folder)["chat", "measure"]["requests"]["ok"] == 120
    notices = read(folder)["notices"]
    assert any("50 users from" in notice for notice in notices)
    assert not any("started with" in notice for notice in notices), "an Edit starts nothing"


@pytest.mark.slow
def test_an_unpicked_class_takes_its_share_with_it_also_on_workers(driver):
    driver.write("two.py", TWO)
    name = driver.scenario(
        "[{phase: measure, duration: 1s, arrival: constant, rate: 80/s}]",
        workloads={
            "chat": {"kind": "chat", "output_tokens": 4, "weight": 3},
            "Other": {"kind": "custom", "weight": 1},
        },
    )
    flags = "--scenario", name, "--class-picker", "--processes", "2"
    with driver.web(*FREE, *flags) as web:
        web.child.until(lambda: len(web.stats.get("workers", [])) == 2)
        for count, picked in enumerate((["Chat"], ["Chat", "Other"], ["Other"]), 1):
            web.start(users=200, user_classes=picked, shape_class="Default")
            web.child.until(lambda count=count: finished(driver, count))
            web.child.until(lambda: web.stats["state"] == "stopped")
            web.child.until(lambda: all(w["state"] == "ready" for w in web.stats["workers"]))
        web.child.signal(signal.SIGINT, group=True)
        web.child.wait()
    counts = [
        {w: g["requests"]["ok"] for (w, _), g in groups(folder).items()}
        for folder in folders(driver.reports)
    ]
    assert counts == [{"chat": 60}, {"chat": 60, "Other": 20}, {"Other": 20}]


@pytest.mark.slow
def test_a_worker_may_join_a_free_run_and_stop_drains_all(driver):
    driver.write("two.py", TWO)
    with driver.web(*FREE, "--base-url", driver.base_url, "--master") as web:
        port = web.child.env["LOCUST_MASTER_BIND_PORT"]
        worker = (*FREE, "--worker", "--master-port", port)
        first = driver.start(*worker)
        web.child.until(lambda: len(web.stats["workers"]) == 1)
        web.start(users=4)
        web.child.until(lambda: [row for row in web.llm if row["ok"] > 3])
        web.start(users=6)
        web.child.until(lambda: [row for row in web.llm if row["phase"] == "measure-2"])
        second = driver.start(*worker)
        web.child.until(lambda: [w["user_count"] for w in web.stats["workers"]] == [3, 3])
        before = sum(row["ok"] for row in web.llm)
        web.child.until(lambda: sum(row["ok"] for row in web.llm) > before + 20)
        web.stop()
        assert finished(driver, 1)
        web.child.signal(signal.SIGINT)
        assert web.child.wait().code == 0
    assert [first.wait().code, second.wait().code] == [0, 0]
    (folder,) = folders(driver.reports)
    summary = read(folder)
    checks = {check["name"]: check["value"] for check in summary["health"]["checks"]}
    assert checks["lost_samples"] == checks["sequence_gaps"] == 0
    assert "Traceback" not in second.err
    # Who joins after an Edit is in the row that it opened: rows lie one after the other.
    found = rows(folder)
    assert len({row["index"] for row in found}) == len(found), "each has numbers of its own"
    assert max(r["intended_ns"] for r in found if r["phase"] == "measure") <= min(
        r["intended_ns"] for r in found if r["phase"] == "measure-2"
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_web_ui_leaves_a_complete_folder(driver, number, code):
    name = driver.scenario("[{phase: measure, duration: 30s, arrival: constant, rate: 10/s}]")
    with driver.web("loadlib", "ui", name, **WITH_PAGE) as web:
        web.start(users=100)
        web.child.until(lambda: [row for row in web.llm if row["ok"] > 2])
        web.child.signal(number)
        ended = web.child.wait()
    assert ended.code == code, ended.err
    assert ended.summary["verdict"]["status"] == "interrupted"
    assert (ended.folder / "report.html").exists()
    assert "Traceback" not in ended.err


def test_autostart_keeps_working_and_autoquit_ends_it(driver):
    driver.write("two.py", TWO)
    name = driver.scenario("[{phase: measure, requests: 20, arrival: constant, rate: 40/s}]")
    flags = "--scenario", name, "--autostart", "--autoquit", "0"
    with driver.web(*FREE, "Chat", *flags) as web:
        ended = web.child.wait()
    assert ended.code == 0, ended.err
    assert ended.requests()["ok"] == 10  # the other half is that of the class not picked
