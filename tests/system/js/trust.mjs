// Devices and people who trust each other, by matrix-js-sdk: secret storage, cross-signing, key backup, a new device that
// is verified by emoji and gets the old messages, a verification between people of two homeservers, a backup restored
// by its recovery key, a dehydrated device, an identity that is reset.
// usage: node trust.mjs URL_A URL_B   (open registration on both). Prints one JSON line; exit code 1 on failure.
import { byPassword, client, encrypted, login, main, read, register, until } from "./user.mjs";

// Keys are put away at once: the library waits for up to ten seconds, for the sake of servers.
const { RustBackupManager } = await import("matrix-js-sdk/lib/rust-crypto/backup.js");
RustBackupManager.maxBackupLoopStartDelayMillis = 0;

/** Opens secret storage with whatever key `keys` has by its id. */
const callbacks = (keys) => ({
    getSecretStorageKey: async ({ keys: wanted }) => {
        for (const id of Object.keys(wanted)) if (keys.has(id)) return [id, keys.get(id)];
        return null;
    },
    cacheSecretStorageKey: (id, _, key) => keys.set(id, key),
});

/** One side of a verification by emoji; both sides run it. */
async function emoji(request) {
    await until(() => request.phase >= 3 || request.verifier, 20, "a request that is ready");
    const verifier = request.verifier ?? (request.initiatedByMe ? await request.startVerification("m.sas.v1")
        : await until(() => request.verifier, 20, "the other side's start"));
    let seen;
    verifier.on("show_sas", (sas) => {
        seen = sas.sas.emoji.map(([sign]) => sign).join("");
        sas.confirm();
    });
    await verifier.verify();
    return seen;
}

await main(async (urlA, urlB) => {
    // Secret storage, cross-signing and key backup, as a client sets them up on its first device.
    const aliceKeys = new Map();
    const first = await client(await register(urlA, "js-alice"), undefined, { cryptoCallbacks: callbacks(aliceKeys) });
    const crypto = first.getCrypto();
    await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: byPassword(first) });
    const recovery = await crypto.createRecoveryKeyFromPassphrase("a phrase");
    await crypto.bootstrapSecretStorage({ createSecretStorageKey: async () => recovery, setupNewKeyBackup: true });
    const version = await until(() => crypto.getActiveSessionBackupVersion(), 20, "an active backup");
    const ready = await crypto.isSecretStorageReady() && await crypto.isCrossSigningReady();

    const { room_id: room } = await first.createRoom(encrypted);
    await until(() => first.getRoom(room)?.hasEncryptionStateEvent(), 20, "the room's encryption");
    await first.sendTextMessage(room, "before the second device");
    await read(first, room, "before the second device");
    const kept = async () => (await first.http.authedRequest("GET", "/room_keys/version")).count;
    await until(async () => (await kept()) > 0, 20, "a key in the backup");

    // A second device, verified by emoji over messages to devices; secrets are gossiped to it, and the backup opens.
    const second = await client(await login(urlA, "js-alice"));
    let incoming;
    first.on("crypto.verificationRequestReceived", (request) => (incoming = request));
    const asked = await second.getCrypto().requestOwnUserVerification();
    const request = await until(() => incoming, 20, "the request at the first device");
    await request.accept();
    const [mine, theirs] = await Promise.all([emoji(asked), emoji(request)]);
    const trusted = await until(async () =>
        (await first.getCrypto().getDeviceVerificationStatus(first.getUserId(), second.getDeviceId()))?.crossSigningVerified,
    20, "the second device, cross-signed");
    await until(() => second.getCrypto().getSessionBackupPrivateKey(), 20, "the backup's key at the second device");
    const old = await read(second, room, "before the second device");

    // Two people, on two homeservers, in a room of theirs.
    const bob = await client(await register(urlB, "js-bob"));
    await bob.getCrypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys: byPassword(bob) });
    const { room_id: direct } = await first.createRoom({ preset: "trusted_private_chat", invite: [bob.getUserId()], is_direct: true, ...encrypted });
    await until(() => bob.getRoom(direct)?.getMyMembership() === "invite", 20, "bob's invite");
    await bob.joinRoom(direct);
    await until(() => first.getRoom(direct)?.getMember(bob.getUserId())?.membership === "join", 20, "bob's join at alice");
    await until(() => bob.getRoom(direct)?.hasEncryptionStateEvent(), 20, "the room's encryption at bob");
    await bob.sendTextMessage(direct, "who are you?");
    await read(first, direct, "who are you?");
    let between;
    bob.on("crypto.verificationRequestReceived", (request) => (between = request));
    const toBob = await first.getCrypto().requestVerificationDM(bob.getUserId(), direct);
    const atBob = await until(() => between, 20, "the request at bob");
    await atBob.accept();
    const [hers, his] = await Promise.all([emoji(toBob), emoji(atBob)]);
    const knows = async (client, other) => (await client.getCrypto().getUserVerificationStatus(other)).isVerified();
    await until(() => knows(first, bob.getUserId()), 20, "bob, verified at alice");
    await until(() => knows(bob, first.getUserId()), 20, "alice, verified at bob");
    // What alice signed on one device, her other one sees.
    await until(() => knows(second, bob.getUserId()), 20, "bob, verified at alice's second device");

    // A third device that has nothing but the recovery key.
    const keys = new Map();
    const third = await client(await login(urlA, "js-alice"), undefined, { cryptoCallbacks: callbacks(keys) });
    const [id] = await third.secretStorage.getKey();
    keys.set(id, recovery.privateKey);
    await third.getCrypto().bootstrapCrossSigning({});
    await third.getCrypto().loadSessionBackupPrivateKeyFromSecretStorage();
    await third.getCrypto().checkKeyBackupAndEnable();
    const restored = await third.getCrypto().restoreKeyBackup();
    await read(third, room, "before the second device");

    // A dehydrated device is kept, and comes back to the device that asks for it.
    const dehydration = await crypto.isDehydrationSupported();
    if (dehydration) await crypto.startDehydration({ createNewKey: true, rehydrate: false });

    // A new identity: what was signed by the old one is not trusted any more.
    await bob.getCrypto().bootstrapCrossSigning({
        setupNewCrossSigning: true, authUploadDeviceSigningKeys: byPassword(bob),
    });
    await until(async () => (await first.getCrypto().getUserVerificationStatus(bob.getUserId())).needsUserApproval,
        20, "bob's new identity, noticed by alice");
    return {
        ready, backup: version !== null, same_emoji: mine === theirs && mine.length > 6, trusted, old: old.isEncrypted(),
        same_emoji_between_people: hers === his && hers.length > 6, restored: restored.imported > 0, dehydration,
        still_verified: await knows(first, bob.getUserId()),
    };
});
