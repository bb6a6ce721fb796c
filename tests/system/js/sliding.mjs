// Sliding sync as matrix-js-sdk speaks it: bob sees his rooms through a window that grows, a subscription, and the
// extensions that the library registers, while alice on another homeserver uses sync v2; then both in an encrypted room.
// usage: node sliding.mjs URL_A URL_B   (open registration on both). Prints one JSON line; exit code 1 on failure.
import { byPassword, client, encrypted, main, read, register, sdk, until } from "./user.mjs";

const { SlidingSync } = await import("matrix-js-sdk/lib/sliding-sync.js");

const ROOMS = 12;
const STATE = [["m.room.member", "$ME"], ["m.room.member", "$LAZY"], ["m.room.create", ""], ["m.room.name", ""],
    ["m.room.encryption", ""], ["m.room.history_visibility", ""], ["m.room.power_levels", ""], ["m.room.join_rules", ""]];

await main(async (urlA, urlB) => {
    const alice = await client(await register(urlA, "js-alice"));
    const session = await register(urlB, "js-bob");
    // Rooms from before his client's first sync.
    const early = sdk.createClient(session);
    const rooms = [];
    for (let n = 0; n < ROOMS; n++) {
        const { room_id: room } = await early.createRoom({ name: `room ${n}` });
        await early.sendTextMessage(room, `hello ${n}`);
        rooms.push(room);
    }
    await early.setAccountData("org.example.early", { n: 1 });

    const lists = new Map([["all", { ranges: [[0, 3]], timeline_limit: 5, required_state: STATE }]]);
    const shown = new Set();
    let sliding;
    const bob = await client(session, (made) => {
        sliding = new SlidingSync(urlB, lists, { timeline_limit: 20, required_state: STATE }, made, 5000);
        sliding.on("SlidingSync.RoomData", (room) => void shown.add(room));
        return { slidingSync: sliding };
    });
    await until(() => sliding.getListData("all")?.joinedCount === ROOMS, 20, "the list's count");
    const first = [...shown].map((room) => bob.getRoom(room).name).sort();
    sliding.setListRanges("all", [[0, 99]]);
    await until(() => rooms.every((room) => bob.getRoom(room)), 20, "all rooms after the window grew");
    const timelines = rooms.every((room, n) =>
        bob.getRoom(room).getLiveTimeline().getEvents().some((event) => event.getContent().body === `hello ${n}`));

    // An invite of another server, and encryption through to-device messages that come by the extension.
    for (const each of [alice, bob]) {
        await each.getCrypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys: byPassword(each) });
    }
    const { room_id: room } = await alice.createRoom({ preset: "private_chat", invite: [bob.getUserId()], ...encrypted });
    await until(() => bob.getRoom(room)?.getMyMembership() === "invite", 20, "bob's invite");
    await bob.joinRoom(room);
    sliding.modifyRoomSubscriptions(new Set([room]));
    await until(() => alice.getRoom(room)?.getMember(bob.getUserId())?.membership === "join", 20, "bob's join at alice");
    await until(() => bob.getRoom(room)?.getMyMembership() === "join", 20, "bob's own join");
    await until(() => bob.getRoom(room)?.hasEncryptionStateEvent(), 20, "the room's encryption at bob");
    await alice.sendTextMessage(room, "from alice");
    const read_by_bob = await read(bob, room, "from alice");
    await bob.sendTextMessage(room, "from bob");
    const read_by_alice = await read(alice, room, "from bob");

    // Typing, receipts, account data, counts.
    await alice.sendTyping(room, true, 10_000);
    await until(() => bob.getRoom(room).getMember(alice.getUserId())?.typing, 20, "alice's typing at bob");
    await alice.sendReadReceipt(read_by_alice);
    await until(() => bob.getRoom(room).getReadReceiptForUserId(alice.getUserId())?.eventId === read_by_alice.getId(),
        20, "alice's receipt at bob");
    await alice.sendTextMessage(room, "unread");
    const unread = await read(bob, room, "unread");
    await until(() => bob.getRoom(room).getUnreadNotificationCount() > 0, 20, "something unread");
    await bob.sendReadReceipt(unread);
    await until(() => bob.getRoom(room).getUnreadNotificationCount() === 0, 20, "nothing unread");
    await bob.setAccountData("org.example.late", { n: 2 });
    await until(() => bob.getAccountData("org.example.late")?.getContent().n === 2, 20, "account data");
    // Kicked: the room stays, as one that was left.
    await alice.kick(room, bob.getUserId());
    await until(() => bob.getRoom(room).getMyMembership() === "leave", 20, "the kick at bob");

    // After all that the window still shows what happens in the oldest room.
    await early.sendTextMessage(rooms[0], "at last");
    await read(bob, rooms[0], "at last");
    return {
        first, timelines,
        encrypted: read_by_bob.isEncrypted() && read_by_alice.isEncrypted(),
        early: bob.getAccountData("org.example.early")?.getContent().n,
    };
});
