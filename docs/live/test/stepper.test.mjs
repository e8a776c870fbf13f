// Each cell that the threadgroup stepper shows, beside the stand-in's execution trace and beside what the kernel's source says its
// threads do. That the recorded trace is what the stand-in does today is a test of crates/metal-standin (tests/trace.rs).

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { cells, text } from "./frame.mjs";
import { recorder } from "../node.mjs";
import * as stepper from "../stepper.js";

const trace = JSON.parse(readFileSync(new URL("../../../tests/golden/threadgroup.json", import.meta.url)));
const shown = await stepper.data(null, recorder(process.env.FS_LIVE));
const [LANES, LINE, GROUPS] = [32, 128, trace.threads / 32];
const lanes = Array.from({ length: LANES }, (_, lane) => lane);
const name = (step) => trace.memory[step.memory].match(/`(\w+)`/)[1];

/** Of a recorded step, each lane's byte, null for one that takes no part, and undefined for one that touches no memory. */
function places(step) {
    const bits = (step.lanes ?? 2 ** LANES - 1).toString(2).padStart(LANES, "0");
    const active = lanes.filter((lane) => bits[LANES - 1 - lane] === "1");
    return lanes.map((lane) => {
        const nth = active.indexOf(lane);
        if (nth < 0) return null;
        if (step.offsets === undefined) return undefined;
        return Array.isArray(step.offsets) ? step.offsets[nth] : step.offsets.first + nth * step.offsets.stride;
    });
}

test("every step, lane and cell is the recorded one", () => {
    let compared = 0;
    for (let simdgroup = 0; simdgroup < GROUPS; simdgroup++) {
        const own = trace.steps.filter((step) => !("simdgroup" in step) || step.simdgroup === simdgroup);
        for (const [at, step] of own.entries()) {
            const { now, view } = stepper.render(shown, { simdgroup, step: at });
            const expected = places(step);
            const boxes = [...view.matchAll(/<span class="lane( active)?"><small>(\d+)<\/small>(.*?)<\/span>/g)];
            assert.equal(boxes.length, LANES);
            for (const [lane, [, active, number, said]] of boxes.entries()) {
                const what = `SIMD-group ${simdgroup}, step ${at + 1}, lane ${lane}`;
                assert.equal(Number(number), lane, what);
                assert.equal(active !== undefined, expected[lane] !== null, what);
                assert.equal(said, expected[lane] === null ? "–" : expected[lane] === undefined ? "•" : String(expected[lane]), what);
                compared++;
            }
            const bytes = expected.filter((offset) => typeof offset === "number");
            const lines = new Set(bytes.flatMap((offset) => [Math.floor(offset / LINE), Math.floor((offset + step.size - 1) / LINE)]));
            const row = cells(view, `What SIMD-group ${simdgroup}`)[at];
            const touches = bytes.length > 0;
            assert.deepEqual(row, [
                String(at + 1), step.line ? String(step.line) : "", step.does.replace("_", " "), touches ? trace.memory[step.memory].replaceAll("`", "") : "",
                touches ? String(bytes.length) : "", touches ? String(lines.size) : "",
            ]);
            const said = text(now);
            assert.ok(said.startsWith(`Step ${at + 1} of ${own.length}${step.line ? `, line ${step.line}: ${shown.text[step.line - 1].trim()}` : ""}`), said);
            if (touches) {
                const who = bytes.length === LANES ? "All 32 lanes" : bytes.length === 1 ? `Lane ${expected.findIndex((offset) => offset !== null)} alone` : `${bytes.length} lanes`;
                const verb = step.does + (bytes.length === 1 ? "s" : "");
                const [first, last] = [Math.min(...bytes), Math.max(...bytes)];
                const where = first === last ? `byte ${first}` : `bytes ${first} to ${last + step.size - 1}`;
                assert.ok(said.includes(`${who} ${verb} ${step.size} bytes of ${trace.memory[step.memory].replaceAll("`", "")}, ${where}`), said);
                if (first !== last) assert.ok(said.includes(`: ${lines.size} line${lines.size === 1 ? "" : "s"} of 128 bytes.`), said);
            } else if (step.does === "exchange") {
                assert.ok(said.includes(`give each other ${step.size} bytes each`), said);
            } else {
                assert.match(said, step.does === "barrier" ? /All 256 threads wait here/ : /The lanes wait/);
            }
        }
    }
    assert.ok(compared > 8 * 40 * LANES, `${compared} boxes compared`);
});

test("each lane is where the kernel's source sends it: its reads, the reduction, the barrier, its writes", () => {
    for (let simdgroup = 0; simdgroup < GROUPS; simdgroup++) {
        // A thread has four values side by side: byte 16 · thread and on.
        const own = (value) => lanes.map((lane) => 16 * (LANES * simdgroup + lane) + 4 * value);
        const all = (offset) => lanes.map(() => offset);
        const four = [0, 1, 2, 3];
        const expected = [
            ...four.flatMap((value) => [["read", "x", own(value)], ["read", "x", own(value)]]), // a square reads its value twice
            ["exchange", null, null],
            ["write", "sums", lanes.map((lane) => (lane === 0 ? 4 * simdgroup : null))],
            ["barrier", null, null],
            ...Array.from({ length: 8 }, (_, i) => ["read", "sums", all(4 * i)]),
            ...four.flatMap((value) => [["read", "x", own(value)], ["read", "weight", own(value)], ["write", "out", own(value)]]),
        ];
        const steps = stepper.stepsOf(shown, simdgroup).map((step) => [step.does, step.memory === undefined ? null : name(step), step.memory === undefined ? null : stepper.offsets(step)]);
        // How often the row's shape is read again is the compiler's choice.
        assert.deepEqual(steps.filter(([, memory]) => memory !== "shape"), expected, `SIMD-group ${simdgroup}`);
    }
});
