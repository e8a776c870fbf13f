// The course in a browser: each widget starts, is used with the keyboard alone, and says what it should; every page is read without
// JavaScript and at a phone's width; nothing is logged as an error. And the module's answers are those of the engine of this machine.
// tools/test-browser runs it: PLAYWRIGHT is playwright-core's directory, CHROMIUM the browser, BIN the directory of fs-live.

import assert from "node:assert/strict";
import { readFile, readdir, rm, writeFile, mkdtemp } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { native, stories } from "../node.mjs";
import { WIDGETS } from "../widgets.js";

const { chromium } = createRequire(`${process.env.PLAYWRIGHT}/`)("playwright-core");
const SITE = fileURLToPath(new URL("../../../target/site/", import.meta.url));
const TYPES = { html: "text/html", js: "text/javascript", css: "text/css", json: "application/json", svg: "image/svg+xml" };
/** What pages may weigh, packed: the engine with its model, and all else that a page with a widget loads. */
const ENGINE_BUDGET = 8_000_000;
const PAGE_BUDGET = 700_000;
/** The least that a target measures, in both directions, in CSS pixels (WCAG 2.2, 2.5.8), and how wide a phone is. */
const TARGET = 24;
const PHONE = { width: 360, height: 740 };
/** What the keyboard reaches. */
const FOCUSABLE = ':is(a[href], button, input:not([type="hidden"]), select, summary, [tabindex="0"]):not(:disabled)';

/** A file that the server has trouble with. */
let refused = null;
/** The site lies below its host's root, as where it is published. */
const server = createServer(async (request, response) => {
    const name = decodeURIComponent(new URL(request.url, "http://x").pathname).replace(/^\/fs\//, "");
    if (name === refused) return response.writeHead(503).end();
    const type = TYPES[name.split(".").pop()] ?? "application/octet-stream";
    try {
        const body = await readFile(SITE + name);
        response.writeHead(200, { "content-type": type }).end(body);
    } catch {
        response.writeHead(404, { "content-type": "text/html" }).end(await readFile(`${SITE}404.html`));
    }
});
let browser, url;
/** Which page shows a widget. */
const pages = {};
/** All pages. */
let all = [];
before(async () => {
    all = (await readdir(SITE)).filter((file) => file.endsWith(".html") && !["print.html", "toc.html"].includes(file)).toSorted();
    for (const file of all) {
        for (const [, name] of (await readFile(SITE + file, "utf8")).matchAll(/data-live="(\w+)"/g)) pages[name] ??= file;
    }
    await new Promise((go) => server.listen(0, "127.0.0.1", go));
    url = `http://127.0.0.1:${server.address().port}/fs/`;
    browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
});
after(async () => {
    await browser?.close();
    server.close();
});

/** A page, and what went wrong in it so far. */
async function open(path, options = {}) {
    const context = await browser.newContext(options);
    const page = await context.newPage();
    const errors = [];
    page.on("console", (message) => message.type() === "error" && errors.push(`${message.text()} ${message.location().url}`));
    page.on("pageerror", (error) => errors.push(String(error)));
    await page.goto(url + path, { waitUntil: "networkidle" });
    const weight = () => page.evaluate(() => ["navigation", "resource"].flatMap((type) => performance.getEntriesByType(type)).reduce((sum, entry) => sum + entry.transferSize, 0));
    return { page, errors, weight, close: () => context.close() };
}

/** Starts a widget as a keyboard does, and waits until it has answered. */
async function wake(page, name) {
    const root = page.locator(`[data-live="${name}"]`);
    await root.scrollIntoViewIfNeeded();
    if ((await root.getAttribute("data-recorded")) === null) {
        await root.locator(".wake button").focus();
        await page.keyboard.press("Enter");
    }
    await page.locator(`[data-live="${name}"][data-awake]`).waitFor({ timeout: 60_000 });
    return root;
}

/** A test of one widget, on its page. */
function widget(name, what, body) {
    test(`${name}: ${what}`, async () => {
        assert.ok(name in pages, `no page shows ${name}`);
        const { page, errors, close } = await open(pages[name]);
        const before = (await page.locator(`[data-live="${name}"] .view`).textContent()).trim();
        await body({ page, before, root: await wake(page, name) });
        assert.deepEqual(errors, []);
        await close();
    });
}

widget("story", "the same seed tells the story that was told when the site was built", async ({ root, before }) => {
    await root.locator('.story[aria-busy="false"]').waitFor({ timeout: 60_000 });
    assert.ok((await root.locator(".story").textContent()).startsWith(before));
    assert.match(await root.locator(".now").textContent(), /^\d+ tokens decoded, \d+ a second$/);
});

widget("story", "another seed tells another, and it can be stopped", async ({ page, root, before }) => {
    await root.locator('.story[aria-busy="false"]').waitFor({ timeout: 60_000 });
    await root.locator('[name="seed"]').focus();
    await page.keyboard.press("ArrowUp");
    await page.keyboard.press("Enter");
    await root.locator('.story[aria-busy="true"]').waitFor();
    // By then it is another story than the first one, whose beginning is the same prompt.
    await page.waitForFunction(() => document.querySelector('[data-live="story"] .story').textContent.length > 80);
    await root.getByRole("button", { name: "Stop" }).focus();
    await page.keyboard.press("Space");
    await root.locator('.story[aria-busy="false"]').waitFor({ timeout: 60_000 });
    assert.ok(!before.startsWith((await root.locator(".story").textContent()).slice(0, 80)));
});

widget("bpe", "goes from bytes to tokens", async ({ page, root }) => {
    await root.getByRole("button", { name: "Next merge" }).focus();
    await page.keyboard.press("Enter");
    assert.match(await root.locator(".now").textContent(), /Step 2 of \d+\. Merge \d+/);
    await root.getByRole("button", { name: "Last" }).focus();
    await page.keyboard.press("Space");
    const [step, of] = (await root.locator(".now").textContent()).match(/\d+/g);
    assert.equal(step, of);
});

widget("logits", "temperature 0 draws one token", async ({ page, root }) => {
    await root.locator('[name="temperature"]').focus();
    await page.keyboard.press("Home");
    await root.getByText("÷ temperature 1,").waitFor();
    assert.match(await root.locator("tbody tr").first().textContent(), /1000$/);
});

widget("ledger", "decodes as many tokens as it is told", async ({ page, root }) => {
    await root.locator('[name="generate"]').focus();
    await page.keyboard.press("Home");
    await page.keyboard.press("ArrowRight");
    await page.waitForFunction(() => document.querySelectorAll('[data-live="ledger"] tbody tr').length === 2);
    assert.match(await root.locator("tbody tr").last().textContent(), /decode/);
});

widget("tracer", "explains the weight that is chosen", async ({ page, root }) => {
    await root.locator('[data-position="2"]').focus();
    await page.keyboard.press("Enter");
    assert.equal(await root.locator('[data-position="2"]').getAttribute("aria-pressed"), "true");
    assert.match(await root.locator(".now").textContent(), /q·k = .* ÷ √64 = /);
    await root.locator('[name="layer"]').focus();
    await page.keyboard.press("End");
    await root.getByText("layer 7, head 0").first().waitFor();
});

widget("tracer", "shows the formula of any value, and the arrow keys go on", async ({ page, root }) => {
    const pressed = () => root.locator('[data-cell][aria-pressed="true"]').getAttribute("aria-label");
    const says = (words) => page.waitForFunction((words) => document.querySelector('[data-live="tracer"] .now').textContent.includes(words), words);
    await root.locator('[data-cell][tabindex="0"]').first().focus();
    await page.keyboard.press("Enter");
    await says("rms_norm input_layernorm, layer 3, value 0 of");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowRight");
    await says("linear self_attn.q_proj, layer 3, value 1 of");
    await says("from the other 253 products");
    assert.match(await pressed(), /^linear self_attn.q_proj, value 1: /);
    assert.ok(await root.locator('[data-cell][aria-pressed="true"]').evaluate((cell) => cell === document.activeElement));
    await root.locator('[data-cell]').last().focus();
    await page.keyboard.press("Space");
    await says("after the last layer, the logit of");
    await root.locator('[data-position="2"]').focus();
    await page.keyboard.press("Enter");
    await says("q·k =");
});

widget("file", "opens a tensor and a value of it", async ({ page, root }) => {
    await root.locator('[name="tensor"]').focus();
    await page.keyboard.press("ArrowDown");
    await root.getByText("model.layers.0.input_layernorm.weight value 0").waitFor();
    await root.locator('[data-value="3"]').focus();
    await page.keyboard.press("Enter");
    assert.match(await root.locator(".now").textContent(), /value 3: bytes [\d,]+ and [\d,]+ are [0-9a-f]{2} [0-9a-f]{2}/);
    assert.ok(await root.locator('[data-value="3"]').evaluate((button) => button === document.activeElement));
});

widget("microscope", "shows another format and another part", async ({ page, root }) => {
    await root.locator('[name="format"]').focus();
    await page.keyboard.press("Home");
    await root.getByText("Q8_0: the scale is").waitFor();
    await root.locator('[name="sub"]').focus();
    await page.keyboard.press("End");
    assert.match(await root.locator(".now").textContent(), /weight 2(2[4-9]|[345]\d): .* is code -?\d+/);
});

widget("roofline", "more tokens a pass move the bound from memory to arithmetic", async ({ page, root }) => {
    assert.match(await root.locator(".now").textContent(), /one token a pass: .* so memory is the bound/);
    await root.locator('[name="tokens"]').focus();
    await page.keyboard.press("End");
    assert.match(await root.locator(".now").textContent(), /2048 tokens a pass: .* so arithmetic is the bound/);
    await root.locator('[name="machine"]').focus();
    await page.keyboard.press("End");
    await root.locator('[name="peak"]').focus();
    await page.keyboard.press("Control+A");
    await page.keyboard.type("1000000");
    assert.match(await root.locator(".now").textContent(), /so memory is the bound/);
});

widget("roofline", "counts a model of the reader's own, typed or pasted, and says what is wrong with it", async ({ page, root }) => {
    const said = (words) => page.waitForFunction((words) => document.querySelector('[data-live="roofline"] .now').textContent.includes(words), words);
    const type = async (name, text) => {
        await root.locator(`[name="${name}"]`).focus();
        await page.keyboard.press("Control+A");
        await page.keyboard.insertText(text);
    };
    const before = (await root.locator(".now").textContent()).replace("Qwen3-0.6B", "");
    await root.locator('[name="model"]').focus();
    await page.keyboard.press("End");
    // It begins as the model that was shown, and so with its numbers.
    await said("your model");
    assert.equal((await root.locator(".now").textContent()).replace("your model", ""), before);
    await type("num_hidden_layers", "56");
    await page.waitForFunction((before) => document.querySelector('[data-live="roofline"] .now').textContent.replace("your model", "") !== before, before);
    await type("num_key_value_heads", "3");
    await said("num_key_value_heads");
    await said("a divisor of num_attention_heads, 16");
    await type("num_key_value_heads", "");
    await said("num_key_value_heads: ");
    assert.equal(await root.locator('[name="num_key_value_heads"]').getAttribute("aria-invalid"), "true");
    await type("paste", "{");
    await said("not JSON");
    await type("paste", '{"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960, "tie_word_embeddings": true, "rope_theta": 1000000}');
    await said("your model");
    assert.equal(await root.locator('[name="hidden_size"]').inputValue(), "2048");
    const pasted = await root.locator(".view table").first().textContent();
    await root.locator('[name="model"]').focus();
    await page.keyboard.press("Home");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowDown");
    await said("Qwen3-1.7B");
    assert.equal(await root.locator(".view table").first().textContent(), pasted.replace("your model", "Qwen3-1.7B"));
    assert.ok(!(await root.locator('[name="hidden_size"]').isVisible()));
});

widget("stepper", "goes to the barrier, step by step", async ({ page, root }) => {
    const step = async () => Number((await root.locator(".now").textContent()).match(/Step (\d+) of/)[1]);
    const first = await step();
    await root.getByRole("button", { name: "Next step" }).focus();
    for (let pressed = 0; pressed < 30 && !/All 256 threads wait/.test(await root.locator(".now").textContent()); pressed++) await page.keyboard.press("Enter");
    assert.match(await root.locator(".now").textContent(), /All 256 threads wait here/);
    assert.ok((await step()) > first);
    await root.getByRole("button", { name: "Last" }).focus();
    await page.keyboard.press("Space");
    assert.match(await root.locator(".now").textContent(), /Step (\d+) of \1,/);
});

/** Each widget's step: what has the focus, and the key that is pressed. */
const STEPS = {
    story: ["[name=temperature]", "Enter"],
    bpe: ["[name=next]", "Enter"],
    logits: ["[name=temperature]", "Home"],
    ledger: ["[name=generate]", "ArrowRight"],
    tracer: ['[data-position="2"]', "Enter"],
    file: ['[data-value="3"]', "Enter"],
    microscope: ["[name=format]", "Home"],
    roofline: ["[name=tokens]", "End"],
    stepper: ["[name=next]", "Enter"],
};

/** How far a page reaches over its right edge. */
const overflow = (page) => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);

/** Targets below `root` that are too small: a link in a line of text is as high as the line, and exempt. */
const small = (root) =>
    root.locator(FOCUSABLE).evaluateAll((all, least) => {
        const inText = (element) => element.matches("a") && getComputedStyle(element).display === "inline";
        const seen = all.filter((element) => !inText(element) && !element.matches(".skip, main") && element.checkVisibility());
        return seen.filter((element) => Math.min(element.offsetWidth, element.offsetHeight) < least).map((element) => `${element.outerHTML.slice(0, 80)} ${element.offsetWidth} × ${element.offsetHeight}`);
    }, TARGET);

for (const [name, [control, key]] of Object.entries(STEPS)) {
    test(`${name} on a phone: one status line that stays, the focus where it was and seen, targets large enough`, async () => {
        const { page, errors, close } = await open(pages[name], { viewport: PHONE });
        const status = page.locator(`[data-live="${name}"] :is([role="status"], output)`);
        assert.equal(await status.count(), 1);
        await status.evaluate((node) => (globalThis.statusLine = node));
        const root = await wake(page, name);
        // A story speaks when it is over.
        if (name === "story") await root.getByText("a second").waitFor({ timeout: 60_000 });
        assert.ok((await overflow(page)) <= 0, `${pages[name]}: ${await overflow(page)} pixels too wide`);
        const before = await status.textContent();
        await root.locator(control).focus();
        await page.keyboard.press(key);
        await page.waitForFunction((before) => globalThis.statusLine.textContent !== before, before);
        assert.equal(await status.count(), 1);
        assert.ok(await status.evaluate((node) => node === globalThis.statusLine), "the status line is another node");
        assert.ok(await root.locator(control).evaluate((node) => node === document.activeElement), "the focus went elsewhere");
        for (const details of await root.locator("summary").all()) await details.press("Enter");
        assert.deepEqual(await small(root), []);
        for (const colorScheme of ["light", "dark"]) {
            await page.emulateMedia({ colorScheme });
            const unseen = await root.locator(FOCUSABLE).evaluateAll((all) => {
                const rings = all.filter((element) => {
                    element.focus();
                    const { outlineStyle, outlineWidth } = getComputedStyle(element);
                    return document.activeElement !== element || outlineStyle === "none" || Number.parseFloat(outlineWidth) < 2;
                });
                return rings.map((element) => element.outerHTML.slice(0, 80));
            });
            assert.deepEqual(unseen, [], `no ring in ${colorScheme}`);
        }
        assert.deepEqual(errors, []);
        await close();
    });
}

test("without JavaScript, at a phone's width, the course can be read from its first page to its last", async () => {
    assert.deepEqual(Object.keys(pages).toSorted(), Object.keys(WIDGETS).toSorted());
    const { page, errors, close } = await open("index.html", { viewport: PHONE, javaScriptEnabled: false });
    const read = [];
    for (;;) {
        const path = page.url().slice(url.length);
        read.push(path);
        assert.equal(await page.locator("h1:visible").count(), 1, path);
        assert.ok((await page.locator("main").innerText()).length > 400, `${path}: hardly any text`);
        // Nothing that only a script could answer, and all chapters one press away.
        assert.deepEqual(await page.locator("button:enabled:visible").allTextContents(), [], path);
        assert.ok(await page.locator(`nav.contents a[href$="m4-kv-cache.html"]`).isVisible(), path);
        for (const frame of await page.locator(".live .frame").all()) {
            assert.ok((await frame.innerText()).length > 150, path);
        }
        const wide = (await page.locator("html").boundingBox()).width;
        const widest = await page.locator("body > *").evaluateAll((all) => Math.max(...all.map((one) => one.scrollWidth)));
        assert.ok(Math.max(wide, widest) <= PHONE.width, `${path}: ${widest} wide`);
        const next = page.locator('a[rel="next"]');
        if ((await next.count()) === 0) break;
        await Promise.all([page.waitForURL((to) => !to.href.endsWith(path)), next.click()]);
    }
    assert.deepEqual(read.toSorted(), all.filter((file) => file !== "404.html"));
    assert.deepEqual(errors, []);
    await close();
});

test("every page at a phone's width: nothing wider, targets large enough, little to load", async () => {
    const { files } = JSON.parse(await readFile(`${SITE}live/manifest.json`));
    const engine = files.reduce((sum, file) => sum + file.bytes, 0);
    assert.ok(engine > 0 && engine <= ENGINE_BUDGET, `the engine: ${engine} bytes`);
    const { page, errors, weight, close } = await open("index.html", { viewport: PHONE });
    let stacked = 0;
    // Each page is weighed as a reader's first.
    const network = await page.context().newCDPSession(page);
    await network.send("Network.setCacheDisabled", { cacheDisabled: true });
    for (const path of all) {
        await page.goto(url + path, { waitUntil: Object.values(pages).includes(path) ? "networkidle" : "load" });
        assert.ok((await overflow(page)) <= 0, `${path}: ${await overflow(page)} pixels too wide`);
        const bytes = await weight();
        assert.ok(bytes > 10_000 && bytes <= PAGE_BUDGET, `${path}: ${bytes} bytes`);
        await page.locator(".contents summary").press("Enter");
        assert.deepEqual(await small(page.locator("body")), [], path);
        // Sentences in columns are stacked: whoever reads them need not scroll sideways, and each says of which column it is.
        const rows = await page.locator("table.rows").evaluateAll((all) => all.map((table) => {
            const cell = table.querySelector("td:nth-child(2)");
            return [table.closest(".wide").scrollWidth <= table.closest(".wide").clientWidth, getComputedStyle(cell, "::before").content.length > 4];
        }));
        assert.ok(rows.flat().every(Boolean), `${path}: ${JSON.stringify(rows)}`);
        stacked += rows.length;
        assert.deepEqual(errors, [], path);
    }
    assert.ok(stacked > 10, `${stacked} tables are stacked`);
    await close();
});

test("on a phone the menu has what the bar has no room for; the page of all pages opens", async () => {
    const { page, errors, close } = await open("index.html", { viewport: PHONE });
    await page.locator(".contents summary").press("Enter");
    const print = page.getByRole("link", { name: "Print all pages" });
    assert.ok(await print.isVisible());
    await print.press("Enter");
    await page.waitForURL(/print\.html$/);
    assert.ok((await page.locator("h1").count()) > 20);
    assert.ok((await overflow(page)) <= 0, `${await overflow(page)} pixels too wide`);
    await page.evaluate(() => (globalThis.print = () => (globalThis.printed = true)));
    await page.getByRole("link", { name: "Print" }).click();
    assert.ok(await page.evaluate(() => globalThis.printed), "Print does not print");
    assert.deepEqual(errors, []);
    await close();
});

test("on paper a dark page is black on white, and its folded answers are open", async () => {
    const { page, close } = await open("m3-sampling.html", { viewport: { width: 794, height: 1123 }, colorScheme: "dark" });
    await page.evaluate(() => (document.documentElement.dataset.theme = "dark"));
    await page.emulateMedia({ media: "print", colorScheme: "dark" });
    const grounds = await page.evaluate(() => [document.body, ...document.querySelectorAll(".goal, pre, .wide, td code, .live .now")].map((one) => getComputedStyle(one).backgroundColor));
    for (const ground of new Set(grounds)) {
        const [red, green, blue, alpha = 1] = ground.match(/[\d.]+/g).map(Number);
        assert.ok(alpha === 0 || Math.min(red, green, blue) > 200, ground);
    }
    const answers = await page.locator("main > details > p").evaluateAll((all) => all.map((answer) => answer.checkVisibility({ contentVisibilityAuto: true }) && answer.offsetHeight > 0));
    assert.ok(answers.length >= 4 && answers.every(Boolean), String(answers));
    await close();
});

test("a place that is not there says so, in the course's looks", async () => {
    const { page, close } = await open("deeper/nowhere.html", { viewport: PHONE });
    assert.ok(await page.getByRole("heading", { level: 1 }).isVisible());
    assert.ok((await overflow(page)) <= 0);
    assert.equal(await page.locator(".brand").evaluate((link) => link.href), `${url}index.html`);
    await close();
});

test("an engine that cannot be loaded is said, and the frame stays", async () => {
    const { page, close } = await open(pages.bpe);
    refused = "live/fs.wasm.gz";
    const root = page.locator('[data-live="bpe"]');
    await root.locator(".wake button").click();
    try {
        await root.getByText("the server says 503").waitFor();
        assert.ok(await root.locator(".frame").isVisible());
    } finally {
        refused = null;
    }
    await root.locator(".wake button").click();
    await page.locator('[data-live="bpe"][data-awake]').waitFor({ timeout: 60_000 });
    await close();
});

test("in the browser the engine gives this machine's tokens, and its logits within 1e-5", async () => {
    const directory = await mkdtemp(join(tmpdir(), "fs-"));
    const model = join(directory, "stories.gguf");
    await writeFile(model, await stories());
    const here = native(join(process.env.BIN, "fs-live"), model);
    const { page, close } = await open("index.html");
    const there = (request) =>
        page.evaluate(async (request) => (await import("./live/client.js")).ask(request), request);
    for (const text of ["Once upon a time", "naïve café 🐉", "Lily found a big, red ball in the garden and"]) {
        const [expected, found] = [await here.ask({ command: "logits", text }), await there({ command: "logits", text })];
        assert.deepEqual(found.ids, expected.ids);
        const worst = Math.max(...found.logits.map((logit, i) => Math.abs(logit - expected.logits[i])));
        assert.ok(found.logits.length === 4096 && worst <= 1e-5, `${text}: ${worst}`);
    }
    const request = { text: "Once upon a time", sampling: { temperature: 0.9, top_k: 40, seed: 3 }, max_tokens: 48 };
    const tell = async (ask) => {
        await ask({ command: "start", ...request });
        return (await ask({ command: "step", count: 60 })).tokens;
    };
    assert.deepEqual(await tell(there), await tell(here.ask));
    here.close();
    await close();
    await rm(directory, { recursive: true });
});

test("search finds the KV cache", async () => {
    const { page, errors, close } = await open("index.html");
    await page.locator("#search-open").focus();
    await page.keyboard.press("Enter");
    await page.keyboard.type("KV cache");
    await page.getByRole("dialog").getByRole("link", { name: /M4: KV cache/ }).first().waitFor();
    await page.keyboard.press("Escape");
    assert.ok(!(await page.locator("#search").isVisible()));
    assert.deepEqual(errors, []);
    await close();
});

test("the theme changes by keyboard and is remembered", async () => {
    const { page, close } = await open("index.html", { colorScheme: "light" });
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await ground();
    await page.locator("#theme").focus();
    await page.keyboard.press("Enter");
    assert.equal(await ground(), light);
    await page.keyboard.press("Enter");
    const dark = await ground();
    assert.notEqual(dark, light);
    await page.reload();
    assert.equal(await ground(), dark);
    assert.equal(await page.locator("#theme").textContent(), "Theme:\u00a0dark");
    await close();
});

test("pictures", { skip: !process.env.SHOTS && "only with --shots DIR" }, async () => {
    for (const [name, path] of Object.entries(pages)) {
        for (const [look, width, colorScheme] of [["light", 1100, "light"], ["dark", 1100, "dark"], ["phone", 360, "light"], ["phone-dark", 360, "dark"]]) {
            const { page, close } = await open(path, { viewport: { width, height: 900 }, colorScheme });
            const root = page.locator(`[data-live="${name}"]`);
            await root.screenshot({ path: `${process.env.SHOTS}/${name}-${look}-still.png` });
            await wake(page, name);
            await page.waitForTimeout(500);
            await root.screenshot({ path: `${process.env.SHOTS}/${name}-${look}.png` });
            await close();
        }
    }
});
