"""Figures of three devices on two cables, a-b and b-c: not a test, a report.

    target/system-tests/python/bin/python tests/system/figures.py [--messages 200]

Prints a table and one JSON line. Needs root, `ip netns`, and target/release/mangrove (or $MANGROVE).
  start     from spawning the three nodes to a room that all three have joined (the clients only ask, they are ready)
  one hop   PUT /send on a, until a /sync that waits on b answers with the event; two hops: the same for c
  catch-up  c is stopped while messages are sent, comes back: from its start until it has all of them
  idle      resident and proportional memory of a node that nobody uses, CPU seconds in a minute's rest
"""
import argparse
import concurrent.futures
import ctypes
import http.client
import json
import os
import pathlib
import signal
import tempfile
import time
from urllib.parse import quote

from client import until
from device import Lab

CLONE_NEWNET = 0x40000000


class Http:
    """A client in a device's namespace: a thread of its own that has entered it, so that one clock times all."""

    def __init__(self, device):
        self.pool = concurrent.futures.ThreadPoolExecutor(1, initializer=self.enter, initargs=(device.namespace,))
        self.connection = self.token = None

    @staticmethod
    def enter(namespace):
        with open(f"/run/netns/{namespace}") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def later(self, *arguments):
        return self.pool.submit(self.request, *arguments)

    def ask(self, *arguments):
        return self.later(*arguments).result()

    def request(self, method, path, body=None):
        for attempt in (1, 2):
            try:
                self.connection = self.connection or http.client.HTTPConnection("127.0.0.1", 8008, timeout=60)
                headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
                self.connection.request(method, "/_matrix/client/v3" + path, None if body is None else json.dumps(body), headers)
                answer = self.connection.getresponse()
                value = json.load(answer)
                assert answer.status == 200, f"{method} {path}: {answer.status} {value}"
                return value, time.monotonic()
            except (OSError, http.client.HTTPException):
                self.connection = None
                if attempt == 2:
                    raise

    def register(self, name):
        body = {"username": name, "password": "correct horse battery", "auth": {"type": "m.login.dummy"}}
        made, _ = self.ask("POST", "/register", body)
        self.token, self.user = made["access_token"], made["user_id"]
        return self

    def position(self):
        return self.ask("GET", "/sync?timeout=0")[0]["next_batch"]


def events(sync, room):
    return [e["content"].get("body") for e in sync["rooms"]["join"].get(room, {}).get("timeline", {}).get("events", [])] \
        if "rooms" in sync and "join" in sync["rooms"] else []


def latency(sender, receiver, room, count):
    """Milliseconds from just before each PUT to the answer of the waiting sync that carries it."""
    times, since = [], receiver.position()
    for number in range(count):
        body = f"latency {time.monotonic_ns()}"
        waiting = receiver.later("GET", f"/sync?timeout=10000&since={since}")
        time.sleep(0.02)  # so that the sync waits
        began = time.monotonic()
        sender.ask("PUT", f"/rooms/{quote(room)}/send/m.room.message/{time.monotonic_ns()}", {"msgtype": "m.text", "body": body})
        answer, at = waiting.result()
        while body not in events(answer, room):
            answer, at = receiver.ask("GET", f"/sync?timeout=10000&since={answer['next_batch']}")
        since = answer["next_batch"]
        times.append((at - began) * 1000)
    times.sort()
    return {"p50": round(times[len(times) // 2], 2), "p99": round(times[int(len(times) * 0.99)], 2)}


def memory(process):
    fields = {}
    for line in pathlib.Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        fields[name] = int(value.split()[0])
    return {"rss_mb": round(fields["Rss"] / 1024, 1), "pss_mb": round(fields["Pss"] / 1024, 1)}


def cpu(process):
    stat = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=200)
    parser.add_argument("--rest", type=float, default=30)
    options = parser.parse_args()
    lab = Lab(pathlib.Path(tempfile.mkdtemp(prefix="mangrove-figures-")))
    result = {}
    try:
        a, b, c = devices = [lab.device(name) for name in "abc"]
        lab.cable(a, b), lab.cable(b, c)
        began = time.monotonic()
        for device in devices:
            device.start("--no-rate-limits", wait=False)
        for device in devices:
            device.wait_ready()
        result["ready_s"] = round(time.monotonic() - began, 2)
        alice, bob, carol = people = [Http(d).register(n) for d, n in zip(devices, ("alice", "bob", "carol"))]
        room = alice.ask("POST", "/createRoom", {"preset": "private_chat"})[0]["room_id"]
        for guest in (bob, carol):
            def invited():
                try:
                    alice.ask("POST", f"/rooms/{quote(room)}/invite", {"user_id": guest.user})
                    return True
                except AssertionError:
                    return False
            until(invited, 20, "invite")
            until(lambda: room in guest.ask("GET", "/sync?timeout=0")[0].get("rooms", {}).get("invite", {}), 20, "the invite")
            guest.ask("POST", f"/join/{quote(room)}", {})
        everyone = {person.user for person in people}
        for person in people:
            until(lambda: everyone == set(person.ask("GET", f"/rooms/{quote(room)}/joined_members")[0]["joined"]), 20, "members")
        result["start_to_room_s"] = round(time.monotonic() - began, 2)
        latency(alice, bob, room, 10)
        result["one_hop_ms"] = latency(alice, bob, room, options.messages)
        result["two_hops_ms"] = latency(alice, carol, room, options.messages)
        c.kill(signal.SIGTERM)
        total = 100
        for number in range(total):
            alice.ask("PUT", f"/rooms/{quote(room)}/send/m.room.message/away{number}", {"msgtype": "m.text", "body": f"away {number}"})
        time.sleep(20)  # long enough for back-off to have grown
        began = time.monotonic()
        c.start("--no-rate-limits")

        def has_all():
            page = carol.ask("GET", f"/rooms/{quote(room)}/messages?dir=b&limit=200")[0]
            return total == sum(e["content"].get("body", "").startswith("away ") for e in page["chunk"])
        until(has_all, 60, "catch-up")
        result["catch_up_from_start_s"] = round(time.monotonic() - began, 2)
        before = [cpu(d.process) for d in devices]
        time.sleep(options.rest)
        result["idle_cpu_s_per_minute"] = [round((cpu(d.process) - x) * 60 / options.rest, 2) for d, x in zip(devices, before)]
        result["after_use"] = [memory(d.process) for d in devices]
        fresh = lab.device("d")
        fresh.start()
        time.sleep(3)
        result["idle_fresh"] = memory(fresh.process)
    finally:
        lab.close()
    for key, value in result.items():
        print(f"{key:26} {value}")
    print(json.dumps(result))


main()
