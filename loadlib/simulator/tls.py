"""TLS in front of a connection, with a good certificate or a bad one."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path

from loadlib.errors import PreflightError, UsageError

BAD = ("self-signed", "wrong-host")
READ_BYTES = 64 * 1024


class TlsSocket:
    """A TLS server's socket that reads and sends like a plain one that does not block.

    The handshake happens with the first read. There are no kernel timestamps: what is read was
    decrypted long after it arrived, so arrivals are those of user space.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._tls = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

    def recvmsg(
        self, size: int, _ancillary: int, /
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
        """Everything there is, up to about `size`: what stays in the TLS layer wakes nobody."""
        data = b""
        try:
            while len(data) < size:
                part = self._tls.recv(READ_BYTES)
                if not part:
                    break
                data += part
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not data:
                raise BlockingIOError from None
        return data, [], 0, None

    def send(self, data: bytes | bytearray, /) -> int:
        """Send what the kernel takes. Raises `BlockingIOError` where that is nothing."""
        try:
            return self._tls.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def shutdown(self, how: int, /) -> None:
        """Say goodbye in TLS, then in TCP."""
        with contextlib.suppress(OSError, ValueError):
            self._tls.unwrap()  # sends our part; the client's may come later or never
        self._tls.shutdown(how)

    def setsockopt(self, level: int, name: int, value: bytes, /) -> None:
        """As of a plain socket."""
        self._tls.setsockopt(level, name, value)

    def fileno(self) -> int:
        """As of a plain socket."""
        return self._tls.fileno()

    def close(self) -> None:
        """As of a plain socket."""
        self._tls.close()


def context_of(certificate: Path, key: Path) -> ssl.SSLContext:
    """A server's context. Raises `UsageError` where the files do not hold a pair in PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"--tls: cannot use {certificate} with {key}: {reason}") from None
    return context


def bad_context(kind: str) -> ssl.SSLContext:
    """A context whose certificate no client should accept: one of `BAD`.

    Made now by the `openssl` program and forgotten with the process; both are self-signed.
    Raises `PreflightError` without the program.
    """
    host = "elsewhere.invalid" if kind == "wrong-host" else "localhost"
    names = f"DNS:{host}" if kind == "wrong-host" else f"DNS:{host},IP:127.0.0.1,IP:::1"
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = Path(folder, "key.pem"), Path(folder, "certificate.pem")
        command = [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-keyout", str(key), "-out", str(certificate), "-subj", f"/CN={host}",
            "-addext", f"subjectAltName={names}", "-days", "2",
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
        except FileNotFoundError:
            raise PreflightError(
                "--bad-certificate needs the openssl program; give files with --tls instead"
            ) from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise PreflightError(f"openssl made no certificate: {last}")
        return context_of(certificate, key)
