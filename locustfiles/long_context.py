"""Long documents with a planted fact.

locust -f locustfiles/long_context.py --headless -u 2 -r 2 -t 30s
locust -f locustfiles/long_context.py --headless --scenario scenarios/long-context.yaml
"""

from loadlib import LongContextUser


class LongContext(LongContextUser):
    """Asks for a fact in documents of 1k to 128k tokens."""

    models = ["gpt-4o-mini", "gemini-1.5-flash"]
    workload = {"prompt_tokens": ["1k", "8k", "32k", "128k"], "output_tokens": 32}
