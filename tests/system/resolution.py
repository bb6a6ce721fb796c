"""Forks of made-up rooms, and what Synapse's state resolution makes of them. Runs in Synapse's Python; prints a line of JSON each:
what homeserver/examples/resolve.rs reads, and `expected`. Arguments: SEED COUNT."""
import asyncio
import json
import random
import sys

from synapse import event_auth
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS, StateResolutionVersions
from synapse.events import make_event_from_dict
from synapse.state import v1, v2

try:
    from synapse.storage.databases.main.event_federation import StateDifference
except ImportError:  # where it has moved
    from synapse.state.v2 import StateDifference

VERSIONS = ["1", "2", "3", "6", "8", "10", "11", "12"]
USERS = ["@alice:a.test", "@bob:b.test", "@carol:c.test", "@dave:d.test", "@erin:b.test"]


class Clock:
    """What resolution asks of Synapse's clock: to let others have a turn."""

    async def sleep(self, _):
        pass


class Room:
    """Events in memory; the store that resolution asks."""

    def __init__(self, dice, version):
        self.dice, self.version = dice, KNOWN_ROOM_VERSIONS[version]
        self.events, self.sent, self.count, self.now = {}, {}, 0, 1_700_000_000_000
        self.room = "!room:a.test"
        content = {"room_version": version}
        if not self.version.implicit_room_creator:
            content["creator"] = USERS[0]
        create = self.make({}, USERS[0], "m.room.create", "", content, [])
        if self.version.msc4291_room_ids_as_hashes:
            self.room = "!" + create.event_id[1:]
        state = {("m.room.create", ""): create.event_id}
        levels = {"users": {USERS[1]: 60, USERS[2]: 50}, "state_default": 50}
        if not self.version.msc4289_creator_power_enabled:
            levels["users"][USERS[0]] = 100
        for kind, key, content in [("m.room.member", USERS[0], {"membership": "join"}), ("m.room.power_levels", "", levels),
                                   ("m.room.join_rules", "", {"join_rule": "public"})]:
            assert self.say(state, [create.event_id], USERS[0], kind, key, content), kind
        for user in USERS[1:4]:
            assert self.say(state, [], user, "m.room.member", user, {"membership": "join"}), user
        self.base = state

    def make(self, state, sender, kind, key, content, prev):
        self.count += 1
        # Times that are equal, and times that run backwards.
        when = self.now + self.dice.randrange(0, 20)
        event = {"type": kind, "sender": sender, "state_key": key, "content": content, "origin_server_ts": when,
                 "depth": 1 + max([self.events[each].depth for each in prev], default=0), "hashes": {"sha256": str(self.count)}}
        old = int(self.version.identifier) < 3 if self.version.identifier.isdigit() else False
        if old:
            event["event_id"] = f"${self.dice.getrandbits(64):x}:{sender.split(':')[1]}"
        if kind != "m.room.create" or not self.version.msc4291_room_ids_as_hashes:
            event["room_id"] = self.room
        name = (lambda each: [each, {"sha256": "x"}]) if old else (lambda each: each)
        event["prev_events"] = [name(each) for each in prev]
        event["auth_events"] = []
        if kind != "m.room.create":
            probe = make_event_from_dict(dict(event), self.version)
            wanted = event_auth.auth_types_for_event(self.version, probe)
            if self.version.msc4291_room_ids_as_hashes:
                wanted = set(wanted) - {("m.room.create", "")}
            event["auth_events"] = [name(state[each]) for each in sorted(wanted) if each in state]
        made = make_event_from_dict(event, self.version)
        self.last_made = event
        if kind == "m.room.create":
            self.events[made.event_id], self.sent[made.event_id] = made, event
        return made

    def say(self, state, prev, sender, kind, key, content):
        """Adds an event to a state, if Synapse's rules allow it there."""
        prev = prev or [self.last]
        made = self.make(state, sender, kind, key, content, prev)
        wanted = event_auth.auth_types_for_event(self.version, made)
        try:
            event_auth.check_state_dependent_auth_rules(made, [self.events[state[each]] for each in wanted if each in state])
        except Exception:
            return False
        self.events[made.event_id], self.sent[made.event_id] = made, self.last_made
        state[(kind, key)] = made.event_id
        self.last = made.event_id
        return True

    def act(self, state):
        dice = self.dice
        who, whom = dice.choice(USERS), dice.choice(USERS)
        number = dice.randrange(1000)
        self.last = dice.choice(list(state.values()))
        match dice.randrange(10):
            case 0 | 1:
                return self.say(state, [], who, "m.room.topic", "", {"topic": str(number)})
            case 2:
                return self.say(state, [], who, "m.room.member", whom, {"membership": "ban"})
            case 3:
                return self.say(state, [], who, "m.room.member", whom, {"membership": "leave"})
            case 4 | 5:
                return self.say(state, [], who, "m.room.member", who, {"membership": "join", "n": number})
            case 6:
                users = {USERS[1]: dice.choice([40, 60, 100]), USERS[2]: dice.choice([0, 50])}
                if not self.version.msc4289_creator_power_enabled:
                    users[USERS[0]] = 100
                return self.say(state, [], who, "m.room.power_levels", "", {"users": users, "state_default": 50, "n": number})
            case 7:
                return self.say(state, [], who, "m.room.join_rules", "", {"join_rule": dice.choice(["public", "invite"]), "n": number})
            case 8:
                return self.say(state, [], who, "m.room.member", whom, {"membership": "invite"})
            case _:
                return self.say(state, [], who, "x.own", dice.choice(["", "a", who]), {"n": number})

    # What resolution asks.
    async def get_events(self, ids, allow_rejected=False):
        return {each: self.events[each] for each in ids if each in self.events}

    def chain(self, ids):
        found, open_ = set(), list(ids)
        while open_:
            event = open_.pop()
            if event not in found:
                found.add(event)
                open_.extend(self.events[event].auth_event_ids())
        return found

    async def get_auth_chain_difference(self, _room, sets, conflicted, _additional):
        chains = [self.chain(each) for each in sets]
        difference = set.union(*chains) - set.intersection(*chains)
        subgraph = None
        if conflicted is not None:
            above = self.chain(conflicted)
            subgraph = {each for each in above if self.chain([each]) & conflicted}
        return StateDifference(auth_difference=difference, conflicted_subgraph=subgraph)

    async def resolve(self, states):
        if self.version.state_res == StateResolutionVersions.V1:
            return await v1.resolve_events_with_store(self.room, self.version, states, None, self.get_events)
        return await v2.resolve_events_with_store(Clock(), self.room, self.version, states, None, self)


async def main(seed, count):
    for number in range(count):
        dice = random.Random(f"{seed} {number}")
        version = VERSIONS[number % len(VERSIONS)]
        room = Room(dice, version)
        state = room.base
        # Forks one after the other: what one resolves to is where the next begins.
        for _ in range(dice.randrange(1, 4)):
            states = [dict(state) for _ in range(dice.randrange(2, 5))]
            for _ in range(dice.randrange(4, 40)):
                room.now += dice.randrange(0, 3)
                room.act(dice.choice(states))
            state = dict(await room.resolve(states))
            print(json.dumps({"version": version, "room": room.room, "sets": [sorted(each.values()) for each in states],
                              "events": [{"id": each, "rejected": False, "pdu": pdu}
                                         for each, pdu in room.sent.items()],
                              "expected": sorted(state.values())}))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
