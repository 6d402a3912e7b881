"""TLS in front of a connection, with a good certificate or a bad one."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from loadlib.errors import PreflightError, UsageError

BAD = ("self-signed", "wrong-host", "expired")
READ_BYTES = 64 * 1024
_DATE = "%Y%m%d%H%M%SZ"


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


# `openssl req -x509` cannot make a certificate of the past; `openssl ca` can, in every release.
_AUTHORITY = """
[ca]
default_ca = own
[own]
database = index.txt
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = names
x509_extensions = extensions
[names]
commonName = supplied
[req]
distinguished_name = nothing
[nothing]
[extensions]
basicConstraints = CA:TRUE
subjectAltName = {names}
"""


def bad_context(kind: str) -> ssl.SSLContext:
    """A context whose certificate no client should accept: one of `BAD`.

    Made now by the `openssl` program and forgotten with the process; all are self-signed, so that
    whoever trusts the certificate itself sees what else is wrong with it.
    Raises `PreflightError` without the program.
    """
    host = "elsewhere.invalid" if kind == "wrong-host" else "localhost"
    names = f"DNS:{host}" if kind == "wrong-host" else f"DNS:{host},IP:127.0.0.1,IP:::1"
    now, day = datetime.now(UTC), timedelta(days=1)
    start, end = (now - 2 * day, now - day) if kind == "expired" else (now - day, now + 2 * day)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "authority.cnf").write_text(_AUTHORITY.format(names=names))
        Path(folder, "index.txt").touch()
        made = "-config authority.cnf -keyout key.pem -out request.pem"
        curve = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        _openssl(f"req -new {curve} {made} -subj /CN={host}", folder)
        signed = "-config authority.cnf -keyfile key.pem -in request.pem -out certificate.pem"
        dates = f"-startdate {start:{_DATE}} -enddate {end:{_DATE}}"
        _openssl(f"ca -batch -selfsign -notext {signed} {dates}", folder)
        return context_of(Path(folder, "certificate.pem"), Path(folder, "key.pem"))


def _openssl(arguments: str, folder: str) -> None:
    """Run the program in `folder`. Raises `PreflightError` where it cannot do what is asked."""
    try:
        done = subprocess.run(  # noqa: S603
            ["openssl", *arguments.split()],  # noqa: S607
            cwd=folder, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise PreflightError(
            "--bad-certificate needs the openssl program; give files with --tls instead"
        ) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise PreflightError(f"openssl made no certificate: {last}")
