// The roofline: what bounds a pass through a model on a machine, the bytes it must read or the arithmetic it must do.

import { attach, complaint, means, slider } from "./form.js";
import { bar, escape, number, table, th } from "./html.js";

export const title = "Roofline: what bounds a pass";
export const recorded = true;

export const data = (_, record) => record("roofline");

export const DEFAULT = { model: 1, format: "bf16", tokens: 1, position: 64, read: null, peak: null };

/** What a pass over `tokens` tokens, the last of which sees `position` positions, costs, and the most a machine can make of it. */
export function place(all, { model, format, tokens, position, read, peak }) {
    const of = all.models[model];
    const weights = of.formats.find((one) => one.format === format);
    // A pass cannot see fewer positions than it has tokens.
    const p = Math.max(position, tokens);
    const bytes = weights.decode_bytes + (tokens - 1) * weights.row_bytes + p * of.kv_bytes;
    const flop = tokens * of.per_token + of.head + of.per_pair * (tokens * (p - tokens) + (tokens * (tokens + 1)) / 2);
    const bandwidth = read ?? all.machine.read;
    const top = peak ?? Math.max(...all.machine.peaks.filter((one) => weights.operands.includes(one.operands)).map((one) => one.ops_per_second));
    const [byBytes, byFlop] = [bytes / bandwidth, flop / top];
    const seconds = Math.max(byBytes, byFlop);
    return { bytes, flop, intensity: flop / bytes, bandwidth, top, ridge: top / bandwidth, bound: byBytes >= byFlop ? "memory" : "arithmetic", seconds, rate: tokens / seconds };
}

const [WIDTH, HEIGHT, LEFT, BOTTOM] = [640, 320, 66, 60];
/** Operations a byte, as powers of ten; further where a machine's ridge lies outside. */
const X = [-1, 4];

const power = (n) => `10<tspan class="up" dy="-5">${n}</tspan>`;

function picture(all, state, now) {
    const { bandwidth, top } = now;
    const high = Math.ceil(Math.log10(top)) + 0.3;
    const low = Math.min(high - 5, Math.floor(Math.log10(now.flop / now.seconds)));
    const ridge = top / bandwidth;
    const [first, last] = [Math.min(X[0], Math.floor(Math.log10(ridge)) - 1), Math.max(X[1], Math.ceil(Math.log10(ridge)) + 1)];
    const x = (intensity) => LEFT + ((Math.log10(intensity) - first) / (last - first)) * (WIDTH - LEFT - 24);
    const y = (rate) => HEIGHT - BOTTOM - ((Math.log10(rate) - low) / (high - low)) * (HEIGHT - BOTTOM - 8);
    const at = (a, b) => `${x(a).toFixed(1)} ${y(b).toFixed(1)}`;
    const foot = Math.max(10 ** first, 10 ** low / bandwidth);
    const roof = `M${at(foot, foot * bandwidth)}L${at(ridge, top)}L${at(10 ** last, top)}`;
    const ticks = [];
    for (let n = first; n <= last; n++) ticks.push(`<path class="level" d="M${x(10 ** n)} 8V${HEIGHT - BOTTOM}"/><text class="s" x="${x(10 ** n)}" y="${HEIGHT - 38}" text-anchor="middle">${power(n)}</text>`);
    for (let n = Math.ceil(low); n <= high; n++) ticks.push(`<path class="level" d="M${LEFT} ${y(10 ** n)}H${WIDTH}"/><text class="s" x="${LEFT - 8}" y="${y(10 ** n) + 4}" text-anchor="end">${power(n)}</text>`);
    const dot = (intensity, rate, kind, label) =>
        `<circle class="${kind}" cx="${x(intensity).toFixed(1)}" cy="${y(rate).toFixed(1)}" r="6"/><text x="${(x(intensity) + 10).toFixed(1)}" y="${(y(rate) + 15).toFixed(1)}">${escape(label)}</text>`;
    return (
        `<svg class="plot" viewBox="0 0 ${WIDTH} ${HEIGHT}" aria-hidden="true" focusable="false">${ticks.join("")}` +
        `<path class="roof" d="${roof}"/>` +
        `<text class="s" x="${LEFT}" y="${HEIGHT - 9}">operations for each byte read</text><text class="s" x="${LEFT + 6}" y="18">FLOP/s</text>` +
        dot(now.intensity, now.flop / now.seconds, "point", `${state.tokens} ${state.tokens === 1 ? "token" : "tokens"}`) +
        `</svg>`
    );
}

export function render(all, state = DEFAULT) {
    const model = all.models[state.model];
    const now = place(all, state);
    const rows = model.formats.map(({ format }) => {
        const one = place(all, { ...state, format });
        const cells = [th(escape(format)), number(one.bytes, "B"), one.intensity.toFixed(1), one.bound, bar(one.rate / Math.max(...model.formats.map((other) => place(all, { ...state, format: other.format }).rate)), one.rate.toFixed(1))];
        if (format === state.format) cells.className = "current";
        return cells;
    });
    const measured = all.machine.points.map(({ format, phase, tokens_per_second: rate, share }) =>
        [th(`${escape(format)}, ${phase}`), rate.toFixed(1), bar(share, `${(100 * share).toFixed(0)} % of ${phase === "decode" ? "reading" : "computing"}`)]);
    const said =
        `${escape(model.name)} in ${state.format}, ${state.tokens === 1 ? "one token" : `${state.tokens} tokens`} a pass: ` +
        `${number(now.flop, "FLOP")} and ${number(now.bytes, "B")}, ${now.intensity.toFixed(1)} operations for each byte. This machine does ${now.ridge.toFixed(1)} in the time it reads one, ` +
        `so <b>${now.bound}</b> is the bound: at most <b>${now.rate.toFixed(1)} tokens/s</b>.`;
    const view =
        picture(all, state, now) +
        table(`${model.name}, by format`, ["format", "read in a pass", "FLOP a byte", "bound by", "tokens/s at most"], rows) +
        `${table(`Measured beside the bound: Qwen3-0.6B by fs, ${all.machine.name}`, ["what", "tokens/s", "reached"], measured)}` +
        `<p class="small">From <code>${escape(all.machine.source)}</code>: it read ${number(all.machine.read, "B")}/s, the median of all rounds; shares are of what it did beside each.</p>`;
    return { now: said, view };
}

/** What of a `config.json` decides what a pass costs; crates/web/src/cost.rs has the same list, and checks. */
export const COUNTS = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings"];
const TIED = "tie_word_embeddings";

/** The fields of a pasted `config.json` that count, `undefined` where it has none; an error says what cannot be counted. */
export function pasted(text) {
    let all;
    try {
        all = JSON.parse(text);
    } catch (error) {
        throw new Error(`What was pasted is not JSON: ${error.message}`);
    }
    if (all === null || typeof all !== "object" || Array.isArray(all)) throw new Error("What was pasted is no config.json: that is an object, from { to }");
    const experts = ["num_experts", "num_local_experts", "n_routed_experts"].find((name) => all[name] > 0);
    if (experts) throw new Error(`${experts}: a token passes through some of a mixture's experts only, and here every weight is counted`);
    return Object.fromEntries([...COUNTS, TIED].map((name) => [name, all[name]]));
}

/** Controls for a model of the reader's own, which begin as `config`. */
const ownModel = (config) =>
    `<fieldset name="config" disabled hidden><legend>Your model, counted as a dense Qwen3 of these sizes</legend>` +
    COUNTS.map((name) => `<label class="field">${name} <input type="number" name="${name}" min="1" step="1" value="${config[name]}" required></label>`).join("") +
    `<label class="field tick"><input type="checkbox" name="${TIED}"${config[TIED] ? " checked" : ""}> ${TIED}</label>` +
    `<label class="field broad">Or paste a config.json <textarea name="paste" rows="2" spellcheck="false" autocomplete="off"></textarea></label></fieldset>`;

export async function mount(root, { ask, data: all }) {
    const option = (value, text, chosen) => `<option value="${value}"${value === chosen ? " selected" : ""}>${escape(text)}</option>`;
    // A slider's steps are powers of two.
    const powers = (name, label, max) => slider(name, label, { min: 0, max, value: Math.log2(DEFAULT[name]), text: DEFAULT[name] });
    const own = all.models.length;
    const controls =
        `<label class="field">Model <select name="model">${all.models.map(({ name }, i) => option(i, name, DEFAULT.model)).join("")}${option(own, "another: its sizes", DEFAULT.model)}</select></label>` +
        `<label class="field">Format <select name="format">${all.models[0].formats.map(({ format }) => option(format, format, DEFAULT.format)).join("")}</select></label>` +
        powers("tokens", "Tokens a pass", 11) +
        powers("position", "Position", 15) +
        `<label class="field">Machine <select name="machine">${option("measured", all.machine.name, "measured")}${option("own", "another: its numbers", "")}</select></label>` +
        `<label class="field">Reads, GB/s <input type="number" name="read" min="1" max="100000" step="any" value="${(all.machine.read / 1e9).toFixed(1)}" required disabled></label>` +
        `<label class="field">Computes, GFLOP/s <input type="number" name="peak" min="1" max="100000000" step="any" value="${(place(all, DEFAULT).top / 1e9).toFixed(0)}" required disabled></label>` +
        ownModel(all.models[DEFAULT.model].config);
    const { form, show, say, fail } = attach(root, controls);
    const fields = form.elements;
    // The model that was asked for last, and for which sizes.
    let counted = { key: null, model: null };
    let wanted = 0;
    const draw = (models) => {
        const { model, format, tokens, position, machine } = Object.fromEntries(new FormData(form));
        const limit = (name) => (machine === "own" ? fields[name].valueAsNumber * 1e9 : null);
        // A pass ends at a place that the model has, and its tokens fit before it.
        const last = Math.min(Math.max(2 ** position, 2 ** tokens), models[model].context);
        const pass = { tokens: Math.min(2 ** tokens, last), position: last };
        for (const name of ["tokens", "position"]) means(fields[name], String(pass[name]));
        show(render({ ...all, models }, { model: Number(model), format, ...pass, read: limit("read"), peak: limit("peak") }));
    };
    const update = async () => {
        const ticket = ++wanted;
        const isOwn = Number(fields.model.value) === own;
        for (const name of ["read", "peak"]) fields[name].disabled = fields.machine.value !== "own";
        fields.config.disabled = fields.config.hidden = !isOwn;
        const wrong = complaint(form);
        if (wrong !== null) return fail(wrong);
        if (!isOwn) return draw(all.models);
        const config = { ...Object.fromEntries(COUNTS.map((name) => [name, fields[name].valueAsNumber])), [TIED]: fields[TIED].checked };
        const key = JSON.stringify(config);
        try {
            if (key !== counted.key) {
                if (counted.key === null) say("The engine, which counts, is on its way …");
                const model = await ask({ command: "cost", config });
                // Another answer may be wanted by now.
                if (ticket !== wanted) return;
                counted = { key, model };
            }
            draw([...all.models, counted.model]);
        } catch (error) {
            if (ticket === wanted) fail(error.message);
        }
    };
    form.oninput = ({ target }) => {
        if (target.name === "paste" && target.value.trim() !== "") {
            try {
                const found = pasted(target.value);
                for (const name of COUNTS) fields[name].value = found[name] ?? "";
                fields[TIED].checked = found[TIED] === true;
            } catch (error) {
                wanted++;
                return fail(error.message);
            }
        }
        return update();
    };
    update();
}
