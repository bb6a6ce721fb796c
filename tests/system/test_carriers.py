"""Two carriers at once: servers by TLS only, by the overlay only, by both, and a Synapse; who may meet whom, and what happens when one carrier goes."""
import itertools
import json
import os

import pytest

import synapse
from api import Answer, settled
from carriers import Gateway, Hub, OnBoth, OnTls, OverlayOnly, Peer

NUMBER = itertools.count(1)


class Nets:
    """a: TLS only; b: a gateway name on both carriers; c: below .alt; d: a domain on both carriers; s: a Synapse."""

    def __init__(self, directory):
        self.hub = hub = Hub(directory, f"mc{os.getpid()}-")
        plugs = {"a": (OnTls, "tls"), "b": (Gateway, "tls", "mesh"), "c": (OverlayOnly, "mesh"), "d": (OnBoth, "tls", "mesh"),
                 "s": (Peer, "tls")}
        for number, (short, (kind, *nets)) in enumerate(plugs.items(), 1):
            setattr(self, short, hub.plug(kind(hub, short, f"10.77.0.{number}"), *nets))
        hub.write_names()
        for host in hub.hosts:
            host.start()


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    nets = synapse.skip_or(lambda: Nets(tmp_path_factory.mktemp("carriers")))
    yield nets
    nets.hub.close()


@pytest.fixture(autouse=True)
def logs(nets, request):
    yield
    if getattr(request.node, "failed", False):
        for host in nets.hub.hosts:
            print(f"--- {host.name}\n{host.output.read_text(errors='replace')[-4000:]}")


def users(*hosts):
    """A user on each, who has synced once."""
    made = []
    for host in hosts:
        user = host.user(f"{host.short}{next(NUMBER)}")
        user.host = host
        user.sync()
        made.append(user)
    return made


def together(maker, *guests, version="11", **more):
    room = maker.create(version, preset="private_chat", invite=[guest.user for guest in guests], **more)
    for guest in guests:
        guest.until_invited(room)
        guest.join(room)
    for one, other in itertools.permutations((maker, *guests), 2):
        settled(f"{one.user} sees {other.user}", 30, lambda: other.user in one.members(room))
    return room


def all_kinds(room, one, other):
    """A message, its receipt, typing, a message to a device, and a file, from one to the other."""
    body = f"message {next(NUMBER)}"
    event = one.send(room, body)
    other.until_body(room, body)
    other.post("v3", "rooms", room, "receipt", "m.read", event)
    one.until_ephemeral(room, "m.receipt", lambda c: other.user in c.get(event, {}).get("m.read", {}))
    one.put("v3", "rooms", room, "typing", one.user, body={"typing": True, "timeout": 20000})
    other.until_ephemeral(room, "m.typing", lambda c: one.user in c["user_ids"])
    one.put("v3", "rooms", room, "typing", one.user, body={"typing": False})
    content = {"number": next(NUMBER)}
    one.put("v3", "sendToDevice", "org.example.test", f"x{next(NUMBER)}", body={"messages": {other.user: {other.device: content}}})
    other.until("a message to the device", lambda a: [e for e in a.get("to_device", {}).get("events", []) if e["content"] == content])
    data = body.encode() * 20_000
    status, answer = one.raw("POST", "/_matrix/media/v3/upload?filename=f.bin", data, "application/octet-stream")
    assert status == 200, answer
    server, media = json.loads(answer)["content_uri"].removeprefix("mxc://").split("/")
    status, got = other.raw("GET", f"/_matrix/client/v1/media/download/{server}/{media}")
    assert (status, got) == (200, data)


def sealed(maker, *guests):
    """End-to-end encryption by matrix-nio between servers."""
    number = next(NUMBER)
    maker, *guests = everyone = [host.client(f"e{number}").register(f"enc{number}") for host in (maker, *guests)]
    room = maker.create("11", encrypted=True, invite=[guest.user for guest in guests])
    for guest in guests:
        guest.accept(room)
    for one in everyone:
        one.wait_members(room, *(other.user for other in everyone), seconds=30)
    for one in everyone:
        one.send(room, f"sealed by {one.user}")
    for one in everyone:
        seen = one.wait(room, *(f"sealed by {other.user}" for other in everyone), seconds=30)
        assert all(entry["decrypted"] for entry in seen if entry["body"])
        assert not any(entry["undecrypted"] for entry in seen)


def carrier(at, to):
    row = at.destination(to.name)
    assert row, f"{at.name} knows nothing of {to.name}"
    return row["carrier"]


@pytest.mark.parametrize("maker", ["a", "b", "s"])
def test_by_tls_only_by_both_and_a_synapse_in_one_room(nets, maker):
    everyone = users(*sorted((nets.a, nets.b, nets.s), key=lambda host: host.short != maker))
    room = together(*everyone)
    for one, other in itertools.permutations(everyone, 2):
        all_kinds(room, one, other)
    states = [settled("one state", 30, lambda: user.current(room)) for user in everyone]
    assert states[0] == states[1] == states[2]
    assert carrier(nets.a, nets.b) == carrier(nets.b, nets.a) == carrier(nets.b, nets.s) == "tls"
    row = nets.a.destination(nets.b.name)
    assert row["waiting"] == "0" and row["failures"] == 0 and row["answered_s_ago"] < 120, row


def test_encrypted_by_tls_only_by_both_and_a_synapse(nets):
    sealed(nets.b, nets.a, nets.s)


@pytest.mark.parametrize("maker", ["b", "c"])
def test_by_both_and_overlay_only_in_a_room_of_their_own(nets, maker):
    one, other = users(*sorted((nets.b, nets.c), key=lambda host: host.short != maker))
    room = together(one, other)
    all_kinds(room, one, other)
    all_kinds(room, other, one)
    assert one.current(room) == other.current(room)
    assert carrier(nets.b, nets.c) == carrier(nets.c, nets.b) == "overlay"


def test_encrypted_by_both_and_overlay_only(nets):
    sealed(nets.c, nets.b)


def refused(what, *names):
    """It fails, and the answer names who cannot be together and what helps."""
    with pytest.raises(Answer) as caught:
        what()
    assert caught.value.status in (400, 403), caught.value
    text = caught.value.body["error"]
    assert "lives on the overlay only" in text and "gateway zone" in text, text
    for name in names:
        assert name in text, text


def test_overlay_only_names_and_ordinary_servers_share_no_room(nets):
    a, b, c, d, s = users(nets.a, nets.b, nets.c, nets.d, nets.s)
    names = (nets.c.name, nets.a.name)
    open_to_all = {"preset": "public_chat"}
    ordinary = b.create("11", **open_to_all)
    a.join(ordinary, nets.b.name)
    mesh = b.create("11", **open_to_all)
    c.join(mesh, nets.b.name)
    # Invites: to each other, and from between them.
    refused(lambda: a.invite(a.create("11"), c.user), *names)
    refused(lambda: c.invite(c.create("11"), a.user), *names)
    refused(lambda: b.invite(ordinary, c.user), *names)
    refused(lambda: b.invite(mesh, a.user), *names)
    refused(lambda: a.create("11", invite=[c.user]), *names)
    # Joins (make_join at b, which knows both), and knocks.
    refused(lambda: c.join(ordinary, nets.b.name), *names)
    refused(lambda: a.join(mesh, nets.b.name), *names)
    # A domain on both carriers is an ordinary server all the same: the others of its rooms could not follow.
    refused(lambda: d.join(mesh, nets.b.name), nets.c.name, nets.d.name)
    knocking = {"initial_state": [{"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}]}
    for inside, outside in ((a, c), (c, a)):
        room = b.create("11", **knocking)
        b.invite(room, inside.user)
        inside.until_invited(room)
        inside.join(room)
        refused(lambda: outside.post("v3", "knock", room, via=nets.b.name, server_name=nets.b.name), *names)
    # Directly, where b is not between.
    refused(lambda: c.join(a.create("11", **open_to_all), nets.a.name), *names)
    refused(lambda: a.join(c.create("11", **open_to_all), nets.c.name), *names)
    # A Synapse is told why, too, by whoever knows both. (It finds no way to the name itself, and takes minutes to say so.)
    with pytest.raises(Answer) as caught:
        s.join(mesh, nets.b.name)
    assert "lives on the overlay only" in json.dumps(caught.value.body), caught.value


def test_a_name_on_both_is_asked_over_the_overlay_and_falls_over_to_tls_and_back(nets):
    b, d = users(nets.b, nets.d)
    room = together(b, d)
    said = []

    def talk():
        """One each way."""
        for one, other in ((b, d), (d, b)):
            said.append(body := f"number {len(said)}")
            one.send(room, body)
            other.until_body(room, body)

    def talk_until(way):
        """Until both send by that carrier; neither ever waits for the other one to give up for long."""
        def both():
            talk()
            return carrier(nets.b, nets.d) == carrier(nets.d, nets.b) == way
        settled(f"both by {way}", 60, both)

    talk_until("overlay")
    nets.hub.cut(nets.d, "mesh")
    try:
        talk_until("tls")
    finally:
        nets.hub.mend(nets.d, "mesh")
    talk_until("overlay")
    nets.hub.cut(nets.d, "tls")
    try:
        for _ in range(3):
            talk()
        all_kinds(room, b, d)
        assert carrier(nets.b, nets.d) == carrier(nets.d, nets.b) == "overlay"
        nets.hub.cut(nets.d, "mesh")
        try:
            # By neither: what is said waits, and `ctl destinations` shows it.
            said.append("while cut off")
            b.send(room, "while cut off")
            row = settled("a failed attempt", 60, lambda: (row := nets.b.destination(nets.d.name)) and row["failures"] and row)
            assert row["under_way"] and row["retry_in_s"] is not None, row
        finally:
            nets.hub.mend(nets.d, "mesh")
        d.until_body(room, "while cut off")
    finally:
        nets.hub.mend(nets.d, "tls")
    talk()
    for user in (b, d):
        seen = [e["content"]["body"] for e in user.back(room, 500) if e["type"] == "m.room.message"]
        seen = [body for body in seen if not body.startswith("message")]
        assert seen == said, "each once, in order"
    settled("nothing waits", 30, lambda: (row := nets.b.destination(nets.d.name)) and row["waiting"] == "0" and not row["failures"])
