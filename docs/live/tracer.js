// The forward pass from the inside: where each head looks, how a weight comes about, and what the model would say after each layer.

import { bar, escape, number, percent, table, th, token } from "./html.js";
import { follow } from "./form.js";

export const title = "The forward pass from the inside";

export const DEFAULT = { text: "Tom had a red ball. Lily had a blue", layer: 3, head: 0 };

/** One trace serves every choice of token, layer and head. 256 values are all of the story model's queries. */
export const request = (text) => ({ command: "trace", text, rows: "all", values: 256, top: 3 });

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

export function render({ trace, layer, head, row, position }) {
    const last = trace.tokens.length - 1;
    row = Math.max(0, Math.min(row ?? last, last));
    const { operations, attention } = layerOf(trace, layer);
    const weights = attention[row][head];
    // Where it looks most, unless somebody chose.
    position = position !== undefined && position <= row ? position : weights.indexOf(Math.max(...weights));
    // The chosen head first; the others beside it, since what one looks at another may pass over.
    const heads = [head, ...attention[row].keys()].filter((h, i) => i === 0 || h !== head);
    const cells = weights.map((_, i) => {
        const cells = [th(`<button type="button" class="cell" data-position="${i}" aria-pressed="${i === position}">${i} ${token(trace.tokens[i].text)}</button>`), ...heads.map((h) => bar(attention[row][h][i], percent(attention[row][h][i])))];
        if (i === position) cells.className = "current";
        return cells;
    });
    const lens = trace.passes[0].lens.map(({ stage, rows }, i) => {
        const cells = [th(escape(stage.replace("_", " "))), ...rows[row].map((t) => bar(t.probability, `${token(t.text)} ${percent(t.probability)}`))];
        if (i === layer + 1) cells.className = "current";
        return cells;
    });
    const steps = operations.map((o) => {
        const name = o.tensor?.replace(/^model\.layers\.\d+\./, "").replace(".weight", "") ?? "";
        const out = o.outputs[0];
        return [
            th(o.operation),
            escape(name),
            out ? `${out[0]} × ${out[1]}` : "into the cache",
            o.flop ? number(o.flop, "FLOP") : "",
            number(o.bytes.weights + o.bytes.kv_read + o.bytes.activations_read, "B"),
            o.values ? o.values.rows[row].slice(0, 4).map(f).join(", ") + ", …" : "",
        ];
    });
    const view =
        table(`Where ${JSON.stringify(trace.tokens[row].text)} looks: layer ${layer}, head ${head}, and the other heads`, ["position", ...heads.map((h) => `head ${h}`)], cells) +
        table(`What comes after ${JSON.stringify(trace.tokens[row].text)}, if the layers so far were all (logit lens)`, ["after", "first", "second", "third"], lens) +
        table(`The operations of layer ${layer}`, ["operation", "tensor", "out", "work", "read", "values of this token"], steps);
    return { now: formula(trace, { layer, head, row, position }), view };
}

export const data = async (ask) => ({ trace: await ask(request(DEFAULT.text)), layer: DEFAULT.layer, head: DEFAULT.head });

export async function mount(root, { ask }) {
    const state = { text: null, trace: null, position: undefined };
    const controls =
        `<label class="field wide">Text <input name="text" value="${DEFAULT.text}" maxlength="120" required></label>` +
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
    const { form, view, show } = await follow(root, controls, async ({ text }, form) => {
        if (text !== state.text) {
            const trace = await ask(request(text));
            const first = state.trace === null;
            Object.assign(state, { text, trace, position: undefined });
            options(form.elements.row, trace.tokens.map((t, i) => `${i} ${JSON.stringify(t.text)}`), trace.tokens.length - 1);
            if (first) {
                const count = (n) => Array.from({ length: n }, (_, i) => String(i));
                options(form.elements.layer, count(trace.config.num_hidden_layers), DEFAULT.layer);
                options(form.elements.head, count(trace.config.num_attention_heads), DEFAULT.head);
            }
        }
        return draw(form);
    });
    for (const name of ["row", "layer", "head"]) form.elements[name].addEventListener("change", () => (state.position = undefined));
    const choose = (position) => {
        state.position = position;
        show(draw(form));
    };
    view.addEventListener("click", (event) => {
        const cell = event.target.closest("[data-position]");
        if (cell) choose(Number(cell.dataset.position));
    });
}
