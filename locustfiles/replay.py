"""Requests of the lengths of a recorded trace, in its order.

locust -f locustfiles/replay.py --headless -u 4 -r 4 -t 20s
locust -f locustfiles/replay.py --headless --scenario scenarios/replay.yaml   # at its instants too
"""

from loadlib import ReplayUser


class Replay(ReplayUser):
    """Under a scenario, its `kind: replay` workload."""

    models = ["gpt-4o-mini"]
    workload = {"data": "scenarios/traces/made-up.csv"}
