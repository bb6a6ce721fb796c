"""kill -9 at any moment under several senders: what a client was told is sent is there, once, in each sender's order."""
import concurrent.futures
import http.client
import json
import os
import random
import signal
import threading
import time
from urllib.parse import quote, urlsplit

# MANGROVE_CRASH_ROUNDS=50 looks longer.
ROUNDS, SENDERS = int(os.environ.get("MANGROVE_CRASH_ROUNDS", 10)), 8


class Sender:
    """Sends numbered messages one after the other; repeats one under its transaction id until it is told of success."""

    def __init__(self, name):
        self.name, self.told, self.number = name, [], 0

    def run(self, place, stop):
        connection = None
        while not stop.is_set():
            body = f"{self.name} {self.number}"
            try:
                connection = connection or http.client.HTTPConnection(*place["address"], timeout=5)
                connection.request("PUT", f"/_matrix/client/v3/rooms/{quote(place['room'])}/send/m.room.message/{self.name}-{self.number}",
                                   json.dumps({"msgtype": "m.text", "body": body}), {"Authorization": f"Bearer {place['token']}"})
                answer = connection.getresponse()
                value = json.load(answer)
                assert answer.status == 200, value
            except (OSError, http.client.HTTPException, ValueError):
                connection = None
                time.sleep(0.01)  # the node is away
                continue
            self.told.append((body, value["event_id"]))
            self.number += 1


def test_killed_at_random_under_load(nodes):
    node = nodes("a").start("--no-rate-limits")
    alice = node.client().register("alice")
    room = alice.create("12")
    place = {"room": room, "token": alice.token, "address": address(node)}
    chance = random.Random(20201)
    senders = [Sender(f"s{i}") for i in range(SENDERS)]
    with concurrent.futures.ThreadPoolExecutor(SENDERS) as pool:
        for _ in range(ROUNDS):
            stop = threading.Event()
            running = [pool.submit(sender.run, place, stop) for sender in senders]
            time.sleep(chance.uniform(0.05, 0.8))  # the moment of the crash is what is tested
            node.stop(signal.SIGKILL)
            node.start("--no-rate-limits")
            place["address"] = address(node)
            reached = [sender.number for sender in senders]
            deadline = time.monotonic() + 20
            while any(sender.number <= before for sender, before in zip(senders, reached)):
                assert time.monotonic() < deadline, "senders go on after the restart"
                time.sleep(0.02)
            stop.set()
            for future in running:
                future.result(20)
    node.client("reader").login("alice").close()
    found = everything(place)
    for sender in senders:
        bodies = [body for body, _ in found if body.startswith(f"{sender.name} ")]
        assert bodies == [body for body, _ in sender.told], f"{sender.name}: each message once, in order"
        assert set(sender.told) <= set(found), "under the event id that the client was told"


def address(node):
    url = urlsplit(node.url)
    return url.hostname, url.port


def everything(place):
    """All messages of the room from /messages, oldest first."""
    connection = http.client.HTTPConnection(*place["address"], timeout=20)
    found, start = [], ""
    while True:
        connection.request("GET", f"/_matrix/client/v3/rooms/{quote(place['room'])}/messages?dir=b&limit=500{start}",
                           headers={"Authorization": f"Bearer {place['token']}"})
        page = json.load(connection.getresponse())
        found += [(e["content"]["body"], e["event_id"]) for e in page["chunk"] if e["type"] == "m.room.message"]
        if "end" not in page or not page["chunk"]:
            return found[::-1]
        start = "&from=" + quote(page["end"])
