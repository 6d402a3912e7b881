"""Load and latency testing for LLM APIs, on Locust."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loadlib.swarm import (
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

__version__ = "0.1.0"
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
    "__version__",
]


def __getattr__(name: str) -> Any:
    """The user classes, on first use: importing them imports locust, which patches sockets."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from loadlib import swarm

    return getattr(swarm, name)
