"""Mangrove and Synapse in one room: what each does is seen by the other, and both end with one state."""
import itertools
import json
import struct
import time
import zlib

import pytest

import synapse
from api import Answer, settled

VERSIONS = ["10", "11", "12"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    pair = synapse.skip_or(lambda: synapse.Pair(tmp_path_factory.mktemp("synapse")))
    yield pair
    pair.close()


@pytest.fixture(autouse=True)
def logs(pair, request):
    yield
    if getattr(request.node, "failed", False):
        for host in pair.hosts:
            text = host.output.read_text(errors="replace")
            print(f"--- {host.name}\n{text[-4000:]}")


NUMBER = itertools.count(1)


@pytest.fixture(params=["mangrove", "synapse"])
def users(pair, request):
    """A user here and one there; the first is on the server that is named and makes the rooms."""
    hosts = pair.hosts if request.param == "mangrove" else pair.hosts[::-1]
    number = next(NUMBER)
    maker, guest = (host.user(f"{name}{number}") for host, name in zip(hosts, ("maker", "guest")))
    maker.host, guest.host = hosts
    for user in (maker, guest):
        user.sync()
    return maker, guest


def together(maker, guest, version="11", **more):
    room = maker.create(version, preset="private_chat", invite=[guest.user], **more)
    guest.until_invited(room)
    guest.join(room)
    maker.until_event(room, lambda e: e.get("state_key") == guest.user and e["content"]["membership"] == "join")
    return room


def same_state(room, one, other, seconds=30):
    deadline = time.monotonic() + seconds
    while True:
        here, there = (set(user.current(room).items()) for user in (one, other))
        if here == there:
            return
        assert time.monotonic() < deadline, f"the states of {room} differ: only {one.user}: {here - there}, only {other.user}: {there - here}"
        time.sleep(0.1)


@pytest.mark.parametrize("version", VERSIONS)
def test_invite_messages_edits_threads_reactions_redactions(users, version):
    maker, guest = users
    room = together(maker, guest, version)
    first = maker.send(room, "hello from the maker")
    guest.until_body(room, "hello from the maker")
    reply = guest.send(room, "hello from the guest")
    maker.until_body(room, "hello from the guest")
    guest.send(room, "* better", **{"m.new_content": {"msgtype": "m.text", "body": "better"},
                                    "m.relates_to": {"rel_type": "m.replace", "event_id": reply}})
    maker.until_body(room, "* better")
    edited = settled("the edit is bundled", 10, lambda: maker.get("v3", "rooms", room, "event", reply)["unsigned"]
                     .get("m.relations", {}).get("m.replace"))
    assert edited
    maker.send(room, "in a thread", **{"m.relates_to": {"rel_type": "m.thread", "event_id": first}})
    guest.until_body(room, "in a thread")
    thread = guest.get("v3", "rooms", room, "event", first)["unsigned"]["m.relations"]["m.thread"]
    assert thread["count"] == 1
    guest.send(room, {"m.relates_to": {"rel_type": "m.annotation", "event_id": first, "key": "!"}}, "m.reaction")
    maker.until_event(room, lambda e: e["type"] == "m.reaction")
    guest.put("v3", "rooms", room, "redact", reply, "r1", body={"reason": "slip"})
    maker.until_event(room, lambda e: e["type"] == "m.room.redaction")
    assert "body" not in maker.get("v3", "rooms", room, "event", reply)["content"]
    maker.state(room, "m.room.name", {"name": f"a room of version {version}"})
    guest.until_event(room, lambda e: e["type"] == "m.room.name")
    same_state(room, maker, guest)
    guest.post("v3", "rooms", room, "leave")
    maker.until_event(room, lambda e: e.get("state_key") == guest.user and e["content"]["membership"] == "leave")


def test_typing_and_receipts(users):
    maker, guest = users
    room = together(maker, guest)
    for one, other in ((maker, guest), (guest, maker)):
        one.put("v3", "rooms", room, "typing", one.user, body={"typing": True, "timeout": 20000})
        other.until_ephemeral(room, "m.typing", lambda c: one.user in c["user_ids"])
        event = one.send(room, f"read this, {other.user}")
        other.until_body(room, f"read this, {other.user}")
        other.post("v3", "rooms", room, "receipt", "m.read", event)
        one.until_ephemeral(room, "m.receipt", lambda c: other.user in c.get(event, {}).get("m.read", {}))


def test_alias_directory_and_profile(users):
    maker, guest = users
    name = f"hall{next(NUMBER)}"
    room = maker.create("11", preset="public_chat", visibility="public", room_alias_name=name, name=f"The {name}")
    alias = f"#{name}:{maker.host.name}"
    maker.put("v3", "profile", maker.user, "displayname", body={"displayname": "The Maker"})
    found = guest.post("v3", "publicRooms", body={"filter": {"generic_search_term": name}, "limit": 10}, server=maker.host.name)
    assert [entry["room_id"] for entry in found["chunk"]] == [room]
    assert guest.get("v3", "directory", "room", alias)["room_id"] == room
    assert guest.join(alias) == room
    assert guest.get("v3", "profile", maker.user)["displayname"] == "The Maker"
    guest.send(room, "by its alias")
    maker.until_body(room, "by its alias")
    # The new name may have crossed the join; what is said next builds on both.
    maker.send(room, "welcome")
    guest.until_body(room, "welcome")
    same_state(room, maker, guest)


def test_knock(users):
    maker, guest = users
    room = maker.create("11", initial_state=[{"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}])
    guest.post("v3", "knock", room, via=maker.host.name, server_name=maker.host.name)
    maker.until_event(room, lambda e: e.get("state_key") == guest.user and e["content"]["membership"] == "knock")
    maker.invite(room, guest.user)
    guest.until_invited(room)
    guest.join(room)
    guest.send(room, "let in")
    maker.until_body(room, "let in")


@pytest.mark.parametrize("version", VERSIONS)
def test_restricted(users, version):
    maker, guest = users
    club = together(maker, guest, version)
    rule = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": club}]}
    room = maker.create(version, initial_state=[{"type": "m.room.join_rules", "state_key": "", "content": rule}])
    guest.join(room, maker.host.name)
    guest.send(room, "a member of the club")
    maker.until_body(room, "a member of the club")
    same_state(room, maker, guest)
    guest.post("v3", "rooms", room, "leave")
    guest.post("v3", "rooms", club, "leave")
    maker.until_event(club, lambda e: e.get("state_key") == guest.user and e["content"]["membership"] == "leave")
    with pytest.raises(Answer) as refused:
        guest.join(room, maker.host.name)
    assert refused.value.status == 403


def test_kick_ban_and_the_way_back(users):
    maker, guest = users
    room = together(maker, guest)
    maker.post("v3", "rooms", room, "kick", body={"user_id": guest.user})
    guest.until("the kick", lambda a: a.get("rooms", {}).get("leave", {}).get(room))
    maker.invite(room, guest.user)
    guest.until_invited(room)
    guest.join(room)
    maker.post("v3", "rooms", room, "ban", body={"user_id": guest.user})
    guest.until("the ban", lambda a: a.get("rooms", {}).get("leave", {}).get(room))
    with pytest.raises(Answer):
        guest.join(room, maker.host.name)
    maker.post("v3", "rooms", room, "unban", body={"user_id": guest.user})
    maker.invite(room, guest.user)
    guest.until_invited(room)
    guest.join(room)
    guest.send(room, "back again")
    maker.until_body(room, "back again")


def test_declined_and_withdrawn_invites(users):
    maker, guest = users
    room = maker.create("12", preset="private_chat", invite=[guest.user])
    guest.until_invited(room)
    guest.post("v3", "rooms", room, "leave")
    maker.until_event(room, lambda e: e.get("state_key") == guest.user and e["content"]["membership"] == "leave")
    maker.invite(room, guest.user)
    guest.until_invited(room)
    maker.post("v3", "rooms", room, "kick", body={"user_id": guest.user})
    guest.until("the withdrawal", lambda a: a.get("rooms", {}).get("leave", {}).get(room))


def test_to_device_and_device_lists(users):
    maker, guest = users
    together(maker, guest)
    for one, other in ((maker, guest), (guest, maker)):
        content = {"messages": {other.user: {other.device: {"from": one.user}}}}
        one.put("v3", "sendToDevice", "org.example.test", "x1", body=content)
        other.until("a message to the device", lambda a: [
            e for e in a.get("to_device", {}).get("events", []) if e["content"] == {"from": one.user}])
        keys = {"user_id": one.user, "device_id": one.device, "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
                "keys": {f"ed25519:{one.device}": "A" * 43, f"curve25519:{one.device}": "B" * 43},
                "signatures": {one.user: {f"ed25519:{one.device}": "C" * 86}}}
        one.post("v3", "keys", "upload", body={"device_keys": keys})
        other.until("a changed list", lambda a: one.user in a.get("device_lists", {}).get("changed", []))
        def known():
            found = other.post("v3", "keys", "query", body={"device_keys": {one.user: []}})
            return found["device_keys"].get(one.user, {}).get(one.device, {}).get("keys") == keys["keys"]
        settled("the keys", 15, known)


def test_encrypted(pair):
    number = next(NUMBER)
    here, there = (host.client(f"e{number}").register(f"enc{number}") for host in pair.hosts)
    for maker, guest in ((here, there), (there, here)):
        room = maker.create("11", encrypted=True, invite=[guest.user])
        guest.accept(room)
        maker.wait_members(room, guest.user)
        guest.wait_members(room, maker.user)
        maker.send(room, "sealed by the maker")
        guest.wait(room, "sealed by the maker", seconds=30)
        guest.send(room, "sealed by the guest")
        seen = maker.wait(room, "sealed by the guest", seconds=30)
        assert all(entry["decrypted"] for entry in seen if entry["body"])
        assert not any(entry["undecrypted"] for entry in seen)


def picture():
    """A PNG of 64 x 64 pixels."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + bytes((x * 4, y * 4, 128)[i] for x in range(64) for i in range(3)) for y in range(64))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def test_media(users):
    maker, guest = users
    data = picture()
    status, answer = maker.raw("POST", "/_matrix/media/v3/upload?filename=p.png", data, "image/png")
    assert status == 200, answer
    server, media = json.loads(answer)["content_uri"].removeprefix("mxc://").split("/")
    status, got = guest.raw("GET", f"/_matrix/client/v1/media/download/{server}/{media}")
    assert (status, got) == (200, data)
    status, got = guest.raw("GET", f"/_matrix/client/v1/media/thumbnail/{server}/{media}?width=32&height=32&method=scale")
    assert status == 200 and got[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0"), got[:100]
    status, _ = guest.raw("GET", f"/_matrix/client/v1/media/download/{server}/{'x' * 24}")
    assert status == 404


def test_spaces(users):
    maker, guest = users
    space = maker.create("11", preset="public_chat", creation_content={"type": "m.space"}, name="the space")
    inner = maker.create("11", preset="public_chat", name="inside")
    secret = maker.create("11", preset="private_chat", name="secret")
    for child in (inner, secret):
        maker.state(space, "m.space.child", {"via": [maker.host.name]}, child)
    guest.join(space, maker.host.name)
    found = guest.get("v1", "rooms", space, "hierarchy")["rooms"]
    assert [room["room_id"] for room in found] == [space, inner], found
    assert len(found[0]["children_state"]) == 2


@pytest.mark.parametrize("count", [500])
def test_backfill_of_many_events(users, count):
    maker, guest = users
    room = maker.create("11", preset="public_chat")
    for number in range(count):
        maker.send(room, f"{number}")
    guest.join(room, maker.host.name)
    bodies = [e["content"]["body"] for e in guest.back(room) if e["type"] == "m.room.message"]
    assert bodies == [str(number) for number in range(count)]
    assert guest.back(room)[0]["type"] == "m.room.create"


def test_jump_to_a_date_before_the_join(users):
    maker, guest = users
    room = maker.create("11", preset="public_chat")
    maker.send(room, "one")
    before = int(time.time() * 1000)
    event = maker.send(room, "two")
    for number in range(5):
        maker.send(room, f"later {number}")
    guest.join(room, maker.host.name)
    found = guest.get("v1", "rooms", room, "timestamp_to_event", ts=before, dir="f")
    assert found["event_id"] == event


@pytest.mark.parametrize("version", [("10", "11"), ("11", "12")], ids=["10to11", "11to12"])
def test_upgrade(users, version):
    maker, guest = users
    old, new = version
    room = together(maker, guest, old, name="old house")
    again = maker.post("v3", "rooms", room, "upgrade", body={"new_version": new})["replacement_room"]
    tombstone = guest.until_event(room, lambda e: e["type"] == "m.room.tombstone")
    assert tombstone["content"]["replacement_room"] == again
    maker.invite(again, guest.user)
    guest.until_invited(again)
    guest.join(again, maker.host.name)
    guest.send(again, "moved in")
    maker.until_body(again, "moved in")
    assert guest.get("v3", "rooms", again, "state", "m.room.name")["name"] == "old house"


@pytest.mark.parametrize("who", ["mangrove", "synapse"])
def test_killed_and_back(pair, who):
    number = next(NUMBER)
    here, there = (host.user(f"kill{number}") for host in pair.hosts)
    room = together(here, there, "11")
    victim, (alive, gone) = {"mangrove": (pair.mangrove, (there, here)), "synapse": (pair.synapse, (here, there))}[who]
    gone.send(room, "the last word")
    alive.until_body(room, "the last word")
    victim.kill()
    said = [f"while away {i}" for i in range(30)]
    for body in said:
        alive.send(room, body)
    victim.start()
    def caught_up():
        return [e["content"]["body"] for e in gone.back(room) if e["type"] == "m.room.message"][1:] == said
    settled("catching up", 60, caught_up)
    gone.send(room, "back")
    alive.until_body(room, "back")
    same_state(room, here, there)


def test_cut_apart_and_merged(pair):
    number = next(NUMBER)
    here, there = (host.user(f"cut{number}") for host in pair.hosts)
    room = together(here, there, "11", power_level_content_override={"events": {}, "state_default": 0})
    pair.cut()
    try:
        for i in range(10):
            here.send(room, f"here {i}")
            there.send(room, f"there {i}")
        here.state(room, "m.room.topic", {"topic": "of the one side"})
        there.state(room, "m.room.topic", {"topic": "of the other"})
        there.state(room, "m.room.name", {"name": "named while apart"})
    finally:
        pair.mend()
    everything = {f"{side} {i}" for side in ("here", "there") for i in range(10)}
    for user in (here, there):
        settled("all messages of both sides", 90, lambda: {
            e["content"]["body"] for e in user.back(room) if e["type"] == "m.room.message"} == everything)
    # Whoever speaks next builds on both sides.
    here.send(room, "together")
    there.until_body(room, "together")
    same_state(room, here, there)


def test_a_thousand_interleaved_messages_arrive_once_and_in_order(pair):
    number = next(NUMBER)
    here, there = (host.user(f"many{number}") for host in pair.hosts)
    room = together(here, there, "11")
    for i in range(500):
        here.send(room, f"here {i}")
        there.send(room, f"there {i}")
    for user in (here, there):
        def bodies():
            return [e["content"]["body"] for e in user.back(room, 500) if e["type"] == "m.room.message"]
        settled("all of them", 90, lambda: len(bodies()) >= 1000)
        seen = bodies()
        assert len(seen) == 1000
        for side in ("here", "there"):
            assert [b for b in seen if b.startswith(side)] == [f"{side} {i}" for i in range(500)], f"{side} at {user.user}"
    same_state(room, here, there)
