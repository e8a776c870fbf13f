// The sampler's bench: real logits, each step in the engine's order, and what a thousand draws make of them.

import { bar, percent, table, th, token } from "./html.js";
import { follow, slider } from "./form.js";

export const title = "From logits to a draw";

export const DEFAULT = { text: "Once upon a time, there was a little", temperature: 0.7, top_k: 8, top_p: 0.9, min_p: 0, draws: 1000 };
const TOP = 12;

export function request({ text, temperature, top_k, top_p, min_p, draws, seed }) {
    const sampling = {
        temperature: Number(temperature),
        top_k: Number(top_k),
        top_p: Number(top_p),
        min_p: Number(min_p),
        seed: Number(seed ?? 1),
    };
    return { command: "candidates", text, sampling, top: TOP, draws: Number(draws) };
}

const NAMES = { softmax: "softmax", temperature: "÷ temperature", top_k: "top-k", top_p: "top-p", min_p: "min-p" };

export function render({ steps, tokens, draws }) {
    const rows = tokens.map(({ text, logit, probabilities, drawn }) => [
        th(token(text)),
        logit.toFixed(2),
        ...probabilities.map((p) => (p > 0 ? bar(p, percent(p)) : `<td class="out">out</td>`)),
        bar(drawn / Math.max(1, draws), drawn),
    ]);
    const left = steps.map(({ step, tokens }) => `${NAMES[step]} ${tokens}`).join(", ");
    const head = ["token", "logit", ...steps.map(({ step }) => NAMES[step]), `of ${draws} draws`];
    return { now: `Tokens left after each step: ${left}.`, view: table(`The ${tokens.length} most likely next tokens, step by step`, head, rows) };
}

export const data = (ask) => ask(request(DEFAULT));

export async function mount(root, { ask }) {
    const at = (name, label, max, step) => slider(name, label, { min: 0, max, step, value: DEFAULT[name] });
    const controls =
        `<label class="field broad">Text <input name="text" value="${DEFAULT.text}" maxlength="300" required></label>` +
        at("temperature", "Temperature", 2, 0.05) +
        at("top_k", "Top-k (0: off)", 40, 1) +
        at("top_p", "Top-p (1: off)", 1, 0.01) +
        at("min_p", "Min-p (0: off)", 1, 0.01) +
        `<label class="field">Seed <input type="number" name="seed" value="1" min="0" max="${Number.MAX_SAFE_INTEGER}" required></label>` +
        `<input type="hidden" name="draws" value="${DEFAULT.draws}">`;
    await follow(root, controls, async (values) => render(await ask(request(values))));
}
