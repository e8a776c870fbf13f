// A story, as it comes.

import { attach } from "./form.js";
import { escape } from "./html.js";

export const title = "A story, told by the engine";

export const DEFAULT = { text: "Once upon a time", temperature: 0.8, seed: 1 };
/** Tokens of the default frame at most: more than its story has, which ends by itself. */
export const MOST = 400;

/** The default frame: a whole story that the engine told when the site was built. */
export const render = ({ prompt, story, decoded }) => ({ now: `${decoded} tokens decoded`, view: `<p class="story"><b>${escape(prompt)}</b>${escape(story)}</p>` });

export async function data(ask) {
    await ask({ command: "start", text: DEFAULT.text, sampling: sampling(DEFAULT), max_tokens: MOST });
    const { tokens, rest, decoded } = await ask({ command: "step", count: MOST });
    return { prompt: DEFAULT.text, story: tokens.map((t) => t.text).join("") + (rest ?? ""), decoded };
}

const sampling = ({ temperature, seed }) => ({ temperature: Number(temperature), seed: Number(seed) });

export async function mount(root, { tell }) {
    const controls =
        `<label class="field broad">Begin with <input name="text" value="${DEFAULT.text}" maxlength="300" required></label>` +
        `<label class="field">Temperature <input name="temperature" type="number" min="0" max="2" step="0.1" value="${DEFAULT.temperature}" required></label>` +
        `<label class="field">Seed <input name="seed" type="number" min="0" max="${Number.MAX_SAFE_INTEGER}" step="1" value="${DEFAULT.seed}" required></label>` +
        `<button>Tell</button><button type="button" name="stop" aria-disabled="true">Stop</button>`;
    const { form, view, show, say } = attach(root, controls);
    show({ now: "", view: `<p class="story" aria-live="polite" aria-busy="false"></p>` });
    const [out] = view.children;
    let stop = null;
    // Not `disabled`: a button that is loses the focus.
    const busy = (is) => {
        // Said when it is whole, not word by word.
        out.setAttribute("aria-busy", String(is));
        form.elements.stop.setAttribute("aria-disabled", String(!is));
    };
    form.elements.stop.onclick = () => stop?.();
    form.onsubmit = async () => {
        stop?.();
        const { text, temperature, seed } = Object.fromEntries(new FormData(form));
        out.innerHTML = `<b>${escape(text)}</b>`;
        busy(true);
        const part = document.createElement("span");
        out.append(part);
        const story = tell({ text, sampling: sampling({ temperature, seed }) }, (more) => part.append(more));
        stop = story.stop;
        try {
            const { decoded, seconds } = await story.promise;
            say(decoded ? `${decoded} tokens decoded, ${(decoded / seconds).toFixed(0)} a second` : "stopped");
        } catch (error) {
            say(escape(error.message));
        }
        if (stop === story.stop) busy(false);
    };
    form.requestSubmit();
}
