"""Settings read again while the node runs: by HUP and by `mangrove ctl reload`."""
import json
import signal
import subprocess
import urllib.error
import urllib.request

from client import until
from device import BINARY


def asked(node, path, body=None, token=None):
    request = urllib.request.Request(node.url + path, json.dumps(body).encode() if body is not None else None)
    if token:
        request.add_header("Authorization", "Bearer " + token)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def register(node, name):
    return asked(node, "/_matrix/client/v3/register",
                 {"username": name, "password": "correct horse battery staple", "auth": {"type": "m.login.dummy"}})


def reload(node):
    return subprocess.run([BINARY, "ctl", "--data", str(node.data), "reload", "--json"], capture_output=True, text=True,
                          timeout=30)


SERVICE = """id: bridge
url: null
as_token: as_secret
hs_token: hs_secret
sender_localpart: bridgebot
namespaces: {users: [{regex: '@_bridge_.*', exclusive: true}]}
"""


def test_what_can_be_applied_is_and_the_rest_is_named(tmp_path, nodes):
    settings, service = tmp_path / "m.toml", tmp_path / "bridge.yaml"
    settings.write_text("")
    node = nodes("a").start("--config", str(settings))
    # The flags of the test's node win over the file, so the mode is not touched by what the file says.
    assert register(node, "alice")[0] == 200
    whoami = lambda: asked(node, "/_matrix/client/v3/account/whoami", token="as_secret")[0]
    assert whoami() == 401
    service.write_text(SERVICE)
    settings.write_text(f'appservices = ["{service}"]\nlog = "info"\npresence = true\n'
                        '[terms]\nversion = "1"\nname = "Rules"\nurl = "https://example.org/rules"\n')
    told = json.loads(reload(node).stdout)
    assert told == {"applied": ["appservices", "log", "terms"], "needs_a_restart": ["presence"]}, told
    assert whoami() == 200
    assert "m.login.terms" in json.dumps(register(node, "bob"))
    # A broken file changes nothing and says where it is broken.
    settings.write_text('log = "info"\nlogg = 1\n')
    done = reload(node)
    assert done.returncode == 1 and "line 2" in done.stderr and "nothing was changed" in done.stderr, done.stderr
    assert whoami() == 200
    # A service's file counts, too.
    settings.write_text(f'appservices = ["{service}"]\n')
    service.write_text("id: bridge\n")
    done = reload(node)
    assert done.returncode == 1 and "bridge.yaml" in done.stderr, done.stderr
    assert whoami() == 200
    # HUP does the same, and tells the log.
    settings.write_text("")
    node.process.send_signal(signal.SIGHUP)
    until(lambda: whoami() == 401, 20, "the service is gone after HUP")
    assert register(node, "carol")[0] == 200


def test_links_follow_the_settings(tmp_path, nodes):
    settings = tmp_path / "m.toml"
    settings.write_text("")
    a = nodes("a").start()
    b = nodes("b").start("--config", str(settings))
    peers = lambda: json.loads(b.mangrove("ctl", "--json", "peers"))
    assert peers() == []
    settings.write_text(f'peer = ["{a.overlay}"]\n')
    assert json.loads(reload(b).stdout)["applied"] == ["peer"]
    until(lambda: len(peers()) == 1, 20, "a peer from the settings")
    settings.write_text("")
    reload(b)
    until(lambda: peers() == [], 20, "a peer that the settings no longer name")
