"""Servers on two nets: one where TLS reaches each other, one where the overlay does; each host has a cable to one of them, or to both."""
import json
import pathlib

from device import BINARY, run
from synapse import Mangrove, Synapse

ENDS = {"tls": "10.77.0", "mesh": None}


class Hub:
    """Two bridges, and the authority whose certificates count. Hosts are plugged in before they start."""

    def __init__(self, directory, prefix):
        self.dir, self.prefix, self.hosts = directory, prefix, []
        self.namespace = f"{prefix}hub"
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
            "-keyout", str(directory / "ca.key"), "-out", str(directory / "ca.crt"), "-subj", "/CN=test authority")
        run("ip", "netns", "add", self.namespace)
        for net in ENDS:
            run("ip", "-n", self.namespace, "link", "add", net, "type", "bridge")
            run("ip", "-n", self.namespace, "link", "set", net, "up")

    def plug(self, host, *nets):
        """Cables from a host to the nets; in the host they are called as the nets."""
        self.hosts.append(host)
        for net in nets:
            end = f"{net[0]}{host.short}"
            run("ip", "link", "add", end, "netns", self.namespace, "type", "veth", "peer", "name", net, "netns", host.namespace)
            run("ip", "-n", self.namespace, "link", "set", end, "master", net, "up")
            if ENDS[net]:
                run("ip", "-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", net)
            run("ip", "-n", host.namespace, "link", "set", net, "up")
        return host

    def write_names(self):
        """Every host knows every name that TLS reaches; nothing else is asked about names."""
        names = "".join(f"{host.address} {name}\n" for host in self.hosts for name in host.dns_names())
        for host in self.hosts:
            etc = pathlib.Path("/etc/netns") / host.namespace
            etc.mkdir(parents=True, exist_ok=True)
            (etc / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
            (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")

    def cut(self, host, net):
        """Nothing gets from the host to that net, or back."""
        run("ip", "-n", self.namespace, "link", "set", f"{net[0]}{host.short}", "down")

    def mend(self, host, net):
        run("ip", "-n", self.namespace, "link", "set", f"{net[0]}{host.short}", "up")

    def close(self):
        for host in self.hosts:
            host.close()
        run("ip", "netns", "del", self.namespace)


class OnTls(Mangrove):
    """A domain of its own, reached by TLS and by nothing else."""

    mesh = "false"

    def dns_names(self):
        return [f"{self.short}.test"]

    def general(self):
        return f'server_name = "{self.name}"'

    def federation(self):
        return f"""
[federation]
listen = "0.0.0.0:{self.port()}"
tls_cert = "{self.dir}/tls.crt"
tls_key = "{self.dir}/tls.key"
extra_ca = ["{self.pair.dir}/ca.crt"]
allow_private_addresses = true
"""

    def port(self):
        return 8448

    def start(self):
        config = self.dir / "config.toml"
        config.write_text(f"""
data = "{self.dir}/node"
{self.general()}
http = "127.0.0.1:8008"
multicast = {self.mesh}
registration = "open"
rate_limits = false
open_directory = true
log = "warn,mangrove=debug"
{self.federation()}
""")
        return self.launch([BINARY, "run", "--config", str(config)])

    def destination(self, name):
        """What `mangrove ctl destinations` says of a server."""
        rows = json.loads(run(*self.enter, BINARY, "ctl", "destinations", "--json", "--data", f"{self.dir}/node"))
        return next((row for row in rows if row["server"] == name), None)


class OnBoth(OnTls):
    """A domain of its own that is on the overlay too."""

    mesh = '["mesh"]'


class Gateway(OnBoth):
    """A name made from an account in a zone that DNS knows: the overlay finds it by its account, others by well-known."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.zone = f"{self.short}.test"
        said = run(*self.enter, BINARY, "init", "--data", f"{self.dir}/node", "--zone", self.zone)
        self.name = next(word for word in said.split() if word.endswith(f".{self.zone}"))
        self.certificate(self.name)

    def dns_names(self):
        return [self.name]

    def general(self):
        return ""

    def port(self):
        return 443

    def federation(self):
        return super().federation() + f'well_known = "{self.name}:443"\n'


class OverlayOnly(OnBoth):
    """A name below .alt."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        said = run(*self.enter, BINARY, "init", "--data", f"{self.dir}/node")
        self.name = next(word for word in said.split() if word.endswith(".mesh.alt"))

    def dns_names(self):
        return []

    def general(self):
        return ""

    def federation(self):
        return ""


class Peer(Synapse):
    """A Synapse on the TLS net."""

    def dns_names(self):
        return [f"{self.short}.test"]
