// A person who logs in by OAuth 2.0: matrix-js-sdk is the app (registers, asks, gets tokens), Chromium shows the node's pages.
// usage: node drive.mjs HOMESERVER_URL USER PASSWORD SCREENSHOT_PREFIX
import { createServer } from "node:http";
import { chromium } from "playwright-core";
import { createClient } from "matrix-js-sdk";
import { OAuth2 } from "matrix-js-sdk/lib/oauth/index.js";

const [homeserver, user, password, screenshots] = process.argv.slice(2);

const found = {};
const assert = (holds, what) => {
    if (!holds) throw new Error(what);
};

// Where the app waits for the browser to come back.
let arrived;
const back = new Promise((resolve) => (arrived = resolve));
const server = createServer((request, response) => {
    response.end("You can close this page.");
    const url = new URL(request.url, "http://127.0.0.1");
    if (url.pathname === "/callback") arrived(url.searchParams);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const redirect = `http://127.0.0.1:${server.address().port}/callback`;

const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true,
    args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
});
const page = await browser.newPage({ viewport: { width: 700, height: 700 } });
const log = [];
page.on("console", (message) => log.push(message.text()));
page.setDefaultTimeout(20000);

let status = 0;
try {
    const metadata = await createClient({ baseUrl: homeserver }).getAuthMetadata();
    const clientId = await OAuth2.registerClient(metadata, {
        application_type: "native", client_name: "Test app", client_uri: "https://app.example.org/",
        redirect_uris: ["http://127.0.0.1/callback"], token_endpoint_auth_method: "none", response_types: ["code"],
        grant_types: ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
    });
    const oauth = new OAuth2(metadata, { clientId });

    // The app sends the browser to the node; the person logs in there and allows it.
    await page.goto(await oauth.generateAuthorizationCodeGrantUrl("state-1", redirect, "query"));
    await page.getByLabel("User name").fill(user);
    await page.getByLabel("Password").fill("wrong password");
    await page.getByRole("button", { name: "Log in" }).click();
    await page.getByRole("alert").waitFor();
    await page.getByLabel("User name").fill(user);
    await page.getByLabel("Password").fill(password);
    await page.screenshot({ path: `${screenshots}-login.png` });
    await page.getByRole("button", { name: "Log in" }).click();
    await page.getByRole("button", { name: "Allow", exact: true }).waitFor();
    assert((await page.content()).includes("Test app"), "the page says which app asks");
    await page.screenshot({ path: `${screenshots}-consent.png` });
    await page.getByRole("button", { name: "Allow", exact: true }).click();
    const query = await back;
    assert(query.get("state") === "state-1", "the state comes back");
    const tokens = await oauth.completeAuthorizationCodeGrant(query.get("code"), redirect);
    const whoami = async (accessToken) => createClient({ baseUrl: homeserver, accessToken }).whoami();
    const me = await whoami(tokens.access_token);
    found.user = me.user_id;
    const app = createClient({ baseUrl: homeserver, accessToken: tokens.access_token, userId: me.user_id });
    const { room_id } = await app.createRoom({ name: "made by OAuth" });
    found.room = typeof room_id === "string";

    // A new pair of tokens.
    const fresh = await oauth.performRefreshTokenGrant(tokens.refresh_token);
    found.refreshed = (await whoami(fresh.access_token)).device_id === me.device_id;

    // A second device without a browser of its own: its code is confirmed in this one.
    const television = new OAuth2(metadata, { clientId });
    const session = await television.startDeviceAuthorizationGrant();
    await page.goto(session.verification_uri_complete);
    await page.getByText(session.user_code).first().waitFor();
    await page.getByRole("button", { name: "Allow", exact: true }).click();
    await page.getByRole("heading", { name: "The device is linked" }).waitFor();
    const linked = await television.waitForDeviceAuthorizationGrant(session);
    found.linked = (await whoami(linked.access_token)).user_id === me.user_id;

    // The account's page shows both.
    await page.goto(metadata.account_management_uri);
    await page.screenshot({ path: `${screenshots}-account.png` });
    const devices = (await createClient({ baseUrl: homeserver, accessToken: fresh.access_token }).getDevices()).devices;
    const html = await page.content();
    found.listed = devices.length >= 3 && devices.every((device) => html.includes(device.device_id));

    // Revoked: the app is out.
    await oauth.revokeToken(fresh.access_token, "access_token");
    found.revoked = await whoami(fresh.access_token).then(() => false, (error) => error.httpStatus === 401);
    found.other_stays = (await whoami(linked.access_token)).user_id === me.user_id;
} catch (error) {
    process.stderr.write(`${error.stack ?? error}\n${page.url()}\n${log.slice(-20).join("\n")}\n${await page.content()}\n`);
    status = 1;
}
process.stdout.write(`\n${JSON.stringify(found)}`);
await browser.close();
server.close();
process.exit(status);
