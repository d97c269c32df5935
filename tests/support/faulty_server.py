"""A local HTTP server with faults on request."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
from dataclasses import dataclass, field

PAGE = b"<!DOCTYPE html>\n<html><body>Sign in to the network</body></html>" + b" " * 600


@dataclass
class Site:
    """Files and faults of a server.

    Attributes:
        files: path -> bytes.
        faults: path -> faults of its next requests, one each.
        always: path -> fault of every request without one in ``faults``.
        seen: (path, Range header) of every request.
        address: URL of the server.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    always: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""
    over: threading.Event = field(default_factory=threading.Event)

    def fault(self, path: str) -> str:
        waiting = self.faults.get(path)
        return waiting.pop(0) if waiting else self.always.get(path, "")

    def ranges(self, path: str) -> list[str | None]:
        return [asked for seen, asked in self.seen if seen == path]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self):
        asked = self.headers.get("Range")
        self.site.seen.append((self.path, asked))
        fault = self.site.fault(self.path)
        self.close_connection = True
        if fault.isdigit():
            return self.answer(int(fault), b"no", {"Retry-After": "0"})
        if fault.startswith("redirect "):
            return self.answer(302, b"", {"Location": fault.split()[1]})
        if fault == "page":
            return self.answer(200, PAGE, {"Content-Type": "text/html"})
        if fault == "page as data":
            return self.answer(200, PAGE, {"Content-Type": "application/octet-stream"})
        if self.path not in self.site.files:
            return self.answer(404, b"none")
        return self.serve(self.site.files[self.path], asked, fault)

    def serve(self, content, asked, fault):
        etag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        headers = {"ETag": etag, "Content-Type": "application/octet-stream"}
        if fault == "json type":
            headers["Content-Type"] = "application/json"
        if fault == "no validator":
            del headers["ETag"]
        body, status = content, 200
        is_same = self.headers.get("If-Range", etag) == etag
        if asked and fault != "no range" and is_same:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if fault == "wrong range":
                headers["Content-Range"] = f"bytes 0-{len(content) - 1}/{len(content)}"
            body, status = content[start:], 206
        length = {"length too large": len(body) + 7, "length too small": len(body) - 7}.get(
            fault, len(body)
        )
        if fault == "no length":
            length = None
        sent = body[: len(body) // 2] if fault in ("cut", "stall", "no validator") else body
        return self.answer(status, sent, headers, length=length, then=fault)

    def answer(self, status, body, headers=None, *, length=-1, then=""):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length == -1 else length))
        self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(OSError):  # the client may have hung up
            if then == "drip":
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    if self.site.over.wait(0.05):
                        return
            self.wfile.write(body)
            if then == "stall":
                self.wfile.flush()
                self.site.over.wait(30)

    def log_message(self, *_):
        return


@contextlib.contextmanager
def serve(site: Site):
    """Serve ``site`` on a free port of this machine, in threads, while the body runs."""
    handler = type("Handler", (_Handler,), {"site": site})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        site.address = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield site
        finally:
            site.over.set()
            server.shutdown()
