"""What federation costs: made-up servers that sign real events, over TLS on loopback, against Mangrove or a Synapse. A report, no test.

    target/system-tests/synapse/bin/python tests/system/federation_figures.py [mangrove|synapse]... [--only inbound,inbound8,outbound,join,away,hang]

Needs openssl, a Synapse's Python environment (./run-tests system makes one) and target/release/mangrove (or $MANGROVE). One homeserver at a
time; each scenario with an empty database. Prints a table a homeserver and one JSON line. CPU is the server's, from /proc; so is the peak of
its resident memory. The made-up servers need a core of their own: wall times on a small machine include theirs.

  inbound   50 messages a transaction, written and signed before the clock starts, next after the answer, in one room and in eight rooms of eight servers: until the last can be read
  outbound  a room with a user on each of 100 servers; messages one after the other: until the last server has the last one
  join      a room with 20,000 members of 50 servers: until a message can be sent, until all members are there
  away      200 rooms; the server is down while each gets 100 messages, then each room's newest is sent: until all rooms have it
  hang      the outbound room, where all but one server take connections and never answer: delay of the one, memory
"""
import argparse
import asyncio
import copy
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from urllib.parse import quote

from madeup import Authority, Wire, World

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLIENT, FEDERATION, FIRST = 28008, 28448, 29000
NAME = f"127.0.0.1:{FEDERATION}"
LOTS = "{per_second: 100000, burst_count: 100000}"


class Subject:
    """The homeserver under test."""

    def __init__(self, directory, authority):
        self.dir, self.authority, self.process = directory, authority, None

    async def start(self):
        with open(self.dir / "out", "a") as out:
            self.process = subprocess.Popen(self.command(), stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.dir)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.wire = await Wire.open(CLIENT)
                if (await self.wire.ask("GET", "/_matrix/client/versions"))[0] == 200:
                    return
            except OSError:
                await asyncio.sleep(0.05)
        sys.exit(f"it did not start: {(self.dir / 'out').read_text()[-3000:]}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    async def register(self, name):
        body = {"username": name, "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        status, answer = await self.wire.ask("POST", "/_matrix/client/v3/register", body)
        if status == 401:
            body["auth"]["session"] = answer["session"]
            status, answer = await self.wire.ask("POST", "/_matrix/client/v3/register", body)
        assert status == 200, answer
        self.token = answer["access_token"]
        return answer["user_id"]

    async def client(self, method, path, body=None, fine=True):
        ask = (method, f"/_matrix/client/v3{path}", body, f"Bearer {self.token}")
        try:
            status, answer = await self.wire.ask(*ask)
        except (OSError, asyncio.IncompleteReadError):
            # It was not used for a while.
            self.wire = await Wire.open(CLIENT)
            status, answer = await self.wire.ask(*ask)
        assert not fine or status == 200, (method, path, status, answer)
        return answer if fine else status

    def beside(self, wire):
        """The same user on another connection."""
        other = copy.copy(self)
        other.wire = wire
        return other

    async def join(self, room):
        await self.client("POST", f"/join/{quote(room.id)}?server_name={quote(room.maker.name)}&via={quote(room.maker.name)}", {})


class Mangrove(Subject):
    name = "mangrove"

    def command(self):
        (self.dir / "config.toml").write_text(f"""
data = "{self.dir}/node"
server_name = "{NAME}"
http = "127.0.0.1:{CLIENT}"
multicast = false
registration = "open"
rate_limits = false
log = "{os.environ.get('LOG', 'warn')}"
[federation]
listen = "127.0.0.1:{FEDERATION}"
tls_cert = "{self.authority.dir}/tls.crt"
tls_key = "{self.authority.dir}/tls.key"
extra_ca = ["{self.authority.dir}/ca.crt"]
allow_private_addresses = true
""")
        return [os.environ.get("MANGROVE", ROOT / "target" / "release" / "mangrove"), "run", "--config", self.dir / "config.toml"]


class Synapse(Subject):
    name = "synapse"

    def command(self):
        if not (self.dir / "signing.key").exists():
            from signedjson.key import generate_signing_key, write_signing_keys
            with open(self.dir / "signing.key", "w") as file:
                write_signing_keys(file, [generate_signing_key("a_1")])
        (self.dir / "log.yaml").write_text(
            "version: 1\nhandlers: {console: {class: logging.StreamHandler}}\nroot: {level: WARNING, handlers: [console]}\n")
        (self.dir / "homeserver.yaml").write_text(f"""
server_name: "{NAME}"
listeners:
  - {{port: {CLIENT}, bind_addresses: ["127.0.0.1"], type: http, resources: [{{names: [client]}}]}}
  - {{port: {FEDERATION}, bind_addresses: ["127.0.0.1"], type: http, tls: true, resources: [{{names: [federation]}}]}}
tls_certificate_path: {self.authority.dir}/tls.crt
tls_private_key_path: {self.authority.dir}/tls.key
federation_custom_ca_list: [{self.authority.dir}/ca.crt]
ip_range_blacklist: []
trusted_key_servers: []
signing_key_path: {self.dir}/signing.key
database: {{name: sqlite3, args: {{database: {self.dir}/homeserver.db}}}}
media_store_path: {self.dir}/media
log_config: {self.dir}/log.yaml
report_stats: false
macaroon_secret_key: "test"
form_secret: "test"
enable_registration: true
enable_registration_without_verification: true
bcrypt_rounds: 4
rc_message: {LOTS}
rc_registration: {LOTS}
rc_joins: {{local: {LOTS}, remote: {LOTS}}}
rc_joins_per_room: {LOTS}
rc_federation: {{window_size: 1000, sleep_limit: 100000, sleep_delay: 1, reject_limit: 100000, concurrent: 100}}
federation_rr_transactions_per_room_per_second: 9999
""")
        return [sys.executable, "-m", "synapse.app.homeserver", "-c", self.dir / "homeserver.yaml"]


def transaction(server, number, pdus):
    """A transaction's request, signed and written: what that costs is none of the receiver's."""
    uri = f"/_matrix/federation/v1/send/t{number}"
    body = {"origin": server.name, "origin_server_ts": int(time.time() * 1000), "pdus": pdus}
    return Wire.written("PUT", uri, body, server.authorization("PUT", uri, NAME, body))


async def deliver(wire, server, number, pdus):
    await told(wire, transaction(server, number, pdus))


async def told(wire, request):
    status, answer = await wire.tell(request)
    assert status == 200, answer
    errors = [result for result in answer.get("pdus", {}).values() if result]
    assert not errors, errors[0]


async def readable(subject, room, eid, seconds):
    """Until the event can be read by the user."""
    deadline = time.monotonic() + seconds
    while await subject.client("GET", f"/rooms/{quote(room.id)}/event/{quote(eid)}", fine=False) != 200:
        assert time.monotonic() < deadline, f"{eid} did not come"
        await asyncio.sleep(0.005)


def messages(room, count):
    server, user = room.maker, room.maker.user("maker")
    ids = [room.say(server, user, "m.room.message", {"msgtype": "m.text", "body": f"message {number} of a made-up conversation"})
           for number in range(count)]
    return [room.events[eid] for eid in ids], ids


async def inbound(subject, world, rooms, count):
    servers = await world.add(rooms, FIRST)
    made = [world.room(server, index) for index, server in enumerate(servers)]
    for room in made:
        await subject.join(room)
    each = [messages(room, count // rooms) for room in made]
    wires = [await world.connect(FEDERATION) for _ in made]
    each = [([transaction(room.maker, number, pdus[number:number + 50]) for number in range(0, len(pdus), 50)], ids)
            for room, (pdus, ids) in zip(made, each)]
    cpu, begun = subject.cpu(), time.monotonic()

    async def one(room, wire, requests, ids):
        for request in requests:
            await told(wire, request)
        await readable(subject.beside(await Wire.open(CLIENT)), room, ids[-1], 120)

    await asyncio.gather(*[one(room, wire, *pair) for room, wire, pair in zip(made, wires, each)])
    spent, cpu = time.monotonic() - begun, subject.cpu() - cpu
    total = sum(len(ids) for _, ids in each)
    return {"PDUs": total, "PDUs a second": round(total / spent), "CPU ms a PDU": round(cpu * 1000 / total, 2)}


async def crowd(world, servers):
    """A room with a user on each of some servers."""
    made = await world.add(servers, FIRST)
    return world.room(made[0], 0, members=[(server, server.user("m")) for server in made[1:]]), made


async def send(subject, room, number):
    body = {"msgtype": "m.text", "body": f"message {number}"}
    return (await subject.client("PUT", f"/rooms/{quote(room.id)}/send/m.room.message/x{number}", body))["event_id"]


async def members(subject, room, count, seconds):
    deadline = time.monotonic() + seconds
    while True:
        answer = await subject.client("GET", f"/rooms/{quote(room.id)}/joined_members")
        if len(answer["joined"]) >= count:
            return
        assert time.monotonic() < deadline, f"{len(answer['joined'])} of {count} members"
        await asyncio.sleep(0.2)


async def outbound(subject, world, servers, count):
    room, made = await crowd(world, servers)
    await subject.join(room)
    await members(subject, room, servers + 1, 60)
    await send(subject, room, 0)
    await everywhere(made, 1, 60)
    cpu, begun = subject.cpu(), time.monotonic()
    for number in range(1, count + 1):
        await send(subject, room, number)
    sent = time.monotonic() - begun
    await everywhere(made, count + 1, 300)
    spent, cpu = time.monotonic() - begun, subject.cpu() - cpu
    return {"servers": servers, "messages": count, "s until all are sent": round(sent, 2), "s until the last server has the last": round(spent, 2),
            "CPU ms an event": round(cpu * 1000 / count, 1)}


async def everywhere(servers, count, seconds):
    deadline = time.monotonic() + seconds
    while (behind := [server for server in servers if sum(pdu["type"] == "m.room.message" for pdu, _ in server.got) < count]):
        assert time.monotonic() < deadline, f"{len(behind)} servers wait for messages"
        await asyncio.sleep(0.01)


async def join(subject, world, count):
    made = await world.add(50, FIRST)
    crowd = [(made[index % 50], made[index % 50].user(f"member{index}")) for index in range(count)]
    room = world.room(made[0], 0, members=crowd, padding="A large room")
    cpu, begun = subject.cpu(), time.monotonic()
    await subject.join(room)
    await send(subject, room, 0)
    usable = time.monotonic() - begun
    await members(subject, room, count + 2, 900)
    return {"members": count, "s until usable": round(usable, 2), "s until whole": round(time.monotonic() - begun, 1),
            "CPU s": round(subject.cpu() - cpu, 1), "peak MB": round(subject.peak())}


async def away(subject, world, rooms, count):
    servers = await world.add(20, FIRST)
    made = [world.room(servers[index % 20], index) for index in range(rooms)]
    for room in made:
        await subject.join(room)
    subject.stop()
    newest = [messages(room, count // rooms)[0][-1] for room in made]
    await subject.start()
    cpu, begun = subject.cpu(), time.monotonic()
    wires = {}
    for index, (room, event) in enumerate(zip(made, newest)):
        wire = wires.setdefault(room.maker.name, await world.connect(FEDERATION))
        await deliver(wire, room.maker, f"late{index}", [event])
    for room in made:
        await readable(subject, room, room.end, 600)
    return {"rooms": rooms, "events missed": count, "s until each room has its newest": round(time.monotonic() - begun, 1),
            "CPU s": round(subject.cpu() - cpu, 1), "peak MB": round(subject.peak()), "asked": dict(world.asked)}


async def hang(subject, world, servers, count):
    room, made = await crowd(world, servers)
    await subject.join(room)
    await members(subject, room, servers + 1, 60)
    for server in made[1:]:
        server.hangs = True
    delays, before = [], subject.peak()
    for number in range(count):
        begun = time.monotonic()
        await send(subject, room, number)
        await everywhere(made[:1], number + 1, 60)
        delays.append((time.monotonic() - begun) * 1000)
    delays.sort()
    return {"hanging": servers - 1, "messages": count, "ms to the one that answers, median": round(delays[len(delays) // 2], 1),
            "ms, worst": round(delays[-1], 1), "peak MB before": round(before), "peak MB": round(subject.peak())}


SIZES = {"mangrove": {"inbound": 10_000, "outbound": 200, "hang": 200, "away": (200, 20_000), "join": 20_000},
         "synapse": {"inbound": 500, "outbound": 20, "hang": 20, "away": (20, 2_000), "join": 2_000}}


async def scenario(kind, what, directory):
    directory = pathlib.Path(tempfile.mkdtemp(dir=directory))
    authority = Authority(directory)
    world, subject = World(authority), kind(directory, authority)
    sizes = SIZES[kind.name]
    await subject.start()
    try:
        await subject.register("alice")
        match what:
            case "inbound":
                return {"one room": await inbound(subject, world, 1, sizes[what])}
            case "inbound8":
                return {"eight rooms": await inbound(subject, world, 8, sizes["inbound"])}
            case "outbound":
                return await outbound(subject, world, 100, sizes[what])
            case "join":
                return await join(subject, world, sizes[what])
            case "away":
                return await away(subject, world, *sizes[what])
            case "hang":
                return await hang(subject, world, 101, sizes[what])
    except (AssertionError, OSError) as error:
        return {"failed": str(error)[:500], "log": (directory / "out").read_text(errors="replace")[-1500:]}
    finally:
        world.close()
        if subject.process.poll() is None:
            subject.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", default=["mangrove", "synapse"], help="mangrove, synapse")
    parser.add_argument("--only", default="inbound,inbound8,outbound,join,away,hang")
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(prefix="mangrove-figures-") as directory:
        for kind in (kind for kind in (Mangrove, Synapse) if kind.name in arguments.subjects):
            for what in arguments.only.split(","):
                result = asyncio.run(scenario(kind, what, directory))
                results.setdefault(kind.name, {})[what] = result
                print(f"{kind.name:9} {what:9} {result}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
