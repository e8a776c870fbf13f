// The widgets in a browser: each starts, is used with the keyboard alone, and says what it should; nothing is logged as an error; and
// without JavaScript its frame is there. Needs playwright-core (PLAYWRIGHT: its directory) and Chromium (CHROMIUM: its path).

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

const { chromium } = createRequire(`${process.env.PLAYWRIGHT ?? process.cwd()}/`)("playwright-core");
const SITE = fileURLToPath(new URL("../../../target/site-live/", import.meta.url));
const TYPES = { html: "text/html", js: "text/javascript", css: "text/css", json: "application/json" };

const server = createServer(async (request, response) => {
    const name = request.url === "/" ? "index.html" : request.url.slice(1);
    try {
        const body = await readFile(SITE + name);
        response.writeHead(200, { "content-type": TYPES[name.split(".").pop()] ?? "application/octet-stream" }).end(body);
    } catch {
        response.writeHead(404).end();
    }
});
let browser, url;
before(async () => {
    await new Promise((go) => server.listen(0, "127.0.0.1", go));
    url = `http://127.0.0.1:${server.address().port}/`;
    browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
});
after(async () => {
    await browser?.close();
    server.close();
});

async function open(options = {}) {
    const page = await browser.newPage(options);
    const errors = [];
    page.on("console", (message) => message.type() === "error" && !/favicon/.test(message.location().url) && errors.push(message.text()));
    page.on("pageerror", (error) => errors.push(String(error)));
    await page.goto(url);
    return { page, errors };
}

/** Starts a widget as a keyboard does, and waits until it has answered. */
async function wake(page, name) {
    const root = page.locator(`[data-live="${name}"]`);
    await root.locator(".wake button").focus();
    await page.keyboard.press("Enter");
    await root.locator(".wake button").waitFor({ state: "detached", timeout: 60_000 });
    return root;
}

test("a story comes, and the same seed tells the one that was told when the site was built", async () => {
    const { page, errors } = await open();
    const told = await page.locator('[data-live="story"] .story').textContent();
    const root = await wake(page, "story");
    await root.locator('.story[aria-busy="false"]').waitFor({ timeout: 60_000 });
    await page.waitForFunction((n) => document.querySelector('[data-live="story"] .story').textContent.length >= n, told.length);
    assert.ok((await root.locator(".story").textContent()).startsWith(told));
    assert.deepEqual(errors, []);
});

test("the stepper goes from bytes to tokens with the keyboard", async () => {
    const { page, errors } = await open();
    const root = await wake(page, "bpe");
    await root.getByRole("button", { name: "Next merge" }).focus();
    await page.keyboard.press("Enter");
    assert.match(await root.locator(".now").textContent(), /Step 2 of \d+\. Merge \d+/);
    await root.getByRole("button", { name: "Last" }).focus();
    await page.keyboard.press("Space");
    const [step, of] = (await root.locator(".now").textContent()).match(/\d+/g);
    assert.equal(step, of);
    assert.deepEqual(errors, []);
});

test("the bench answers to its sliders", async () => {
    const { page, errors } = await open();
    const root = await wake(page, "logits");
    await root.locator('[name="temperature"]').focus();
    await page.keyboard.press("Home");
    await root.getByText("÷ temperature 1,").waitFor();
    assert.match(await root.locator("tbody tr").first().textContent(), /1000$/);
    assert.deepEqual(errors, []);
});

test("the ledger decodes as many tokens as it is told", async () => {
    const { page, errors } = await open();
    const root = await wake(page, "ledger");
    await root.locator('[name="generate"]').focus();
    await page.keyboard.press("Home");
    await page.keyboard.press("ArrowRight");
    await page.waitForFunction(() => document.querySelectorAll('[data-live="ledger"] tbody tr').length === 2);
    assert.deepEqual(errors, []);
});

test("the tracer explains the weight that is chosen", async () => {
    const { page, errors } = await open();
    const root = await wake(page, "tracer");
    await root.locator('[data-position="2"]').focus();
    await page.keyboard.press("Enter");
    assert.equal(await root.locator('[data-position="2"]').getAttribute("aria-pressed"), "true");
    assert.match(await root.locator(".now").textContent(), /q·k = .* ÷ √64 = /);
    await root.locator('[name="layer"]').selectOption("7");
    await root.getByText("layer 7, head 0").first().waitFor();
    assert.deepEqual(errors, []);
});

test("a phone's width is enough, and without JavaScript the frames are there", async () => {
    const { page } = await open({ viewport: { width: 360, height: 740 } });
    for (const name of ["story", "bpe", "logits", "ledger", "tracer"]) await wake(page, name);
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(overflow <= 0, `${overflow} pixels too wide`);
    if (process.env.SCREENSHOTS) await page.screenshot({ path: `${process.env.SCREENSHOTS}/phone.png`, fullPage: true });
    const still = await open({ javaScriptEnabled: false });
    for (const name of ["story", "bpe", "logits", "ledger", "tracer"]) {
        assert.ok((await still.page.locator(`[data-live="${name}"] .frame`).textContent()).length > 200, name);
    }
    if (process.env.SCREENSHOTS) await still.page.screenshot({ path: `${process.env.SCREENSHOTS}/still.png`, fullPage: true });
});
