"""Devices: the real binary in network namespaces of its own, and cables between them."""
import os
import pathlib
import shutil
import signal
import subprocess
import time

from client import Client, until

ROOT = pathlib.Path(__file__).parents[2]
BINARY = os.environ.get("MANGROVE", str(ROOT / "target" / "release" / "mangrove"))


def run(*command, **more):
    done = subprocess.run(command, capture_output=True, text=True, **more)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.returncode}\n{done.stderr}{done.stdout}"
    return done.stdout


def can_make_namespaces():
    return os.geteuid() == 0 and shutil.which("ip") and subprocess.run(["ip", "netns", "list"]).returncode == 0


class Device:
    """A namespace with a node in it."""

    def __init__(self, lab, name):
        self.lab, self.name, self.namespace = lab, name, f"{lab.prefix}{name}"
        self.data = lab.dir / name
        self.enter = ["ip", "netns", "exec", self.namespace]
        self.process, self.clients, self.starts = None, [], 0
        run("ip", "netns", "add", self.namespace)
        run("ip", "-n", self.namespace, "link", "set", "lo", "up")

    def start(self, *flags, wait=True):
        """`mangrove run --data DIR --registration open` and the given flags; ready when it says where to log in."""
        self.starts += 1
        self.output = self.lab.dir / f"{self.name}.{self.starts}.out"
        with open(self.output, "w") as out:
            self.process = subprocess.Popen(
                [*self.enter, BINARY, "run", "--data", str(self.data), "--registration", "open", *flags],
                stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, seconds=20):
        until(lambda: "Log in" in self.said() or self.process.poll() is not None, seconds, f"start of {self.name}")
        assert self.process.poll() is None, f"{self.name} ended: {self.said()}"

    def said(self):
        return self.output.read_text(errors="replace")

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        return self.process.wait(10)

    def mangrove(self, *arguments):
        """A command of the binary for this node; what it prints."""
        head, tail = (list(arguments[:1]), list(arguments[1:]))
        return run(*self.enter, BINARY, *head, "--data", str(self.data), *tail).strip()

    def client(self, label="client"):
        store = self.lab.dir / f"{self.name}-{label}"
        client = Client("http://127.0.0.1:8008", store, self.enter)
        self.clients.append(client)
        return client

    def close(self):
        for client in self.clients:
            client.close()
        if self.process and self.process.poll() is None:
            self.kill(signal.SIGTERM)
        subprocess.run(["ip", "netns", "del", self.namespace])


class Lab:
    """Some devices and the cables between them; takes itself apart."""

    def __init__(self, directory):
        self.dir, self.devices, self.cables = directory, {}, 0
        self.prefix = f"mg{os.getpid()}-"

    def device(self, name):
        self.devices[name] = Device(self, name)
        return self.devices[name]

    def cable(self, a, b):
        """A veth pair; IPv6 link-local addresses come by themselves, as on a real cable."""
        self.cables += 1
        ends = [f"c{self.cables}{d.name}"[:15] for d in (a, b)]
        run("ip", "link", "add", ends[0], "netns", a.namespace, "type", "veth", "peer", "name", ends[1],
            "netns", b.namespace)
        for device, end in zip((a, b), ends):
            run("ip", "-n", device.namespace, "link", "set", end, "up")
        return ends

    def close(self):
        for device in self.devices.values():
            device.close()
