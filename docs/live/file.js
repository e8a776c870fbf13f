// The weights file from its first byte to its last, and any tensor's first values: bytes, bits, a number.

import { attach } from "./form.js";
import { escape, grouped, number, table, th } from "./html.js";

export const title = "The weights file, byte by byte";
export const recorded = true;

export const data = (_, record) => record("file");

/** The parts of a bf16: `1 8 7` bits, the last bytes first, as in the file. */
export function bf16(bytes) {
    const bits = bytes.split(" ").reverse().map((byte) => parseInt(byte, 16).toString(2).padStart(8, "0")).join("");
    const [sign, exponent, fraction] = [bits[0], bits.slice(1, 9), bits.slice(9)];
    const [e, f] = [parseInt(exponent, 2), parseInt(fraction, 2)];
    // The smallest exponent means no whole part (subnormal numbers, and zero), the largest infinity or no number.
    const size = e === 0 ? (f / 128) * 2 ** -126 : e === 255 ? (f ? NaN : Infinity) : (1 + f / 128) * 2 ** (e - 127);
    return { sign, exponent, fraction, e, f, value: sign === "1" ? -size : size };
}

/** Neighbours of one kind are one part: the map has as many stripes as can be told apart. */
export function parts(map) {
    const all = [{ name: "header", bytes: 8 + map.header, first: -1 }];
    for (const [i, { name, bytes }] of map.tensors.entries()) {
        const layer = name.match(/^model\.layers\.(\d+)\./);
        const part = layer ? `layer ${layer[1]}` : name.replace(/^model\.|\.weight$/g, "");
        const last = all.at(-1);
        if (last.name === part) last.bytes += bytes;
        else all.push({ name: part, bytes, first: i });
    }
    return all;
}

function strip(map, chosen) {
    const layers = parts(map);
    const at = layers.findLastIndex(({ first }) => first <= chosen);
    const stripes = layers.map(
        ({ name, bytes, first }, i) =>
            `<span class="stripe${i === at ? " fresh" : ""}" data-first="${Math.max(first, 0)}" style="flex-grow:${bytes}" title="${escape(name)}: ${number(bytes, "B")}"><span>${escape(name.replace("layer ", ""))}</span></span>`,
    );
    return `<div class="strip" aria-hidden="true">${stripes.join("")}</div>`;
}

const bits = ({ sign, exponent, fraction }) =>
    `<code class="bits"><span class="sign">${sign}</span> <span class="exponent">${exponent}</span> <span class="fraction">${fraction}</span></code>`;

function formula({ sign, e, f, value }) {
    const size = e === 0 ? `${f}/128 · 2<sup>−126</sup>` : `(1 + ${f}/128) · 2<sup>${e} − 127</sup>`;
    return `${sign === "1" ? "−" : ""}${size} = <b>${value}</b>`;
}

export function render(map, { tensor = 0, value = 0 } = {}) {
    const chosen = map.tensors[tensor];
    const [one] = chosen.values.slice(value);
    const at = chosen.offset + value * chosen.width;
    const rows = chosen.values.map(({ bytes, value: said }, i) => {
        const cells = [
            th(`<button type="button" class="cell" data-value="${i}" aria-pressed="${i === value}">[${i}]</button>`),
            grouped(chosen.offset + i * chosen.width),
            `<code>${bytes}</code>`,
            bits(bf16(bytes)),
            String(said),
        ];
        if (i === value) cells.className = "current";
        return cells;
    });
    const summary = parts(map).map(({ name, bytes }) => [th(escape(name)), number(bytes, "B"), `${((100 * bytes) / map.bytes).toFixed(1)} %`]);
    const now =
        `<code>${escape(chosen.name)}</code> value ${value}: bytes ${grouped(at)} and ${grouped(at + 1)} are <code>${one.bytes}</code>, ` +
        `last first ${bits(bf16(one.bytes))}: ${formula(bf16(one.bytes))}`;
    const view =
        `${strip(map, tensor)}<p class="small">${escape(map.file)}, ${grouped(map.bytes)} bytes: 8 bytes that say ${grouped(map.header)} (<code>${map.length}</code>), ` +
        `a header of as many, and ${map.tensors.length} tensors without a gap.</p>` +
        `<p class="small">The header says of it: <code>${escape(chosen.entry)}</code>. Its bytes begin at 8 + ${grouped(map.header)} + the first of <code>data_offsets</code> = ${grouped(chosen.offset)}.</p>` +
        table("The first values of this tensor: sign, exponent, fraction", ["value", "at byte", "bytes", "bits", "number"], rows) +
        `<details><summary>The parts of the file as a table</summary>${table("From the first byte to the last", ["part", "size", "of the file"], summary)}</details>`;
    return { now, view };
}

export async function mount(root, { data: map }) {
    const state = { tensor: 0, value: 0 };
    const names = map.tensors.map(({ name, shape }, i) => `<option value="${i}">${escape(name)} [${shape.join(", ")}]</option>`);
    const { form, view, show } = attach(root, `<label class="field broad">Tensor <select name="tensor">${names.join("")}</select></label>`);
    const draw = () => show(render(map, state));
    form.oninput = () => {
        Object.assign(state, { tensor: Number(form.elements.tensor.value), value: 0 });
        draw();
    };
    view.addEventListener("click", (event) => {
        const cell = event.target.closest("[data-value]");
        const stripe = event.target.closest("[data-first]");
        if (cell) state.value = Number(cell.dataset.value);
        else if (stripe) Object.assign(state, { tensor: Number(stripe.dataset.first), value: 0 });
        else return;
        form.elements.tensor.value = String(state.tensor);
        draw();
    });
    draw();
}
