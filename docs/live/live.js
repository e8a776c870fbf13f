// Wakes the widgets of a page. Each stands there as `<div class="live" data-live="NAME"><div class="frame">…</div></div>`, its frame
// drawn when the site was built (frames.mjs). One that needs the engine waits for a button, since it is megabytes; one that shows what
// was recorded at the build (`data-recorded`) starts when it comes into view.

import { ask, onProgress, tell } from "./client.js";
import { number } from "./html.js";
import { WIDGETS } from "./widgets.js";

async function json(name) {
    const response = await fetch(new URL(name, import.meta.url));
    if (!response.ok) throw new Error(`${name}: the server says ${response.status}`);
    return response.json();
}

async function mount(root) {
    const name = root.dataset.live;
    // The frame stays until there is something to take its place.
    let data;
    if ("recorded" in root.dataset) data = await json(`data/${name}.json`);
    else await ask({ command: "model" });
    const widget = await WIDGETS[name]();
    await widget.mount(root.querySelector(".frame"), { ask, tell, data });
    root.dataset.awake = "";
}

/** The button that stands where the controls will. What becomes of it is said by the frame's own status line. */
function offer(root, bytes) {
    const status = root.querySelector(".now");
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Run it here" });
    const line = Object.assign(document.createElement("p"), { className: "wake" });
    line.append(button, ` the engine, in this page: ${number(bytes, "B")}, once`);
    root.prepend(line);
    let starting = false;
    // Not `disabled`: a button that is loses the focus.
    const busy = (is) => button.setAttribute("aria-disabled", String((starting = is)));
    onProgress(({ done, total }) => {
        if (starting) status.textContent = `downloading ${number(done, "B")} of ${number(total, "B")} …`;
    });
    button.onclick = async () => {
        if (starting) return;
        busy(true);
        status.textContent = "starting …";
        try {
            await mount(root);
            const here = document.activeElement === button;
            line.remove();
            if (here) root.querySelector(".controls :is(input, select, button)")?.focus();
        } catch (error) {
            // The frame is still there; only the button comes back.
            busy(false);
            status.textContent = `It did not start: ${error.message}`;
        }
    };
}

/** Mounts what needs no engine once it is nearly in view; until then, and if that fails, its frame stays. */
function watch(root) {
    const observer = new IntersectionObserver(
        (entries) => {
            if (!entries.some((entry) => entry.isIntersecting)) return;
            observer.disconnect();
            mount(root).catch((error) => (root.querySelector(".now").textContent = `It did not start: ${error.message}`));
        },
        { rootMargin: "400px" },
    );
    observer.observe(root);
}

const roots = [...document.querySelectorAll("[data-live]")].filter((root) => root.dataset.live in WIDGETS);
const still = roots.filter((root) => !("recorded" in root.dataset));
for (const root of roots) if ("recorded" in root.dataset) watch(root);
if (still.length > 0) {
    // A site that was built without the module says so: no files.
    const { files } = await json("manifest.json");
    const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
    if (files.length > 0) for (const root of still) offer(root, bytes);
}
