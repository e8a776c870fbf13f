// The forward pass from the inside: where each head looks, what the model would say after each layer, and how any value of it comes
// about, attention's weights here and all others in formulas.js.

import { bar, escape, number, percent, table, th, token } from "./html.js";
import { follow } from "./form.js";
import { cellsOf, say, weightOf } from "./formulas.js";

export const title = "The forward pass from the inside";

export const DEFAULT = { text: "Tom had a red ball. Lily had a blue", layer: 3, head: 0 };

/** One trace serves every choice of token, layer and head. 768 values are the story model's widest rows, those inside of its MLP. */
export const request = (text) => ({ command: "trace", text, rows: "all", values: 768, top: 3 });

/** Values of an operation that can be opened. */
const SHOWN = 4;

/** The operations of one layer, and `of(test)`: the rows of the first that passes. */
function layerOf(trace, layer) {
    const operations = trace.passes[0].operations.filter((o) => o.layer === layer);
    const ropes = operations.filter((o) => o.operation === "rope");
    return { operations, q: ropes[0].values.rows, k: ropes[1].values.rows, attention: operations.find((o) => o.operation === "attention").attention };
}

/**
 * How the weight that `row` gives to `position` comes about in one head: the query's and the key's first values, their whole dot
 * product, the score, and the softmax. Keys are taken before they are rounded for the cache.
 */
export function explain(trace, { layer, head, row, position }) {
    const { num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: d } = trace.config;
    const { q, k, attention } = layerOf(trace, layer);
    const kvHead = Math.floor(head / (heads / kvHeads));
    const query = q[row].slice(head * d, (head + 1) * d);
    const key = (p) => k[p].slice(kvHead * d, (kvHead + 1) * d);
    const dot = (p) => key(p).reduce((sum, value, i) => sum + value * query[i], 0);
    const scores = Array.from({ length: row + 1 }, (_, p) => dot(p) / Math.sqrt(d));
    const max = Math.max(...scores);
    const sum = scores.reduce((total, score) => total + Math.exp(score - max), 0);
    return {
        query,
        key: key(position),
        dot: dot(position),
        score: scores[position],
        max,
        sum,
        weight: Math.exp(scores[position] - max) / sum,
        shown: attention[row][head][position],
        d,
    };
}

/** Two digits, and a minus that is as wide as a plus. */
const f = (x) => x.toFixed(2).replace("-", "−");
/** The same, as a factor or a summand behind another. */
const inner = (x) => (x < 0 ? `(${f(x)})` : f(x));

function formula(trace, choice) {
    const e = explain(trace, choice);
    const text = (i) => token(trace.tokens[i].text);
    const products = e.query.slice(0, 3).map((q, i) => `${i === 0 ? f(q) : inner(q)}·${inner(e.key[i])}`);
    return (
        `How much ${text(choice.row)} looks at ${text(choice.position)} in layer ${choice.layer}, head ${choice.head}: ` +
        `q·k = ${products.join(" + ")} + … (${e.d} products) = ${f(e.dot)}; ÷ √${e.d} = ${f(e.score)}; ` +
        `exp(${f(e.score)} − ${inner(e.max)}) ÷ ${f(e.sum)} = <b>${percent(e.shown)}</b>`
    );
}

/** An operation's tensor, without what all of them have. */
const nameOf = ({ tensor }) => tensor?.replace(/^model\.(layers\.\d+\.)?/, "").replace(".weight", "") ?? "";

/** A table of operations, given by their places in the pass; `chosen` is the value whose formula is shown. */
function operationsTable(trace, caption, indices, row, chosen) {
    // The keyboard stops once in a table, and goes on with the arrow keys.
    const stop = chosen && indices.includes(chosen.index) ? `${chosen.index}:${chosen.cell}` : `${indices[0]}:0`;
    const rows = indices.map((index) => {
        const o = trace.passes[0].operations[index];
        const out = o.outputs[0];
        const cells = cellsOf(trace, index, row, SHOWN).map(({ cell, value, of }) => {
            const pressed = chosen?.index === index && chosen.cell === cell;
            const label = `${o.operation} ${nameOf(o)}, ${of === undefined ? `value ${cell}` : `logit of ${JSON.stringify(of)}`}: ${f(value)}`;
            const key = `${index}:${cell}`;
            return (
                `<button type="button" class="cell" data-cell="${key}" tabindex="${key === stop ? 0 : -1}" aria-pressed="${pressed}" ` +
                `aria-label="${escape(label)}">${of === undefined ? "" : `${token(of)} `}${f(value)}</button>`
            );
        });
        const line = [
            th(o.operation),
            escape(nameOf(o)),
            cells.join(" ") + (cells.length === SHOWN ? " …" : cells.length === 0 && out ? "of the last token only" : ""),
            out ? `${out[0]} × ${out[1]}` : "into the cache",
            o.flop ? number(o.flop, "FLOP") : "",
            number(o.bytes.weights + o.bytes.kv_read + o.bytes.activations_read, "B"),
        ];
        if (chosen?.index === index) line.className = "current";
        return line;
    });
    return table(caption, ["operation", "tensor", "values of this token", "out", "work", "read"], rows);
}

export function render({ trace, layer, head, row, position, chosen = null, weights = null }) {
    const last = trace.tokens.length - 1;
    row = Math.max(0, Math.min(row ?? last, last));
    const { attention } = layerOf(trace, layer);
    const looks = attention[row][head];
    // Where it looks most, unless somebody chose.
    position = position !== undefined && position <= row ? position : looks.indexOf(Math.max(...looks));
    // The chosen head first; the others beside it, since what one looks at another may pass over.
    const heads = [head, ...attention[row].keys()].filter((h, i) => i === 0 || h !== head);
    const cells = looks.map((_, i) => {
        const cells = [th(`<button type="button" class="cell" data-position="${i}" aria-pressed="${!chosen && i === position}">${i} ${token(trace.tokens[i].text)}</button>`), ...heads.map((h) => bar(attention[row][h][i], percent(attention[row][h][i])))];
        if (i === position) cells.className = "current";
        return cells;
    });
    const lens = trace.passes[0].lens.map(({ stage, rows }, i) => {
        const cells = [th(escape(stage.replace("_", " "))), ...rows[row].map((t) => bar(t.probability, `${token(t.text)} ${percent(t.probability)}`))];
        if (i === layer + 1) cells.className = "current";
        return cells;
    });
    const all = trace.passes[0].operations;
    const where = (is) => all.flatMap((o, index) => (is(o) ? [index] : []));
    const view =
        table(`Where ${JSON.stringify(trace.tokens[row].text)} looks: layer ${layer}, head ${head}, and the other heads`, ["position", ...heads.map((h) => `head ${h}`)], cells) +
        table(`What comes after ${JSON.stringify(trace.tokens[row].text)}, if the layers so far were all (logit lens)`, ["after", "first", "second", "third"], lens) +
        `<p class="small">A value of an operation shows its formula above; the arrow keys go from one to the next.</p>` +
        operationsTable(trace, `The operations of layer ${layer}`, where((o) => o.layer === layer), row, chosen) +
        operationsTable(trace, "Before the first layer, and after the last", where((o) => o.layer === null), row, chosen);
    const now = chosen ? say(trace, { ...chosen, row }, weights, nameOf(all[chosen.index])) : formula(trace, { layer, head, row, position });
    return { now, view };
}

export const data = async (ask) => ({ trace: await ask(request(DEFAULT.text)), layer: DEFAULT.layer, head: DEFAULT.head });

export async function mount(root, { ask }) {
    const state = { text: null, trace: null, position: undefined, chosen: null, weights: null };
    // Rows of weights that were asked for: the file does not change.
    const rows = new Map();
    const controls =
        `<label class="field broad">Text <input name="text" value="${DEFAULT.text}" maxlength="120" required></label>` +
        `<label class="field">Token <select name="row"></select></label>` +
        `<label class="field">Layer <select name="layer"></select></label>` +
        `<label class="field">Head <select name="head"></select></label>`;
    const options = (select, texts, chosen) => {
        select.innerHTML = texts.map((text, i) => `<option value="${i}">${escape(text)}</option>`).join("");
        select.selectedIndex = chosen;
    };
    const draw = (form) => {
        const choice = (name) => Number(form.elements[name].value);
        return render({ ...state, row: choice("row"), layer: choice("layer"), head: choice("head") });
    };
    const { form, view, show, fail } = await follow(root, controls, async ({ text }, form) => {
        if (text !== state.text) {
            const trace = await ask(request(text));
            const first = state.trace === null;
            Object.assign(state, { text, trace, position: undefined, chosen: null });
            options(form.elements.row, trace.tokens.map((t, i) => `${i} ${JSON.stringify(t.text)}`), trace.tokens.length - 1);
            if (first) {
                const count = (n) => Array.from({ length: n }, (_, i) => String(i));
                options(form.elements.layer, count(trace.config.num_hidden_layers), DEFAULT.layer);
                options(form.elements.head, count(trace.config.num_attention_heads), DEFAULT.head);
            }
        }
        return draw(form);
    });
    for (const name of ["row", "layer", "head"]) form.elements[name].addEventListener("input", () => Object.assign(state, { position: undefined, chosen: null }));
    const choose = (change) => {
        Object.assign(state, change);
        show(draw(form));
    };
    let wanted = 0;
    async function open(cell) {
        const ticket = ++wanted;
        const [index, place] = cell.split(":").map(Number);
        const chosen = { index, cell: place };
        const weight = weightOf(state.trace, { ...chosen, row: Number(form.elements.row.value) });
        const key = JSON.stringify(weight);
        try {
            if (weight && !rows.has(key)) rows.set(key, await ask({ command: "weights", ...weight }));
            // Whoever was faster, or changed the text meanwhile, is not answered late.
            if (ticket === wanted) choose({ chosen, weights: rows.get(key) });
        } catch (error) {
            fail(error.message);
        }
    }
    form.addEventListener("input", () => wanted++);
    view.addEventListener("click", (event) => {
        const { position, cell } = event.target.closest("[data-position], [data-cell]")?.dataset ?? {};
        if (position !== undefined) {
            wanted++;
            choose({ position: Number(position), chosen: null });
        } else if (cell !== undefined) open(cell);
    });
    view.addEventListener("keydown", (event) => {
        const from = event.target.closest("[data-cell]");
        const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
        if (!from || down === right) return;
        event.preventDefault();
        const grid = [...view.querySelectorAll("tr:has([data-cell])")].map((line) => [...line.querySelectorAll("[data-cell]")]);
        const line = grid.findIndex((cells) => cells.includes(from));
        const column = grid[line].indexOf(from) + right;
        const next = grid[line + down]?.[Math.min(column, grid[line + down].length - 1)];
        if (!next) return;
        next.focus();
        open(next.dataset.cell);
    });
}
