"""Conversations with growing history.

locust -f locustfiles/chat.py                                   # web UI, against the simulator
locust -f locustfiles/chat.py --headless -u 10 -r 10 -t 30s     # Locust's own load rules
locust -f locustfiles/chat.py --headless --scenario scenarios/chat.yaml
"""

from loadlib import ChatUser


class Chat(ChatUser):
    """Replays the built-in conversations; under a scenario, its `kind: chat` workloads."""

    models = ["gpt-4o-mini"]
    workload = {"output_tokens": 64}
