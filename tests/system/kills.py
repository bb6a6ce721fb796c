"""kill -9 in the middle of what federation does, against made-up servers (madeup.py). Runs in Synapse's Python environment; ends with 1 and
says what was lost. Arguments: join, transaction or history; $KILLS: how often (8).

  join         a room of 1 500 members of 20 servers is joined with a part of its state; the node is killed while it joins, or while it
               fetches the rest. What the client was told holds: the room is joined, what was sent is there and reaches the others; at the
               end all members are there
  transaction  a server sends 50 messages at once, and again what was not answered: each is there once, in order
  history      a client reads 600 messages from before its join, page by page: each is there once, in order
"""
import asyncio
import os
import pathlib
import random
import sys
import tempfile
import time
from urllib.parse import quote

from federation_figures import CLIENT, FEDERATION, FIRST, Mangrove, everywhere, members, messages, readable, send, transaction
from madeup import Authority, Wire, World

KILLS = int(os.environ.get("KILLS", "8"))
# What a request to a node that is killed meanwhile may end with.
CUT = (OSError, asyncio.IncompleteReadError, AssertionError)


async def kill(subject, after):
    """Kills the node in so many seconds, and starts it again."""
    await asyncio.sleep(after)
    subject.process.kill()
    subject.process.wait(20)
    await subject.start()


async def bodies(subject, room):
    """What the messages of the room say, oldest first."""
    found, start = [], ""
    while True:
        page = await subject.client("GET", f"/rooms/{quote(room.id)}/messages?dir=b&limit=100{start}")
        found += [event["content"]["body"] for event in page["chunk"] if event["type"] == "m.room.message"]
        if not page.get("end"):
            return found[::-1]
        start = f"&from={quote(page['end'])}"


async def join(subject, world, chance):
    made = await world.add(20, FIRST)
    for number in range(KILLS):
        crowd = [(made[index % 20], made[index % 20].user(f"m{number}-{index}")) for index in range(1_500)]
        room = world.room(made[0], number, members=crowd)
        for server in made:
            server.got.clear()
        told, over, sent = False, False, []

        async def use():
            nonlocal told
            await subject.beside(await Wire.open(CLIENT)).join(room)
            told = True
            while not over:
                sent.append(await send(subject.beside(await Wire.open(CLIENT)), room, f"{number}-{len(sent)}"))

        using = asyncio.create_task(use())
        await kill(subject, chance.uniform(*((0, 0.12), (0.1, 1.0))[number % 2]))
        over = True
        try:
            await using
        except CUT:
            pass
        print(f"join {number}: told {told}, {len(sent)} sent", flush=True)
        joined = room.id in (await subject.client("GET", "/joined_rooms"))["joined_rooms"]
        assert joined or not told, "a join that was answered is lost"
        if not joined:
            await subject.join(room)
        await members(subject, room, 1_502, 120)
        here = (await subject.client("GET", f"/rooms/{quote(room.id)}/joined_members"))["joined"]
        assert len(here) == 1_502, f"{len(here)} members"
        for eid in sent:
            await readable(subject, room, eid, 20)
        await everywhere(made, len(sent), 60)
        last = await send(subject, room, f"{number}-last")
        await everywhere(made, len(sent) + 1, 60)
        await readable(subject, room, last, 20)


async def once(subject, room, ids):
    """All messages, each once, in order."""
    want = [room.events[eid]["content"]["body"] for eid in ids]
    deadline = time.monotonic() + 60
    while (found := await bodies(subject, room)) != want:
        assert len(found) <= len(want) and len(set(found)) == len(found), "a message is there twice"
        assert time.monotonic() < deadline, f"{len(found)} of {len(want)} messages, in order: {found == sorted(found, key=want.index)}"
        await asyncio.sleep(0.1)


async def transactions(subject, world, chance):
    server = (await world.add(1, FIRST))[0]
    room = world.room(server, 0)
    await subject.join(room)
    every = []
    for number in range(KILLS * 4):
        pdus, ids = messages(room, 50)
        every += ids
        request = transaction(server, number, pdus)
        killing = asyncio.create_task(kill(subject, chance.uniform(0, 0.06))) if number % 4 == 3 else None
        deadline = time.monotonic() + 30
        while True:
            try:
                status, _ = await (await world.connect(FEDERATION)).tell(request)
                if status == 200:
                    break
            except CUT:
                await asyncio.sleep(0.02)  # it is away
            assert time.monotonic() < deadline, "the transaction is never answered"
        if killing:
            await killing
    # What was answered need not have been worked off when it was killed; the next event tells that it is missing.
    pdus, ids = messages(room, 1)
    every += ids
    await (await world.connect(FEDERATION)).tell(transaction(server, "last", pdus))
    await readable(subject, room, every[-1], 30)
    await once(subject, room, every)
    print(f"{len(every)} messages", flush=True)


async def history(subject, world, chance):
    server = (await world.add(1, FIRST))[0]
    for number in range(KILLS):
        room = world.room(server, number)
        _, ids = messages(room, 600)
        await subject.join(room)
        reading = asyncio.create_task(bodies(subject.beside(await Wire.open(CLIENT)), room))
        await kill(subject, chance.uniform(0, 0.15))
        try:
            await reading
        except CUT:
            pass
        await once(subject, room, ids)
        print(f"history {number}: whole", flush=True)


async def main(what):
    with tempfile.TemporaryDirectory(prefix="mangrove-kills-") as directory:
        directory = pathlib.Path(directory)
        authority = Authority(directory)
        world, subject = World(authority), Mangrove(directory, authority)
        await subject.start()
        try:
            await subject.register("alice")
            await {"join": join, "transaction": transactions, "history": history}[what](subject, world, random.Random(20201))
        except BaseException:
            print((directory / "out").read_text(errors="replace")[-3000:], file=sys.stderr)
            raise
        finally:
            world.close()
            if subject.process.poll() is None:
                subject.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
