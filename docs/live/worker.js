// Runs the engine beside the page, so that the page stays awake. Messages in: {id, ask: request}, {id, story: {...}}, {stop: id}.
// Messages out: {id, answer}, {id, error}, {id, text} while a story comes, and {progress: {done, total}} while files do.

import { Engine, gunzip } from "./engine.js";

/** How long to compute before looking whether the page wants something, in milliseconds. */
const SLICE = 30;

/** Questions that the module answers without a model, which is most of the download. */
const WITHOUT_MODEL = ["cost"];

const stopped = new Set();
/** One thing at a time: a question must not come between the steps of a story, whose session it would rewind. */
let turn = Promise.resolve();

async function download(name, progress) {
    const response = await fetch(new URL(name, import.meta.url));
    if (!response.ok) throw new Error(`${name}: the server says ${response.status}`);
    const parts = [];
    let bytes = 0;
    for (const reader = response.body.getReader(); ; ) {
        const { done, value } = await reader.read();
        if (done) break;
        parts.push(value);
        bytes += value.length;
        progress(bytes);
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** What is made once. After a failure the next call tries again: perhaps the network is back. */
function once(make) {
    let made = null;
    return () =>
        (made ??= make().catch((error) => {
            made = null;
            throw error;
        }));
}

const manifest = once(async () => (await fetch(new URL("manifest.json", import.meta.url))).json());
const done = {};
async function get(index) {
    const { files } = await manifest();
    if (files.length === 0) throw new Error("this site was built without the engine");
    const total = files.reduce((sum, file) => sum + file.bytes, 0);
    const { name } = files[index];
    const packed = await download(name, (bytes) => {
        done[name] = bytes;
        const sum = Object.values(done).reduce((a, b) => a + b, 0);
        postMessage({ progress: { done: sum, total } });
    });
    return gunzip(packed);
}
const module = once(async () => Engine.create(await get(0)));
const engine = once(async () => {
    const [fs, model] = await Promise.all([module(), get(1)]);
    fs.load(model);
    return fs;
});

const pause = () => new Promise((go) => setTimeout(go));

async function story(id, request) {
    const fs = await engine();
    fs.ask({ command: "start", ...request });
    let count = 1;
    for (;;) {
        const began = performance.now();
        const step = fs.ask({ command: "step", count });
        const text = step.tokens.map((token) => token.text).join("") + (step.rest ?? "");
        postMessage({ id, text });
        if (step.end !== null) return { end: step.end, decoded: step.decoded, seconds: step.decode_seconds };
        if (performance.now() - began < SLICE) count = Math.min(count * 2, 16);
        else count = Math.max(count >> 1, 1);
        await pause();
        if (stopped.delete(id)) return { end: "interrupted" };
    }
}

onmessage = ({ data }) => {
    if (data.stop !== undefined) {
        stopped.add(data.stop);
        return;
    }
    turn = turn.then(async () => {
        try {
            const start = WITHOUT_MODEL.includes(data.ask?.command) ? module : engine;
            const answer = data.story ? await story(data.id, data.story) : (await start()).ask(data.ask);
            postMessage({ id: data.id, answer });
        } catch (error) {
            postMessage({ id: data.id, error: String(error.message ?? error) });
        }
        stopped.delete(data.id);
    });
};
