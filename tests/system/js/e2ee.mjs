// Two users on two homeservers, each with matrix-js-sdk and its Rust crypto: an encrypted room, messages both ways.
// usage: node e2ee.mjs URL_A URL_B   (open registration on both). Prints one JSON line; exit code 1 on failure.
import "fake-indexeddb/auto";

Promise.withResolvers ??= function () {
    let resolve, reject;
    const promise = new this((a, b) => ((resolve = a), (reject = b)));
    return { promise, resolve, reject };
};
const sdk = await import("matrix-js-sdk");
const { logger } = await import("matrix-js-sdk/lib/logger.js");
logger.setLevel?.("silent");
for (const name of ["debug", "info", "log", "warn"]) console[name] = () => {};

const password = "correct horse battery staple";

async function user(baseUrl, name) {
    const anonymous = sdk.createClient({ baseUrl });
    const made = await anonymous.registerRequest({
        username: name, password, auth: { type: "m.login.dummy" }, initial_device_display_name: "js-sdk",
    });
    const client = sdk.createClient({
        baseUrl, userId: made.user_id, deviceId: made.device_id, accessToken: made.access_token,
    });
    await client.initRustCrypto({ cryptoDatabasePrefix: name });
    await client.startClient({ initialSyncLimit: 20, lazyLoadMembers: true });
    await until(() => client.isInitialSyncComplete(), 20, `${name}'s first sync`);
    return client;
}

async function until(ready, seconds, what) {
    const deadline = Date.now() + seconds * 1000;
    for (;;) {
        const value = await ready();
        if (value) return value;
        if (Date.now() > deadline) throw new Error(`${what}: not within ${seconds} s`);
        await new Promise((resolve) => setTimeout(resolve, 25));
    }
}

const read = (client, room, body) => until(async () => {
    for (const event of client.getRoom(room)?.getLiveTimeline().getEvents() ?? []) {
        await client.decryptEventIfNeeded(event);
        if (event.getContent().body === body) return event;
    }
}, 20, `${client.getUserId()} reads ${JSON.stringify(body)}`);

try {
    const [urlA, urlB] = process.argv.slice(2);
    const [alice, bob] = await Promise.all([user(urlA, "js-alice"), user(urlB, "js-bob")]);
    // Cross-signing, as every current client sets it up after registration.
    for (const client of [alice, bob]) {
        await client.getCrypto().bootstrapCrossSigning({
            authUploadDeviceSigningKeys: (request) => request({
                type: "m.login.password", password,
                identifier: { type: "m.id.user", user: client.getUserId() },
            }),
        });
    }
    const { room_id: room } = await alice.createRoom({
        preset: "private_chat", invite: [bob.getUserId()],
        initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
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
    console.error = () => {};
    process.stdout.write(JSON.stringify({
        encrypted: first.isEncrypted() && second.isEncrypted(),
        wire: first.getWireType(),
        verified_by_cross_signing_known: status.isCrossSigningVerified() === false,
        master_key_known: (await alice.getCrypto().userHasCrossSigningKeys(bob.getUserId(), true)),
    }) + "\n");
    process.exit(0);
} catch (error) {
    process.stderr.write(`${error.stack ?? error}\n`);
    process.exit(1);
}
