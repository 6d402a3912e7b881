"""Translations between languages, each checked for script, length and numbers.

locust -f locustfiles/translate.py --headless -u 4 -r 4 -t 20s
locust -f locustfiles/translate.py --headless --scenario scenarios/translate.yaml
"""

from loadlib import TranslateUser


class Translate(TranslateUser):
    """Under a scenario, its `kind: translate` workloads."""

    models = ["gpt-4o-mini"]
    workload = {"pairs": ["zh-en", "en-zh", "es-de", "ja-fr"], "length": "short"}
