"""A server of files on this machine that can be told to misbehave."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FileServer(ThreadingHTTPServer):
    """Serves ``files`` (name → content) over 127.0.0.1.

    ``faults`` says what goes wrong, one fault a request, the last one for ever; "good" is none.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = ["good"]
        self.requests: list[tuple[str, str]] = []  # path, Range
        self.pretended = 0  # the size that is announced, where it is not that of the content
        self.released = threading.Event()

    @property
    def address(self) -> str:
        """The address of the folder with the files."""
        return f"http://127.0.0.1:{self.server_address[1]}/files"

    def next_fault(self) -> str:
        """The fault of the next request."""
        return self.faults.pop(0) if len(self.faults) > 1 else self.faults[0]


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.requests.append((self.path, wanted))
        fault = self.server.next_fault()
        content = self.server.files.get(self.path.rsplit("/", 1)[-1])
        if content is None or fault == "missing":
            self.send_error(404, "no\x07such file")
            return
        if fault in ("busy", "forbidden") or fault.startswith("redirect"):
            self._other_status(fault)
            return
        begin = 0
        match = re.fullmatch(r"bytes=(\d+)-", wanted)
        if match and fault != "no_ranges":
            begin = int(match[1])
        self._body(fault, content, begin, bool(match) and fault != "no_ranges")

    def _other_status(self, fault: str) -> None:
        if fault in ("busy", "forbidden"):
            self.send_error(503 if fault == "busy" else 403)
            return
        self.send_response(302)
        name = self.path.rsplit("/", 1)[-1]
        places = {
            "redirect": f"/elsewhere/{name}",
            "redirect_file": "file:///etc/passwd",
            "redirect_ftp": f"ftp://127.0.0.1/{name}",
            "redirect_loop": self.path,
        }
        self.send_header("Location", places[fault])
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _body(self, fault: str, content: bytes, begin: int, part: bool) -> None:
        body = content[begin:]
        if fault == "altered":
            body = body[:-1] + bytes((body[-1] ^ 1,))
        whole = self.server.pretended or len(content)
        announced = whole - begin + (5 if fault == "wrong_length" else 0)
        self.send_response(206 if part else 200)
        if fault != "no_length":
            self.send_header("Content-Length", str(announced))
        if part:
            first = begin + (3 if fault == "wrong_range" else 0)
            self.send_header("Content-Range", f"bytes {first}-{whole - 1}/{whole}")
        self.end_headers()
        if fault in ("cut", "stall"):
            body = body[: len(body) // 2]
        if fault == "drip":
            for byte in body[:100]:
                self.wfile.write(bytes((byte,)))
                if self.server.released.wait(0.05):
                    return
        self.wfile.write(body)
        if fault == "stall":
            self.wfile.flush()
            self.server.released.wait(30)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@contextmanager
def serving() -> Iterator[FileServer]:
    """A server that runs until the block ends."""
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
