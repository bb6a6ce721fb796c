"""What strangers upload and link to is looked at in a process of its own, and costs the node nothing but that."""
import http.server
import json
import resource
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request
import zlib
from urllib.parse import quote

import pytest

from device import BINARY


def png(width, height, rows=None):
    """A PNG of one colour; `rows`: fewer than it says it has."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    line = b"\0" + b"\x40\x80\xc0" * width
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(line * (height if rows is None else rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def shrink(picture, *words):
    begun = time.monotonic()
    done = subprocess.run([BINARY, "shrink-picture", *words], input=picture, capture_output=True, timeout=60)
    return done, time.monotonic() - begun


def test_pictures_are_shrunk_by_a_process_without_rights():
    done, _ = shrink(png(300, 200), "32", "32", "crop", "false")
    assert done.returncode == 0 and done.stdout[:1] == b"2" and done.stdout[1:5] == b"\x89PNG"
    assert shrink(png(20, 20), "32", "32", "crop", "false")[0].stdout == b"0"
    # A picture that says it is huge, one that is huge, nonsense.
    for bad in (png(60_000, 60_000, 1), png(9_000, 9_000), b"GIF89a" + b"\xff" * 5_000, b""):
        done, seconds = shrink(bad, "32", "32", "scale", "true")
        assert done.returncode == 1 and not done.stdout and seconds < 30
    # What it may have, as the system sees it.
    child = subprocess.Popen([BINARY, "shrink-picture", "32", "32", "crop", "false"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while resource.prlimit(child.pid, resource.RLIMIT_NOFILE)[0] != 3:
            assert time.monotonic() < deadline, "it gives up its rights before it reads"
            time.sleep(0.01)
        assert resource.prlimit(child.pid, resource.RLIMIT_AS)[1] == 1 << 30
        assert 0 < resource.prlimit(child.pid, resource.RLIMIT_CPU)[1] <= 15
        assert resource.prlimit(child.pid, resource.RLIMIT_FSIZE)[1] == 0
    finally:
        child.kill()
        child.wait()


class Web(http.server.BaseHTTPRequestHandler):
    """Pages for previews."""

    pages = {
        "/nested": b"<title>deep</title>" + b"<b>" * 170_000,
        "/page": b"<title>Lagoon</title><meta property='og:image' content='/picture.png'>",
        "/picture.png": png(40, 30),
    }

    def do_GET(self):
        body = self.pages.get(self.path)
        self.send_response(200 if body else 404)
        self.send_header("content-type", "image/png" if self.path.endswith("png") else "text/html")
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def web():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_thumbnails_and_previews_of_a_live_node(nodes, web):
    node = nodes("a").start("--url-previews", "--url-preview-private-addresses", "--no-rate-limits")
    alice = node.client().register("alice")

    def ask(path, body=None, kind="application/json"):
        request = urllib.request.Request(node.url + path, body, {
            "Authorization": f"Bearer {alice.token}", "Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def upload(picture):
        status, answer = ask("/_matrix/media/v3/upload", picture, "image/png")
        assert status == 200, answer
        return json.loads(answer)["content_uri"].removeprefix("mxc://")

    mxc = upload(png(300, 200))
    status, small = ask(f"/_matrix/client/v1/media/thumbnail/{mxc}?width=32&height=32&method=crop")
    assert status == 200 and small[:4] == b"\x89PNG"
    bomb = upload(png(9_000, 9_000))
    assert ask(f"/_matrix/client/v1/media/thumbnail/{bomb}?width=32&height=32&method=crop")[0] == 400

    def preview(path):
        status, answer = ask(f"/_matrix/client/v1/media/preview_url?url={quote(web + path, safe='')}")
        assert status == 200, answer
        return json.loads(answer)

    told = preview("/page")
    assert told["og:title"] == "Lagoon" and told["og:image:width"] == 40
    # The reader's stack overflows; the node does not notice.
    assert "og:title" not in preview("/nested") or preview("/nested")["og:title"] == "deep"
    assert node.process.poll() is None
    assert preview("/page") == told
