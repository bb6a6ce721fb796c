"""Three devices on two cables, a-b and b-c, find each other by multicast and chat; nothing is configured."""
import pytest

VERSIONS = ["10", "11", "12"]


@pytest.fixture
def three(lab):
    a, b, c = (lab.device(name) for name in "abc")
    lab.cable(a, b)
    lab.cable(b, c)
    for device in (a, b, c):
        device.start(wait=False)
    for device in (a, b, c):
        device.wait_ready()
    return a, b, c


def users(devices):
    return [device.client().register(name) for device, name in zip(devices, ("alice", "bob", "carol"))]


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_all_three_chat_in_rooms_of_each_version(three, encrypted):
    alice, bob, carol = everyone = users(three)
    for version in VERSIONS:
        room = alice.create(version, encrypted=encrypted, invite=[bob.user, carol.user])
        bob.accept(room)
        carol.accept(room)
        for member in everyone:
            member.wait_members(room, alice.user, bob.user, carol.user)
        for member in everyone:
            member.send(room, f"from {member.user} in {version}")
        for member in everyone:
            seen = member.wait(room, *(f"from {other.user} in {version}" for other in everyone))
            texts = [event for event in seen if event["body"]]
            assert len(texts) == 3, f"each message once: {texts}"
            assert all(event["decrypted"] == encrypted for event in texts)
            assert not any(event["undecrypted"] for event in seen)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_ends_chat_through_the_device_between_them(three, version):
    alice, _, carol = users(three)
    room = carol.create(version, encrypted=True, invite=[alice.user])
    alice.accept(room)
    carol.wait_members(room, alice.user)
    alice.send(room, "hello from a")
    carol.wait(room, "hello from a")
    carol.send(room, "hello from c")
    alice.wait(room, "hello from c")


def test_a_device_killed_amid_messages_loses_and_doubles_none(three):
    a, b, c = three
    alice, bob, carol = everyone = users(three)
    room = alice.create("12", invite=[bob.user, carol.user])
    bob.accept(room)
    carol.accept(room)
    for member in everyone:
        member.wait_members(room, alice.user, bob.user, carol.user)
    total, killed_at, back_at = 60, 20, 40
    told = []
    for number in range(total):
        if number == killed_at:
            b.kill()
        if number == back_at:
            b.start()
        for member in everyone:
            if member is bob and killed_at <= number < back_at:
                continue
            body = f"{member.user} {number}"
            member.begin("send", room=room, body=body)
            told.append((member, body))
        for member in everyone:
            if not (member is bob and killed_at <= number < back_at):
                member.end()
    bodies = [body for _, body in told]
    for member in everyone:
        seen = [event["body"] for event in member.wait(room, *bodies, seconds=60)]
        assert sorted(seen) == sorted(bodies), "every message arrives, once"
        for sender in everyone:
            order = [body for body in seen if body.startswith(sender.user)]
            assert order == [body for who, body in told if who is sender], f"{sender.user}'s order at {member.user}"
