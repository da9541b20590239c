"""Downloads from a server on this machine: whole, broken off, resumed, refused, two at once."""

import fcntl
import hashlib
import http.server
import pathlib
import resource
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import rich.console
from file_server import FileServer

from mixer.weights import download as download_module
from mixer.weights.download import check_size, download

CONTENT = np.random.default_rng(0).bytes(2**20)
PAGE = "text/html; charset=utf-8"


@pytest.fixture
def server() -> Iterator[FileServer]:
    server = FileServer(CONTENT)
    yield server
    server.may_answer.set()
    server.close()


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "cache" / "weights.npz"


@pytest.fixture
def half(server: FileServer, path: pathlib.Path) -> pathlib.Path:
    """What a download that broke off has left."""
    server.cuts = [2**19]
    with pytest.raises(OSError, match=r"524288 bytes read, 524288 more expected"):
        download(server.url, path)
    names = sorted(p.name for p in path.parent.iterdir())
    assert names == ["weights.npz.part", "weights.npz.part.source"]
    part = path.with_name("weights.npz.part")
    assert part.stat().st_size >= 2**18
    assert CONTENT.startswith(part.read_bytes())
    return part


def assert_whole(path: pathlib.Path, content: bytes = CONTENT) -> None:
    assert path.read_bytes() == content
    line = f"{hashlib.sha256(content).hexdigest()}  weights.npz\n"
    assert path.with_name("weights.npz.sha256").read_text() == line
    assert len(list(path.parent.iterdir())) == 2


def test_a_file_is_downloaded_and_its_checksum_written(server, path):
    download(server.url, path, mebibytes=1.0)
    assert_whole(path)
    assert server.ranges == [None]


def test_a_broken_download_goes_on_where_it_broke_off(server, path, half):
    size = half.stat().st_size
    download(server.url, path, mebibytes=1.0)
    assert_whole(path)
    assert server.ranges == [None, f"bytes={size}-"]


def test_without_ranges_it_starts_anew(server, path, half):
    server.sends_ranges = False
    download(server.url, path)
    assert_whole(path)


def test_a_file_published_anew_is_not_mixed_with_the_old_one(server, path, half):
    server.content, server.modified = CONTENT[::-1], time.time() + 3600
    download(server.url, path)
    assert_whole(path, CONTENT[::-1])


def test_other_bytes_than_asked_for_are_not_taken(server, path, half):
    server.sends_wrong_range = True
    with pytest.raises(ValueError, match="did not send the 1,048,576 bytes it announced"):
        download(server.url, path)
    assert half.stat().st_size == 0
    download(server.url, path)
    assert_whole(path)


@pytest.mark.parametrize("skips", [-1, 1, -1000, 1000])
def test_a_part_that_begins_elsewhere_is_not_appended(server, path, half, skips):
    server.skips = skips
    download(server.url, path, mebibytes=1.0)
    assert_whole(path)
    assert server.ranges[2:] == [None]  # asked for the whole file, after the wrong part


@pytest.mark.parametrize("resumes", [False, True])
def test_an_endless_body_stops_at_the_announced_length(server, path, request, resumes):
    if resumes:
        request.getfixturevalue("half")
    server.sends_more = True
    with pytest.raises(ValueError, match="did not send the 1,048,576 bytes it announced"):
        download(server.url, path)
    assert path.with_name("weights.npz.part").stat().st_size == 0
    assert not path.exists()
    assert server.sent < 2**27
    server.sends_more = False
    download(server.url, path)
    assert_whole(path)


def test_a_file_of_another_size_or_tag_is_not_mixed_with_the_old_one(server, path, half):
    server.content = CONTENT[::-1] + b"more"  # with no date and no tag
    download(server.url, path)
    assert_whole(path, CONTENT[::-1] + b"more")


def test_a_file_with_another_tag_is_not_mixed_with_the_old_one(server, path):
    server.etag, server.cuts = '"old"', [2**19]
    with pytest.raises(OSError, match="more expected"):
        download(server.url, path)
    server.etag, server.content = '"new"', CONTENT[::-1]
    download(server.url, path)
    assert_whole(path, CONTENT[::-1])


def test_what_is_left_of_an_unknown_file_is_written_anew(server, path):
    path.parent.mkdir()
    path.with_name("weights.npz.part").write_bytes(b"of something else")
    for described in (None, "no JSON", '{"total": 3}', "[]"):
        if described is not None:
            path.with_name("weights.npz.part.source").write_text(described)
        download(server.url, path)
        assert_whole(path)
        path.rename(path.with_name("weights.npz.part"))


def test_what_a_check_refuses_gets_no_name(server, path):
    def refuse(part: pathlib.Path) -> None:
        assert part.read_bytes() == server.content
        raise ValueError("not weights")

    with pytest.raises(ValueError, match="not weights"):
        download(server.url, path, check=refuse)
    assert not path.exists()
    assert path.with_name("weights.npz.part").stat().st_size == 0
    download(server.url, path, check=lambda part: None)
    assert_whole(path)


def test_a_redirect_that_is_not_secure_is_refused(server, path, tmp_path, monkeypatch):
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    certificate, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Redirect(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", server.url)
            self.end_headers()

    secure = http.server.HTTPServer(("localhost", 0), Redirect)
    secure.timeout = 60  # seconds, until it stops to wait for the request
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    thread = threading.Thread(target=secure.handle_request)
    thread.start()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate)
    with pytest.raises(ValueError, match=f"not secure: {server.url}"):
        download(f"https://localhost:{secure.server_port}/w.npz", path)
    thread.join()
    secure.server_close()
    assert not path.exists()


def test_more_than_the_whole_file_is_written_anew(server, path, half):
    half.write_bytes(CONTENT + b"more")
    download(server.url, path)
    assert_whole(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": 404}, "returned 404 Not Found"),
        ({"status": 403}, "returned 403 Forbidden"),
        ({"status": 503}, "returned 503"),
        ({"content": CONTENT[:-20_000]}, r"Expected a file of 1.0 MiB; got 0.98 MiB"),
        ({"content_type": PAGE}, "a web page. Is there a login page"),
        ({"sends_length": False}, "does not report the file.s length"),
    ],
)
def test_another_answer_than_the_file_is_refused(server, path, changes, message):
    for name, value in changes.items():
        setattr(server, name, value)
    with pytest.raises(ValueError, match=message):
        download(server.url, path, mebibytes=1.0)
    assert [p.stat().st_size for p in path.parent.iterdir()] == [0]


def test_a_refusal_keeps_what_has_arrived(server, path, half):
    server.status, before = 503, half.read_bytes()
    with pytest.raises(ValueError, match="returned 503"):
        download(server.url, path)
    assert half.read_bytes() == before


def test_too_little_room_is_seen_before_the_first_byte(server, path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 2**19))
    with pytest.raises(
        ValueError, match=r"Expected 1.0 MiB free at .*; got 0.5 MiB. Free some space"
    ):
        download(server.url, path)
    assert not path.exists()


def test_a_write_that_fails_leaves_no_file(server, path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            download(server.url, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not path.exists()
    download(server.url, path)
    assert_whole(path)


@pytest.mark.parametrize("first_breaks_off", [False, True])
def test_of_two_at_once_the_second_waits(server, path, capfd, first_breaks_off):
    server.cuts = [2**19] if first_breaks_off else []
    server.may_answer.clear()
    errors = []

    def run() -> None:
        try:
            download(server.url, path)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    said, deadline = "", time.monotonic() + 60
    while "Waiting for the process that writes" not in said:
        assert time.monotonic() < deadline, said
        said += capfd.readouterr().err
        time.sleep(0.01)
    server.may_answer.set()
    for thread in threads:
        thread.join()
    assert_whole(path)
    assert len(errors) == first_breaks_off
    assert len(server.ranges) == 1 + first_breaks_off
    assert server.ranges[0] is None


def test_a_file_that_another_process_brought_is_not_downloaded_again(server, path):
    path.parent.mkdir()
    part = path.with_name("weights.npz.part")
    thread = threading.Thread(target=download, args=(server.url, path))
    with part.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread.start()
        path.write_bytes(CONTENT)
    thread.join()
    assert server.ranges == []
    assert list(path.parent.iterdir()) == [path]


def test_lines_without_a_terminal(server, path, capfd, monkeypatch):
    monkeypatch.setattr(download_module, "_SECONDS_PER_LINE", 0.0)
    download(server.url, path)
    out, err = capfd.readouterr()
    assert not out  # which may be somebody's JSON
    lines = [f"  {quarter / 4:.1f} of 1.0 MiB" for quarter in (1, 2, 3, 4)]
    assert err.splitlines() == [f"Downloading {server.url} (1.00 MiB)", *lines]


def test_a_bar_on_a_terminal(server, path, capfd, monkeypatch):
    monkeypatch.setattr(rich.console.Console, "is_terminal", True)
    monkeypatch.setenv("TERM", "xterm")
    download(server.url, path)
    assert "1.0/1.0 MiB" in capfd.readouterr().err


def test_a_size_agrees_as_far_as_two_decimals_tell():
    check_size(1, None)
    check_size(239_564_448, 228.47)  # 228.4665
    for size, found in ((239_564_448 - 2_000, "228.46"), (239_564_448 + 10_000, "228.48")):
        with pytest.raises(ValueError, match=f"Expected a file of 228.47 MiB; got {found} MiB"):
            check_size(size, 228.47)
