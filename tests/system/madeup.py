"""Made-up homeservers: many names, each with a key, behind TLS on loopback; they sign what they like and count what they get.

All of them live in one event loop. A name is `127.0.0.1:PORT`, so that nothing has to be resolved. Needs signedjson,
canonicaljson and PyNaCl (a Synapse's Python environment has them).
"""
import asyncio
import base64
import hashlib
import json
import ssl
import subprocess
import time
import urllib.parse

import nacl.signing
from canonicaljson import encode_canonical_json

VERSION = "10"
KEEP = {"event_id", "type", "room_id", "sender", "state_key", "content", "hashes", "signatures", "depth", "prev_events", "auth_events",
        "origin", "origin_server_ts", "membership", "prev_state"}
CONTENT = {"m.room.member": {"membership", "join_authorised_via_users_server"}, "m.room.create": {"creator"},
           "m.room.join_rules": {"join_rule", "allow"}, "m.room.history_visibility": {"history_visibility"},
           "m.room.power_levels": {"ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default"}}


def b64(data):
    return base64.b64encode(data).rstrip(b"=").decode()


def pruned(event):
    kept = {key: value for key, value in event.items() if key in KEEP}
    allowed = CONTENT.get(event["type"], set())
    kept["content"] = {key: value for key, value in event["content"].items() if key in allowed}
    return kept


def event_id(event):
    bare = pruned(event)
    bare.pop("signatures", None)
    return "$" + base64.urlsafe_b64encode(hashlib.sha256(encode_canonical_json(bare)).digest()).rstrip(b"=").decode()


class Authority:
    """A certificate authority, and one certificate for 127.0.0.1 and localhost."""

    def __init__(self, directory):
        self.dir = directory
        run = lambda *command: subprocess.run(command, check=True, capture_output=True)  # noqa: E731
        ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        run("openssl", "req", "-x509", *ec, "-days", "30", "-keyout", f"{directory}/ca.key", "-out", f"{directory}/ca.crt", "-subj", "/CN=made up")
        run("openssl", "req", "-new", *ec, "-keyout", f"{directory}/tls.key", "-out", f"{directory}/tls.csr", "-subj", "/CN=127.0.0.1")
        (directory / "ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        run("openssl", "x509", "-req", "-in", f"{directory}/tls.csr", "-CA", f"{directory}/ca.crt", "-CAkey", f"{directory}/ca.key",
            "-set_serial", str(time.time_ns()), "-days", "30", "-extfile", f"{directory}/ext", "-out", f"{directory}/tls.crt")
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(f"{directory}/tls.crt", f"{directory}/tls.key")
        self.client = ssl.create_default_context(cafile=f"{directory}/ca.crt")


class Room:
    """A room as its maker has it: events by id, the state, the graph's end."""

    def __init__(self, maker, number, members=(), padding=None):
        self.maker, self.events, self.state, self.end, self.depth, self.order = maker, {}, {}, None, 0, []
        self.id = f"!room{number}-{time.time_ns()}:{maker.name}"
        creator = maker.user("maker")
        self.say(maker, creator, "m.room.create", {"creator": creator, "room_version": VERSION}, "")
        self.say(maker, creator, "m.room.member", {"membership": "join"}, creator)
        self.say(maker, creator, "m.room.power_levels", {"users": {creator: 100}}, "")
        self.say(maker, creator, "m.room.join_rules", {"join_rule": "public"}, "")
        self.say(maker, creator, "m.room.history_visibility", {"history_visibility": "shared"}, "")
        if padding:
            self.say(maker, creator, "m.room.name", {"name": padding}, "")
        for server, user in members:
            self.say(server, user, "m.room.member", {"membership": "join", "displayname": user[1:12]}, user)

    def auth(self, kind, sender, key):
        wanted = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", sender)]
        if kind == "m.room.member":
            wanted += [("m.room.join_rules", ""), ("m.room.member", key)]
        found = [self.state[entry] for entry in dict.fromkeys(wanted) if entry in self.state]
        return found if kind != "m.room.create" else []

    def draft(self, kind, content, sender, key=None):
        event = {"type": kind, "room_id": self.id, "sender": sender, "content": content, "origin_server_ts": int(time.time() * 1000),
                 "depth": self.depth + 1, "prev_events": [self.end] if self.end else [], "auth_events": self.auth(kind, sender, key)}
        if key is not None:
            event["state_key"] = key
        return event

    def say(self, server, sender, kind, content, key=None):
        return self.take(server.signed(self.draft(kind, content, sender, key)))

    def take(self, event):
        eid = event_id(event)
        if eid not in self.events:
            self.events[eid] = event
            self.order.append(eid)
            self.end, self.depth = eid, max(self.depth, event["depth"])
            if "state_key" in event:
                self.state[event["type"], event["state_key"]] = eid
        return eid

    def chain(self, ids):
        seen, open_ = set(), list(ids)
        while open_:
            for eid in self.events[open_.pop()]["auth_events"]:
                if eid not in seen:
                    seen.add(eid)
                    open_.append(eid)
        return seen

    def state_before(self, eid):
        state = {}
        for other in self.order[:self.order.index(eid)]:
            event = self.events[other]
            if "state_key" in event:
                state[event["type"], event["state_key"]] = other
        return list(state.values())


class Server:
    """One made-up homeserver."""

    def __init__(self, world, port):
        self.world, self.port, self.name = world, port, f"127.0.0.1:{port}"
        self.key = nacl.signing.SigningKey.generate()
        self.got, self.requests, self.hangs = [], 0, False
        document = {"server_name": self.name, "valid_until_ts": int(time.time() * 1000) + 86_400_000, "old_verify_keys": {},
                    "verify_keys": {"ed25519:m": {"key": b64(bytes(self.key.verify_key))}}}
        self.document = self.sign(document)

    def user(self, name):
        return f"@{name}:{self.name}"

    def sign(self, value):
        bare = {key: item for key, item in value.items() if key not in ("signatures", "unsigned")}
        signature = b64(self.key.sign(encode_canonical_json(bare)).signature)
        value.setdefault("signatures", {}).setdefault(self.name, {})["ed25519:m"] = signature
        return value

    def signed(self, event):
        event["hashes"] = {"sha256": b64(hashlib.sha256(encode_canonical_json(event)).digest())}
        event["signatures"] = self.sign(pruned(event))["signatures"]
        return event

    def authorization(self, method, uri, to, content=None):
        request = {"method": method, "uri": uri, "origin": self.name, "destination": to}
        if content is not None:
            request["content"] = content
        signature = self.sign(request)["signatures"][self.name]["ed25519:m"]
        return f'X-Matrix origin="{self.name}",destination="{to}",key="ed25519:m",sig="{signature}"'

    def answer(self, method, path, query, body):
        """(status, value) for one request; `None`: no answer at all."""
        parts = [urllib.parse.unquote(part) for part in path.split("/") if part]
        if parts[:4] == ["_matrix", "key", "v2", "server"]:
            return 200, self.document
        if parts[:2] != ["_matrix", "federation"]:
            return 404, {"errcode": "M_UNRECOGNIZED", "error": "not here"}
        what, rest = parts[3], parts[4:]
        rooms = self.world.rooms
        if what == "version":
            return 200, {"server": {"name": "made up", "version": "1"}}
        if what == "send":
            now = time.monotonic()
            self.got += [(pdu, now) for pdu in body.get("pdus", [])]
            return 200, {"pdus": {}}
        if what in ("query", "publicRooms"):
            return 404, {"errcode": "M_NOT_FOUND", "error": "nobody"}
        if what == "user":
            return 200, {"user_id": rest[-1], "stream_id": 1, "devices": []} if rest[0] == "devices" else {"device_keys": {}}
        if what == "event":
            event = next((room.events[rest[0]] for room in rooms.values() if rest[0] in room.events), None)
            return (200, {"origin": self.name, "origin_server_ts": 0, "pdus": [event]}) if event else (404, {"errcode": "M_NOT_FOUND", "error": "no"})
        room = rooms.get(rest[0]) if rest else None
        if room is None:
            return 404, {"errcode": "M_NOT_FOUND", "error": f"no such room for {what}"}
        self.world.asked[what] = self.world.asked.get(what, 0) + 1
        if what == "make_join":
            draft = room.draft("m.room.member", {"membership": "join"}, rest[1], rest[1])
            return 200, {"room_version": VERSION, "event": draft}
        if what == "send_join":
            omit = query.get("omit_members") == ["true"] or query.get("org.matrix.msc3706.partial_state") == ["true"]
            state = [eid for key, eid in room.state.items() if not omit or key[0] != "m.room.member"]
            servers = sorted({key[1].split(":", 1)[1] for key in room.state if key[0] == "m.room.member"})
            room.take(body)
            seeds = state + [event_id(body)] if omit else state
            chain = room.chain(seeds) - (set(state) if omit else set())
            return 200, {"state": Raw(room, state), "auth_chain": Raw(room, chain), "event": body, "members_omitted": omit,
                         "servers_in_room": servers, "origin": self.name}
        if what in ("state_ids", "state"):
            state = room.state_before(query["event_id"][0])
            chain = room.chain(state)
            if what == "state_ids":
                return 200, {"pdu_ids": state, "auth_chain_ids": list(chain)}
            return 200, {"pdus": Raw(room, state), "auth_chain": Raw(room, chain)}
        if what == "event_auth":
            return 200, {"auth_chain": [room.events[eid] for eid in room.chain([rest[1]])]}
        if what == "get_missing_events":
            known, latest = set(body["earliest_events"]), [room.order.index(eid) for eid in body["latest_events"] if eid in room.events]
            found, limit = [], min(body.get("limit", 10), 50)
            for eid in reversed(room.order[:max(latest, default=0)]):
                if eid in known or len(found) >= limit:
                    break
                found.append(room.events[eid])
            return 200, {"events": found[::-1]}
        if what == "backfill":
            at = max((room.order.index(eid) for eid in query.get("v", []) if eid in room.events), default=-1)
            limit = int(query.get("limit", ["10"])[0])
            return 200, {"origin": self.name, "origin_server_ts": 0, "pdus": [room.events[eid] for eid in reversed(room.order[max(0, at + 1 - limit):at + 1])]}
        return 404, {"errcode": "M_UNRECOGNIZED", "error": what}


class Raw:
    """Events of a room, written once for all who ask."""

    def __init__(self, room, ids):
        self.room, self.ids = room, ids

    def text(self):
        cache = self.room.__dict__.setdefault("texts", {})
        for eid in self.ids:
            if eid not in cache:
                cache[eid] = json.dumps(self.room.events[eid], separators=(",", ":"))
        return "[" + ",".join(cache[eid] for eid in self.ids) + "]"


def written(value):
    if any(isinstance(item, Raw) for item in value.values()):
        return ("{" + ",".join(f"{json.dumps(key)}:{item.text() if isinstance(item, Raw) else json.dumps(item)}" for key, item in value.items()) + "}").encode()
    return json.dumps(value, separators=(",", ":")).encode()


class World:
    """All made-up servers, their rooms, and the one homeserver under test at `target` (name and port)."""

    def __init__(self, authority):
        self.authority, self.servers, self.rooms, self.asked, self.listeners = authority, [], {}, {}, []

    async def add(self, count, first_port):
        for port in range(first_port, first_port + count):
            server = Server(self, port)
            self.listeners.append(await asyncio.start_server(lambda r, w, s=server: self.serve(s, r, w), "127.0.0.1", port,
                                                             ssl=self.authority.server, backlog=256))
            self.servers.append(server)
        return self.servers[-count:]

    def room(self, *arguments, **more):
        room = Room(*arguments, **more)
        self.rooms[room.id] = room
        return room

    async def serve(self, server, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                line, *headers = head.split("\r\n")
                length = next((int(header.split(":")[1]) for header in headers if header.lower().startswith("content-length")), 0)
                body = json.loads(await reader.readexactly(length)) if length else {}
                method, target, _ = line.split(" ")
                server.requests += 1
                while server.hangs:
                    await asyncio.sleep(3600)
                parsed = urllib.parse.urlsplit(target)
                status, value = server.answer(method, parsed.path, urllib.parse.parse_qs(parsed.query), body)
                data = written(value)
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError, ssl.SSLError, TimeoutError):
            pass
        finally:
            writer.close()

    async def connect(self, port):
        return await Wire.open(port, self.authority.client)

    def close(self):
        for listener in self.listeners:
            listener.close()


class Wire:
    """One HTTP/1.1 connection to the server under test."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port, context=None):
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="127.0.0.1" if context else None, limit=1 << 26))

    async def ask(self, method, uri, body=None, authorization=None):
        return await self.tell(self.written(method, uri, body, authorization))

    @staticmethod
    def written(method, uri, body=None, authorization=None):
        """A request's bytes."""
        data = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        auth = f"Authorization: {authorization}\r\n" if authorization else ""
        return (f"{method} {uri} HTTP/1.1\r\nHost: localhost\r\n{auth}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)

    async def tell(self, request):
        """Sends a request that is written already; status and answer."""
        self.writer.write(request)
        await self.writer.drain()
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = int(head.split(" ")[1])
        if "transfer-encoding: chunked" in head:
            text = b""
            while size := int((await self.reader.readline()).strip() or b"0", 16):
                text += await self.reader.readexactly(size)
                await self.reader.readline()
            await self.reader.readline()
        else:
            length = next((int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length:")), 0)
            text = await self.reader.readexactly(length)
        return status, json.loads(text) if text else {}
