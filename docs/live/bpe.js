// Byte-pair encoding, one merge a step.

import { escape, table, th, token } from "./html.js";
import { follow } from "./form.js";

export const title = "Byte-pair encoding, a merge a step";

export const DEFAULT = { text: "Once upon a dragon", step: Infinity };

/** Every state that the pieces of a text go through: `{piece, symbols, merge}`, `merge` being what led there. */
export function frames(trace) {
    const all = [];
    for (const [piece, part] of trace.parts.entries()) {
        if (part.kind === "added_token") {
            all.push({ piece, symbols: [part.text], merge: null, ids: [part.id], added: true });
            continue;
        }
        all.push({ piece, symbols: part.symbols, merge: null });
        let symbols = part.symbols;
        for (const merge of part.merges) {
            // Long pieces come without the symbols after each merge.
            const { at, left, right } = merge;
            symbols = [...symbols.slice(0, at), left + right, ...symbols.slice(at + 2)];
            all.push({ piece, symbols, merge });
        }
        all[all.length - 1].ids = part.ids;
    }
    return all;
}

const chips = (symbols, fresh) =>
    symbols.map((s, i) => `<code class="tok${i === fresh ? " fresh" : ""}">${escape(s)}</code>`).join(" ");

export function render({ trace, step }) {
    const all = frames(trace);
    const now = Math.max(0, Math.min(step, all.length - 1));
    if (all.length === 0) return { now: "There is no text.", view: "" };
    const current = all[now];
    // Of each piece, its last state up to now.
    const seen = new Map();
    for (const frame of all.slice(0, now + 1)) seen.set(frame.piece, frame);
    const pieces = trace.parts.map((part, i) => {
        const frame = seen.get(i);
        const symbols = frame?.symbols ?? part.symbols ?? [part.text];
        const row = [
            th(token(part.text)),
            chips(symbols, i === current.piece ? current.merge?.at : undefined),
            frame?.ids ? frame.ids.join(" ") : "",
        ];
        if (i === current.piece) row.className = "current";
        return row;
    });
    // The piece at hand from its bytes on: without a script, too, the merges are there one by one.
    const states = all.slice(0, now + 1).filter((frame) => frame.piece === current.piece);
    const steps = states.map(({ symbols, merge, added }) => [
        th(merge ? `${token(merge.left)} + ${token(merge.right)}` : added ? "added token" : "bytes"),
        merge ? String(merge.rank) : "",
        chips(symbols, merge?.at),
    ]);
    const { merge } = current;
    const what = merge
        ? `Merge ${merge.rank}: ${token(merge.left)} + ${token(merge.right)}. Of all neighbours here, this pair has the lowest rank.`
        : current.added
          ? "An added token: matched as a whole, before anything is cut or merged."
          : `The piece as bytes: ${current.symbols.length} symbol${current.symbols.length === 1 ? "" : "s"}. Ġ is a space.`;
    const view =
        table("Pieces, their symbols so far, and token ids", ["piece", "symbols", "ids"], pieces) +
        table(`${JSON.stringify(trace.parts[current.piece].text)}, merge by merge`, ["merge", "rank", "symbols then"], steps);
    return { now: `Step ${now + 1} of ${all.length}. ${what}`, view };
}

export const data = async (ask) => ({ trace: await ask({ command: "tokenize", text: DEFAULT.text }), step: DEFAULT.step });

export async function mount(root, { ask }) {
    let state = { text: null, trace: { parts: [] }, step: 0 };
    const controls =
        `<label class="field broad">Text <input name="text" value="${DEFAULT.text}" maxlength="200"></label>` +
        `<button type="button" name="first">First</button><button type="button" name="back">Back</button>` +
        `<button type="button" name="next">Next merge</button><button type="button" name="last">Last</button>`;
    const { form, show } = await follow(root, controls, async ({ text }) => {
        if (text !== state.text) state = { text, trace: await ask({ command: "tokenize", text }), step: 0 };
        return render(state);
    });
    const go = (move) => {
        state.step = Math.max(0, Math.min(frames(state.trace).length - 1, move(state.step)));
        show(render(state));
    };
    form.elements.first.onclick = () => go(() => 0);
    form.elements.back.onclick = () => go((step) => step - 1);
    form.elements.next.onclick = () => go((step) => step + 1);
    form.elements.last.onclick = () => go(() => Infinity);
    form.onkeydown = (event) => {
        // Enter in the text steps on, too.
        if (event.key === "Enter" && event.target.name === "text") go((step) => step + 1);
    };
}
