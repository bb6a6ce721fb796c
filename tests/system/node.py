"""Nodes without namespaces: the real binary on loopback addresses, linked by peer URIs."""
import re
import signal
import socket
import subprocess

from client import Client, until
from device import BINARY, run


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Node:
    """One `mangrove run` with an own data directory."""

    def __init__(self, directory, name):
        self.dir, self.name, self.data = directory, name, directory / name
        self.overlay = f"tcp://127.0.0.1:{free_port()}"
        self.process, self.clients, self.starts = None, [], 0

    def start(self, *flags, peers=(), registration="open", http="127.0.0.1:0"):
        self.starts += 1
        self.output = self.dir / f"{self.name}.{self.starts}.out"
        links = [part for peer in peers for part in ("--peer", peer.overlay)]
        with open(self.output, "w") as out:
            self.process = subprocess.Popen(
                [BINARY, "run", "--data", str(self.data), "--http", http, "--no-multicast",
                 "--listen", self.overlay, "--registration", registration, *links, *flags],
                stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        until(lambda: "Log in" in self.said() or self.process.poll() is not None, 20, f"start of {self.name}")
        assert self.process.poll() is None, f"{self.name} ended: {self.said()}"
        self.url = re.search(r"Log in .* at (http://\S+)", self.said()).group(1)
        return self

    def said(self):
        return self.output.read_text(errors="replace")

    def stop(self, how=signal.SIGTERM, seconds=10):
        self.process.send_signal(how)
        return self.process.wait(seconds)

    def mangrove(self, head, *tail, **more):
        return run(BINARY, head, "--data", str(self.data), *tail, **more).strip()

    def client(self, label="client"):
        client = Client(self.url, self.dir / f"{self.name}-{label}")
        self.clients.append(client)
        return client

    def close(self):
        for client in self.clients:
            client.close()
        if self.process and self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.stop(signal.SIGKILL)
