"""The test's side of agent.py: start one in a namespace, give it commands, get their answers."""
import json
import pathlib
import select
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent


class Client:
    """A Matrix user on one device."""

    def __init__(self, url, store, enter=()):
        store.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [*enter, sys.executable, str(HERE / "agent.py"), url, str(store)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.user = self.device = self.token = None

    def ask(self, cmd, limit=150, **arguments):
        self.begin(cmd, **arguments)
        return self.end(limit)

    def begin(self, cmd, **arguments):
        """Gives a command without waiting for its answer."""
        self.process.stdin.write(json.dumps({"cmd": cmd, **arguments}) + "\n")
        self.process.stdin.flush()

    def end(self, limit=150):
        """The answer of the oldest command that has not been answered."""
        if not select.select([self.process.stdout], [], [], limit)[0]:
            raise AssertionError(f"{self.user}: no answer within {limit} s")
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"{self.user}: the client ended with {self.process.wait(5)}")
        answer = json.loads(line)
        if "error" in answer:
            raise AssertionError(f"{self.user}: {answer['error']}")
        return answer["ok"]

    def register(self, name, password="correct horse battery staple"):
        answer = self.ask("register", user=name, password=password)
        self.user, self.device, self.token = answer["user"], answer["device"], answer["token"]
        self.ask("sync")
        return self

    def login(self, name, password="correct horse battery staple"):
        answer = self.ask("login", user=name, password=password)
        self.user, self.device, self.token = answer["user"], answer["device"], answer["token"]
        self.ask("sync")
        return self

    def create(self, version, **more):
        return self.ask("create", version=version, **more)

    def accept(self, room, seconds=20):
        """Waits for the invite and joins."""
        self.ask("wait_invite", room=room, seconds=seconds)
        return self.ask("join", room=room)

    def send(self, room, body, **more):
        return self.ask("send", room=room, body=body, **more)

    def wait(self, room, *bodies, seconds=20):
        return self.ask("wait_messages", room=room, bodies=bodies, seconds=seconds)

    def wait_members(self, room, *users, seconds=20):
        return self.ask("wait_members", room=room, users=users, seconds=seconds)

    def raw(self, method, path, body=None):
        return self.ask("raw", method=method, path=path, body=body)

    def close(self):
        try:
            self.process.stdin.close()
            self.process.wait(5)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


def until(condition, seconds, what):
    """Waits for a condition with a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.02)
