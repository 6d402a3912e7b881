"""Function calling: one call, several at once, and results that are sent back.

locust -f locustfiles/tools.py --headless -u 4 -r 4 -t 20s
locust -f locustfiles/tools.py --headless --scenario scenarios/tools.yaml
"""

from loadlib import ToolsUser


class Tools(ToolsUser):
    """Under a scenario, its `kind: tools` workloads."""

    models = ["gpt-4o-mini"]
    workload = {"mode": ["one", "parallel", "multi-step", "none"]}
