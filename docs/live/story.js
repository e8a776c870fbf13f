// A story, as it comes.

import { escape } from "./html.js";

export const title = "A story, told by the engine";

export const DEFAULT = { text: "Once upon a time", temperature: 0.8, seed: 1 };

/** The default frame: a whole story that the engine told when the site was built. */
export const render = ({ prompt, story }) => `<p class="story"><b>${escape(prompt)}</b>${escape(story)}</p>`;

export async function data(ask) {
    await ask({ command: "start", text: DEFAULT.text, sampling: sampling(DEFAULT), max_tokens: 160 });
    const { tokens, rest } = await ask({ command: "step", count: 200 });
    return { prompt: DEFAULT.text, story: tokens.map((t) => t.text).join("") + (rest ?? "") };
}

const sampling = ({ temperature, seed }) => ({ temperature: Number(temperature), seed: Number(seed) });

export async function mount(root, { tell, say }) {
    root.innerHTML =
        `<form class="controls"><label class="field wide">Begin with <input name="text" value="${DEFAULT.text}" maxlength="300" required></label>` +
        `<label class="field">Temperature <input name="temperature" type="number" min="0" max="2" step="0.1" value="${DEFAULT.temperature}" required></label>` +
        `<label class="field">Seed <input name="seed" type="number" min="0" max="${Number.MAX_SAFE_INTEGER}" step="1" value="${DEFAULT.seed}" required></label>` +
        `<button>Tell</button><button type="button" name="stop" disabled>Stop</button></form>` +
        `<p class="story" aria-live="polite" aria-busy="false"></p>`;
    const [form, out] = root.children;
    let stop = null;
    form.elements.stop.onclick = () => stop?.();
    form.onsubmit = async (event) => {
        event.preventDefault();
        stop?.();
        const { text, temperature, seed } = Object.fromEntries(new FormData(form));
        out.innerHTML = `<b>${escape(text)}</b>`;
        // Said when it is whole, not word by word.
        out.setAttribute("aria-busy", "true");
        form.elements.stop.disabled = false;
        const part = document.createElement("span");
        out.append(part);
        const story = tell({ text, sampling: sampling({ temperature, seed }) }, (more) => part.append(more));
        stop = story.stop;
        try {
            const { decoded, seconds } = await story.promise;
            say(decoded ? `${decoded} tokens, ${(decoded / seconds).toFixed(0)} a second` : "stopped");
        } catch (error) {
            say(error.message);
        }
        if (stop === story.stop) {
            out.setAttribute("aria-busy", "false");
            form.elements.stop.disabled = true;
        }
    };
    form.requestSubmit();
}
