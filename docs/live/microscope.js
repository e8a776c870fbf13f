// A block of real weights in every format: its codes, its scales, and how far what comes back is from what went in.

import { attach, slider } from "./form.js";
import { bar, escape, percent, table, th } from "./html.js";

export const title = "A block of weights under the microscope";
export const recorded = true;

export const data = async (_, record) => {
    const { results } = await record("benches/results/2026-11-24-stories-quality.json");
    return { ...(await record("microscope")), quality: results };
};

/** Whole models are quantized by mixes, which are named after the format that most of their weights have. */
export const mix = (format) => ({ Q5_K: "q5_k_m", Q4_K: "q4_k_m" })[format] ?? format.toLowerCase();

export const DEFAULT = { place: 0, format: "Q4_0", sub: 0 };
/** Values that are shown at a time: what shares a scale, or as many as a block has where that is less. */
const SHOWN = 32;

const f = (x) => x.toPrecision(3);
const name = (format) => format.format;

/** The block as a drawing: what went in as a line, what comes back as steps, on the levels that the codes have. */
function picture(values, restored, levels) {
    const [width, height, edge] = [640, 170, 8];
    const most = Math.max(...values.map(Math.abs), ...restored.map(Math.abs)) || 1;
    const x = (i) => ((i + 0.5) / values.length) * width;
    const y = (value) => height / 2 - (value / most) * (height / 2 - edge);
    const grid = levels
        .filter((level) => Math.abs(level) <= most)
        .map((level) => `<path class="level" d="M0 ${y(level).toFixed(1)}H${width}"/>`);
    const step = width / values.length;
    const steps = restored.map((value, i) => `M${(i * step).toFixed(1)} ${y(value).toFixed(1)}h${step.toFixed(1)}`);
    const dots = values.map((value, i) => `<circle cx="${x(i).toFixed(1)}" cy="${y(value).toFixed(1)}" r="3.2"/>`);
    return (
        `<svg class="plot" viewBox="0 0 ${width} ${height}" aria-hidden="true" focusable="false"><g>${grid.join("")}</g>` +
        `<path class="restored" d="${steps.join("")}"/><g class="given">${dots.join("")}</g></svg>`
    );
}

export function render({ places, quality }, { place, format, sub } = DEFAULT) {
    const { tensor, row, values, formats } = places[place];
    const chosen = formats.find((one) => name(one) === format);
    const from = sub * SHOWN;
    const shown = values.slice(from, from + SHOWN);
    const restored = chosen.restored.slice(from, from + SHOWN);
    const part = Math.floor(from / chosen.sub);
    const [scale, minimum] = [chosen.scales[part], chosen.minima[part]];
    const codes = chosen.codes.slice(from, from + SHOWN);
    // Above 16 levels a line for each would be a grey ground.
    const least = Math.min(...chosen.codes);
    const count = Math.max(...chosen.codes) - least + 1;
    const levels = count > 16 ? [] : Array.from({ length: count }, (_, i) => scale * (least + i) - minimum);
    const less = minimum !== 0 ? ` − ${f(minimum)}` : "";
    const worst = shown.reduce((most, value, i) => (Math.abs(value - restored[i]) > Math.abs(shown[most] - restored[most]) ? i : most), 0);
    const scales = SHOWN / chosen.sub > 1 ? `the first of ${SHOWN / chosen.sub} scales here is` : "the scale is";
    const all = formats.map((one) => {
        const model = quality.find(({ type }) => type === mix(name(one)));
        const cells = [
            th(escape(name(one))),
            String(one.bits),
            `${one.block} values in ${one.block_bytes} bytes`,
            bar(one.rmse / Math.max(...formats.map((other) => other.rmse)), f(one.rmse)),
            f(one.largest_error),
            f(model.kl.mean),
            percent(1 - model.same_top),
        ];
        if (one === chosen) cells.className = "current";
        return cells;
    });
    const list = shown.map((value, i) => [
        th(`[${from + i}]`),
        f(value),
        String(codes[i]),
        f(chosen.scales[Math.floor((from + i) / chosen.sub)]),
        f(restored[i]),
        f(restored[i] - value),
    ]);
    const now =
        `${format}: ${scales} ${f(scale)}${less ? `, the minimum ${f(minimum)}` : ""}. The worst here is weight ${from + worst}: ${f(shown[worst])} is code ${codes[worst]} and comes back as ` +
        `${chosen.scales[Math.floor((from + worst) / chosen.sub)].toPrecision(3)} · ${codes[worst]}${less} = <b>${f(restored[worst])}</b>`;
    const view =
        `${picture(shown, restored, levels)}<p class="small">Dots: ${SHOWN} weights of <code>${escape(tensor)}</code>, row ${row}. Bars: what ${format} gives back${levels.length ? "; thin lines: all it could" : ""}.</p>` +
        table("The same 256 weights in each format", ["format", "bits a weight", "block", "error (root mean square)", "largest error", "the whole model: KL divergence", "favourite tokens that change"], all) +
        `<p class="small">A whole model is a mix: q4_k_m and q5_k_m keep some tensors in Q6_K, and q4_0 the head.</p>` +
        `<details><summary>These ${SHOWN} weights as a table</summary>${table(`Weights ${from} to ${from + SHOWN - 1} in ${format}`, ["weight", "value", "code", "scale", "comes back as", "error"], list)}</details>`;
    return { now, view };
}

export async function mount(root, { data: all }) {
    const { places } = all;
    const option = (value, text, chosen) => `<option value="${value}"${value === chosen ? " selected" : ""}>${escape(text)}</option>`;
    const formats = places[0].formats.map((one) => option(name(one), `${name(one)}, ${one.bits} bits`, DEFAULT.format));
    const controls =
        `<label class="field broad">Weights <select name="place">${places.map(({ tensor, row }, i) => option(i, `${tensor}, row ${row}`, 0)).join("")}</select></label>` +
        `<label class="field">Format <select name="format">${formats.join("")}</select></label>` +
        slider("sub", "Part of the 256", { min: 0, max: 256 / SHOWN - 1, value: DEFAULT.sub });
    const { form, show } = attach(root, controls);
    const draw = () => {
        const { place, format, sub } = Object.fromEntries(new FormData(form));
        show(render(all, { place: Number(place), format, sub: Number(sub) }));
    };
    form.oninput = draw;
    draw();
}
