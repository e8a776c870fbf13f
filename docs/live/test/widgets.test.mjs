// The widgets' logic, on the engine's real answers.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { escape, frame as whole, number, percent } from "../html.js";
import * as bpe from "../bpe.js";
import * as file from "../file.js";
import { bf16, parts } from "../file.js";
import * as ledger from "../ledger.js";
import * as logits from "../logits.js";
import * as microscope from "../microscope.js";
import * as roofline from "../roofline.js";
import * as stepper from "../stepper.js";
import * as story from "../story.js";
import * as tracer from "../tracer.js";
import { draw } from "../frames.mjs";
import { bare, engine, recorder, SITE } from "../node.mjs";
import { WIDGETS } from "../widgets.js";

const fs = await engine();
const record = recorder(process.env.FS_LIVE);
const map = await record("file");

test("text is HTML only after it has been escaped", () => {
    assert.equal(escape(`<img src=x onerror="a('b')">&`), "&lt;img src=x onerror=&quot;a(&#39;b&#39;)&quot;&gt;&amp;");
    const bad = "<script>alert(1)</script>";
    const frame = whole(bpe.render({ trace: fs.ask({ command: "tokenize", text: bad }), step: 0 }));
    assert.ok(!frame.includes("<script"), frame);
    const rows = whole(logits.render(fs.ask(logits.request({ ...logits.DEFAULT, text: bad }))));
    assert.ok(!rows.includes("<script"), rows);
    const trace = fs.ask(tracer.request(bad));
    assert.ok(!whole(tracer.render({ trace, layer: 0, head: 0 })).includes("<script"));
    assert.ok(!whole(ledger.render(fs.ask(ledger.request({ text: bad, generate: 1 })))).includes("<script"));
    assert.ok(!whole(story.render({ prompt: bad, story: bad, decoded: 1 })).includes("<script"));
});

test("numbers keep three digits", () => {
    assert.deepEqual([0, 12, 999, 1000, 12345, 999499, 99_960_000, 5e12].map((n) => number(n, "B")), [
        "0 B", "12 B", "999 B", "1.0 kB", "12.3 kB", "999 kB", "100 MB", "5000 GB",
    ]);
    assert.deepEqual([0, 0.0001, 0.5, 1].map(percent), ["0.0 %", "&lt;0.1 %", "50.0 %", "100.0 %"]);
});

test("the stepper ends in the engine's tokens", () => {
    for (const text of ["Once upon a dragon", "naïve 🐉", " a  b\n", "", "x".repeat(400)]) {
        const trace = fs.ask({ command: "tokenize", text });
        const frames = bpe.frames(trace);
        assert.deepEqual(frames.flatMap((frame) => frame.ids ?? []), trace.ids, text);
        for (const frame of frames.filter((frame) => frame.merge?.symbols.length)) assert.deepEqual(frame.symbols, frame.merge.symbols);
        for (const frame of frames.filter((frame) => frame.ids)) assert.equal(frame.ids.length, frame.symbols.length);
        for (let step = -1; step <= frames.length; step++) bpe.render({ trace, step });
    }
});

test("each step of the sampler only removes tokens, and what is left sums to 1", () => {
    const answer = fs.ask({ ...logits.request(logits.DEFAULT), top: 4096 });
    const left = answer.steps.map((step) => step.tokens);
    assert.deepEqual(left, left.toSorted((a, b) => b - a));
    assert.equal(left[2], logits.DEFAULT.top_k);
    for (let step = 0; step < 5; step++) {
        const sum = answer.tokens.reduce((total, token) => total + token.probabilities[step], 0);
        assert.ok(Math.abs(sum - 1) < 1e-9, `${answer.steps[step].step}: ${sum}`);
        for (const token of answer.tokens) if (step > 1) assert.ok(token.probabilities[step - 1] > 0 || token.probabilities[step] === 0);
    }
    assert.equal(answer.tokens.reduce((total, token) => total + token.drawn, 0), 1000);
    for (const token of answer.tokens) assert.ok(token.drawn === 0 || token.probabilities[4] > 0, "a removed token was drawn");
    const greedy = fs.ask(logits.request({ ...logits.DEFAULT, temperature: 0 }));
    assert.deepEqual(greedy.steps.map((step) => step.tokens).slice(1), [1, 1, 1, 1]);
    assert.equal(greedy.tokens[0].drawn, 1000);
});

test("the formula gives the weights that attention used", () => {
    const trace = fs.ask(tracer.request(tracer.DEFAULT.text));
    for (const layer of [0, 3, 7]) {
        for (const head of [0, 1, 3]) {
            for (let row = 0; row < trace.tokens.length; row += 3) {
                for (let position = 0; position <= row; position++) {
                    const { weight, shown } = tracer.explain(trace, { layer, head, row, position });
                    // The cache rounds keys to f16: 2^-11 of a score of some 30 at most.
                    assert.ok(Math.abs(weight - shown) < 5e-3, `${layer} ${head} ${row} ${position}: ${weight} ${shown}`);
                }
                tracer.render({ trace, layer, head, row });
            }
        }
    }
});

test("the ledger's cache grows by a token a pass, and pays", () => {
    const trace = fs.ask(ledger.request(ledger.DEFAULT));
    assert.equal(trace.passes.length, 1 + ledger.DEFAULT.generate);
    for (const pass of trace.passes) {
        assert.equal(pass.bytes.kv_read, (pass.start + pass.tokens) * trace.kv_bytes_per_token);
        assert.ok(pass.flop <= pass.flop_without_cache);
    }
    assert.match(ledger.render(trace).now, /times<\/b> as much/);
});

test("bits become the number that the engine reads", () => {
    assert.deepEqual(["80 3f", "40 c0", "00 00", "01 00", "80 ff"].map((bytes) => bf16(bytes).value), [1, -3, 0, 2 ** -133, -Infinity]);
    for (const { values } of map.tensors) for (const { bytes, value } of values) assert.equal(bf16(bytes).value, value);
    const all = parts(map);
    assert.equal(all.reduce((sum, { bytes }) => sum + bytes, 0), map.bytes);
    assert.equal(all.length, 1 + 1 + 8 + 1);
    for (let tensor = 0; tensor < map.tensors.length; tensor += 7) file.render(map, { tensor, value: 7 });
});

test("a code, its scale and its minimum are what comes back", async () => {
    const all = await microscope.data(null, record);
    for (const [place, { values, formats }] of all.places.entries()) {
        for (const one of formats) {
            for (let i = 0; i < values.length; i++) {
                const back = one.scales[Math.floor(i / one.sub)] * one.codes[i] - one.minima[Math.floor(i / one.sub)];
                assert.ok(Math.abs(back - one.restored[i]) <= 1e-6, `${one.format} ${i}`);
            }
            for (let sub = 0; sub < 8; sub++) assert.ok(!/undefined|NaN/.test(whole(microscope.render(all, { place, format: one.format, sub }))));
        }
    }
});

test("the roofline's bound is the slower of reading and computing", async () => {
    const all = await record("roofline");
    const one = roofline.place(all, roofline.DEFAULT);
    assert.equal(one.bound, "memory");
    assert.ok(Math.abs(one.rate - all.machine.read / one.bytes) < 1e-9);
    const many = roofline.place(all, { ...roofline.DEFAULT, tokens: 512 });
    assert.equal(many.bound, "arithmetic");
    assert.ok(many.rate < many.top / all.models[1].per_token);
    for (const model of all.models.keys()) assert.ok(!/undefined|NaN/.test(whole(roofline.render(all, { ...roofline.DEFAULT, model }))));
    // Decoding was measured below its bound.
    for (const { phase, format, tokens, tokens_per_second: rate } of all.machine.points) {
        if (phase === "decode") assert.ok(rate < roofline.place(all, { ...roofline.DEFAULT, format, position: tokens }).rate);
    }
});

test("each lane of a threadgroup is where the stand-in saw it", async () => {
    const all = await stepper.data(null, record);
    const bytes = { read: {}, write: {} };
    for (let simdgroup = 0; simdgroup < all.threads / 32; simdgroup++) {
        const steps = stepper.stepsOf(all, simdgroup);
        assert.equal(steps.filter((step) => step.does === "barrier").length, 1);
        for (const [step, one] of steps.entries()) {
            if (one.line) assert.ok(all.text[one.line - 1].trim() !== "", `line ${one.line} is empty`);
            assert.ok(!/undefined|NaN/.test(whole(stepper.render(all, { simdgroup, step }))));
            if (one.memory === undefined) continue;
            for (const at of stepper.offsets(one)) if (at !== null) (bytes[one.does][one.memory] ??= new Set()).add(at);
        }
    }
    // Every value of the row is read and every result written, whichever lane does it.
    const of = (does, name) => bytes[does][all.memory.findIndex((label) => label.includes(name))]?.size;
    assert.deepEqual([of("read", "`x`"), of("read", "`weight`"), of("write", "`out`")], Array(3).fill(all.columns));
    // A lane takes four values, and the lanes' four steps use up the same four lines.
    const row = all.memory.findIndex((label) => label.includes("`x`"));
    const reads = stepper.stepsOf(all, 1).filter((step) => step.memory === row).slice(0, 8);
    assert.equal(stepper.stepsOf(all, 1)[stepper.telling(stepper.stepsOf(all, 1))], reads[0]);
    assert.deepEqual(reads.map((step) => stepper.lines(stepper.offsets(step), step.size)), Array(8).fill(4));
    assert.equal(stepper.lines(reads.flatMap(stepper.offsets), 4), 4);
    assert.equal(stepper.lines([0, 128, null, 126], 4), 2);
});

test("the frames in the pages, drawn by the engine of this machine, are what the module draws", async () => {
    const ask = async (request) => fs.ask(request);
    for (const name of Object.keys(WIDGETS)) {
        const { html } = await draw(name, ask, record);
        assert.ok(html.length > 300 && !/undefined|NaN|\[object/.test(html), html);
        assert.equal(html, await readFile(new URL(`frames/${name}.html`, SITE), "utf8"), name);
    }
});

test("bad requests are refused with a sentence, and the engine goes on", async () => {
    const refused = (request, message) => assert.throws(() => fs.ask(request), message);
    refused({}, /command/);
    refused({ command: "dance" }, /dance/);
    refused({ command: "tokenize" }, /text/);
    refused({ command: "logits", text: "" }, /empty/);
    refused({ command: "trace", text: "a", rows: "some" }, /neither/);
    refused({ command: "trace", text: "a", generate: 5000 }, /context/);
    refused({ command: "start", text: "a", sampling: { temperature: -1 } }, /temperature/);
    refused({ command: "step" }, /nothing/);
    refused({ command: "candidates", text: "a", draws: 1e9 }, /draws/);
    refused({ command: "weights", tensor: "model.norm.bias", row: 0 }, /no tensor model.norm.bias/);
    refused({ command: "weights", tensor: "model.norm.weight", row: 1 }, /has no row 1/);
    refused({ command: "weights", tensor: "model.embed_tokens.weight", row: -1 }, /-1/);
    refused({ command: "logits", text: "word ".repeat(2000) }, /context/);
    assert.equal(fs.ask({ command: "logits", text: "Once" }).logits.length, 4096);
    const empty = await bare();
    assert.throws(() => empty.ask({ command: "model" }), /no model/);
    // What a model costs needs none: the page asks before the download of the model.
    assert.deepEqual(empty.ask({ command: "cost", config: (await record("roofline")).models[1].config }).parameters, 596_049_920);
    assert.throws(() => empty.load(new Uint8Array(100)), /GGUF/i);
    assert.throws(() => empty.load(new Uint8Array(0)));
});
