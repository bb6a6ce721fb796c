"""Synapse from PyPI as a peer: a Mangrove node and a Synapse, each in a network namespace, one cable, an authority of their own."""
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from api import Api, Connection
from client import Client, until
from device import BINARY, ROOT, can_make_namespaces, run

PYTHON = ROOT / "target" / "system-tests" / "synapse" / "bin" / "python"
PYTHON = pathlib.Path(os.environ.get("SYNAPSE_PYTHON", PYTHON))
LOTS = "{per_second: 100000, burst_count: 100000}"


class Host:
    """A namespace with one homeserver, reached by others at `NAME.test:8448`."""

    def __init__(self, pair, name, address):
        self.pair, self.short, self.name, self.address = pair, name, f"{name}.test:8448", address
        self.namespace = f"{pair.prefix}{name}"
        self.dir = pair.dir / name
        self.dir.mkdir()
        self.enter = ["ip", "netns", "exec", self.namespace]
        self.process, self.clients, self.starts = None, [], 0
        run("ip", "netns", "add", self.namespace)
        run("ip", "-n", self.namespace, "link", "set", "lo", "up")
        self.certificate()

    def certificate(self, name=None):
        name = name or f"{self.short}.test"
        ca, key, request = self.pair.dir / "ca", self.dir / "tls.key", self.dir / "tls.csr"
        run("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key),
            "-subj", f"/CN={self.short}.test", "-out", str(request))
        extensions = self.dir / "tls.ext"
        extensions.write_text(f"subjectAltName=DNS:{name}\n")
        run("openssl", "x509", "-req", "-in", str(request), "-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-set_serial", str(time.time_ns()),
            "-days", "30", "-extfile", str(extensions), "-out", str(self.dir / "tls.crt"))

    def launch(self, command):
        self.starts += 1
        self.output = self.pair.dir / f"{self.short}.{self.starts}.out"
        with open(self.output, "w") as out:
            self.process = subprocess.Popen([*self.enter, *command], stdout=out, stderr=subprocess.STDOUT,
                                            stdin=subprocess.DEVNULL, cwd=self.dir)
        until(lambda: self.answers() or self.process.poll() is not None, 60, f"start of {self.name}")
        assert self.process.poll() is None, f"{self.name} ended: {self.output.read_text(errors='replace')[-3000:]}"
        return self

    def answers(self):
        try:
            connection = Connection(self.namespace, 8008, 5)
            connection.request("GET", "/_matrix/client/versions")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        return self.process.wait(30)

    def user(self, name):
        return Api(self.namespace, name)

    def client(self, label):
        """A matrix-nio client in the namespace."""
        client = Client("http://127.0.0.1:8008", self.dir / f"store-{label}", self.enter)
        self.clients.append(client)
        return client

    def close(self):
        for client in self.clients:
            client.close()
        if self.process and self.process.poll() is None:
            self.kill()
        subprocess.run(["ip", "netns", "del", self.namespace])
        shutil.rmtree(f"/etc/netns/{self.namespace}", ignore_errors=True)


class Mangrove(Host):
    def start(self):
        config = self.dir / "config.toml"
        config.write_text(f"""
data = "{self.dir}/node"
server_name = "{self.name}"
http = "127.0.0.1:8008"
multicast = false
registration = "open"
rate_limits = false
open_directory = true
log = "warn,mangrove=debug"
[federation]
listen = "0.0.0.0:8448"
tls_cert = "{self.dir}/tls.crt"
tls_key = "{self.dir}/tls.key"
extra_ca = ["{self.pair.dir}/ca.crt"]
allow_private_addresses = true
""")
        return self.launch([BINARY, "run", "--config", str(config)])

    def mangrove(self, *arguments):
        return run(*self.enter, BINARY, arguments[0], "--data", f"{self.dir}/node", *arguments[1:]).strip()


class Synapse(Host):
    def start(self):
        key = self.dir / "signing.key"
        if not key.exists():
            run(str(PYTHON), "-c", f"""
from signedjson.key import generate_signing_key, write_signing_keys
write_signing_keys(open({str(key)!r}, "w"), [generate_signing_key("a_1")])""")
        (self.dir / "log.yaml").write_text(
            "version: 1\nhandlers: {console: {class: logging.StreamHandler}}\nroot: {level: INFO, handlers: [console]}\n")
        (self.dir / "homeserver.yaml").write_text(f"""
server_name: "{self.name}"
listeners:
  - {{port: 8008, bind_addresses: ["127.0.0.1"], type: http, resources: [{{names: [client]}}]}}
  - {{port: 8448, bind_addresses: ["0.0.0.0"], type: http, tls: true, resources: [{{names: [federation]}}]}}
tls_certificate_path: {self.dir}/tls.crt
tls_private_key_path: {self.dir}/tls.key
federation_custom_ca_list: [{self.pair.dir}/ca.crt]
ip_range_blacklist: []
trusted_key_servers: []
signing_key_path: {key}
database: {{name: sqlite3, args: {{database: {self.dir}/homeserver.db}}}}
media_store_path: {self.dir}/media
log_config: {self.dir}/log.yaml
report_stats: false
macaroon_secret_key: "test"
form_secret: "test"
enable_registration: true
enable_registration_without_verification: true
bcrypt_rounds: 4
allow_public_rooms_over_federation: true
room_list_publication_rules: [{{action: allow}}]
federation: {{destination_min_retry_interval: 1s, destination_retry_multiplier: 2, destination_max_retry_interval: 2s}}
rc_message: {LOTS}
rc_registration: {LOTS}
rc_login: {{address: {LOTS}, account: {LOTS}, failed_attempts: {LOTS}}}
rc_joins: {{local: {LOTS}, remote: {LOTS}}}
rc_joins_per_room: {LOTS}
rc_invites: {{per_room: {LOTS}, per_user: {LOTS}}}
rc_room_creation: {LOTS}
rc_federation: {{window_size: 1000, sleep_limit: 100000, sleep_delay: 1, reject_limit: 100000, concurrent: 100}}
federation_rr_transactions_per_room_per_second: 9999
""")
        return self.launch([str(PYTHON), "-m", "synapse.app.homeserver", "-c", str(self.dir / "homeserver.yaml")])


class Pair:
    """Both, and the cable."""

    def __init__(self, directory):
        self.dir, self.prefix = directory, f"mf{os.getpid()}-"
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
            "-keyout", str(directory / "ca.key"), "-out", str(directory / "ca.crt"), "-subj", "/CN=test authority")
        self.mangrove = Mangrove(self, "mangrove", "10.77.0.1")
        self.synapse = Synapse(self, "synapse", "10.77.0.2")
        self.hosts = [self.mangrove, self.synapse]
        ends = [f"f{os.getpid()}{host.short[0]}" for host in self.hosts]
        run("ip", "link", "add", ends[0], "netns", self.mangrove.namespace, "type", "veth", "peer", "name", ends[1],
            "netns", self.synapse.namespace)
        for host, end in zip(self.hosts, ends):
            host.cable = end
            run("ip", "-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", end)
            run("ip", "-n", host.namespace, "link", "set", end, "up")
            etc = pathlib.Path("/etc/netns") / host.namespace
            etc.mkdir(parents=True)
            names = "".join(f"{other.address} {other.short}.test\n" for other in self.hosts)
            (etc / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
            (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        for host in self.hosts:
            host.start()

    def cut(self):
        """Nothing gets through any more."""
        run("ip", "-n", self.mangrove.namespace, "link", "set", self.mangrove.cable, "down")

    def mend(self):
        run("ip", "-n", self.mangrove.namespace, "link", "set", self.mangrove.cable, "up")

    def close(self):
        for host in self.hosts:
            host.close()


def why_not():
    """What this machine lacks for such tests."""
    if not can_make_namespaces():
        return "needs root and `ip netns` (Debian package iproute2)"
    if not shutil.which("openssl"):
        return "needs openssl (Debian package openssl)"
    if not PYTHON.exists():
        return f"needs Synapse: ./run-tests system makes {PYTHON.parents[1]}"
    return None


def skip_or(make):
    reason = why_not()
    if reason:
        pytest.skip(reason)
    return make()
