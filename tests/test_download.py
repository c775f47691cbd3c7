"""A file comes from the first source with a good copy, or the message lists all that were tried."""

import contextlib
import http.server
import threading
import time

import pytest

from headswap import download
from headswap.errors import UserError

BODY = b"photographs" * 1000


class Server(http.server.BaseHTTPRequestHandler):
    """Answers in the manner of the path's first part: well, cut, stalled, busy-at-first."""

    def do_GET(self):
        manner = self.path.split("/")[1]
        self.server.asked.append(self.path)
        if manner == "missing":
            return self.send_error(404)
        if manner == "busy-at-first" and len(self.server.asked) == 1:
            return self.send_error(503)
        if manner == "hangs-up-at-first" and len(self.server.asked) == 1:
            return None
        if manner == "silent":
            time.sleep(1)
        with contextlib.suppress(ConnectionError):
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.server.body)))
            self.end_headers()
            half = len(self.server.body) // 2
            self.wfile.write(self.server.body[:half])
            if manner == "stalled":
                time.sleep(1)
            if manner != "cut":
                self.wfile.write(self.server.body[half:])

    def log_message(self, *arguments):
        pass


@pytest.fixture(autouse=True)
def no_mirror_and_no_proxy(monkeypatch):
    monkeypatch.delenv("HEADSWAP_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 1)
    monkeypatch.setattr(download, "TIMEOUT", (1, 0.5))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        running.asked, running.body = [], BODY
        running.url = f"http://127.0.0.1:{running.server_port}"
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def anything(path):
    pass


def right(path):
    if path.read_bytes() != BODY:
        raise ValueError("has other bytes")


@pytest.mark.parametrize(
    ("manner", "times"), [("well", 1), ("busy-at-first", 2), ("hangs-up-at-first", 2)]
)
def test_a_download_is_retried_once(server, tmp_path, manner, times):
    target = tmp_path / "folder" / "f"
    assert (
        download.download_file(f"{server.url}/{manner}/f", target, right)
        == f"{server.url}/{manner}/f"
    )
    assert target.read_bytes() == BODY
    assert len(server.asked) == times


def test_a_download_has_the_permissions_of_other_new_files(server, tmp_path):
    download.download_file(f"{server.url}/well/f", tmp_path / "f", right)
    (tmp_path / "other").touch()
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("missing", "the server answered 404"),
        ("cut", "broke off before the end"),
        ("silent", "no answer for 0.5 s"),
        ("stalled", "no answer for 0.5 s"),
    ],
)
def test_a_failing_server_is_named_and_leaves_no_file(
    server, tmp_path, monkeypatch, manner, reason
):
    monkeypatch.setattr(download, "RETRIES", 0)
    (tmp_path / "f").write_text("what was here before")
    with pytest.raises(UserError) as error:
        download.download_file(f"{server.url}/{manner}/f", tmp_path / "f", anything)
    for part in (f"{server.url}/{manner}/f", reason, "HEADSWAP_MIRROR", "make demo"):
        assert part in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_text() == "what was here before"


@pytest.mark.slow
def test_no_connection_ends_within_seconds(tmp_path):
    started = time.monotonic()
    with pytest.raises(UserError, match="no connection"):
        download.download_file("http://127.0.0.1:9/f", tmp_path / "f", anything)
    assert time.monotonic() - started < 15


def test_the_mirror_comes_first_then_caches_then_the_address(server, tmp_path, monkeypatch):
    for place in ("mirror", "cache"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "f").write_bytes(BODY)
    monkeypatch.setenv("HEADSWAP_MIRROR", str(tmp_path / "mirror"))
    caches = [tmp_path / "cache" / "f"]

    def source():
        return download.download_file(f"{server.url}/well/f", tmp_path / "got", right, caches)

    assert source() == str(tmp_path / "mirror/f")
    (tmp_path / "mirror/f").write_bytes(b"damaged")
    assert source() == str(tmp_path / "cache/f")
    (tmp_path / "cache/f").unlink()
    assert source() == f"{server.url}/well/f"


def test_a_mirror_can_be_an_address(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSWAP_MIRROR", f"{server.url}/well/")
    assert (
        download.download_file("http://127.0.0.1:9/f", tmp_path / "f", right)
        == f"{server.url}/well/f"
    )


def test_plain_http_is_refused_where_only_a_part_of_the_digest_is_known(
    server, tmp_path, monkeypatch
):
    monkeypatch.setenv("HEADSWAP_MIRROR", "http://mirror.invalid")
    with pytest.raises(
        UserError, match="mirror.invalid/x: plain HTTP, and its full digest is not known"
    ) as error:
        download.download_file("http://other.invalid/x", tmp_path / "x", anything, pinned=False)
    assert str(error.value).count("plain HTTP") == 2
    monkeypatch.delenv("HEADSWAP_MIRROR")
    here = f"{server.url}/well/x"
    assert download.download_file(here, tmp_path / "x", right, pinned=False) == here


def test_every_source_that_was_tried_is_named_with_its_failure(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSWAP_MIRROR", str(tmp_path))
    server.body = b"other"
    with pytest.raises(UserError) as error:
        download.download_file(f"{server.url}/well/f", tmp_path / "new/f", right)
    assert f"{tmp_path}/f: no such file" in str(error.value)
    assert f"{server.url}/well/f: has other bytes" in str(error.value)
