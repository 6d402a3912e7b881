"""The Locust side: user classes, arrivals, workers and coordinator, options, web tab.

The only importer of locust. Import it before openai, httpx2 and ssl: locust patches sockets.
"""

import gc

_was_on = gc.isenabled()
gc.disable()  # what is imported stays: to look for garbage in it takes a tenth of a second

import locust  # noqa: E402, F401  isort: skip - first of all: it monkey-patches

from loadlib.swarm import plugin  # noqa: E402
from loadlib.swarm.users import (  # noqa: E402
    ChatUser,
    ExtractUser,
    LLMMixin,
    LLMUser,
    LongContextUser,
    ReasonUser,
    ReplayUser,
    Reply,
    ToolsUser,
    TranslateUser,
    VisionUser,
)

if _was_on:
    gc.enable()

__all__ = [
    "ChatUser",
    "ExtractUser",
    "LLMMixin",
    "LLMUser",
    "LongContextUser",
    "ReasonUser",
    "ReplayUser",
    "Reply",
    "ToolsUser",
    "TranslateUser",
    "VisionUser",
    "plugin",
]
