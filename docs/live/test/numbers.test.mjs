// Every number that a widget shows, beside what `fs` prints on this machine: frames are read as a reader would, cell by cell, and the
// numbers in them are asked of the engine in another way. That the module's answers are native ones is native.test.mjs's business.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { cells, text } from "./frame.mjs";
import * as bpe from "../bpe.js";
import * as file from "../file.js";
import { grouped, number, percent } from "../html.js";
import * as ledger from "../ledger.js";
import * as logits from "../logits.js";
import * as microscope from "../microscope.js";
import { engine, recorder, SITE, stories } from "../node.mjs";
import * as roofline from "../roofline.js";
import * as story from "../story.js";
import * as tracer from "../tracer.js";

/** As a cell's text. */
const shownPercent = (p) => percent(p).replace("&lt;", "<");

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const FS = process.env.FS;
const directory = mkdtempSync(join(tmpdir(), "fs-"));
after(() => rmSync(directory, { recursive: true }));
const print = (...args) => execFileSync(FS, args, { maxBuffer: 1 << 28, stdio: ["ignore", "pipe", "ignore"], encoding: "utf8" });
const json = (...args) => JSON.parse(print(...args, "--json"));

// The model of the pages, and the level whose sums are the module's.
const model = join(directory, "stories.gguf");
writeFileSync(model, await stories());
const scalar = ["--model", model, "--backend", "cpu", "--simd", "scalar", "--threads", "1"];
const fs = await engine(readFileSync(model));
const record = recorder(process.env.FS_LIVE);
const limits = await record("roofline");
const map = await record("file");
const results = (name) => JSON.parse(readFileSync(`${ROOT}benches/results/${name}`));

const column = (rows, n) => rows.map((row) => row[n]);
const close = (a, b, within, what) => assert.ok(Math.abs(a - b) <= within, `${what}: ${a}, ${b}`);
const sum = (all) => all.reduce((total, one) => total + one, 0);
const shown = (x) => x.toFixed(2).replace("-", "−");

test("units are those of `fs trace`", () => {
    const printed = print("trace", ledger.DEFAULT.text, ...scalar, "-n", "2", "--summary", "--top", "0");
    const { passes } = json("trace", ledger.DEFAULT.text, ...scalar, "-n", "2", "--summary", "--top", "0");
    const lines = printed.split("\n").filter((line) => line.includes("operations: weights"));
    assert.equal(lines.length, 3);
    for (const [i, { bytes, flop }] of passes.entries()) {
        const activations = number(bytes.activations_read + bytes.activations_written, "B");
        const expected = `weights ${number(bytes.weights, "B")}, KV read ${number(bytes.kv_read, "B")} and written ${number(bytes.kv_written, "B")}, activations ${activations}; ${number(flop, "FLOP")};`;
        assert.ok(lines[i].includes(expected), `${lines[i]}\n${expected}`);
    }
});

test("story: as many tokens as `fs generate` decodes, and its text", () => {
    const { text: prompt, temperature, seed } = story.DEFAULT;
    const native = json("generate", prompt, ...scalar, "--temperature", String(temperature), "--seed", String(seed), "-n", String(story.MOST));
    assert.ok(native.timings.decoded_tokens < story.MOST, "the default frame is a story with an end");
    // The frame that the site has; widgets.test.mjs holds the module's against it.
    const drawn = text(readFileSync(new URL("frames/story.html", SITE), "utf8").replaceAll("&#10;", "\n")).trim();
    assert.equal(drawn, `${native.timings.decoded_tokens} tokens decoded${prompt}${native.text}`);
});

test("bpe: ranks, ids and steps are those of `fs tokenize --trace`", () => {
    for (const prompt of [bpe.DEFAULT.text, "naïve café 🐉", "x".repeat(40)]) {
        const { parts } = json("tokenize", prompt, "--trace", "--model", model);
        const trace = fs.ask({ command: "tokenize", text: prompt });
        const states = sum(parts.map((part) => 1 + part.merges.length));
        let step = 0;
        for (const part of parts) {
            step += 1 + part.merges.length;
            const { now, view } = bpe.render({ trace, step: step - 1 });
            assert.ok(now.startsWith(`Step ${step} of ${states}. `), now);
            const merges = cells(view, JSON.stringify(part.text)).slice(1);
            assert.deepEqual(merges.map(([, rank]) => Number(rank)), part.merges.map(({ rank }) => rank));
        }
        const { view } = bpe.render({ trace, step: Infinity });
        assert.deepEqual(column(cells(view, "Pieces"), 2), parts.map(({ ids }) => ids.join(" ")));
    }
});

test("logits: `fs logits`, and each step of the sampler worked out by hand", () => {
    const state = { ...logits.DEFAULT, min_p: 0.05 };
    const { top } = json("logits", state.text, ...scalar, "--top", "4096");
    // Softmax over what is left; whatever has no weight is out.
    const softmax = (weights) => weights.map((weight) => weight / sum(weights));
    const steps = [softmax(top.map(({ logprob }) => Math.exp(logprob))), softmax(top.map(({ logit }) => Math.exp((logit - top[0].logit) / state.temperature)))];
    steps.push(softmax(steps[1].map((p, i) => (i < state.top_k ? p : 0))));
    let reached = 0;
    steps.push(softmax(steps[2].map((p) => ((reached += p) - p < state.top_p ? p : 0))));
    steps.push(softmax(steps[3].map((p) => (p >= state.min_p * steps[3][0] ? p : 0))));
    const answer = fs.ask({ ...logits.request(state), top: 4096 });
    for (const [i, { id, logit, probabilities }] of answer.tokens.entries()) {
        assert.equal(id, top[i].id);
        close(logit, top[i].logit, 1e-5, "logit");
        for (const [step, p] of probabilities.entries()) close(p, steps[step][i], 1e-6, `token ${i}, step ${step}`);
    }
    const { now, view } = logits.render(fs.ask(logits.request(state)));
    const left = steps.map((step) => step.filter((p) => p > 0).length);
    assert.deepEqual(now.match(/(?<= )\d+/g).map(Number), left);
    let drawn = 0;
    for (const [i, row] of cells(view, "The 12 most likely").entries()) {
        assert.equal(row[1], top[i].logit.toFixed(2));
        assert.deepEqual(row.slice(2, 7), steps.map((step) => (step[i] > 0 ? shownPercent(step[i]) : "out")));
        // Five standard deviations of a count: what a thousand independent draws stay within.
        close(Number(row[7]), 1000 * steps[4][i], 5 * Math.sqrt(1000 * steps[4][i] * (1 - steps[4][i])), `draws of token ${i}`);
        drawn += Number(row[7]);
    }
    assert.equal(drawn, 1000);
});

test("tracer: weights, lens and operations are those of `fs trace`; its formula is exact where the cache does not round", () => {
    const { text: prompt } = tracer.DEFAULT;
    const args = ["trace", prompt, ...scalar, "--rows", "all", "--values", "768", "--top", "3"];
    const { passes, tokens, config } = json(...args);
    const trace = fs.ask(tracer.request(prompt));
    const row = tokens.length - 1;
    for (const [layer, head] of [[3, 0], [0, 3], [7, 2]]) {
        const operations = passes[0].operations.filter((operation) => operation.layer === layer);
        const { attention } = operations.find(({ operation }) => operation === "attention");
        const { now, view } = tracer.render({ trace, layer, head, row });
        const heads = [head, ...Array(config.num_attention_heads).keys()].filter((h, i) => i === 0 || h !== head);
        assert.deepEqual(cells(view, "Where").map((cells) => cells.slice(1)), tokens.map((_, p) => heads.map((h) => shownPercent(attention[row][h][p]))));
        assert.ok(now.endsWith(`= <b>${percent(Math.max(...attention[row][head]))}</b>`), now);
        const lens = passes[0].lens.map(({ rows }) => rows[row].map(({ probability }) => shownPercent(probability)));
        assert.deepEqual(cells(view, "What comes after").map((cells) => cells.slice(1).map((cell) => cell.match(/<?[\d.]+ %$/)[0])), lens);
        // What an operation reads is in no field of its own: the tables of `fs trace` have it.
        const printed = print(...args, "--layer", String(layer)).split("\n").filter((line) => /^  [a-z_]+ .*\d [kM]?B /.test(line));
        const listed = cells(view, "The operations");
        const own = printed.slice(printed.length - 3 - listed.length, -3);
        assert.deepEqual(column(listed, 0), own.map((line) => line.trim().split(" ")[0]));
        assert.deepEqual(column(listed, 5), own.map((line) => line.match(/[\d.]+ [kMG]?B/)[0]));
        assert.deepEqual(column(listed, 4), operations.map(({ flop }) => (flop ? number(flop, "FLOP") : "")));
        assert.deepEqual(column(listed, 2), operations.map(({ values }) => (values ? `${values.rows[row].slice(0, 4).map(shown).join(" ")} …` : "")));
    }
    const unrounded = fs.ask({ ...tracer.request(prompt), kv: "f32" });
    for (let layer = 0; layer < config.num_hidden_layers; layer++) {
        for (let head = 0; head < config.num_attention_heads; head++) {
            for (let position = 0; position <= row; position++) {
                const { weight, shown } = tracer.explain(unrounded, { layer, head, row, position });
                close(weight, shown, 1e-5, `layer ${layer}, head ${head}, position ${position}`);
            }
        }
    }
});

test("ledger: every pass is that of `fs trace`; without a cache it is a prefill of all tokens at hand", () => {
    const { text: prompt, generate } = ledger.DEFAULT;
    const { passes, tokens, kv_bytes_per_token: kv } = json("trace", prompt, ...scalar, "-n", String(generate), "--summary", "--top", "0");
    const prefills = passes.map((pass, i) => {
        // The first, one in the middle and the last are computed; a model's run takes a second.
        if (i % 4 !== 0) return pass.flop_without_cache;
        const ids = tokens.slice(0, pass.start + pass.tokens).map(({ id }) => id).join(",");
        return json("trace", "--ids", ids, ...scalar, "--summary", "--top", "0").passes[0].flop;
    });
    const { now, view } = ledger.render(fs.ask(ledger.request(ledger.DEFAULT)));
    const expected = passes.map(({ phase, start, tokens: n, flop, bytes }, i) => [
        phase, String(start + n), number(flop, "FLOP"), number(prefills[i], "FLOP"), number((start + n) * kv, "B"), number(bytes.kv_read, "B"), number(bytes.weights, "B"),
    ]);
    assert.deepEqual(cells(view, "Each pass").map(([phase, , ...others]) => [phase, ...others]), expected);
    const [work, without] = [sum(passes.map(({ flop }) => flop)), sum(prefills)];
    assert.ok(text(now).startsWith(`Together ${number(work, "FLOP")} with the cache and ${number(without, "FLOP")} without: ${(without / work).toFixed(1)} times as much.`), now);
    const { kv_cache_f16: cache, config } = json("inspect", model);
    assert.ok(now.includes(`A token takes ${grouped(cache.bytes_per_token)} bytes of cache: 2 · ${config.num_hidden_layers} layers · ${config.num_key_value_heads} heads · ${config.head_dim} values, in f16.`), now);
});

test("file: places and sizes are those of `fs inspect`, bytes those of the file", () => {
    const path = `${ROOT}models/stories/model.safetensors`;
    const bytes = readFileSync(path);
    const { tensors } = json("inspect", `${ROOT}models/stories`);
    assert.deepEqual(new Set(map.tensors.map(({ name }) => name)), new Set(tensors.map(({ name }) => name)));
    const together = (pattern) => sum(tensors.filter(({ name }) => pattern.test(name)).map((tensor) => tensor.bytes));
    const first = Math.min(...tensors.map(({ offset }) => offset));
    for (const [tensor, { name, values }] of map.tensors.entries()) {
        const { offset, shape, dtype, bytes: size } = tensors.find((other) => other.name === name);
        const { now, view } = file.render(map, { tensor, value: 3 });
        const rows = cells(view, "The first values");
        for (const [i, row] of rows.entries()) {
            const pair = bytes.subarray(offset + 2 * i, offset + 2 * i + 2);
            // A bf16 is the upper half of an f32.
            const value = new DataView(Uint8Array.of(0, 0, ...pair).buffer).getFloat32(0, true);
            const bits = pair.readUInt16LE().toString(2).padStart(16, "0");
            assert.deepEqual(row, [`[${i}]`, grouped(offset + 2 * i), pair.toString("hex").replace(/..(?=.)/, "$& "), `${bits[0]} ${bits.slice(1, 9)} ${bits.slice(9)}`, String(value)]);
        }
        assert.equal(rows.length, values.length);
        assert.ok(text(now).startsWith(`${name} value 3: bytes ${grouped(offset + 6)} and ${grouped(offset + 7)} are ${rows[3][2]}, last first ${rows[3][3]}: `), now);
        assert.ok(text(now).endsWith(` = ${rows[3][4]}`), now);
        // The formula in front of it is what it says.
        const [, sign, fraction, , exponent] = text(now).match(/: (−?)(?:\(1 \+ )?(\d+)\/128(\))? · 2(−?\d+)/);
        close((sign ? -1 : 1) * (Number(fraction) / 128 + 1) * 2 ** (Number(exponent) - 127), Number(rows[3][4]), 0, name);
        assert.ok(view.includes(`Its bytes begin at 8 + ${grouped(first - 8)} + the first of <code>data_offsets</code> = ${grouped(offset)}.`));
        assert.ok(text(view).includes(`{"dtype":"${dtype}","shape":[${shape}],"data_offsets":[${offset - first},${offset - first + size}]}`), name);
    }
    const { view } = file.render(map);
    assert.ok(text(view).includes(`${grouped(bytes.length)} bytes: 8 bytes that say ${grouped(first - 8)} (${bytes.subarray(0, 8).toString("hex").match(/../g).join(" ")}), a header of as many, and ${tensors.length} tensors`));
    const parts = [first, together(/embed_tokens/), ...Array.from({ length: 8 }, (_, layer) => together(new RegExp(`layers\\.${layer}\\.`))), together(/^model\.norm/)];
    assert.deepEqual(cells(view, "From the first byte").map((row) => row.slice(1)), parts.map((n) => [number(n, "B"), `${((100 * n) / bytes.length).toFixed(1)} %`]));
});

test("microscope: codes and scales are those of a file that `fs quantize` writes, errors those of its values", async () => {
    const all = await microscope.data(null, record);
    const half = (bytes) => {
        const [sign, exponent, fraction] = [bytes >> 15, (bytes >> 10) & 31, bytes & 1023];
        return (sign ? -1 : 1) * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : (fraction / 1024) * 2 ** -14);
    };
    const numbers = (count, of) => Array.from({ length: count }, (_, i) => of(i));
    const signed = (byte) => (byte << 24) >> 24;
    const f16 = (block, at) => half(block.readUInt16LE(at));
    // Of Q4_K and Q5_K: eight scales and eight minima of 6 bits in 12 bytes. The first four lie in the low bits of a byte each; the
    // others have four bits in the last four bytes and two above the first ones'.
    const six = (bytes, j) => (j < 4 ? [bytes[j] & 63, bytes[j + 4] & 63] : [(bytes[j + 4] & 15) | ((bytes[j - 4] >> 6) << 4), (bytes[j + 4] >> 4) | ((bytes[j] >> 6) << 4)]);
    const supers = (block, code) => ({
        codes: numbers(256, code),
        scales: numbers(8, (j) => Math.fround(f16(block, 0) * six(block.subarray(4, 16), j)[0])),
        minima: numbers(8, (j) => Math.fround(f16(block, 2) * six(block.subarray(4, 16), j)[1])),
    });
    // Byte 32 c + l of the low bits has value l of parts 2 c and 2 c + 1.
    const low = (bytes, i) => (bytes[(i >> 6) * 32 + (i & 31)] >> (i & 32 ? 4 : 0)) & 15;
    // How a block lies in a file, read once more and in another language.
    const unpack = {
        Q8_0: (block) => ({ codes: numbers(32, (i) => signed(block[2 + i])), scales: [f16(block, 0)], minima: [0] }),
        Q4_0: (block) => ({ codes: numbers(32, (i) => ((block[2 + (i & 15)] >> (i < 16 ? 0 : 4)) & 15) - 8), scales: [f16(block, 0)], minima: [0] }),
        Q4_K: (block) => supers(block, (i) => low(block.subarray(16), i)),
        Q5_K: (block) => supers(block, (i) => low(block.subarray(48), i) | (((block[16 + (i & 31)] >> (i >> 5)) & 1) << 4)),
        Q6_K: (block) => ({
            // Each half has 64 bytes of low bits, for its quarters 0 and 2, 1 and 3, and 32 bytes with two high bits of each quarter.
            codes: numbers(256, (i) => {
                const [part, quarter, l] = [i >> 7, (i >> 5) & 3, i & 31];
                return (((block[part * 64 + (quarter & 1) * 32 + l] >> (quarter >> 1 ? 4 : 0)) & 15) | (((block[128 + part * 32 + l] >> (2 * quarter)) & 3) << 4)) - 32;
            }),
            scales: numbers(16, (j) => Math.fround(f16(block, 208) * signed(block[192 + j]))),
            minima: new Array(16).fill(0),
        }),
    };
    const compared = {};
    for (const format of Object.keys(unpack)) {
        const path = join(directory, `${format}.gguf`);
        print("quantize", "stories", path, "--type", microscope.mix(format));
        const { tensors } = json("inspect", path);
        const bytes = readFileSync(path);
        for (const { tensor, row, formats } of all.places) {
            const { dtype, offset, shape, bytes: size } = tensors.find(({ name }) => name === tensor);
            if (dtype !== format) continue;
            const one = formats.find((one) => one.format === format);
            assert.equal(one.bits, (8 * size) / (shape[0] * shape[1]));
            const at = offset + (row * shape[1] / one.block) * one.block_bytes;
            for (let block = 0; block < 256 / one.block; block++) {
                const packed = bytes.subarray(at + block * one.block_bytes, at + (block + 1) * one.block_bytes);
                const parts = one.block / one.sub;
                const { codes, scales, minima } = unpack[format](packed);
                assert.deepEqual(one.codes.slice(block * one.block, (block + 1) * one.block), codes, `${tensor}, ${format}, block ${block}`);
                assert.deepEqual(one.scales.slice(block * parts, (block + 1) * parts), scales, `${tensor}, ${format}, block ${block}`);
                assert.deepEqual(one.minima.slice(block * parts, (block + 1) * parts).map(Math.abs), minima.map(Math.abs), `${tensor}, ${format}, block ${block}`);
                compared[format] = (compared[format] ?? 0) + 1;
            }
        }
    }
    assert.deepEqual(Object.keys(compared), Object.keys(unpack));
    assert.ok(Math.min(compared.Q8_0, compared.Q4_0) >= 8, JSON.stringify(compared));
    const quality = results("2026-11-24-stories-quality.json").results;
    // What the record says of whole models, measured once more for one of them: the same text, the same instructions.
    const valid = join(directory, "valid.txt");
    execFileSync("bash", ["-c", `xz -dc scripts/stories/data/valid-v1-head.txt.xz | head -c ${results("2026-11-24-stories-quality.json").text_bytes} > "${valid}"`], { cwd: ROOT });
    const { kl: measured, same_top: alike } = json("perplexity", valid, "--model", join(directory, "Q4_0.gguf"), "--against", "stories", "--simd", { x64: "avx2", arm64: "neon" }[process.arch] ?? "scalar").against;
    const recorded = quality.find(({ type }) => type === "q4_0");
    close(measured.mean, recorded.kl.mean, recorded.kl.mean / 200, "KL divergence");
    close(alike.mean, recorded.same_top, 1e-3, "favourite tokens that stay");
    for (const [place, { values, formats }] of all.places.entries()) {
        const rows = cells(microscope.render(all, { place, format: "Q4_0", sub: 0 }).view, "The same 256");
        for (const [i, { format, restored, bits, block, block_bytes: size }] of formats.entries()) {
            const errors = values.map((value, at) => Math.abs(restored[at] - value));
            const { kl, same_top: same } = quality.find(({ type }) => type.toUpperCase().replace("_M", "") === format);
            assert.deepEqual(rows[i], [
                format, String(bits), `${block} values in ${size} bytes`, Math.sqrt(sum(errors.map((error) => error * error)) / 256).toPrecision(3),
                Math.max(...errors).toPrecision(3), kl.mean.toPrecision(3), shownPercent(1 - same),
            ]);
            const { now, view } = microscope.render(all, { place, format, sub: 5 });
            const listed = cells(view, "Weights 160 to 191");
            for (const [at, [, value, , , back, error]] of listed.entries()) {
                assert.deepEqual([value, back, error], [values[160 + at], restored[160 + at], restored[160 + at] - values[160 + at]].map((x) => x.toPrecision(3)));
            }
            const worst = Math.max(...errors.slice(160, 192));
            const said = Number(now.match(/weight (\d+):/)[1]);
            assert.equal(errors[said], worst);
            assert.ok(now.endsWith(`= <b>${restored[said].toPrecision(3)}</b>`), now);
        }
    }
});

test("roofline: the story model's passes are those of `fs trace`", () => {
    // Formats are those of GGUF files, whose norms are f32.
    const bf16 = join(directory, "bf16.gguf");
    print("quantize", "stories", bf16, "--type", "bf16");
    const { cost, kv_cache_f16: cache } = json("inspect", bf16);
    assert.equal(limits.models[0].parameters, cost.parameters);
    assert.equal(limits.models[0].kv_bytes, cache.bytes_per_token);
    assert.equal(limits.models[0].context, cache.context);
    const q6k = json("inspect", model).cost;
    assert.equal(limits.models[0].formats.find(({ format }) => format === "q6_k").decode_bytes, q6k.decode_bytes);
    const ids = Array.from({ length: 300 }, (_, i) => 256 + i);
    for (const n of [1, 2, 33, 300]) {
        const { passes } = json("trace", "--ids", ids.slice(0, n).join(","), "--model", bf16, "-n", "2", "--summary", "--top", "0");
        for (const { start, tokens, flop, bytes } of passes) {
            const pass = roofline.place(limits, { ...roofline.DEFAULT, model: 0, tokens, position: start + tokens });
            assert.equal(pass.flop, flop);
            const read = bytes.weights + bytes.kv_read;
            assert.equal(pass.bytes, read);
            assert.equal(pass.intensity, flop / read);
        }
    }
});

test("roofline: Qwen3-0.6B's passes are those of `fs inspect` and `fs bench`", () => {
    const at = limits.models.findIndex(({ name }) => name === "Qwen3-0.6B");
    const { cost, kv_cache_f16: cache, tensors } = json("inspect", `${ROOT}models/qwen3-0.6b`);
    const of = limits.models[at];
    assert.deepEqual([of.parameters, of.kv_bytes, of.context], [cost.parameters, cache.bytes_per_token, cache.context]);
    // As published the norms are bf16; in a GGUF file of this type, f32: two bytes more for each of their values.
    const norms = sum(tensors.filter(({ shape }) => shape.length === 1).map(({ bytes }) => bytes));
    assert.equal(of.formats.find(({ format }) => format === "bf16").decode_bytes, cost.decode_bytes + norms);
    const bench = results("2026-11-24-zen-5-2-cores.json");
    let compared = 0;
    for (const [format, { fs }] of Object.entries(bench.results)) {
        for (const [phase, { samples }] of Object.entries(fs)) {
            // The benchmark's numbers are of all its passes together, and per second: decode went from the first position to the last.
            const count = bench.tests[phase];
            const passes = phase === "prefill" ? [{ tokens: count, position: count }] : Array.from({ length: count }, (_, i) => ({ tokens: 1, position: i + 1 }));
            const all = passes.map((pass) => roofline.place(limits, { ...roofline.DEFAULT, model: at, format, ...pass }));
            for (const { tokens_per_second: rate, flop_per_second: flop, bytes_per_second: bytes } of samples) {
                const seconds = count / rate;
                close((flop * seconds) / sum(all.map((pass) => pass.flop)), 1, 1e-12, `FLOP of ${format}, ${phase}`);
                // Of prefill the next test compares them, with what `fs bench` says now.
                if (phase === "decode") close((bytes * seconds) / sum(all.map((pass) => pass.bytes)), 1, 1e-12, `bytes of ${format}, ${phase}`);
                compared++;
            }
        }
    }
    assert.ok(compared >= 8, `${compared} results`);
});

test("roofline: a model that is entered is counted as `fs bench` counts it, in bytes, arithmetic and their ratio", () => {
    for (const [at, path] of [[0, `${ROOT}models/stories`], [1, `${ROOT}models/qwen3-0.6b`]]) {
        const { config } = json("inspect", path);
        const entered = Object.fromEntries([...roofline.COUNTS, "tie_word_embeddings"].map((name) => [name, config[name]]));
        const { name, ...counted } = fs.ask({ command: "cost", config: entered });
        const { name: _, ...listed } = limits.models[at];
        assert.deepEqual(counted, listed, name);
        assert.deepEqual(roofline.pasted(readFileSync(`${path}/config.json`, "utf8")), entered);
    }
    const { config } = limits.models[0];
    // Behind the listed ones, as the page has it.
    const models = [...limits.models, fs.ask({ command: "cost", config })];
    const own = limits.models.length;
    for (const [format, path] of [["q6_k", model], ["bf16", join(directory, "bf16.gguf")]]) {
        const bench = json("bench", "--model", path, "--prompt", "40", "--generate", "3", "--depth", "0,7", "--repeats", "1");
        for (const { depth, prefill, decode } of bench.results) {
            const place = (tokens, position) => roofline.place({ ...limits, models }, { model: own, format, tokens, position, read: 50e9, peak: 200e9 });
            const prompt = place(40, depth + 40);
            assert.deepEqual([prompt.bytes, prompt.flop, prompt.intensity], [prefill.bytes, prefill.flop, prefill.flop / prefill.bytes], `${format} at ${depth}`);
            const each = [1, 2, 3].map((n) => place(1, depth + n));
            assert.deepEqual([sum(each.map((pass) => pass.bytes)), sum(each.map((pass) => pass.flop))], [decode.bytes, decode.flop], `${format} at ${depth}`);
        }
    }
    // A machine of the reader's own, by hand: 50 GB/s and 200 GFLOP/s.
    const state = { model: own, format: "bf16", tokens: 1, position: 1, read: 50e9, peak: 200e9 };
    const { now } = roofline.render({ ...limits, models }, state);
    const { cost, kv_cache_f16: cache } = json("inspect", join(directory, "bf16.gguf"));
    const read = cost.decode_bytes + cache.bytes_per_token;
    assert.ok(now.startsWith("your model in bf16, one token a pass: "), now);
    assert.ok(text(now).includes(`${number(read, "B")}, `) && text(now).endsWith(`This machine does 4.0 in the time it reads one, so memory is the bound: at most ${(50e9 / read).toFixed(1)} tokens/s.`), now);
    // Machines whose lines meet far from this one's: nothing is drawn outside the picture.
    for (const [read, peak] of [[1e9, 1e17], [1e14, 1e9], [50e9, 200e9]]) {
        const { view } = roofline.render({ ...limits, models }, { ...state, read, peak });
        const [, roof] = view.match(/class="roof" d="M([^"]*)"/);
        const [, x, y] = view.match(/class="point" cx="([^"]*)" cy="([^"]*)"/);
        for (const [at, height] of [...roof.split("L").map((point) => point.split(" ").map(Number)), [Number(x), Number(y)]]) {
            assert.ok(at >= 66 && at <= 640 && height >= 0 && height <= 261, `${read} B/s, ${peak} FLOP/s: ${at} ${height}`);
        }
    }
});

test("roofline: what is no model is refused with a sentence that names the field", () => {
    const { config } = limits.models[1];
    const refused = (change, words) => assert.throws(() => fs.ask({ command: "cost", config: { ...config, ...change } }), words);
    refused({ num_key_value_heads: 3 }, /num_key_value_heads.*3.*divisor of num_attention_heads, 16/);
    refused({ head_dim: 127 }, /head_dim.*even/);
    refused({ hidden_size: 0 }, /hidden_size/);
    refused({ vocab_size: 1e12 }, /vocab_size.*whole number from 1 to 16777216/);
    refused({ intermediate_size: null }, /intermediate_size is missing/);
    refused({ num_experts: 8 }, /num_experts does not decide/);
    // More than 32 bits can address is counted all the same: the module runs nothing.
    assert.equal(fs.ask({ command: "cost", config: limits.models.at(-1).config }).parameters, limits.models.at(-1).parameters);
    assert.throws(() => roofline.pasted("{"), /not JSON/);
    assert.throws(() => roofline.pasted("[1]"), /no config.json/);
    assert.throws(() => roofline.pasted('{"num_experts": 128}'), /num_experts: .*some of a mixture's experts/);
    assert.equal(roofline.pasted('{"hidden_size": 8}').vocab_size, undefined);
});

test("roofline: limits and measured rates are those of the benchmark's file, and the sentence is its own arithmetic", () => {
    const { results: formats } = results(limits.machine.source.replace("benches/results/", ""));
    const median = (all) => {
        const sorted = all.toSorted((a, b) => a - b);
        return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
    };
    const machines = Object.values(formats).flatMap(({ fs }) => Object.values(fs)).flatMap(({ samples }) => samples.map(({ machine }) => machine));
    assert.equal(limits.machine.read, median(Object.values(formats).flatMap(({ fs }) => fs.decode.samples).map(({ machine }) => machine.read_bytes_per_second)));
    const peaks = new Map(["f32", "bf16", "int8"].map((operands) => [operands, median(machines.flatMap(({ peaks }) => peaks).filter((one) => one.operands === operands).map((one) => one.ops_per_second))]));
    assert.deepEqual(limits.machine.peaks.map((one) => one.operands).sort(), [...peaks.keys()].filter((operands) => peaks.get(operands)).sort());
    // Two programs read decimal fractions; the last bit may differ.
    for (const { operands, ops_per_second: peak } of limits.machine.peaks) close(peak / peaks.get(operands), 1, 1e-15, operands);
    const quantized = Math.max(peaks.get("f32"), peaks.get("int8") ?? 0);
    const ours = Math.max(peaks.get("f32"), peaks.get("bf16") ?? 0);
    const { now, view } = roofline.render(limits);
    for (const [what, rate, reached] of cells(view, "Measured beside")) {
        const [format, phase] = what.split(", ");
        const { median: rates, samples } = formats[format].fs[phase];
        assert.equal(rate, rates.toFixed(1));
        const share = median(samples.map((sample) => sample[phase === "decode" ? "share_of_read_bandwidth" : "share_of_peak"]));
        assert.equal(reached, `${(100 * share).toFixed(0)} % of ${phase === "decode" ? "reading" : "computing"}`, what);
    }
    const [, flop, bytes, intensity, ridge, rate] = text(now).match(/ a pass: (.*) and (.*), (.*) operations for each byte\. This machine does (.*) in the time .* at most (.*) tokens\/s\./);
    const qwen = limits.models[1];
    const read = qwen.formats[0].decode_bytes + roofline.DEFAULT.position * qwen.kv_bytes;
    const work = qwen.per_token + qwen.head + roofline.DEFAULT.position * qwen.per_pair;
    const { read: bandwidth } = limits.machine;
    assert.deepEqual(
        [flop, bytes, intensity, ridge, rate],
        [number(work, "FLOP"), number(read, "B"), (work / read).toFixed(1), (ours / bandwidth).toFixed(1), (bandwidth / read).toFixed(1)],
    );
    for (const [format, size, a, bound, most] of cells(view, "Qwen3-0.6B, by format")) {
        const of = qwen.formats.find((one) => one.format === format);
        const read = of.decode_bytes + roofline.DEFAULT.position * qwen.kv_bytes;
        const [slow, quick] = [read / bandwidth, work / (format === "bf16" ? ours : quantized)];
        const expected = [number(read, "B"), (work / read).toFixed(1), slow >= quick ? "memory" : "arithmetic", (1 / Math.max(slow, quick)).toFixed(1)];
        assert.deepEqual([size, a, bound, most], expected, format);
    }
});
