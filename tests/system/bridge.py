"""A bridge as those built on mautrix-python are: an application service with a puppet for each person on the other side.

"The other side" is an echo: what somebody says in a bridged room, a puppet named after them says back. Runs until its input
ends; commands on standard input, one JSON a line, answered with one line (as agent.py does).
usage: bridge.py HOMESERVER_URL SERVER_NAME PORT AS_TOKEN HS_TOKEN
"""
import asyncio
import json
import logging
import sys

from mautrix.appservice import AppService, ASStateStore
from mautrix.client.state_store.memory import MemoryStateStore
from mautrix.types import EventType, Membership, MessageType, TextMessageEventContent, UserID

logging.basicConfig(stream=sys.stderr, level=logging.WARNING)


class StateStore(ASStateStore, MemoryStateStore):
    """Mautrix keeps in it who is registered and joined."""

    def __init__(self):
        ASStateStore.__init__(self)
        MemoryStateStore.__init__(self)


class Bridge:
    def __init__(self, url, name, port, as_token, hs_token):
        self.name, self.port, self.seen = name, port, []
        self.changed = asyncio.Condition()
        self.service = AppService(
            url, name, as_token, hs_token, bot_localpart="echobot", id="echo", ephemeral_events=True,
            encryption_events=True, state_store=StateStore(), verify_ssl=False)
        self.service.matrix_event_handler(self.on_event)

    def puppet(self, name):
        return self.service.intent.user(UserID(f"@echo_{name}:{self.name}"))

    async def on_event(self, event):
        async with self.changed:
            self.seen.append(event.serialize())
            self.changed.notify_all()
        if event.type == EventType.ROOM_MEMBER and event.content.membership == Membership.INVITE:
            if event.state_key == self.service.bot_mxid:
                await self.service.intent.ensure_joined(event.room_id)
        if event.type == EventType.ROOM_MESSAGE and not event.sender.startswith(("@echo_", "@echobot")):
            name, _ = event.sender[1:].split(":")
            intent = self.puppet(name)
            await intent.ensure_registered()
            await intent.set_displayname(f"{name} (echo)")
            await intent.ensure_joined(event.room_id)
            content = TextMessageEventContent(msgtype=MessageType.TEXT, body=f"echo: {event.content.body}")
            await intent.send_message(event.room_id, content)

    async def start(self):
        await self.service.start("127.0.0.1", self.port)
        await self.service.intent.ensure_registered()
        return {"bot": self.service.bot_mxid}

    async def ping(self):
        """The homeserver asks us whether we are there."""
        await self.service.intent.whoami()
        await self.service.ping_self()
        return True

    async def wait(self, kind, body=None, seconds=20):
        def found():
            return [event for event in self.seen
                    if event["type"] == kind and (body is None or event["content"].get("body") == body)]
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(found), seconds)
        return found()

    async def upload(self, text):
        """A puppet's own file, announced first."""
        return await self.puppet("files").upload_media(text.encode(), mime_type="text/plain", filename="f.txt")

    async def typing(self, room, name):
        await self.puppet(name).set_typing(room, timeout=5000)
        return True


async def main():
    url, name, port, as_token, hs_token = sys.argv[1:6]
    bridge = Bridge(url, name, int(port), as_token, hs_token)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        try:
            answer = {"ok": await getattr(bridge, command.pop("cmd"))(**command)}
        except Exception as error:  # what went wrong is the test's to see
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, default=str), flush=True)
    await bridge.service.stop()


asyncio.run(main())
