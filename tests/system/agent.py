"""A Matrix client (matrix-nio with end-to-end encryption) that does what it is told, one JSON command a line.

It runs inside the network namespace of the device whose homeserver it uses; whoever started it speaks to it over its
standard input and output (see client.py). Every command is answered with one line: {"ok": ...} or {"error": "..."}.
"""
import asyncio
import json
import logging
import sys
import time

import nio

logging.disable(logging.CRITICAL)


class Agent:
    def __init__(self, url, store):
        self.url, self.store, self.client, self.task = url, store, None, None
        self.timeline = []  # one dict for each message that this client has seen, in order
        self.seen = asyncio.Condition()

    def make(self, user, device=None):
        config = nio.AsyncClientConfig(encryption_enabled=True, store_sync_tokens=True, request_timeout=90)
        self.client = nio.AsyncClient(self.url, user, device_id=device, store_path=self.store, config=config)
        self.client.add_response_callback(self.on_sync, nio.SyncResponse)

    async def on_sync(self, response):
        """Takes the new events of each room in order. Where the server left some out (`limited`), the room's timeline is
        read anew from the point where this part of it begins, as clients do: what was left out may lie between
        events that are known."""
        for room, there in response.rooms.join.items():
            events = list(there.timeline.events)
            start = there.timeline.prev_batch if there.timeline.limited else None
            if start:
                self.timeline = [entry for entry in self.timeline if entry["room"] != room]
            while start:
                page = check(await self.client.room_messages(room, start, limit=100))
                events = page.chunk[::-1] + events
                start = page.end if page.chunk else None
            for event in events:
                await self.on_event(room, event)

    async def on_event(self, room, event):
        if isinstance(event, nio.MegolmEvent):
            entry = {"body": None, "undecrypted": True}
        elif isinstance(event, nio.RoomMessageText):
            entry = {"body": event.body, "undecrypted": False}
        else:
            return
        entry |= {"room": room, "id": event.event_id, "sender": event.sender, "decrypted": event.decrypted,
                  "at": time.time()}
        async with self.seen:
            self.timeline.append(entry)
            self.seen.notify_all()

    async def do(self, cmd, **a):
        result = await getattr(self, "do_" + cmd)(**a)
        return result

    # Accounts
    async def do_register(self, user, password):
        self.make(user)
        return self.started(await self.client.register(user, password))

    async def do_login(self, user, password):
        self.make(user)
        return self.started(await self.client.login(password))

    def started(self, response):
        check(response)
        if self.client.store is None:
            self.client.load_store()
        return {"user": self.client.user_id, "device": self.client.device_id, "token": self.client.access_token}

    async def do_sync(self):
        """Starts to sync, and goes on until the end."""
        if self.task is None:
            await self.on_sync(check(await self.client.sync(timeout=0, full_state=True)))
            self.task = asyncio.create_task(self.client.sync_forever(timeout=20000, loop_sleep_time=0))
        return True

    # Rooms
    async def do_create(self, version, encrypted=False, invite=(), public=False, name=None, alias=None):
        initial = [{"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}]
        visibility = nio.RoomVisibility.public if public else nio.RoomVisibility.private
        preset = nio.RoomPreset.public_chat if public else nio.RoomPreset.private_chat
        response = await self.client.room_create(
            visibility=visibility, preset=preset, room_version=version, invite=list(invite), name=name, alias=alias,
            initial_state=initial if encrypted else [])
        return check(response).room_id

    async def do_invite(self, room, user):
        check(await self.client.room_invite(room, user))
        return True

    async def do_join(self, room):
        return check(await self.client.join(room)).room_id

    async def do_leave(self, room):
        check(await self.client.room_leave(room))
        return True

    async def do_send(self, room, body, txn=None, seconds=60):
        """Sends one message; repeats it under the same transaction id while the homeserver cannot be reached."""
        txn = txn or f"t{time.time_ns()}"
        deadline = time.monotonic() + seconds
        while True:
            try:
                response = await self.client.room_send(
                    room, "m.room.message", {"msgtype": "m.text", "body": body}, tx_id=txn,
                    ignore_unverified_devices=True)
                return check(response).event_id
            except (OSError, asyncio.TimeoutError, Exception) as error:
                if time.monotonic() > deadline or isinstance(error, Refused):
                    raise
                await asyncio.sleep(0.1)

    async def do_wait_messages(self, room, bodies, seconds):
        """Waits until each of these bodies was seen; returns all that was seen of the room, in order."""
        return await self.wait(seconds, lambda: set(bodies) <= {e["body"] for e in self.timeline if e["room"] == room},
                               lambda: [e for e in self.timeline if e["room"] == room],
                               lambda: sorted(set(bodies) - {e["body"] for e in self.timeline if e["room"] == room}))

    async def do_wait_invite(self, room, seconds):
        return await self.wait(seconds, lambda: room in self.client.invited_rooms, lambda: True)

    async def do_wait_members(self, room, users, seconds):
        def joined():
            there = self.client.rooms.get(room)
            return there and set(users) <= {u for u in there.users if u not in there.invited_users}
        return await self.wait(seconds, joined, lambda: True)

    async def wait(self, seconds, ready, value, missing=lambda: ""):
        deadline = time.monotonic() + seconds
        while not ready():
            left = deadline - time.monotonic()
            if left <= 0 or (self.task and self.task.done()):
                why = self.task.exception() if self.task and self.task.done() else f"after {seconds} s"
                raise Refused(f"not seen ({why}): {missing()}; seen: {value()!r}"[:3000])
            try:  # also syncs that bring no message change rooms, so look again often
                async with self.seen:
                    await asyncio.wait_for(self.seen.wait(), min(left, 0.02))
            except asyncio.TimeoutError:
                pass
        return value()

    async def do_seen(self, room):
        return [e for e in self.timeline if e["room"] == room]

    async def do_rooms(self):
        return {"joined": list(self.client.rooms), "invited": list(self.client.invited_rooms)}

    async def do_raw(self, method, path, body=None):
        """Any request, with the token; the status and the parsed answer."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.client.access_token}"}
        response = await self.client.send(method, path, data, headers)
        return {"status": response.status, "body": await response.json()}

    async def do_close(self):
        if self.task:
            self.task.cancel()
        if self.client:
            await self.client.close()
        return True


class Refused(Exception):
    pass


def check(response):
    if isinstance(response, nio.ErrorResponse):
        raise Refused(f"{type(response).__name__}: {response.status_code} {response.message}")
    return response


async def main():
    agent = Agent(sys.argv[1], sys.argv[2])
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        try:
            answer = {"ok": await agent.do(**command)}
        except Exception as error:  # told to whoever asked
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    await agent.do_close()


asyncio.run(main())
