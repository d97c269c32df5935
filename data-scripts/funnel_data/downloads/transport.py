"""HTTP(S) requests with :mod:`urllib`, and files of a local mirror, behind one response class.

``urllib`` follows redirects and takes proxies from the environment (``http_proxy``,
``https_proxy``, ``no_proxy``). Resuming, checks and retries are in
:mod:`funnel_data.downloads.fetch`.
"""

from __future__ import annotations

import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funnel.utils.errors import FunnelError

_READ_BYTES = 1 << 18
_USER_AGENT = "funnel-transformer-data-scripts"


class TransferError(FunnelError):
    """A failed transfer.

    Attributes:
        temporary: whether another attempt may succeed.
        retry_after: seconds the server asked to wait before it, 0 if it did not.
    """

    def __init__(self, message: str, *, temporary: bool, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.temporary = temporary
        self.retry_after = retry_after


@dataclass(frozen=True)
class Request:
    """A request for a file, or for the rest of one.

    Attributes:
        address: http or https URL, or a local path.
        start: first byte wanted.
        if_range: validator (ETag or date) of the version that ``start`` refers to. A server that
            has another version by now sends all of it, with status 200.
        timeout: seconds without a byte after which reading fails.
    """

    address: str
    start: int = 0
    if_range: str | None = None
    timeout: float = 30.0

    def headers(self) -> dict[str, str]:
        """Return the headers to send."""
        # Compression in transit would make byte positions, and so resuming, meaningless.
        headers = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"}
        if self.start:
            headers["Range"] = f"bytes={self.start}-"
            if self.if_range:
                headers["If-Range"] = self.if_range
        return headers


class Response:
    """A response whose body is still to be read.

    Attributes:
        status: HTTP status.
        headers: headers by lower-case name.
    """

    def __init__(self, status: int, headers: Mapping[str, str], stream: Any) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self._stream = stream

    def read(self) -> bytes:
        """Return the next piece of the body, empty at its end.

        Raises:
            TransferError: the connection broke or stalled.
        """
        try:
            return self._stream.read1(_READ_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise TransferError(f"connection lost: {_reason(error)}", temporary=True) from error

    def close(self) -> None:
        """End the transfer, finished or not."""
        self._stream.close()


def open_address(request: Request) -> Response:
    """Send ``request`` and return the response, whatever its status.

    Raises:
        TransferError: there was no response.
    """
    if "://" not in request.address:
        return _open_file(request)
    sent = urllib.request.Request(request.address, headers=request.headers())
    try:
        answer: Any = urllib.request.urlopen(sent, timeout=request.timeout)
    except urllib.error.HTTPError as error:  # a status of 300 or more: a response all the same
        answer = error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            hint = f"{reason}; SSL_CERT_FILE may name a file with the certificates to trust"
            raise TransferError(hint, temporary=False) from error
        raise TransferError(f"no answer: {_reason(reason)}", temporary=True) from error
    return Response(answer.status, answer.headers, answer)


def _open_file(request: Request) -> Response:
    """Open a file of a mirror that is a directory; size and time serve as its ETag."""
    path = Path(request.address)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise TransferError(f"{path}: {error.strerror}", temporary=False) from error
    status = os.fstat(stream.fileno())
    etag = f'"{status.st_size}-{status.st_mtime_ns}"'
    start = request.start if request.if_range == etag else 0
    stream.seek(start)
    headers = {"etag": etag, "content-length": str(status.st_size - start)}
    if start:
        headers["content-range"] = f"bytes {start}-{status.st_size - 1}/{status.st_size}"
    return Response(206 if start else 200, headers, stream)


def _reason(error: object) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
