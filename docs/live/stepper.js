// A threadgroup of a Metal kernel, step by step: which lane touches which address, and where threads wait for each other. The steps were
// recorded by the stand-in that runs our kernels without a Mac (crates/metal-standin).

import { attach } from "./form.js";
import { escape, table, th } from "./html.js";

export const title = "A threadgroup, step by step";
export const recorded = true;

export const data = async (_, record) => {
    const trace = await record("tests/golden/threadgroup.json");
    return { ...trace, text: (await record(trace.source)).split("\n") };
};

const LANES = 32;
/** What a GPU fetches at a time. */
const LINE = 128;

/** Where each lane looks in a step: 32 offsets in bytes, or null for lanes that take no part. */
export function offsets({ lanes, offsets: found }) {
    let taken = 0;
    return Array.from({ length: LANES }, (_, lane) => {
        if (((lanes >>> lane) & 1) === 0 || found === undefined) return null;
        const at = taken++;
        return Array.isArray(found) ? found[at] : found.first + at * found.stride;
    });
}

/** A SIMD-group's own steps, and those that it shares with all. */
export const stepsOf = (trace, simdgroup) => trace.steps.filter((step) => step.simdgroup === undefined || step.simdgroup === simdgroup);

/** How many different lines of memory these bytes lie in. */
export function lines(all, size) {
    const touched = new Set();
    for (const at of all) if (at !== null) for (let line = Math.floor(at / LINE); line <= Math.floor((at + size - 1) / LINE); line++) touched.add(line);
    return touched.size;
}

const count = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
const place = (trace, step) => escape(trace.memory[step.memory].replaceAll("`", ""));

/** What happens, in words. */
function words(trace, step) {
    if (step.does === "barrier") return "All 256 threads wait here until the last one has come: what was written to threadgroup memory before may be read after.";
    if (step.does === "simdgroup_barrier") return "The lanes wait for each other.";
    const at = offsets(step);
    const active = at.filter((one) => one !== null);
    if (step.does === "exchange") return `The lanes of this SIMD-group give each other ${step.size} bytes each, from register to register: no memory is touched, and none waits for another SIMD-group.`;
    const who = active.length === LANES ? "All 32 lanes" : active.length === 1 ? `Lane ${at.findIndex((one) => one !== null)} alone` : count(active.length, "lane");
    const verb = (step.does === "read" ? "read" : "write") + (active.length === 1 ? "s" : "");
    const [first, last] = [Math.min(...active), Math.max(...active)];
    const where =
        first === last
            ? `byte ${first}${active.length > 1 ? ": the same for all, fetched once" : ""}`
            : `bytes ${first} to ${last + step.size - 1}${last + step.size - first === active.length * step.size ? ", side by side" : ""}: ${count(lines(at, step.size), "line")} of ${LINE} bytes`;
    return `${who} ${verb} ${step.size} bytes of ${place(trace, step)}, ${where}.`;
}

export const DEFAULT = { simdgroup: 1, step: null };

/** The first step in which each lane reads a place of its own: what the frame begins with. */
export const telling = (steps) => steps.findIndex((step) => step.offsets?.stride > 0 && step.lanes === 0xffffffff);

export function render(trace, { simdgroup, step } = DEFAULT) {
    const steps = stepsOf(trace, simdgroup);
    const now = Math.max(0, Math.min(step ?? telling(steps), steps.length - 1));
    const current = steps[now];
    const at = current.does === "barrier" ? Array(LANES).fill(null) : offsets(current);
    const lanes = at.map((offset, lane) => {
        const active = current.does === "barrier" || ((current.lanes ?? ~0) >>> lane) & 1;
        const said = offset !== null ? offset : active ? "•" : "–";
        return `<span class="lane${active ? " active" : ""}"><small>${lane}</small>${said}</span>`;
    });
    const code = (line) => (line ? `<code>${escape(trace.text[line - 1].trim())}</code>` : "");
    const rows = steps.map((one, i) => {
        const places = one.offsets === undefined ? null : offsets(one);
        const cells = [
            th(`<button type="button" class="cell" data-step="${i}" aria-pressed="${i === now}">${i + 1}</button>`),
            one.line ? String(one.line) : "",
            one.does.replace("_", " "),
            one.memory === undefined ? "" : place(trace, one),
            places === null ? "" : String(places.filter((offset) => offset !== null).length),
            places === null ? "" : String(lines(places, one.size)),
        ];
        if (i === now) cells.className = "current";
        return cells;
    });
    const view =
        `<p class="small">SIMD-group ${simdgroup} (of 0 to ${trace.threads / LANES - 1}): 32 of the ${trace.threads} threads that norm a row of ${trace.columns} values in <code>${escape(trace.source)}</code>. ` +
        `In each box a lane, and the byte that it touches.</p>` +
        `<div class="lanes" aria-hidden="true">${lanes.join("")}</div>` +
        `<details><summary>All steps as a table</summary>${table(`What SIMD-group ${simdgroup} does, in order`, ["step", "source line", "does", "memory", "lanes", `lines of ${LINE} bytes`], rows)}</details>`;
    return { now: `Step ${now + 1} of ${steps.length}${current.line ? `, line ${current.line}: ${code(current.line)}` : ""}<br>${words(trace, current)}`, view };
}

export async function mount(root, { data: trace }) {
    const state = { ...DEFAULT };
    const groups = Array.from({ length: trace.threads / LANES }, (_, i) => `<option${i === state.simdgroup ? " selected" : ""}>${i}</option>`);
    const controls =
        `<label class="field">SIMD-group <select name="simdgroup">${groups.join("")}</select></label>` +
        `<button type="button" name="first">First</button><button type="button" name="back">Back</button>` +
        `<button type="button" name="next">Next step</button><button type="button" name="last">Last</button>`;
    const { form, view, show } = attach(root, controls);
    const steps = () => stepsOf(trace, state.simdgroup);
    state.step = telling(steps());
    const go = (step) => {
        state.step = Math.max(0, Math.min(step, steps().length - 1));
        show(render(trace, state));
    };
    form.elements.simdgroup.oninput = (event) => {
        state.simdgroup = Number(event.target.value);
        go(state.step);
    };
    form.elements.first.onclick = () => go(0);
    form.elements.back.onclick = () => go(state.step - 1);
    form.elements.next.onclick = () => go(state.step + 1);
    form.elements.last.onclick = () => go(Infinity);
    view.addEventListener("click", (event) => {
        const cell = event.target.closest("[data-step]");
        if (cell) go(Number(cell.dataset.step));
    });
    go(state.step);
}
