"""Three ways to open an address: curl, wget, or Python alone; and files of a local mirror.

All follow redirects and hand over status, headers and pieces of the body, so that resuming, checks
and retries are written once, in :mod:`funnel_data.downloads.fetch`. curl and wget honour the
user's settings for proxies and certificates, which Python may not know of.
"""

from __future__ import annotations

import http.client
import os
import select
import shutil
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from funnel.utils.errors import ConfigError, FunnelError

TRANSPORTS = ("curl", "wget", "python")
_PIECE = 1 << 18
_LONGEST_HEAD = 1 << 18
_AGENT = "funnel-transformer-data-scripts"


class TransferError(FunnelError):
    """A transfer that failed; ``temporary`` if another attempt may succeed.

    ``pause`` is how many seconds the server asked to wait, if it did.
    """

    def __init__(self, message: str, *, temporary: bool, pause: float = 0.0) -> None:
        super().__init__(message)
        self.temporary = temporary
        self.pause = pause


@dataclass(frozen=True)
class Request:
    """What to ask a server for.

    Attributes:
        address: http or https URL, or a local path.
        start: first byte wanted.
        if_range: validator of the version that ``start`` belongs to; of another version the server
            sends the whole.
        timeout: seconds without a byte after which reading gives up.
    """

    address: str
    start: int = 0
    if_range: str | None = None
    timeout: float = 30.0

    def headers(self) -> dict[str, str]:
        """Return the headers to send, those of the range left out."""
        sent = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
        return sent | ({"If-Range": self.if_range} if self.start and self.if_range else {})


class Response(Protocol):
    """An answer whose body is still to be read; header names are in lower case."""

    status: int
    headers: Mapping[str, str]

    def read(self) -> bytes:
        """Return the next piece of the body, empty at its end.

        Raises:
            TransferError: the connection broke or stalled.
        """
        ...

    def close(self) -> None:
        """End the transfer, finished or not."""
        ...


def choose_transport(wanted: str) -> str:
    """Return ``wanted``, or for ``auto`` the first of curl, wget and Python that is there.

    Raises:
        ConfigError: it is not known or not installed.
    """
    found = [name for name in TRANSPORTS if name == "python" or shutil.which(name)]
    if wanted == "auto":
        return found[0]
    if wanted not in found:
        raise ConfigError(f"transport {wanted!r}: auto, {' or '.join(found)} can be had here")
    return wanted


def open_address(request: Request, transport: str) -> Response:
    """Ask for ``request`` and return the answer, whatever its status.

    Raises:
        TransferError: no answer came.
    """
    if "://" not in request.address:
        return _LocalFile(request)
    if transport == "curl":
        return _Curl(request)
    return _open_with_wget(request) if transport == "wget" else _Urllib(request)


class _LocalFile:
    """A file of a mirror that is a directory."""

    def __init__(self, request: Request) -> None:
        path = Path(request.address)
        try:
            self._stream = path.open("rb")
        except OSError as error:
            raise TransferError(f"{path}: {error.strerror}", temporary=False) from error
        facts = os.fstat(self._stream.fileno())
        version = f'"{facts.st_size}-{facts.st_mtime_ns}"'
        start = request.start if request.if_range == version else 0
        self._stream.seek(start)
        self.status = 206 if start else 200
        self.headers = {"etag": version, "content-length": str(facts.st_size - start)}
        if start:
            size = facts.st_size
            self.headers["content-range"] = f"bytes {start}-{size - 1}/{size}"

    def read(self) -> bytes:
        return self._stream.read(_PIECE)

    def close(self) -> None:
        self._stream.close()


class _Urllib:
    def __init__(self, request: Request) -> None:
        headers = request.headers()
        if request.start:
            headers["Range"] = f"bytes={request.start}-"
        asked = urllib.request.Request(request.address, headers=headers)
        try:
            self._answer: Any = urllib.request.urlopen(asked, timeout=request.timeout)
        except urllib.error.HTTPError as error:  # an answer too
            self._answer = error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                hint = f"{reason}; curl or wget may know your certificates: --transport=curl"
                raise TransferError(hint, temporary=False) from error
            raise TransferError(f"no answer: {_told(reason)}", temporary=True) from error
        self.status = self._answer.status
        self.headers = {name.lower(): value for name, value in self._answer.headers.items()}

    def read(self) -> bytes:
        try:
            return self._answer.read1(_PIECE)
        except (OSError, http.client.HTTPException) as error:
            raise TransferError(f"connection lost: {_told(error)}", temporary=True) from error

    def close(self) -> None:
        self._answer.close()


class _Piped:
    """A program whose standard output is the body, perhaps behind its headers."""

    _hopeless: tuple[int, ...] = ()  # exit codes for what no other attempt will change

    def __init__(self, command: list[str], timeout: float) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._timeout = timeout
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._said
        )
        self._pending = b""

    def read(self) -> bytes:
        piece, self._pending = self._pending, b""
        return piece or self._next_piece()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._stdout.close()
        self._said.close()

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _next_piece(self) -> bytes:
        if not select.select([self._stdout], [], [], self._timeout)[0]:
            raise TransferError(f"nothing came for {self._timeout:g} seconds", temporary=True)
        piece = os.read(self._stdout.fileno(), _PIECE)
        if not piece and self._process.wait() and self.status < 300:
            raise self._complaint()
        return piece

    def _heard(self) -> str:
        self._said.seek(0)
        return self._said.read().decode("utf-8", "replace")

    def _complaint(self) -> TransferError:
        lines = [line.strip() for line in self._heard().splitlines() if line.strip()]
        code = self._process.returncode
        message = lines[-1] if lines else f"{type(self).__name__[1:].lower()} ended with {code}"
        return TransferError(message, temporary=code not in self._hopeless)


class _Curl(_Piped):
    _hopeless = (1, 3, 60)  # unknown protocol, malformed address, certificate

    def __init__(self, request: Request) -> None:
        command = ["curl", "--silent", "--show-error", "--include", "--location", "--no-buffer"]
        command += ["--output", "-", "--suppress-connect-headers", "--proto-redir", "=http,https"]
        command += ["--connect-timeout", f"{request.timeout:g}"]
        command += _header_flags("--header", request, separate=True)
        if request.start:
            command += ["--range", f"{request.start}-"]
        super().__init__([*command, "--", request.address], request.timeout)
        try:
            self._read_heads()
        except TransferError:
            self.close()
            raise

    def _read_heads(self) -> None:
        """Take the headers of the last answer; those of redirects come before."""
        text = b""
        while True:
            while b"\r\n\r\n" not in text:
                piece = self._next_piece()
                if not piece and self.status:
                    return  # one redirect too many: its own status tells
                if not piece or len(text) > _LONGEST_HEAD:
                    raise TransferError("the answer has no HTTP headers", temporary=True)
                text += piece
            head, _, text = text.partition(b"\r\n\r\n")
            self.status, self.headers = _parse_head(head.decode("latin-1").splitlines())
            is_redirect = 300 <= self.status < 400 and "location" in self.headers
            if self.status >= 200 and not is_redirect:
                self._pending = text
                return


class _Wget(_Piped):
    """wget writes headers to its standard error, indented, before it writes the body."""

    _hopeless = (5,)  # certificate

    def __init__(self, request: Request) -> None:
        command = ["wget", "--no-verbose", "--server-response", "--tries=1", "--output-document=-"]
        command += [f"--timeout={request.timeout:g}", "--max-redirect=20"]
        command += _header_flags("--header", request, separate=False)
        if request.start:
            command.append(f"--start-pos={request.start}")
        super().__init__([*command, "--", request.address], request.timeout + 1)
        try:
            self._pending = self._first_piece()
        except TransferError:
            self.close()
            raise

    def _first_piece(self) -> bytes:
        self.status = 999  # so that the end of the program is no error before its headers are read
        piece = self._next_piece()
        self.status = 0
        block: list[str] = []
        for line in self._heard().splitlines():
            if line.startswith("  HTTP/"):
                block = []
            if line.startswith("  "):
                block.append(line.strip())
        if block:
            self.status, self.headers = _parse_head(block)
        if not piece and self._process.returncode and self.status < 300:
            raise self._complaint()
        return piece


def _open_with_wget(request: Request) -> Response:
    response = _Wget(request)
    if request.start and response.status == 200:
        # The server sent the whole, and wget has thrown away its first bytes.
        response.close()
        response = _Wget(Request(request.address, timeout=request.timeout))
    return response


def _header_flags(flag: str, request: Request, *, separate: bool) -> list[str]:
    lines = [f"{name}: {value}" for name, value in request.headers().items()]
    if separate:
        return [word for line in lines for word in (flag, line)]
    return [f"{flag}={line}" for line in lines]


def _parse_head(lines: list[str]) -> tuple[int, dict[str, str]]:
    words = lines[0].split()
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdigit():
        raise TransferError(f"no HTTP answer: {lines[0][:60]!r}", temporary=True)
    pairs = (line.split(":", 1) for line in lines[1:] if ":" in line)
    return int(words[1]), {name.strip().lower(): value.strip() for name, value in pairs}


def _told(reason: object) -> str:
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
