"""The Locust contract, sentence by sentence, through real `locust` and `loadlib` processes."""

from __future__ import annotations

import csv
import json
import time

import pytest
from locust_driver import read, rows

EXAMPLE = '''
from locust import between, tag, task
from loadlib import LLMUser

class Support(LLMUser):                  # a plain locust.User
    models = ["gpt-4o-mini"]             # default: the scenario's
    wait_time = between(1, 5)            # closed-loop think time

    @tag("chat")
    @task(9)
    def ask(self):
        reply = self.llm.chat([{"role": "user", "content": "Where is my order?"}], max_tokens=128, name="support")
        if "order" not in reply.text:
            reply.fail("off topic")

    @task
    def own_code(self):                  # existing SDK code, measured as it is
        list(self.openai.chat.completions.create(model=self.model, messages=[{"role": "user", "content": "Hi"}], stream=True))
'''  # noqa: E501

# Every event that Locust's request hook fires, as JSON lines on stdout at the end.
LISTENER = '''
import json
from locust import events

seen = []

@events.request.add_listener
def note(name, response_time, exception, context, **_):
    seen.append([name, response_time, str(exception) if exception else None,
                 getattr(context.get("sample"), "index", None),
                 (context["sample"].end_ns - context["sample"].intended_ns) / 1e6
                 if "sample" in context else None])

@events.quit.add_listener
def show(**_):
    print("SEEN " + json.dumps(seen))
'''

MIXED = '''
from locust import HttpUser, constant, tag, task
from loadlib import LLMMixin, LLMUser

HELLO = [{"role": "user", "content": "Hello"}]

class Asks(LLMUser):
    models = ["fast"]
    wait_time = constant(0.1)

    @tag("ask")
    @task
    def ask(self):
        reply = self.llm.chat(HELLO, max_tokens=4, name="asked")
        assert reply and reply.ok and reply.text and reply.ttft_ms > 0 and reply.tool_calls == []

class Codes(LLMUser):
    models = ["fast"]
    wait_time = constant(0.1)

    @tag("code")
    @task
    def whole(self):
        list(self.openai.chat.completions.create(
            model=self.model, messages=HELLO, max_tokens=4, stream=True,
            stream_options={"include_usage": True}))

    @tag("code")
    @task
    def at_once(self):
        answer = self.openai.chat.completions.create(
            model=self.model, messages=HELLO, max_tokens=4)
        assert answer.choices[0].message.content

class Stops(LLMUser):
    models = ["steady"]
    wait_time = constant(0.1)

    @tag("stop")
    @task
    def early(self):
        stream = self.openai.chat.completions.create(
            model=self.model, messages=HELLO, max_tokens=2000, stream=True)
        for number, chunk in enumerate(stream):
            if number == 3:
                break

class Shop(LLMMixin, HttpUser):
    models = ["fast"]
    wait_time = constant(0.1)

    @tag("shop")
    @task
    def browse(self):
        self.client.get("/metrics")

    @tag("shop")
    @task
    def ask(self):
        self.llm.chat(HELLO, max_tokens=4)
'''


def seen(ended) -> list:
    (line,) = [line for line in ended.out.splitlines() if line.startswith("SEEN ")]
    return json.loads(line.removeprefix("SEEN "))


def test_from_loadlib_import_llmuser_is_all_and_the_designs_example_runs(driver):
    driver.write("support.py", EXAMPLE)
    ended = driver.locust("support.py", "-u", "12", "-r", "12", "-t", "4s")
    # The simulator never speaks of orders: failures, and without gates Locust's exit code stands.
    assert ended.code == 1, ended.err
    assert ended.summary["verdict"]["status"] == "pass"
    asked = [row for row in ended.rows if row["outcome"] == "ok" and row["error"] == "off topic"]
    assert asked
    assert all(row["quality"] is False for row in asked)
    assert "off topic" in ended.err + ended.out


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, paced):
    """One run of every way to send a request, without a scenario."""
    from locust_driver import Driver

    driver = Driver(tmp_path_factory.mktemp("mixed"), paced.base_url)
    driver.write("mixed.py", LISTENER + MIXED)
    yield driver.locust(
        "mixed.py", "-u", "8", "-r", "8", "-t", "3s", "--base-url", paced.base_url,
        "--host", paced.base_url.removesuffix("/v1"), "--csv", "stats", "--html", "page.html",
        "--json-file", "stats.json",
    )  # fmt: skip
    driver.close()


def test_a_mixin_serves_users_of_httpuser(mixed):
    assert mixed.code == 0, mixed.err
    assert mixed.requests(workload="Shop")["ok"] > 3
    assert [event for event in seen(mixed) if event[0] == "/metrics"]


def test_self_openai_is_the_sdk_on_the_same_transport(mixed):
    assert mixed.requests(workload="Codes")["ok"] > 3
    group = next(g for g in mixed.summary["groups"] if g["workload"] == "Codes")
    assert group["metrics"]["ttft"]["n"] > 0


def test_own_code_may_stop_early(mixed):
    found = [row for row in mixed.rows if row["workload"] == "Stops"]
    # 2000 tokens take 10 s; each was let go after its first ones, and its place was freed.
    assert len(found) > 5
    print(found[0])
    assert all(row["first_token_ns"] for row in found)


def test_exactly_one_request_event_per_call_in_ms_with_the_sample(mixed):
    events = [event for event in seen(mixed) if event[3] is not None]
    done = [row for row in mixed.rows if row["sent_ns"]]
    assert sorted(event[3] for event in events) == sorted(row["index"] for row in done)
    assert all(shown == pytest.approx(real) for _, shown, _, _, real in events)


def test_csv_html_and_json_file_keep_working(mixed):
    with (mixed.root.parent / "stats_stats.csv").open() as file:
        table = {row["Name"]: int(row["Request Count"]) for row in csv.DictReader(file)}
    assert table["asked"] == mixed.requests(workload="Asks")["sent"]
    assert "Locust" in (mixed.root.parent / "page.html").read_text()
    named = {row["name"]: row for row in json.loads((mixed.root.parent / "stats.json").read_text())}
    assert named["asked"]["num_requests"] == table["asked"]
