// A widget as a form: controls, and a frame that follows them.

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

/**
 * Puts `controls` (HTML) and a frame into `root`, and keeps `show(values)` (which gives HTML, or a promise of it) in step with the
 * form. While an answer is on its way, later changes replace each other: the last one counts.
 */
export async function follow(root, controls, show, { say, delay = 150 }) {
    root.innerHTML = `<form class="controls">${controls}</form><div class="view"></div>`;
    const [form, view] = root.children;
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
                view.innerHTML = await show(Object.fromEntries(new FormData(form)), form);
                delete view.dataset.stale;
                say("");
            } catch (error) {
                // What is still there answers an earlier question.
                view.dataset.stale = "";
                say(error.message);
            }
        } while (again);
        busy = false;
    }
    let timer;
    form.addEventListener("input", () => {
        for (const output of form.querySelectorAll("output")) output.value = form.elements[output.htmlFor]?.value ?? "";
        clearTimeout(timer);
        timer = setTimeout(update, delay);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    await update();
    return { form, view, update };
}
