// The tracer's formulas: each number in them beside `fs trace` and the weights file, and what they come to beside what the engine has.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { cellsOf, formula, say, short, sources, valuesOf, weightOf } from "../formulas.js";
import { cells, text } from "./frame.mjs";
import { engine, stories } from "../node.mjs";
import * as tracer from "../tracer.js";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const directory = mkdtempSync(join(tmpdir(), "fs-"));
after(() => rmSync(directory, { recursive: true }));
const native = (...args) => execFileSync(process.env.FS, args, { maxBuffer: 1 << 28, stdio: ["ignore", "pipe", "ignore"], encoding: "utf8" });

const PROMPT = tracer.DEFAULT.text;
const bf16 = join(directory, "bf16.gguf");
native("quantize", "stories", bf16, "--type", "bf16");
const fs = await engine(readFileSync(bf16));
// Plain loops in f32: no input is rounded, and with a cache in f32 nothing else is.
fs.ask({ command: "backend", name: "reference" });
const trace = fs.ask({ ...tracer.request(PROMPT), kv: "f32" });
const printed = JSON.parse(native("trace", PROMPT, "--model", bf16, "--backend", "reference", "--kv", "f32", "--rows", "all", "--values", "all", "--top", "3", "--json"));
const { operations, lens } = printed.passes[0];
const [count, { head_dim: d, num_attention_heads: heads, num_key_value_heads: kvHeads, rope_theta: theta }] = [printed.tokens.length, printed.config];

// The weights as they lie in the file they were trained into.
const file = readFileSync(`${ROOT}models/stories/model.safetensors`);
const header = JSON.parse(file.subarray(8, 8 + Number(file.readBigUInt64LE())));
function weightRow(name, row) {
    const { shape, data_offsets } = header[name];
    const columns = shape.at(-1);
    const first = 8 + Number(file.readBigUInt64LE()) + data_offsets[0] + 2 * row * columns;
    return Array.from({ length: columns }, (_, i) => new DataView(Uint8Array.of(0, 0, file[first + 2 * i], file[first + 2 * i + 1]).buffer).getFloat32(0, true));
}

// What reads what, written down by hand: a layer's 18 operations in order, and the place of the residual stream before it.
const NAMES = ["rms_norm", "q", "k", "v", "q_norm", "k_norm", "rope_q", "rope_k", "store_kv", "attention", "o", "add", "rms_norm_2", "gate", "up", "swiglu", "down", "add_2"];
const READS = {
    rms_norm: ["before"], q: ["rms_norm"], k: ["rms_norm"], v: ["rms_norm"], q_norm: ["q"], k_norm: ["k"], rope_q: ["q_norm"], rope_k: ["k_norm"],
    attention: ["v"], o: ["attention"], add: ["before", "o"], rms_norm_2: ["add"], gate: ["rms_norm_2"], up: ["rms_norm_2"], swiglu: ["gate", "up"], down: ["swiglu"], add_2: ["add", "down"],
};
const placeOf = (layer, name) => (name === "before" ? 18 * layer : 1 + 18 * layer + NAMES.indexOf(name));

const sum = (all) => all.reduce((total, one) => total + one, 0);
const close = (a, b, what) => assert.ok(Math.abs(a - b) <= 1e-5 + 1e-4 * Math.abs(b), `${what}: ${a}, ${b}`);
const numbers = (html) => text(html).match(/−?\d[\d.]*(?:e[+−]\d+)?/g) ?? [];
/** What a dot product is told as: three products, and how many are left with their sum. */
const told = (a, b) => [...[0, 1, 2].flatMap((i) => (i < a.length ? [short(a[i]), short(b[i])] : [])), ...(a.length > 3 ? [short(sum(a.slice(3).map((x, i) => x * b[i + 3]))), String(a.length - 3)] : [])];
const normed = (x, weight, i) => {
    const square = sum(x.map((v) => v * v)) / x.length;
    return [String(x.length), short(square), short(square), "0.000001", short(x[i]), short(Math.sqrt(square + 1e-6)), short(weight[i])];
};

/** Every number that the formula of a value may show, in order, from the printed trace and the file alone. */
function expected(layer, name, row, cell) {
    const of = (other, at = row) => operations[placeOf(layer, other)].values.rows[at];
    const inputs = (READS[name] ?? []).map((other) => of(other));
    const { tensor, attention } = operations[placeOf(layer, name)];
    const [head, at] = [Math.floor(cell / d), cell % d];
    if (name.startsWith("rms_norm")) return normed(inputs[0], weightRow(tensor, 0), cell);
    if (name === "q_norm" || name === "k_norm") return normed(inputs[0].slice(head * d, (head + 1) * d), weightRow(tensor, 0), at);
    if (name.startsWith("rope")) {
        const pair = head * d + (at % (d / 2));
        const [a, b] = [inputs[0][pair], inputs[0][pair + d / 2]];
        const angle = short(row * theta ** ((-2 * (at % (d / 2))) / d));
        const [one, two] = at < d / 2 ? [a, b] : [b, a];
        return [pair, pair + d / 2, row, theta, `−${2 * (at % (d / 2))}`, d, angle, short(one), angle, short(two), angle].map(String);
    }
    if (name === "attention") {
        const v = Array.from({ length: row + 1 }, (_, p) => of("v", p)[Math.floor(head / (heads / kvHeads)) * d + at]);
        return told(attention[row][head], v);
    }
    if (name.startsWith("add")) return inputs.map((x) => short(x[cell]));
    if (name === "swiglu") {
        const [gate, up] = inputs.map((x) => x[cell]);
        return ["1", short(gate), "1", short(-gate), short(up)];
    }
    return told(weightRow(tensor, cell), inputs[0]);
}

test("of every operation that has values, the formula's numbers are the printed ones, and come to the printed value", () => {
    let compared = 0;
    for (const layer of [0, 3, 7]) {
        for (const name of NAMES.filter((name) => name !== "store_kv")) {
            const index = placeOf(layer, name);
            assert.deepEqual(sources(trace, index), READS[name].map((other) => placeOf(layer, other)), `layer ${layer}, ${name}`);
            for (const row of [0, 2, count - 1]) {
                const width = operations[index].values.rows[row].length;
                for (const cell of [0, 1, 3, 40, 63, 64, width - 1]) {
                    const at = { index, row, cell };
                    const what = `layer ${layer}, ${name}, row ${row}, value ${cell}`;
                    const weight = weightOf(trace, at);
                    const weights = weight && fs.ask({ command: "weights", ...weight });
                    if (weight) assert.deepEqual(weights.map(Math.fround), weightRow(operations[index].tensor, weight.row), what);
                    const { html, value, note } = formula(trace, at, weights);
                    assert.equal(note, undefined, what);
                    close(value, operations[index].values.rows[row][cell], what);
                    // The module's values differ from the printed ones by rounding: three digits may, in the last one.
                    const [found, wanted] = [numbers(html), expected(layer, name, row, cell)];
                    assert.equal(found.length, wanted.length, `${what}: ${found}; ${wanted}`);
                    for (const [i, number] of found.entries()) {
                        const [a, b] = [number, wanted[i]].map((said) => Number(said.replaceAll("−", "-")));
                        assert.ok(Math.abs(a - b) <= 0.011 * Math.abs(b) + 1e-6, `${what}, number ${i}: ${found}; ${wanted}`);
                    }
                    compared += found.length;
                }
            }
        }
    }
    assert.ok(compared > 5000, `${compared} numbers compared`);
});

test("before the first layer and after the last: the embedding, the last token's row, the norm, the largest logits", () => {
    const row = count - 1;
    const [copy, norm, head] = [operations.length - 3, operations.length - 2, operations.length - 1];
    assert.deepEqual([copy, norm, head].map((index) => sources(trace, index)), [[copy - 1], [copy], [norm]]);
    for (const token of [0, 4, row]) {
        const at = { index: 0, row: token, cell: 7 };
        const weights = fs.ask({ command: "weights", ...weightOf(trace, at) });
        assert.deepEqual(weights.map(Math.fround), weightRow("model.embed_tokens.weight", printed.tokens[token].id));
        assert.deepEqual(numbers(formula(trace, at, weights).html), [String(printed.tokens[token].id), "7"]);
        close(weights[7], operations[0].values.rows[token][7], "the embedding");
    }
    const last = (index) => operations[index].values.rows[0];
    close(formula(trace, { index: copy, row, cell: 9 }).value, last(copy)[9], "copy_rows");
    const weights = fs.ask({ command: "weights", tensor: "model.norm.weight", row: 0 });
    const normedHere = formula(trace, { index: norm, row, cell: 9 }, weights);
    close(normedHere.value, last(norm)[9], "the last norm");
    assert.equal(numbers(normedHere.html).length, normed(last(copy), weights, 9).length);
    const top = lens.at(-1).rows[row];
    const listed = cellsOf(trace, head, row, 4);
    assert.deepEqual(listed.map(({ cell, of }) => [cell, of]), top.map(({ id, text }) => [id, text]));
    for (const [i, { cell, value }] of listed.entries()) {
        close(value, top[i].logit, "a logit");
        close(value, last(head)[cell], "the head's value");
        const weights = fs.ask({ command: "weights", ...weightOf(trace, { index: head, row, cell }) });
        assert.deepEqual(weights.map(Math.fround), weightRow("model.embed_tokens.weight", cell));
        const { html, value: found } = formula(trace, { index: head, row, cell }, weights);
        close(found, top[i].logit, "the formula");
        assert.equal(numbers(html).length, told(weights, last(norm)).length);
    }
    for (const index of [copy, norm, head]) assert.equal(valuesOf(trace, index, row - 1), undefined);
});

test("in the page, where inputs are rounded to 8 bits, the sentence says so and ends in the engine's value", async () => {
    const model = join(directory, "stories.gguf");
    writeFileSync(model, await stories());
    const page = await engine(readFileSync(model));
    const trace = page.ask(tracer.request(PROMPT));
    const scalar = ["--model", model, "--backend", "cpu", "--simd", "scalar", "--threads", "1"];
    const { operations } = JSON.parse(native("trace", PROMPT, ...scalar, "--rows", "all", "--values", "768", "--json")).passes[0];
    const row = count - 1;
    const noted = new Set();
    for (const [index, operation] of operations.entries()) {
        if (!operation.values || ![0, 3, null].includes(operation.layer)) continue;
        for (const { cell, value } of cellsOf(trace, index, row, 4)) {
            const weight = weightOf(trace, { index, row, cell });
            const weights = weight && page.ask({ command: "weights", ...weight });
            const one = formula(trace, { index, row, cell }, weights);
            const sentence = text(say(trace, { index, row, cell }, weights, "x"));
            const shown = sentence.match(/ ([−\d.e+]+)$/)[1];
            const engines = operation.values.rows.at(-1)[cell] ?? value;
            assert.equal(shown, short(value), sentence);
            close(value, engines, sentence);
            if (one.note) {
                noted.add(operation.operation);
                // An 8-bit input is wrong by a two hundredth of the largest in its block of 32 at most, and errors of many values cancel.
                const largest = operation.operation === "linear" ? Math.max(...valuesOf(trace, sources(trace, index)[0], row).map(Math.abs)) : 0;
                const most = operation.operation === "linear" ? (largest / 127) * Math.sqrt(sum(weights.map((w) => w * w))) : 1e-2;
                assert.ok(Math.abs(one.value - value) <= most, `${sentence}: ${one.value}, at most ${most} away`);
                assert.ok(sentence.includes(` = ${short(one.value)}; the engine has, since ${one.note}, `), sentence);
            } else close(one.value, value, sentence);
        }
    }
    assert.deepEqual(noted, new Set(["linear", "attention"]));
});

test("the frame has a cell for each value that can be opened, and opens it", () => {
    const row = count - 1;
    const index = placeOf(3, "swiglu");
    const { now, view } = tracer.render({ trace, layer: 3, head: 0, row, chosen: { index, cell: 2 } });
    assert.ok(text(now).startsWith("swiglu, layer 3, value 2 of "), now);
    assert.equal(view.match(/data-cell="[\d:]+" tabindex="0"/g).length, 2, "the keyboard stops once in each table");
    assert.ok(view.includes(`data-cell="${index}:2" tabindex="0" aria-pressed="true"`));
    assert.equal(view.match(/aria-pressed="true"/g).length, 1);
    // Of another token, the head has nothing.
    const { view: earlier } = tracer.render({ trace, layer: 3, head: 0, row: 1 });
    assert.deepEqual(cells(earlier, "Before the first").map((line) => line[2].startsWith("of the last token only")), [false, true, true, true]);
});
