// How one value of the forward pass comes about: the formula of its operation, with the operands that the trace and the model's file
// have. A dot product's first terms stand for themselves; the others are told as their sum.

import { escape, token } from "./html.js";

/** Terms of a sum that are written out. */
const TERMS = 3;

/** Three digits, and a minus that is as wide as a plus. */
export const short = (x) => (x === 0 ? "0" : Math.abs(x) >= 1000 ? x.toFixed(0) : x.toPrecision(3)).replaceAll("-", "−");
/** The same, as a factor or a summand behind another. */
const inner = (x) => (x < 0 ? `(${short(x)})` : short(x));

/** The part of an operation's output that belongs to token `row`; undefined where it computed none, as the head does but for the last. */
export function valuesOf(trace, index, row) {
    const { values, outputs } = trace.passes[0].operations[index];
    return values?.rows[row - (trace.passes[0].tokens - (outputs[0]?.[0] ?? 0))];
}

/** The operations whose outputs are the inputs of operation `index`: their places in the pass, which runs them in order. */
export function sources(trace, index) {
    const { operations } = trace.passes[0];
    const { operation, tensor, layer } = operations[index];
    const before = (is) => operations.slice(0, index).findLastIndex(is);
    const named = (name) => before((o) => o.operation === name);
    const linear = (name) => before((o) => o.operation === "linear" && o.layer === layer && o.tensor.includes(`.${name}_proj`));
    const residual = () => before((o) => ["embed", "add", "copy_rows"].includes(o.operation));
    // A layer has two norms of heads and two rotations, of the queries and of the keys, in this order.
    const isQuery = (is) => operations.findIndex((o) => o.layer === layer && o.operation === is) === index;
    switch (operation) {
        case "rms_norm":
        case "copy_rows":
            return [residual()];
        case "linear":
            return [tensor.includes(".o_proj") ? named("attention") : tensor.includes(".down_proj") ? named("swiglu") : named("rms_norm")];
        case "head_norm":
            return [linear(isQuery("head_norm") ? "q" : "k")];
        case "rope": {
            const norms = operations.flatMap((o, i) => (o.layer === layer && o.operation === "head_norm" ? [i] : []));
            return [norms[isQuery("rope") ? 0 : 1]];
        }
        case "attention":
            return [linear("v")];
        case "swiglu":
            return [linear("gate"), linear("up")];
        case "add":
            return [residual(), named("linear")];
        default:
            return [];
    }
}

/** The row of a weight that a value's formula needs, `{tensor, row}`; null where it needs none. */
export function weightOf(trace, { index, row, cell }) {
    const { operation, tensor } = trace.passes[0].operations[index];
    if (operation === "embed") return { tensor, row: trace.tokens[row].id };
    if (operation === "linear") return { tensor, row: cell };
    if (operation === "rms_norm" || operation === "head_norm") return { tensor, row: 0 };
    return null;
}

/** The products of two lists: the first ones, how many more there are, and what all come to. */
function products(a, b) {
    const all = a.map((x, i) => x * b[i]);
    const sum = (some) => some.reduce((total, x) => total + x, 0);
    const said = all.slice(0, TERMS).map((_, i) => `${i === 0 ? short(a[i]) : inner(a[i])}·${inner(b[i])}`);
    const rest = all.slice(TERMS);
    if (rest.length > 0) said.push(`${inner(sum(rest))} from the other ${rest.length} product${rest.length === 1 ? "" : "s"}`);
    return { html: said.join(" + "), value: sum(all) };
}

function norm(x, weight, i, eps) {
    const square = x.reduce((sum, v) => sum + v * v, 0) / x.length;
    const root = Math.sqrt(square + eps);
    return {
        html: `the squares of all ${x.length} values are ${short(square)} on average; x ÷ √(${short(square)} + ${eps}) · weight = ${short(x[i])} ÷ ${short(root)} · ${inner(weight[i])}`,
        value: (x[i] / root) * weight[i],
    };
}

/**
 * The formula of a value: `{html, value, note}`, what to write, what it comes to, and what the engine does besides, which may change the
 * last digits. `weights` is the row that `weightOf` names.
 */
export function formula(trace, { index, row, cell }, weights) {
    const { config, passes } = trace;
    const operation = passes[0].operations[index];
    const [from, other] = sources(trace, index).map((source) => valuesOf(trace, source, row));
    const { head_dim: d } = config;
    const [head, at] = [Math.floor(cell / d), cell % d];
    switch (operation.operation) {
        case "embed":
            return { html: `row ${trace.tokens[row].id} of the embedding, value ${cell}`, value: weights[cell] };
        case "rms_norm":
            return norm(from, weights, cell, config.rms_norm_eps);
        case "head_norm":
            return norm(from.slice(head * d, (head + 1) * d), weights, at, config.rms_norm_eps);
        case "linear": {
            const rounds = !/^(F32|F16|BF16)$/.test(operation.dtype) && trace.backend === "cpu";
            return { ...products(weights, from), what: `row ${cell} of the weight · x`, note: rounds ? "it rounds x to 8 bits first" : undefined };
        }
        case "rope": {
            const half = d / 2;
            const low = at < half;
            const pair = head * d + (at % half);
            const [a, b] = [from[pair], from[pair + half]];
            const angle = row * config.rope_theta ** (-(at % half) / half);
            const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
            const turn = `values ${pair} and ${pair + half} turn by ${row} · ${config.rope_theta}<sup>−${2 * (at % half)}/${d}</sup> = ${short(angle)}: `;
            return low
                ? { html: `${turn}${short(a)} · cos ${short(angle)} − ${inner(b)} · sin ${short(angle)}`, value: a * cos - b * sin }
                : { html: `${turn}${short(b)} · cos ${short(angle)} + ${inner(a)} · sin ${short(angle)}`, value: b * cos + a * sin };
        }
        case "attention": {
            const kvHead = Math.floor(head / (config.num_attention_heads / config.num_key_value_heads));
            const v = operation.attention[row][head].map((_, p) => valuesOf(trace, sources(trace, index)[0], p)[kvHead * d + at]);
            return { ...products(operation.attention[row][head], v), what: `head ${head}, its weights · value ${at} of each position`, note: trace.kv === "f32" ? undefined : `the cache holds v in ${trace.kv}` };
        }
        case "swiglu": {
            const [gate, up] = [from[cell], other[cell]];
            return { html: `gate ÷ (1 + e<sup>−gate</sup>) · up = ${short(gate)} ÷ (1 + e<sup>${short(-gate)}</sup>) · ${inner(up)}`, value: (gate / (1 + Math.exp(-gate))) * up };
        }
        case "add":
            return { html: `x + what the layer gives = ${short(from[cell])} + ${inner(other[cell])}`, value: from[cell] + other[cell] };
        case "copy_rows":
            return { html: "the last token's row, as it was", value: from[cell] };
    }
}

/** Values of an operation to choose from: its first ones; of the head, the largest logits, with the tokens that they are `of`. */
export function cellsOf(trace, index, row, count) {
    const { operations, lens } = trace.passes[0];
    const values = valuesOf(trace, index, row);
    if (!values) return [];
    const head = operations[index].operation === "linear" && operations[index].layer === null;
    if (head) return lens.at(-1).rows[row].map(({ id, text, logit }) => ({ cell: id, value: logit, of: text }));
    return values.slice(0, count).map((value, cell) => ({ cell, value }));
}

/** A value's formula as a sentence (HTML); `name` is the operation's tensor, shortly. */
export function say(trace, { index, row, cell }, weights, name) {
    const { operation, layer } = trace.passes[0].operations[index];
    const { html, value, what, note } = formula(trace, { index, row, cell }, weights);
    const chosen = cellsOf(trace, index, row, Infinity).find((one) => one.cell === cell);
    const place = layer === null ? (index === 0 ? "before the first layer" : "after the last layer") : `layer ${layer}`;
    const result = chosen.of === undefined ? `value ${cell}` : `the logit of ${token(chosen.of)}`;
    const said = note === undefined ? "" : ` = ${short(value)}; the engine has, since ${note},`;
    return (
        `${escape(operation)}${name ? ` <code>${escape(name)}</code>` : ""}, ${place}, ${result} of ${token(trace.tokens[row].text)}: ` +
        `${what === undefined ? "" : `${what} = `}${html}${said} ${note === undefined ? "= " : ""}<b>${short(chosen.value)}</b>`
    );
}
