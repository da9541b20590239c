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
    content_type: str = "application/octet-stream"
    modified: float = 0.0  # seconds since the epoch
    cuts: list[int] = dataclasses.field(default_factory=list)  # bytes that each answer breaks off
    ranges: list[str | None] = dataclasses.field(default_factory=list)
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
        unmodified_since = request.headers["If-Unmodified-Since"]
        if unmodified_since and self.modified > _seconds(unmodified_since):
            request.send_error(412)
        elif first and first >= len(self.content):
            request.send_error(416)
        elif self.status != 200:
            request.send_error(self.status)
        else:
            body = self.content[0 if self.sends_wrong_range else first :]
            request.send_response(206 if first else 200)
            request.send_header("Content-Type", self.content_type)
            if first:
                last, size = len(self.content) - 1, len(self.content)
                request.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            if self.sends_length:
                request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body[: len(body) - self.cuts.pop(0)] if self.cuts else body)


def _seconds(date: str) -> float:
    return email.utils.parsedate_to_datetime(date).timestamp()
