"""A Matrix user by plain HTTP, spoken from inside a network namespace: for what a test wants to see byte by byte."""
import contextlib
import ctypes
import http.client
import json
import os
import time
from urllib.parse import quote

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def inside(namespace):
    """This thread makes its sockets in a named network namespace; they stay there."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/var/run/netns/{namespace}", os.O_RDONLY)
    try:
        assert LIBC.setns(there, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        LIBC.setns(home, CLONE_NEWNET)
        os.close(home)
        os.close(there)


class Connection(http.client.HTTPConnection):
    def __init__(self, namespace, port, timeout):
        super().__init__("127.0.0.1", port, timeout=timeout)
        self.namespace = namespace

    def connect(self):
        with inside(self.namespace):
            super().connect()


class Answer(Exception):
    """The server said no."""

    def __init__(self, what, status, body):
        super().__init__(f"{what}: {status} {body}")
        self.status, self.body = status, body


def path(*parts, **query):
    """/_matrix/client/ and the parts, each quoted; None leaves a question out."""
    text = "/_matrix/client/" + "/".join(quote(part, safe="") for part in parts)
    asked = [f"{key}={quote(str(value), safe='')}" for key, value in query.items() if value is not None]
    return text + ("?" + "&".join(asked) if asked else "")


class Api:
    """One user on one device."""

    def __init__(self, namespace, name, port=8008, password="correct horse battery staple"):
        self.namespace, self.port, self.token, self.since, self.sent = namespace, port, None, None, 0
        answer = self.call("POST", path("v3", "register"), {
            "username": name, "password": password, "auth": {"type": "m.login.dummy"}})
        self.user, self.token, self.device = answer["user_id"], answer["access_token"], answer["device_id"]
        self.timeline, self.rooms = [], {}

    def raw(self, method, where, body=None, kind="application/json", timeout=120):
        connection = Connection(self.namespace, self.port, timeout)
        headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        connection.request(method, where, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, data

    def call(self, method, where, body=None):
        status, data = self.raw(method, where, None if body is None else json.dumps(body))
        value = json.loads(data)
        if status != 200:
            raise Answer(f"{method} {where}", status, value)
        return value

    def get(self, *parts, **query):
        return self.call("GET", path(*parts, **query))

    def put(self, *parts, body):
        return self.call("PUT", path(*parts), body)

    def post(self, *parts, body=None, **query):
        return self.call("POST", path(*parts, **query), body or {})

    # Rooms
    def create(self, version, **more):
        return self.post("v3", "createRoom", body={"room_version": version} | more)["room_id"]

    def join(self, room, via=None):
        return self.post("v3", "join", room, server_name=via, via=via)["room_id"]

    def invite(self, room, user):
        self.post("v3", "rooms", room, "invite", body={"user_id": user})

    def send(self, room, body, kind="m.room.message", **more):
        self.sent += 1
        content = {"msgtype": "m.text", "body": body} | more if isinstance(body, str) else body
        return self.put("v3", "rooms", room, "send", kind, f"t{self.sent}", body=content)["event_id"]

    def state(self, room, kind, content, key=""):
        return self.put("v3", "rooms", room, "state", kind, key, body=content)["event_id"]

    def current(self, room):
        """The room's state: (type, state key) -> event id."""
        events = self.get("v3", "rooms", room, "state")
        return {(event["type"], event["state_key"]): event["event_id"] for event in events}

    def members(self, room):
        return sorted(self.get("v3", "rooms", room, "joined_members")["joined"])

    def back(self, room, limit=100, start=None):
        """All events of the timeline that can be had, oldest first."""
        found = []
        while True:
            page = self.get("v3", "rooms", room, "messages", dir="b", limit=limit, **{"from": start})
            found += page["chunk"]
            start = page.get("end")
            if not start or not page["chunk"]:
                return found[::-1]

    # Sync
    def sync(self, timeout=0):
        answer = self.get("v3", "sync", since=self.since, timeout=timeout)
        self.since = answer["next_batch"]
        return answer

    def until(self, what, check, seconds=30):
        """Syncs until `check` finds something in an answer."""
        deadline = time.monotonic() + seconds
        while True:
            answer = self.sync(1000)
            found = check(answer)
            if found:
                return found
            assert time.monotonic() < deadline, f"{self.user}: {what} did not come within {seconds} s; last: {answer}"

    def until_invited(self, room):
        return self.until(f"an invite to {room}", lambda a: a.get("rooms", {}).get("invite", {}).get(room))

    def until_event(self, room, check, what="an event"):
        """The first event in a room's timeline that `check` likes; state that came with the room counts."""
        def look(answer):
            there = answer.get("rooms", {}).get("join", {}).get(room, {})
            parts = [there.get("state", {}), there.get("timeline", {})]
            return next((e for part in parts for e in part.get("events", []) if check(e)), None)
        return self.until(f"{what} in {room}", look)

    def until_body(self, room, body):
        return self.until_event(room, lambda e: e.get("content", {}).get("body") == body, f"{body!r}")

    def until_ephemeral(self, room, kind, check):
        def look(answer):
            events = answer.get("rooms", {}).get("join", {}).get(room, {}).get("ephemeral", {}).get("events", [])
            return next((e["content"] for e in events if e["type"] == kind and check(e["content"])), None)
        return self.until(f"{kind} in {room}", look)


def settled(what, seconds, check):
    """Asks until the answer is something, with a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = check()
        except Answer as error:
            found, last = None, error
        else:
            last = found
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s; last: {last}"
        time.sleep(0.1)
