// The module against the same engine built for this machine, FS: the same tokens, and logits within 1e-5.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { engine, stories } from "../node.mjs";

const FS = process.env.FS ?? "target/release/fs";
const directory = mkdtempSync(join(tmpdir(), "fs-"));
after(() => rmSync(directory, { recursive: true }));
const native = (...args) => JSON.parse(execFileSync(FS, [...args, "--quiet", "--json"], { maxBuffer: 1 << 28, stdio: ["ignore", "pipe", "inherit"] }));

// What pages load, and the model as it was trained, which has recorded outputs.
const q6k = join(directory, "stories.gguf");
writeFileSync(q6k, await stories());
const bf16 = join(directory, "bf16.gguf");
execFileSync(FS, ["quantize", "stories", bf16, "--type", "bf16"], { stdio: "ignore" });
const models = { q6k, bf16 };
const engines = Object.fromEntries(await Promise.all(Object.entries(models).map(async ([name, path]) => [name, await engine(readFileSync(path))])));

const PROMPTS = ["Once upon a time", "The", "Lily found a big, red ball in the garden and", "naïve café 🐉", "\n\n \"Hello!\" said the dog. ".repeat(12)];
// The levels do the same sums in the same order: four lanes, no fused multiply-add.
const scalar = ["--backend", "cpu", "--simd", "scalar", "--threads", "1"];

function logits(path, text, args) {
    const { ids, top } = native("logits", text, "--model", path, "--top", "4096", ...args);
    const all = new Float32Array(4096).fill(-Infinity);
    for (const { id, logit } of top) all[id] = logit;
    return { ids, all };
}

function compare(fs, path, args, name) {
    let largest = 0;
    for (const text of PROMPTS) {
        const expected = logits(path, text, args);
        const found = fs.ask({ command: "logits", text });
        assert.deepEqual(found.ids, expected.ids);
        assert.equal(found.logits.length, 4096);
        for (const [id, logit] of found.logits.entries()) largest = Math.max(largest, Math.abs(logit - expected.all[id]));
    }
    console.log(`${name}: largest difference of a logit ${largest}`);
    assert.ok(largest <= 1e-5, `${name}: ${largest}`);
}

for (const [name, path] of Object.entries(models)) {
    test(`${name}: logits of the cpu backend`, () => compare(engines[name], path, scalar, `${name}, simd128 and native scalar`));

    test(`${name}: tokens, drawn with the same seeds`, () => {
        for (const [seed, text] of PROMPTS.entries()) {
            const flags = ["--seed", String(seed), "--temperature", seed ? "0.9" : "0", "--top-k", "40", "-n", "64"];
            const expected = native("generate", text, "--model", path, ...scalar, ...flags);
            const sampling = { temperature: seed ? 0.9 : 0, top_k: 40, seed };
            engines[name].ask({ command: "start", text, sampling, max_tokens: 64 });
            const ids = [];
            let all = "";
            for (let end = null, rest; end === null; ) {
                let tokens;
                ({ tokens, end, rest } = engines[name].ask({ command: "step", count: 5 }));
                ids.push(...tokens.map((token) => token.id));
                all += tokens.map((token) => token.text).join("") + (rest ?? "");
            }
            assert.deepEqual(ids, expected.ids);
            assert.equal(all, expected.text);
        }
    });

    test(`${name}: the trace`, () => {
        const expected = native("trace", PROMPTS[2], "--model", path, ...scalar, "-n", "2", "--rows", "all", "--values", "all");
        const found = engines[name].ask({ command: "trace", text: PROMPTS[2], generate: 2, rows: "all", values: 4096 });
        let values = 0;
        const same = (a, b, where) => {
            if (typeof b === "number") {
                values++;
                return assert.ok(Math.abs(a - b) <= 1e-5 + 1e-5 * Math.abs(b), `${where}: ${a}, ${b}`);
            }
            if (b === null || typeof b !== "object") return assert.equal(a, b, where);
            assert.deepEqual(Object.keys(a), Object.keys(b), where);
            // What a machine is called and how fast it is differ.
            for (const key of Object.keys(b)) if (!["seconds", "device", "model"].includes(key)) same(a[key], b[key], `${where}.${key}`);
        };
        same(found, expected, "trace");
        assert.ok(values > 100_000, `${values} numbers compared`);
    });
}

test("bf16: the reference backend", async () => {
    const fs = await engine(readFileSync(bf16));
    fs.ask({ command: "backend", name: "reference" });
    assert.equal(fs.ask({ command: "model" }).backend, "reference");
    compare(fs, bf16, ["--backend", "reference"], "bf16, reference");
});

/** A tensor of f32 in a safetensors file. */
function tensor(path, name) {
    const file = readFileSync(path);
    const length = Number(file.readBigUInt64LE());
    const { dtype, data_offsets } = JSON.parse(file.subarray(8, 8 + length))[name];
    assert.equal(dtype, "F32");
    const bytes = file.subarray(8 + length + data_offsets[0], 8 + length + data_offsets[1]);
    return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
}

test("bf16: what transformers recorded", () => {
    const golden = fileURLToPath(new URL("../../../tests/golden/forward/stories/", import.meta.url));
    const { cases } = JSON.parse(readFileSync(`${golden}/manifest.json`));
    let compared = 0;
    for (const { prompt: text, ids, greedy, checkpoints } of cases) {
        if (checkpoints.logits) {
            const expected = tensor(golden + checkpoints.logits.file, "logits").slice(-4096);
            // The trace runs with a cache in f32, as the recording did; its lens after the last block is the logits.
            const trace = engines.bf16.ask({ command: "trace", text, kv: "f32", operations: false, top: 4096 });
            const [found] = trace.passes[0].lens.at(-1).rows;
            assert.equal(found.length, 4096);
            for (const { id, logit } of found) {
                assert.ok(Math.abs(logit - expected[id]) <= 1e-4 + 1e-4 * Math.abs(expected[id]), `${id}: ${logit}, ${expected[id]}`);
            }
            compared++;
        }
        if (greedy) {
            const count = greedy.ids.length;
            const started = engines.bf16.ask({ command: "start", text, sampling: { temperature: 0 }, max_tokens: count });
            assert.deepEqual(started.ids, ids);
            const { tokens } = engines.bf16.ask({ command: "step", count });
            assert.deepEqual(tokens.map((token) => token.id), greedy.ids);
            compared++;
        }
    }
    assert.equal(compared, 3);
});
