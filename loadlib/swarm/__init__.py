"""The Locust side: user classes, arrivals, workers and coordinator, options, web tab.

The only importer of locust. Import it before openai, httpx2 and ssl: locust patches sockets.
"""

import locust  # noqa: F401  isort: skip - first of all: it monkey-patches

from loadlib.swarm import plugin
from loadlib.swarm.users import ChatUser, LLMMixin, LLMUser, LongContextUser, ReplayUser, Reply

__all__ = ["ChatUser", "LLMMixin", "LLMUser", "LongContextUser", "ReplayUser", "Reply", "plugin"]
