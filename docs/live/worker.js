// Runs the engine beside the page, so that the page stays awake. Messages in: {id, ask: request}, {id, story: {...}}, {stop: id}.
// Messages out: {id, answer}, {id, error}, {id, text} while a story comes, and {progress: {done, total}} while files do.

import { Engine, gunzip } from "./engine.js";

/** How long to compute before looking whether the page wants something, in milliseconds. */
const SLICE = 30;

let loading = null;
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

async function load() {
    const manifest = await (await fetch(new URL("manifest.json", import.meta.url))).json();
    const total = manifest.files.reduce((sum, file) => sum + file.bytes, 0);
    const done = {};
    const get = (file) =>
        download(file.name, (bytes) => {
            done[file.name] = bytes;
            const sum = Object.values(done).reduce((a, b) => a + b, 0);
            postMessage({ progress: { done: sum, total } });
        });
    const [wasm, model] = await Promise.all(manifest.files.map((file) => get(file).then(gunzip)));
    const engine = await Engine.create(wasm);
    engine.load(model);
    return engine;
}

function engine() {
    loading ??= load().catch((error) => {
        // The next question tries again: perhaps the network is back.
        loading = null;
        throw error;
    });
    return loading;
}

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
            const answer = data.story ? await story(data.id, data.story) : (await engine()).ask(data.ask);
            postMessage({ id: data.id, answer });
        } catch (error) {
            postMessage({ id: data.id, error: String(error.message ?? error) });
        }
        stopped.delete(data.id);
    });
};
