// Wakes the widgets of a page. Each stands there as `<div class="live" data-live="NAME"><div class="frame">…</div></div>`, its frame
// drawn when the site was built; nothing is downloaded before somebody presses a button.

import { ask, onProgress, tell } from "./client.js";
import { number } from "./html.js";

const WIDGETS = {
    story: () => import("./story.js"),
    bpe: () => import("./bpe.js"),
    logits: () => import("./logits.js"),
    tracer: () => import("./tracer.js"),
    ledger: () => import("./ledger.js"),
};

async function wake(root, status) {
    const frame = root.querySelector(".frame");
    const show = ({ done, total }) => (status.textContent = `downloading ${number(done, "B")} of ${number(total, "B")} …`);
    onProgress(show);
    const widget = await WIDGETS[root.dataset.live]();
    await widget.mount(frame, { ask, tell, say: (text) => (status.textContent = text), dataset: root.dataset });
}

for (const root of document.querySelectorAll("[data-live]")) {
    if (!(root.dataset.live in WIDGETS)) continue;
    const line = document.createElement("p");
    line.className = "wake";
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Run it here" });
    const status = document.createElement("span");
    status.setAttribute("role", "status");
    status.textContent = "the engine, in this page: 7 MB, once";
    line.append(button, " ", status);
    root.append(line);
    button.onclick = async () => {
        button.disabled = true;
        status.textContent = "starting …";
        try {
            await wake(root, status);
            button.remove();
            status.textContent = "";
            root.querySelector(".frame :is(input, select, button, textarea)")?.focus();
        } catch (error) {
            // The frame is still there; only the button comes back.
            button.disabled = false;
            status.textContent = `It did not start: ${error.message}`;
        }
    };
}
