"""Figures of big accounts and big rooms: not a test, a report.

    target/system-tests/python/bin/python tests/system/big.py [--rooms 2000] [--members 200,2000,20000]
        [--synapse http://127.0.0.1:8108 --synapse-pid PID]

Starts a node on loopback with an application service, which makes the members (no password is hashed for them). With
--synapse, the account is made on that homeserver as well (open registration, no rate limits) and measured the same way.
Prints tables and one JSON line. Needs target/release/mangrove (or $MANGROVE).
  first sliding sync   a new connection's list of the newest 20 rooms, as Element X asks
  initial v2 sync      20 events a room, members loaded lazily
  joined, opened, sent, told: a join, a new connection with a subscription to the room, PUT /send (with nobody waiting),
                       the next v2 sync of a member with lazy members, which tells of that message
Each figure is the least and the median wall time in milliseconds, and the processor time of the server per request.
"""
import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import statistics
import tempfile
import threading
import time
from urllib.parse import quote, urlsplit

from node import Node, free_port

V3 = "/_matrix/client/v3"
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0"
LAZY = quote(json.dumps({"room": {"timeline": {"limit": 20}, "state": {"lazy_load_members": True}}}))
STATE = [["m.room.name", ""], ["m.room.avatar", ""], ["m.room.encryption", ""], ["m.room.member", "$ME"],
         ["m.room.member", "$LAZY"], ["m.room.create", ""], ["m.room.power_levels", ""]]
TEXT = "a message of about seventy characters, as people write them in rooms"
REGISTRATION = """
id: figures
url: http://127.0.0.1:{port}
as_token: as_secret_token
hs_token: hs_secret_token
sender_localpart: figures
rate_limited: false
namespaces:
  users: [{{regex: '@m[0-9]+:.*', exclusive: true}}]
  aliases: []
  rooms: []
"""


class Http:
    """Requests to one server as one user; each thread has its own connection."""

    def __init__(self, url, token=None, acting=None):
        self.address, self.token, self.acting, self.local = urlsplit(url).netloc, token, acting, threading.local()

    def ask(self, method, path, body=None, raw=False):
        if self.acting:
            path += ("&" if "?" in path else "?") + "user_id=" + quote(self.acting)
        for attempt in (1, 2):
            connection = getattr(self.local, "connection", None)
            try:
                if connection is None:
                    connection = self.local.connection = http.client.HTTPConnection(self.address, timeout=600)
                headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
                connection.request(method, path, None if body is None else json.dumps(body), headers)
                answer = connection.getresponse()
                data = answer.read()
                break
            except (OSError, http.client.HTTPException):
                self.local.connection = None
                if attempt == 2:
                    raise
        assert answer.status in (200, 201), f"{method} {path}: {answer.status} {data[:300]}"
        return data if raw else json.loads(data)


def cpu(pid):
    """Processor seconds of a process and the children that it has waited for."""
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return sum(map(int, stat[11:15])) / os.sysconf("SC_CLK_TCK")


def timed(pid, count, ask):
    """Asks so often; least and median milliseconds, and processor milliseconds each."""
    times, began = [], cpu(pid)
    for number in range(count):
        start = time.monotonic()
        ask(number)
        times.append((time.monotonic() - start) * 1000)
    return {"least_ms": round(min(times), 2), "median_ms": round(statistics.median(times), 2),
            "cpu_ms": round((cpu(pid) - began) * 1000 / count, 2)}


def all_at_once(threads, work, items):
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items):
            pass


def account(url, pid, rooms, messages=20):
    """An account in so many rooms: how long its first syncs take."""
    made = Http(url).ask("POST", V3 + "/register", {"username": f"big{time.time_ns()}", "password": "correct horse battery",
                                                    "auth": {"type": "m.login.dummy"}})
    user = Http(url, made["access_token"])

    def fill(number):
        room = quote(user.ask("POST", V3 + "/createRoom", {"name": f"room {number}", "topic": "what it is about"})["room_id"])
        for message in range(messages):
            user.ask("PUT", f"{V3}/rooms/{room}/send/m.room.message/{message}", {"msgtype": "m.text", "body": TEXT})

    began, used = time.monotonic(), cpu(pid)
    all_at_once(4, fill, range(rooms))
    result = {"rooms": rooms, "made_in_s": round(time.monotonic() - began, 1), "made_cpu_s": round(cpu(pid) - used, 1)}

    def slide(number):
        body = {"conn_id": f"c{number}", "lists": {"all": {"ranges": [[0, 19]], "timeline_limit": 1, "required_state": STATE}},
                "extensions": {name: {"enabled": True} for name in ("e2ee", "to_device", "account_data", "receipts", "typing")}}
        told = user.ask("POST", SLIDING, body)
        assert len(told["rooms"]) == min(20, rooms), len(told["rooms"])

    result["first_of_all_ms"] = timed(pid, 1, lambda _: slide(0))["least_ms"]
    result["first_sliding_sync"] = timed(pid, 20, lambda number: slide(number + 1))
    sizes = []

    def initial(number):
        # Another filter each time: a server may keep its answer to the same question.
        room = {"timeline": {"limit": 20, "not_types": [f"x.{number}"]}, "state": {"lazy_load_members": True}}
        sizes.append(len(user.ask("GET", f"{V3}/sync?timeout=0&filter={quote(json.dumps({'room': room}))}", raw=True)))

    result["initial_v2_sync"] = timed(pid, 5, initial)
    result["initial_v2_bytes"] = sizes[-1]
    return result


def big_room(node, members):
    """A room with so many members of this server: what each step takes."""
    url, pid, token = node.url, node.process.pid, "as_secret_token"
    service = Http(url, token)
    owner = service.ask("POST", V3 + "/register", {"type": "m.login.application_service", "username": f"m{time.time_ns()}"})["user_id"]
    owner = Http(url, token, owner)
    room = owner.ask("POST", V3 + "/createRoom", {"preset": "public_chat", "name": "The square"})["room_id"]
    path, prefix = quote(room), time.time_ns() // 1000
    local = threading.local()

    def enter(number):
        connection = getattr(local, "service", None) or Http(url, token)
        local.service = connection
        user = connection.ask("POST", V3 + "/register", {"type": "m.login.application_service", "username": f"m{prefix}{number:06}"})["user_id"]
        connection.acting = user
        connection.ask("POST", f"{V3}/join/{path}", {})
        connection.acting = None

    all_at_once(4, enter, range(members - 20))
    late = []
    for number in range(20):
        name = f"m{prefix}9{number:06}"
        late.append(Http(url, token, service.ask("POST", V3 + "/register", {"type": "m.login.application_service", "username": name})["user_id"]))
    result = {"members": members, "join": timed(pid, 19, lambda n: late[n].ask("POST", f"{V3}/join/{path}", {}))}
    user = late[0]
    user.ask("PUT", V3 + "/devices/D", {})

    def opened(number):
        body = {"conn_id": f"o{number}", "room_subscriptions": {room: {"timeline_limit": 20, "required_state": STATE}},
                "extensions": {name: {"enabled": True} for name in ("account_data", "receipts", "typing")}}
        assert room in user.ask("POST", SLIDING + "&device_id=D", body)["rooms"]

    def send(number):
        owner.ask("PUT", f"{V3}/rooms/{path}/send/m.room.message/{time.time_ns()}", {"msgtype": "m.text", "body": TEXT})

    def named(number):
        body = {"msgtype": "m.text", "body": TEXT, "m.mentions": {"user_ids": [user.acting]}}
        owner.ask("PUT", f"{V3}/rooms/{path}/send/m.room.message/{time.time_ns()}", body)

    result["open"] = timed(pid, 20, opened)
    result["open_again"] = timed(pid, 20, opened)
    result["send"] = timed(pid, 50, send)
    result["send_naming_one"] = timed(pid, 50, named)
    result["initial_lazy_sync"] = timed(pid, 20, lambda _: user.ask("GET", f"{V3}/sync?timeout=0&filter={LAZY}"))
    since = user.ask("GET", f"{V3}/sync?timeout=0&filter={LAZY}")["next_batch"]
    send(0)
    result["next_lazy_sync"] = timed(pid, 20, lambda _: user.ask("GET", f"{V3}/sync?timeout=0&since={since}&filter={LAZY}"))
    result["messages"] = timed(pid, 20, lambda _: user.ask("GET", f"{V3}/rooms/{path}/messages?dir=b&limit=20&filter=" +
                                                           quote('{"lazy_load_members":true}')))
    return result


def show(result):
    for name, value in result.items():
        if isinstance(value, dict):
            print(f"  {name:22} {value['least_ms']:9.2f} {value['median_ms']:9.2f} ms, processor {value['cpu_ms']:8.2f} ms")
        else:
            print(f"  {name:22} {value}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rooms", type=int, default=2000)
    parser.add_argument("--members", default="200,2000,20000")
    parser.add_argument("--synapse")
    parser.add_argument("--synapse-pid", type=int)
    parser.add_argument("--synapse-rooms", type=int, help="rooms there, if fewer are to do; both are measured with so many")
    options = parser.parse_args()
    results = []
    directory = pathlib.Path(tempfile.mkdtemp(prefix="mangrove-big-"))
    config = directory / "mangrove.toml"
    (directory / "service.yaml").write_text(REGISTRATION.format(port=free_port()))
    config.write_text(f'appservices = ["{directory}/service.yaml"]\n')
    node = Node(directory, "big").start("--no-rate-limits", "--config", str(config))
    try:
        fewer = options.synapse_rooms or options.rooms
        accounts = [("mangrove", node.url, node.process.pid, rooms) for rooms in sorted({fewer, options.rooms}) if rooms]
        if options.synapse:
            accounts.append(("synapse", options.synapse, options.synapse_pid, fewer))
        for name, url, pid, rooms in accounts:
            results.append({"server": name} | account(url, pid, rooms))
            show(results[-1])
        for members in filter(None, options.members.split(",")):
            results.append({"server": "mangrove"} | big_room(node, int(members)))
            show(results[-1])
    finally:
        node.close()
    print(json.dumps(results))


main()
