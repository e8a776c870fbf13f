// Draws each widget's default frame with the engine's own answers, for readers without JavaScript and for the moment before anybody
// presses a button: `node docs/live/frames.mjs DIRECTORY` writes NAME.html.

import { mkdir, writeFile } from "node:fs/promises";
import { engine } from "./test/engine.mjs";

const directory = process.argv[2];
if (!directory) throw new Error("usage: node docs/live/frames.mjs DIRECTORY");
await mkdir(directory, { recursive: true });
const fs = await engine();
for (const name of ["story", "bpe", "logits", "ledger", "tracer"]) {
    const widget = await import(`./${name}.js`);
    const frame = widget.render(widget.data(fs));
    const html = `<div class="live" data-live="${name}"><div class="frame">${frame}</div></div>\n`;
    await writeFile(`${directory}/${name}.html`, html);
}
