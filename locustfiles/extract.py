"""Receipts and invoices to be read into JSON.

locust -f locustfiles/extract.py --headless -u 5 -r 5 -t 30s
locust -f locustfiles/extract.py --headless --scenario scenarios/extract.yaml
"""

from loadlib import ExtractUser


class Extract(ExtractUser):
    """Sends each paper as text or as a picture, in turn."""

    models = ["gpt-4o-mini"]
    workload = {"form": "mixed", "locales": ["en-US", "de-DE", "fr-FR"]}
