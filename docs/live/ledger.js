// The KV cache's ledger: the prompt, and then a token at a time. What is stored, what is read, and what it would cost without.

import { bar, grouped, number, table, th, token } from "./html.js";
import { follow, slider } from "./form.js";

export const title = "What the KV cache stores, and what it saves";

export const DEFAULT = { text: "Once upon a time, there was a", generate: 8 };

export const request = ({ text, generate }) => ({
    command: "trace",
    text,
    generate: Number(generate),
    operations: false,
    top: 0,
});

export function render(trace) {
    const most = Math.max(...trace.passes.map((pass) => pass.flop_without_cache));
    const rows = trace.passes.map((pass) => {
        const held = pass.start + pass.tokens;
        const tokens = trace.tokens.slice(pass.start, held).map((t) => token(t.text));
        return [
            th(pass.phase),
            tokens.join(""),
            String(held),
            bar(pass.flop / most, number(pass.flop, "FLOP")),
            bar(pass.flop_without_cache / most, number(pass.flop_without_cache, "FLOP")),
            number(held * trace.kv_bytes_per_token, "B"),
            number(pass.bytes.kv_read, "B"),
            number(pass.bytes.weights, "B"),
        ];
    });
    const sum = (field) => trace.passes.reduce((total, pass) => total + pass[field], 0);
    const [work, without] = [sum("flop"), sum("flop_without_cache")];
    const now =
        `Together ${number(work, "FLOP")} with the cache and ${number(without, "FLOP")} without: ` +
        `<b>${(without / work).toFixed(1)} times</b> as much. A token takes ${grouped(trace.kv_bytes_per_token)} bytes of cache: ` +
        `2 · ${trace.config.num_hidden_layers} layers · ${trace.config.num_key_value_heads} heads · ${trace.config.head_dim} values, in ${trace.kv}.`;
    const head = ["pass", "tokens at hand", "in the cache after", "work", "work without a cache", "cache size", "cache read", "weights read"];
    return { now, view: table("Each pass through the model", head, rows) };
}

export const data = (ask) => ask(request(DEFAULT));

export async function mount(root, { ask }) {
    const controls =
        `<label class="field broad">Prompt <input name="text" value="${DEFAULT.text}" maxlength="600" required></label>` +
        slider("generate", "Tokens to decode", { min: 0, max: 48, value: DEFAULT.generate });
    await follow(root, controls, async (values) => render(await ask(request(values))));
}
