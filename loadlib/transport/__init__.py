"""The recording transports: what sits below the openai SDK and keeps the tape.

`Channel` is the instrument: requests the SDK built once, prepared as bytes, straight onto our own
wire. `TapeTransport` is the same for any request of the SDK's. `LiveTransport` hands bytes on as
they come, for a user's own SDK code. `SdkTransport` is the SDK's own network path with a tape
beside it: the cross-check (`client: sdk`), and the way through a proxy. The transports leave the
tape in `request.extensions[TAPE]`.
"""

from loadlib.transport.channel import CHAT, Channel
from loadlib.transport.live import LiveAzureSdk, LiveSdk, LiveTransport
from loadlib.transport.sdk import SdkTransport, proxy_for
from loadlib.transport.tape import (
    TAPE,
    TapeTransport,
    begin_tape,
    current_tape,
    tape_of,
    tls_context,
    with_body,
)

__all__ = [
    "CHAT", "TAPE", "Channel", "LiveAzureSdk", "LiveSdk", "LiveTransport", "SdkTransport",
    "TapeTransport", "begin_tape", "current_tape", "proxy_for", "tape_of", "tls_context",
    "with_body",
]  # fmt: skip
