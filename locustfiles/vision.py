"""Questions about pictures.

locust -f locustfiles/vision.py --headless -u 5 -r 5 -t 30s
locust -f locustfiles/vision.py --headless --scenario scenarios/vision.yaml
"""

from loadlib import VisionUser


class Vision(VisionUser):
    """Asks about charts and receipts, one picture at a time."""

    models = ["gpt-4o-mini", "gemini-1.5-flash"]
    workload = {"pictures": ["chart", "receipt"], "detail": "low", "output_tokens": 32}
