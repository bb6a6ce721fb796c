// A person with Hydrogen in Chromium: logs in, opens a room, reads a message, answers it.
// usage: node drive.mjs HOMESERVER_URL USER PASSWORD ROOM_NAME READS SENDS SCREENSHOT.png
import { createServer } from "node:http";
import { mkdtemp, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import esbuild from "esbuild";
import { chromium } from "playwright-core";

const [homeserver, user, password, room, reads, sends, screenshot] = process.argv.slice(2);
const here = path.dirname(fileURLToPath(import.meta.url));
const modules = path.dirname(path.dirname(createRequire(import.meta.url).resolve("hydrogen-view-sdk")));

// The page and its assets, from a web server on another port than the homeserver, as a hosted client is.
const bundle = await esbuild.build({
    entryPoints: [path.join(here, "page.js")], bundle: true, write: false, format: "esm", target: "es2022",
    logLevel: "error", external: ["fs", "path", "crypto"],
});
const types = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm", ".svg": "image/svg+xml" };
const server = createServer(async (request, response) => {
    const name = new URL(request.url, "http://x").pathname.slice(1) || "index.html";
    const olm = path.join(path.dirname(modules), "@matrix-org", "olm");
    try {
        const body = name === "page.bundle.js" ? bundle.outputFiles[0].contents
            : name === "sw.js" ? await readFile(path.join(modules, "lib-build", "sw.js"))
            : name.startsWith("assets/") ? await readFile(path.join(modules, "asset-build", name))
                : name.startsWith("olm/") ? await readFile(path.join(olm, path.basename(name)))
                    : await readFile(path.join(here, path.basename(name)));
        response.writeHead(200, { "content-type": types[path.extname(name)] ?? "application/octet-stream" });
        response.end(body);
    } catch {
        response.writeHead(404).end();
    }
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const origin = `http://127.0.0.1:${server.address().port}`;

const profile = await mkdtemp(path.join(tmpdir(), "hydrogen-"));
const browser = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, viewport: { width: 1100, height: 750 },
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync"],
});
const page = browser.pages()[0] ?? await browser.newPage();
const log = [];
page.on("console", (message) => log.push(message.text()));
page.on("pageerror", (error) => log.push(`page: ${error}`));
page.setDefaultTimeout(20000);
let status = 0;
try {
    await page.goto(`${origin}/?hs=${encodeURIComponent(homeserver)}`);
    await page.locator("#username").fill(user);
    await page.locator("#password").fill(password);
    await page.locator(".PasswordLoginView button[type=submit]").click();
    await page.locator(".RoomList").getByText(room).click();
    await page.locator(".Timeline").getByText(reads).waitFor();
    await page.locator(".MessageComposer_input textarea").fill(sends);
    await page.keyboard.press("Enter");
    await page.locator(".Timeline .own:not(.unsent)").getByText(sends).waitFor();
} catch (error) {
    process.stderr.write(`${error.stack ?? error}\n${log.slice(-40).join("\n")}\n`);
    status = 1;
}
await page.screenshot({ path: screenshot });
await browser.close();
server.close();
process.exit(status);
