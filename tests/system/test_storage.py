"""What happens to the disk: full, not writable, cut off amid a write, put back from a backup. Nothing acknowledged is
lost, what is refused is said, and it goes on when the cause is gone."""
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import time
from urllib.parse import quote, urlsplit

import pytest

from client import until
from device import BINARY


class Api:
    """Requests without a client's own retries."""

    def __init__(self, url, token=None):
        self.place, self.token = urlsplit(url), token

    def call(self, method, path, body=None, timeout=20):
        connection = http.client.HTTPConnection(self.place.hostname, self.place.port, timeout=timeout)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        path = path if path.startswith("/_matrix") else "/_matrix/client/v3" + path
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.load(answer)

    def register(self, name):
        status, answer = self.call("POST", "/register", {
            "username": name, "password": "correct horse battery", "auth": {"type": "m.login.dummy"}})
        assert status == 200, answer
        self.token, self.user = answer["access_token"], answer["user_id"]
        return self

    def room(self):
        return self.call("POST", "/createRoom", {"name": "r"})[1]["room_id"]

    def send(self, room, txn, body):
        return self.call("PUT", f"/rooms/{quote(room)}/send/m.room.message/{txn}", {"msgtype": "m.text", "body": body})

    def bodies(self, room):
        found, start = [], ""
        while True:
            status, page = self.call("GET", f"/rooms/{quote(room)}/messages?dir=b&limit=100{start}")
            assert status == 200, page
            found += [(e["content"].get("body"), e["event_id"]) for e in page["chunk"] if e["type"] == "m.room.message"]
            if "end" not in page or not page["chunk"]:
                return found[::-1]
            start = "&from=" + quote(page["end"])


def said(path, process, seconds=30):
    """The client API's address, once it is printed."""
    until(lambda: "Log in" in path.read_text() or process.poll() is not None, seconds, "start")
    assert process.poll() is None, path.read_text()
    return re.search(r"Log in .* at (http://\S+)", path.read_text()).group(1)


def run(data, out, *before):
    words = [*before, BINARY, "run", "--data", str(data), "--http", "127.0.0.1:0", "--no-multicast", "--no-rate-limits",
             "--registration", "open"]
    return subprocess.Popen(words, stdout=open(out, "w"), stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_loses_nothing_and_is_mended_by_space(tmp_path):
    data, out = tmp_path / "disk", tmp_path / "out"
    data.mkdir()
    # A file system of 12 MiB that only the node sees; the ballast is what somebody deletes later.
    script = ('mount -t tmpfs -o size=12m,mode=700 tmpfs "$1" && head -c 4M /dev/zero > "$1/ballast" && shift && exec "$@"')
    process = run(data, out, "unshare", "-m", "sh", "-c", script, "sh", str(data))
    try:
        api = Api(said(out, process)).register("alice")
        room = api.room()
        told, number, refused = [], 0, None
        while refused is None:
            assert number < 4000, "the disk gets full"
            body = f"{number} " + "x" * 30_000
            status, answer = api.send(room, number, body)
            if status == 200:
                told.append((body, answer["event_id"]))
                number += 1
            else:
                refused = status, answer
        assert refused[0] == 507 and "full" in refused[1]["error"], refused
        # Reading goes on, and asking again says the same.
        assert api.bodies(room) == told
        assert api.send(room, number, body)[0] == 507
        subprocess.run(["nsenter", "-t", str(process.pid), "-m", "rm", str(data / "ballast")], check=True)
        # The very same transaction goes through now, once.
        deadline = time.monotonic() + 10
        while (answer := api.send(room, number, body))[0] != 200:
            assert time.monotonic() < deadline, answer
        assert api.send(room, number, body) == answer
        told.append((body, answer[1]["event_id"]))
        status, answer = api.send(room, "last", "last")
        told.append(("last", answer["event_id"]))
        assert api.bodies(room) == told
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system that cannot be written")
def test_a_directory_that_cannot_be_written_is_said_in_one_line(tmp_path):
    data = tmp_path / "n"
    subprocess.run([BINARY, "init", "--data", data], check=True, capture_output=True)
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", str(data), BINARY, "run", "--data", str(data),
                           "--http", "127.0.0.1:0", "--no-multicast"], capture_output=True, text=True, timeout=20)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1 and str(data) in lines[0], done.stderr


def test_one_transaction_before_and_after_a_restart(nodes):
    node = nodes("a").start("--no-rate-limits")
    one = Api(node.url).register("alice")
    status, login = one.call("POST", "/login", {"type": "m.login.password", "password": "correct horse battery",
                                                "identifier": {"type": "m.id.user", "user": "alice"}})
    assert status == 200, login
    room = one.room()
    first = one.send(room, "t1", "hello")[1]["event_id"]
    node.stop(signal.SIGKILL)
    node.start("--no-rate-limits")
    one, two = Api(node.url, one.token), Api(node.url, login["access_token"])
    assert one.send(room, "t1", "hello")[1]["event_id"] == first, "the same device's transaction is the same event"
    second = two.send(room, "t1", "hello")[1]["event_id"]
    assert second != first, "another device's is another"
    assert [event for _, event in one.bodies(room)] == [first, second]


def test_a_restored_node_tells_its_clients_to_begin_anew(tmp_path, nodes):
    node = nodes("a").start("--no-rate-limits")
    alice = Api(node.url).register("alice")
    room = alice.room()
    kept = [f"kept {n}" for n in range(5)]
    for n, body in enumerate(kept):
        alice.send(room, f"k{n}", body)
    alice.call("POST", "/keys/upload", {"one_time_keys": {"curve25519:AAAAAQ": "b64"}})
    early, old = slide(alice)[1]["pos"], alice.call("GET", "/sync?timeout=0")[1]["next_batch"]
    file = tmp_path / "backup.tar"
    printed = node.mangrove("backup", str(file))
    assert "backup.tar" in printed and file.stat().st_mode & 0o777 == 0o600
    for n in range(30):
        alice.send(room, f"l{n}", f"lost {n}")
    since = alice.call("GET", "/sync?timeout=0")[1]["next_batch"]
    # Another client, which slides, and is ahead of the backup too; one whose position is from before it.
    pos = slide(alice)[1]["pos"]
    node.stop()
    fresh = tmp_path / "fresh"
    refused = subprocess.run([BINARY, "restore", file, "--data", node.data], capture_output=True, text=True)
    assert refused.returncode == 2 and "not empty" in refused.stderr
    subprocess.run([BINARY, "restore", file, "--data", fresh], check=True, capture_output=True)
    shutil.rmtree(node.data)
    fresh.rename(node.data)
    node.start("--no-rate-limits")
    alice = Api(node.url, alice.token)
    told = alice.call("GET", f"/sync?timeout=0&since={quote(since)}")[1]
    events = told["rooms"]["join"][room]["timeline"]["events"] + told["rooms"]["join"][room]["state"]["events"]
    assert any(event["type"] == "m.room.create" for event in events), "all of the room, not a continuation"
    assert told["device_one_time_keys_count"].get("curve25519", 0) == 0
    assert [body for body, _ in alice.bodies(room)] == kept
    since = told["next_batch"]
    for n in range(3):
        sent = alice.send(room, f"n{n}", f"new {n}")[1]["event_id"]
        told = alice.call("GET", f"/sync?timeout=5000&since={quote(since)}")[1]
        assert [event["event_id"] for event in told["rooms"]["join"][room]["timeline"]["events"]] == [sent]
        since = told["next_batch"]
    # The client that slides is told to begin anew, and then has everything there is, once.
    for lost in (pos, early):
        status, answer = slide(alice, lost)
        assert (status, answer["errcode"]) == (400, "M_UNKNOWN_POS"), answer
    answer = slide(alice)[1]
    known = [event["content"].get("body") for event in answer["rooms"][room]["timeline"] if event["type"] == "m.room.message"]
    assert known == kept + ["new 0", "new 1", "new 2"], known
    for n in range(3):
        sent = alice.send(room, f"s{n}", f"slid {n}")[1]["event_id"]
        answer = slide(alice, answer["pos"])[1]
        assert [event["event_id"] for event in answer["rooms"][room]["timeline"]] == [sent]
    # What the other kind of client had from before the backup leads nowhere either: it is told everything anew.
    told = alice.call("GET", f"/sync?timeout=0&since={quote(old)}")[1]["rooms"]["join"][room]
    assert [event["content"]["body"] for event in told["timeline"]["events"]][-1] == "slid 2"
    assert told["timeline"]["limited"] or any(event["type"] == "m.room.create" for event in told["timeline"]["events"])


def slide(api, pos=None):
    """A sliding sync of all rooms."""
    place = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0" + (f"&pos={quote(pos, safe='')}" if pos else "")
    rooms = {"ranges": [[0, 19]], "timeline_limit": 50, "required_state": [["m.room.create", ""]]}
    return api.call("POST", place, {"conn_id": "c", "lists": {"all": rooms}})


class Disk:
    """What a power cut leaves, from a trace of the system calls: what was synced, and of the rest whatever chance keeps."""

    LINE = re.compile(r"^(?P<pid>\d+) (?P<call>\w+)\((?P<rest>.*)$")

    def __init__(self, names):
        self.names = names          # files that are followed: name -> bytes at the beginning
        self.durable = {name: bytearray(data) for name, data in names.items()}
        self.pending = {name: [] for name in names}

    def write(self, name, offset, data):
        self.pending[name].append((offset, data))

    def truncate(self, name, size):
        self.pending[name].append((size, None))

    def sync(self, name):
        for change in self.pending[name]:
            self.apply(self.durable[name], change)
        self.pending[name] = []

    @staticmethod
    def apply(image, change):
        offset, data = change
        if data is None:
            del image[offset:]
            return
        if len(image) < offset + len(data):
            image.extend(bytes(offset + len(data) - len(image)))
        image[offset:offset + len(data)] = data

    def cut(self, chance):
        images = {}
        for name, image in self.durable.items():
            image = bytearray(image)
            for change in self.pending[name]:
                if chance.random() < 0.5:
                    self.apply(image, change)
            images[name] = bytes(image)
        return images


def bytes_of(text):
    """The bytes of a string as `strace -xx` writes it."""
    return bytes.fromhex(text.replace("\\x", ""))


def replay(log, start, cuts, chance):
    """Goes through the trace and gives what is on the disk at chosen system calls, with the bodies told by then."""
    disk, offsets, files, found, told = Disk(start), {}, {}, [], []
    lines = log.read_text().splitlines()
    wanted = sorted(chance.sample(range(len(lines) // 4, len(lines)), cuts))
    unfinished = {}
    for index, line in enumerate(lines):
        if wanted and index >= wanted[0]:
            wanted.pop(0)
            found.append((disk.cut(chance), list(told)))
        pid, _, line = line.partition(" ")
        line = line.strip()
        if line.endswith("<unfinished ...>"):
            unfinished[pid] = line[:-len("<unfinished ...>")].rstrip()
            continue
        resumed = re.match(r"<\.\.\. \w+ resumed>(.*)$", line)
        if resumed:
            line = unfinished.pop(pid, "") + resumed.group(1)
        match = re.match(r"(\w+)\((.*)\)\s+= (-?\d+)", line)
        if not match or int(match.group(3)) < 0:
            continue
        call, arguments, result = match.group(1), match.group(2), int(match.group(3))
        fd = re.match(r"(\d+)<([^>]*)>", arguments)
        name = os.path.basename(bytes_of(fd.group(2)).decode() if fd and fd.group(2).startswith("\\x") else fd.group(2)) if fd else ""
        if call in ("write", "sendto", "writev") and name.startswith(("TCP", "socket")) or (fd and "TCP" in fd.group(2)):
            for body in re.findall(rb'"event_id":"(\$[\w-]+)"', b"".join(bytes_of(part) for part in re.findall(r'"((?:\\x[0-9a-f]{2})+)"', arguments))):
                told.append(body.decode())
        elif name in start:
            key = fd.group(1)
            if call == "pwrite64":
                data, offset = re.match(r'\d+<[^>]*>, "((?:\\x[0-9a-f]{2})*)", \d+, (\d+)', arguments).groups()
                disk.write(name, int(offset), bytes_of(data))
            elif call == "lseek":
                offsets[key] = result
            elif call == "write":
                data = bytes_of(re.match(r'\d+<[^>]*>, "((?:\\x[0-9a-f]{2})*)"', arguments).group(1))
                disk.write(name, offsets.get(key, 0), data)
                offsets[key] = offsets.get(key, 0) + len(data)
            elif call == "ftruncate":
                disk.truncate(name, int(arguments.rsplit(",", 1)[1]))
            elif call in ("fsync", "fdatasync"):
                disk.sync(name)
    return found, told


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace writes down what is synced")
def test_a_power_cut_loses_nothing_that_was_told(tmp_path, nodes):
    """The database's files are put back to what had been synced when the power went, with a random half of the rest."""
    node = nodes("a").start("--no-rate-limits")
    alice = Api(node.url).register("alice")
    room = alice.room()
    node.stop()
    names = ("hs.db", "hs.db-wal")
    start = {name: (node.data / name).read_bytes() if (node.data / name).exists() else b"" for name in names}
    before = tmp_path / "before"
    shutil.copytree(node.data, before, ignore=shutil.ignore_patterns("ctl.sock"))
    log = tmp_path / "trace"
    process = run(node.data, tmp_path / "out", "strace", "-f", "-y", "-xx", "-s", "70000", "-o", str(log), "-e",
                  "trace=write,writev,sendto,pwrite64,lseek,ftruncate,fsync,fdatasync")
    url = said(tmp_path / "out", process, 60)
    alice = Api(url, alice.token)
    sent = []
    for n in range(60):
        status, answer = alice.send(room, f"p{n}", f"power {n}")
        assert status == 200, answer
        sent.append(answer["event_id"])
    for child in pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGTERM)
    process.wait(60)
    chance = random.Random(20201)
    found, told = replay(log, start, 6, chance)
    assert set(sent) <= set(told), "the trace holds every answer"
    checked = 0
    for number, (images, told) in enumerate(found):
        told = [event for event in told if event in sent]
        place = tmp_path / f"cut{number}"
        shutil.copytree(before, place)
        for name, data in images.items():
            (place / name).write_bytes(data)
        (place / "hs.db-shm").unlink(missing_ok=True)
        out = tmp_path / f"cut{number}.out"
        process = run(place, out)
        try:
            here = [event for _, event in Api(said(out, process), alice.token).bodies(room)]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)
        assert [event for event in here if event in told] == told, f"cut {number}: {len(told)} were told"
        assert len(set(here)) == len(here)
        checked += len(told)
    assert checked > 20, "the cuts come amid the messages"
