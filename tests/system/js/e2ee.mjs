// Two users on two homeservers, each with matrix-js-sdk and its Rust crypto: an encrypted room, messages both ways.
// usage: node e2ee.mjs URL_A URL_B   (open registration on both). Prints one JSON line; exit code 1 on failure.
import { byPassword, client, encrypted, main, read, register, until } from "./user.mjs";

await main(async (urlA, urlB) => {
    const user = async (url, name) => client(await register(url, name));
    const [alice, bob] = await Promise.all([user(urlA, "js-alice"), user(urlB, "js-bob")]);
    // Cross-signing, as every current client sets it up after registration.
    for (const client of [alice, bob]) {
        await client.getCrypto().bootstrapCrossSigning({
            authUploadDeviceSigningKeys: byPassword(client),
        });
    }
    const { room_id: room } = await alice.createRoom({
        preset: "private_chat", invite: [bob.getUserId()], ...encrypted,
    });
    await until(() => bob.getRoom(room)?.getMyMembership() === "invite", 20, "bob's invite");
    await bob.joinRoom(room);
    await until(() => alice.getRoom(room)?.getMember(bob.getUserId())?.membership === "join", 20, "bob's join at alice");
    await until(() => bob.getRoom(room)?.hasEncryptionStateEvent(), 20, "the room's encryption at bob");
    const send = (client, body) => client.sendEvent(room, "m.room.message", { msgtype: "m.text", body });
    await send(alice, "from alice");
    const first = await read(bob, room, "from alice");
    await send(bob, "from bob");
    const second = await read(alice, room, "from bob");
    const status = await alice.getCrypto().getUserVerificationStatus(bob.getUserId());
    await bob.sendTyping(room, true, 5000);
    await until(() => alice.getRoom(room).getMember(bob.getUserId()).typing, 10, "bob's typing at alice");
    await bob.sendReadReceipt(await read(bob, room, "from bob"));
    await bob.sendReadReceipt(bob.getRoom(room).getLiveTimeline().getEvents().findLast((e) => e.getSender() === alice.getUserId()));
    return {
        encrypted: first.isEncrypted() && second.isEncrypted(),
        wire: first.getWireType(),
        verified_by_cross_signing_known: status.isCrossSigningVerified() === false,
        master_key_known: (await alice.getCrypto().userHasCrossSigningKeys(bob.getUserId(), true)),
    };
});
