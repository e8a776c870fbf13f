// A widget in a page: controls above its frame (html.js), and a frame that follows them.

import { escape } from "./html.js";

/** A slider as HTML: its name, the value it stands at, and itself. */
export const slider = (name, label, { min, max, step = 1, value, text = value }) =>
    `<label class="field">${label} <b class="value" aria-hidden="true">${text}</b>` +
    `<input type="range" name="${name}" min="${min}" max="${max}" step="${step}" value="${value}" aria-valuetext="${text}"></label>`;

/** What a slider stands for, where that is not the number it counts with: for the eye, and for a screen reader. */
export function means(input, text) {
    input.parentElement.querySelector(".value").textContent = text;
    input.setAttribute("aria-valuetext", text);
}

/** What is wrong with the first control that says something impossible, in the browser's words; null if nothing is. */
export function complaint(form) {
    let first = null;
    for (const control of form.elements) {
        if (!control.willValidate) continue;
        control.setAttribute("aria-invalid", String(!control.validity.valid));
        if (!control.validity.valid) first ??= `${control.labels[0]?.firstChild.textContent.trim() ?? control.name}: ${control.validationMessage}`;
    }
    return first;
}

/** What of a view a reader can be in the middle of: where the focus is, what is unfolded, how far a table is scrolled. */
const places = (view) => ({ folded: view.querySelectorAll("details"), others: [...view.querySelectorAll("summary, .scroll")] });

/** Puts `html` into `view`, and leaves the reader where they were. */
function replace(view, html) {
    const { folded, others } = places(view);
    const open = Array.from(folded, (details) => details.open);
    const scrolled = others.map((other) => other.scrollLeft);
    const focus = view.contains(document.activeElement) ? document.activeElement : null;
    const [cell] = Object.entries(focus?.dataset ?? {});
    const nth = others.indexOf(focus);
    view.innerHTML = html;
    const now = places(view);
    open.forEach((is, i) => now.folded[i] && (now.folded[i].open = is));
    scrolled.forEach((left, i) => now.others[i] && (now.others[i].scrollLeft = left));
    (cell ? view.querySelector(`[data-${cell[0]}="${cell[1]}"]`) : now.others[nth])?.focus({ preventScroll: true });
}

/**
 * Puts `controls` (HTML) above the frame in `root`. Returns the form and the view; `show`, which takes what a widget's `render` gives;
 * `say`, which takes a sentence (HTML); and `fail`, which takes why there is no answer. All speak through the frame's status line, which
 * stays the same node: a screen reader that listens to one does not hear another that takes its place.
 */
export function attach(root, controls) {
    const form = Object.assign(document.createElement("form"), { className: "controls", innerHTML: controls });
    const [status, view] = [root.querySelector(".now"), root.querySelector(".view")];
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", ({ target }) => target.type === "range" && means(target, target.value));
    root.prepend(form);
    let said = null;
    const say = (html) => {
        // The same text again would be read out again.
        if (html !== said) status.innerHTML = html;
        said = html;
    };
    const show = (frame) => {
        say(frame.now);
        replace(view, frame.view);
        delete view.dataset.stale;
    };
    const fail = (why) => {
        say(escape(why));
        // What is still there answers an earlier question.
        view.dataset.stale = "";
    };
    return { form, view, show, say, fail };
}

/**
 * Keeps a frame in step with its controls: `answer(values, form)` gives what a widget's `render` does, or a promise of it. While an
 * answer is on its way, later changes replace each other: the last one counts.
 */
export async function follow(root, controls, answer, delay = 150) {
    const { form, view, show, fail } = attach(root, controls);
    let busy = false;
    let again = false;
    async function update() {
        if (busy) return void (again = true);
        busy = true;
        do {
            again = false;
            try {
                const wrong = complaint(form);
                if (wrong) throw new Error(wrong);
                show(await answer(Object.fromEntries(new FormData(form)), form));
            } catch (error) {
                fail(error.message);
            }
        } while (again);
        busy = false;
    }
    let timer;
    form.addEventListener("input", () => {
        clearTimeout(timer);
        timer = setTimeout(update, delay);
    });
    await update();
    return { form, view, show, fail };
}
