// What the programs beside it share: users of matrix-js-sdk with its Rust crypto, in memory alone.
import "fake-indexeddb/auto";

Promise.withResolvers ??= function () {
    let resolve, reject;
    const promise = new this((a, b) => ((resolve = a), (reject = b)));
    return { promise, resolve, reject };
};
export const sdk = await import("matrix-js-sdk");
const { logger } = await import("matrix-js-sdk/lib/logger.js");
logger.setLevel?.("silent");
for (const name of ["debug", "info", "log", "warn"]) console[name] = () => {};

export const password = "correct horse battery staple";

/** Registers somebody; gives what a client is made of. */
export async function register(baseUrl, name) {
    const made = await sdk.createClient({ baseUrl }).registerRequest({
        username: name, password, auth: { type: "m.login.dummy" }, initial_device_display_name: "js-sdk",
    });
    return { baseUrl, userId: made.user_id, deviceId: made.device_id, accessToken: made.access_token };
}

/** Logs somebody in on a new device. */
export async function login(baseUrl, name) {
    const made = await sdk.createClient({ baseUrl }).loginRequest({
        type: "m.login.password", password, identifier: { type: "m.id.user", user: name },
    });
    return { baseUrl, userId: made.user_id, deviceId: made.device_id, accessToken: made.access_token };
}

/** A client with encryption that syncs; `start` makes options of startClient, `more` is for createClient. */
export async function client(session, start = () => ({}), more = {}) {
    const made = sdk.createClient({ ...session, ...more });
    await made.initRustCrypto({ cryptoDatabasePrefix: session.userId + session.deviceId });
    await made.startClient({ initialSyncLimit: 20, lazyLoadMembers: true, ...start(made) });
    await until(() => made.isInitialSyncComplete(), 20, `${session.userId}'s first sync`);
    return made;
}

/** Proves by password that it is one's own keys that are uploaded. */
export const byPassword = (client) => (request) => request({
    type: "m.login.password", password, identifier: { type: "m.id.user", user: client.getUserId() },
});

export async function until(ready, seconds, what) {
    const deadline = Date.now() + seconds * 1000;
    for (;;) {
        const value = await ready();
        if (value) return value;
        if (Date.now() > deadline) throw new Error(`${what}: not within ${seconds} s`);
        await new Promise((resolve) => setTimeout(resolve, 25));
    }
}

/** The event of a room that says `body`, in the clear. */
export const read = (client, room, body) => until(async () => {
    for (const event of client.getRoom(room)?.getLiveTimeline().getEvents() ?? []) {
        await client.decryptEventIfNeeded(event);
        if (event.getContent().body === body) return event;
    }
}, 20, `${client.getUserId()} reads ${JSON.stringify(body)}`);

export const encrypted = {
    initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
};

/** Runs a program to its end: one line of JSON on stdout, or what went wrong on stderr and exit code 1. */
export async function main(program) {
    const urls = process.argv.slice(2);
    try {
        const found = await program(...urls);
        console.error = () => {};
        process.stdout.write(JSON.stringify(found) + "\n", () => process.exit(0));
    } catch (error) {
        process.stderr.write(`${error.stack ?? error}\n`);
        process.exit(1);
    }
}
