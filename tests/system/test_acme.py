"""A certificate that the node fetches itself, from an authority that checks it (pebble, Let's Encrypt's own test authority)."""
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import urllib.request

import pytest

from client import until
from device import run
from node import free_port

DOMAIN = "chat.example.org"


class Authority:
    """Pebble, and a name server that says every name is this machine."""

    def __init__(self, directory, node_port):
        self.dir, self.processes = directory, []
        self.api, self.management, dns = free_port(), free_port(), free_port()
        certificate = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30")
        # Its own web server's certificate; what it issues has another root, new at each start.
        run("openssl", "req", "-x509", *certificate, "-keyout", directory / "ca.key", "-out", directory / "ca.crt", "-subj", "/CN=made up")
        run("openssl", "req", *certificate[:-2], "-keyout", directory / "pebble.key", "-out", directory / "pebble.csr", "-subj", "/CN=localhost")
        (directory / "ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        run("openssl", "x509", "-req", "-in", directory / "pebble.csr", "-CA", directory / "ca.crt", "-CAkey", directory / "ca.key",
            "-CAcreateserial", "-days", "30", "-extfile", directory / "ext", "-out", directory / "pebble.crt")
        (directory / "pebble.json").write_text(json.dumps({"pebble": {
            "listenAddress": f"127.0.0.1:{self.api}", "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": str(directory / "pebble.crt"), "privateKey": str(directory / "pebble.key"),
            "httpPort": 1, "tlsPort": node_port, "ocspResponderURL": "", "externalAccountBindingRequired": False}}))
        none = ("-http01", "", "-https01", "", "-tlsalpn01", "", "-management", f"127.0.0.1:{free_port()}")
        self.start("dns", "pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", f"127.0.0.1:{dns}", *none)
        self.start("pebble", "pebble", "-config", directory / "pebble.json", "-dnsserver", f"127.0.0.1:{dns}")
        self.trust = ssl.create_default_context(cafile=directory / "ca.crt")
        until(self.answers, 20, "pebble's start")

    def start(self, name, *command):
        # No pauses before checks, no made-up refusals of nonces: what is tested is the node.
        more = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
        with open(self.dir / f"{name}.out", "w") as out:
            self.processes.append(subprocess.Popen(command, env=more, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL))

    def get(self, port, path):
        return urllib.request.urlopen(f"https://localhost:{port}{path}", context=self.trust, timeout=5).read().decode()

    def answers(self):
        try:
            return self.get(self.api, "/dir")
        except OSError:
            return None

    def root(self):
        """The root of what it issues."""
        return self.get(self.management, "/roots/0")

    def close(self):
        for process in self.processes:
            process.terminate()
            process.wait(10)


def served(port, root):
    """The serial number of the certificate on a port, if it is one for the domain by this root; and a key document."""
    context = ssl.create_default_context(cadata=root)
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as plain, context.wrap_socket(plain, server_hostname=DOMAIN) as tls:
            serial = tls.getpeercert()["serialNumber"]
            tls.sendall(f"GET /_matrix/key/v2/server HTTP/1.1\r\nHost: {DOMAIN}\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: tls.recv(65536), b"")).decode()
    except OSError:
        return None
    assert json.loads(answer.split("\r\n\r\n", 1)[1])["server_name"] == DOMAIN
    return serial


def test_certificate_by_acme_is_fetched_and_kept(nodes, tmp_path, monkeypatch):
    if not shutil.which("pebble"):
        print("SKIPPED: this test needs pebble (Debian package pebble)", file=sys.stderr)
        pytest.skip("needs pebble")
    port = free_port()
    authority = Authority(tmp_path, port)
    try:
        # What a machine's list of authorities is for: the node has no setting that would weaken it.
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
        flags = ("--server-name", DOMAIN, "--federation-listen", f"127.0.0.1:{port}", "--federation-acme", "--federation-acme-contact",
                 "admin@example.org", "--federation-acme-directory", f"https://localhost:{authority.api}/dir")
        node = nodes("a").start(*flags)
        root = authority.root()
        serial = until(lambda: served(port, root), 60, "a certificate")
    finally:
        authority.close()
    # Without the authority: the certificate is on the disk, and readable by nobody else.
    node.stop()
    node.start(*flags)
    assert until(lambda: served(port, root), 20, "the kept certificate") == serial
    assert (node.data / "acme").stat().st_mode & 0o077 == 0, "secret keys are the owner's alone"
