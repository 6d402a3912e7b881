"""Short tasks with one right answer: 9.11 or 9.9, sums, code, dates.

locust -f locustfiles/reason.py --headless -u 4 -r 4 -t 20s
locust -f locustfiles/reason.py --headless --scenario scenarios/reason.yaml
"""

from loadlib import ReasonUser


class Reason(ReasonUser):
    """Under a scenario, its `kind: reason` workloads."""

    models = ["gpt-4o-mini"]
    workload = {"families": ["decimals", "arithmetic", "code"], "answer": "brief"}
