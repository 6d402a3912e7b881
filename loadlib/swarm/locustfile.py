"""The locustfile of `loadlib run`: one user class per kind of workload."""

from loadlib.swarm import (
    ChatUser,
    ExtractUser,
    LongContextUser,
    ReasonUser,
    ReplayUser,
    ToolsUser,
    TranslateUser,
    VisionUser,
)


class Chat(ChatUser):
    """Takes the arrivals of every `kind: chat`."""


class LongContext(LongContextUser):
    """Takes the arrivals of every `kind: long_context`."""


class Replay(ReplayUser):
    """Takes the arrivals of every `kind: replay`."""


class Tools(ToolsUser):
    """Takes the arrivals of every `kind: tools`."""


class Translate(TranslateUser):
    """Takes the arrivals of every `kind: translate`."""


class Reason(ReasonUser):
    """Takes the arrivals of every `kind: reason`."""


class Vision(VisionUser):
    """Takes the arrivals of every `kind: vision`."""


class Extract(ExtractUser):
    """Takes the arrivals of every `kind: extract`."""
