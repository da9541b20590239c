"""A server of one file, which fails as the servers of large files do."""

import contextlib
import dataclasses
import email.utils
import http.server
import threading


@dataclasses.dataclass
class FileServer:
    """Serves `content` under every path of `url`, until `close`; `ranges` are those asked for."""

    content: bytes
    status: int = 200
    sends_ranges: bool = True
    sends_length: bool = True
    sends_wrong_range: bool = False  # the whole file, as if it were what was asked for
    skips: int = 0  # bytes that a part begins later than asked for
    sends_more: bool = False  # on and on after the end, in chunks
    etag: str = ""
    content_type: str = "application/octet-stream"
    modified: float = 0.0  # seconds since the epoch
    cuts: list[int] = dataclasses.field(default_factory=list)  # bytes that each answer breaks off
    ranges: list[str | None] = dataclasses.field(default_factory=list)
    sent: int = 0  # bytes beyond the end
    may_answer: threading.Event = dataclasses.field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()
        file = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(ConnectionError):  # who asked has seen enough
                    file.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        asked = request.headers["Range"]
        self.ranges.append(asked)
        self.may_answer.wait(10.0)
        first = int(asked[len("bytes=") : -1]) if asked and self.sends_ranges else 0
        if self.etag and request.headers["If-Range"] not in (None, self.etag):
            first = 0
        unmodified_since = request.headers["If-Unmodified-Since"]
        if unmodified_since and self.modified > _seconds(unmodified_since):
            request.send_error(412)
        elif first and first >= len(self.content):
            request.send_error(416)
        elif self.status != 200:
            request.send_error(self.status)
        else:
            first += self.skips if first else 0
            body = self.content[0 if self.sends_wrong_range else first :]
            request.send_response(206 if first else 200)
            request.send_header("Content-Type", self.content_type)
            if first:
                last, size = len(self.content) - 1, len(self.content)
                request.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            if self.etag:
                request.send_header("ETag", self.etag)
            if self.sends_more:
                request.send_header("Transfer-Encoding", "chunked")
            if self.sends_length:
                request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            if self.sends_more:
                self._send_chunks(request, body)
            else:
                request.wfile.write(body[: len(body) - self.cuts.pop(0)] if self.cuts else body)

    def _send_chunks(self, request: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        while self.sent < 2**28:  # until who asked closes the connection
            request.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
            body = bytes(2**16)
            self.sent += len(body)


def _seconds(date: str) -> float:
    return email.utils.parsedate_to_datetime(date).timestamp()
