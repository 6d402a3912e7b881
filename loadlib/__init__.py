"""Load and latency testing for LLM APIs, on Locust."""

__version__ = "0.1.0"
