// Draws each widget's default frame with the engine's own answers, for readers without JavaScript and for the moment before anybody
// presses a button: `node docs/live/frames.mjs DIRECTORY` writes frames/NAME.html, and index.html with all of them, to try them.

import { mkdir, writeFile } from "node:fs/promises";
import { engine } from "./node.mjs";

const directory = process.argv[2];
if (!directory) throw new Error("usage: node docs/live/frames.mjs DIRECTORY");
await mkdir(`${directory}/frames`, { recursive: true });
const fs = await engine();
let all = "";
for (const name of ["story", "bpe", "logits", "ledger", "tracer"]) {
    const widget = await import(`./${name}.js`);
    const frame = widget.render(widget.data(fs));
    const html = `<div class="live" data-live="${name}"><div class="frame">${frame}</div></div>\n`;
    await writeFile(`${directory}/frames/${name}.html`, html);
    all += `<h2>${name}</h2>\n${html}`;
}
await writeFile(
    `${directory}/index.html`,
    `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Widgets</title>
<link rel="stylesheet" href="live.css"><style>body { font: 16px/1.5 system-ui; max-width: 56rem; margin: auto; padding: 1rem }</style>
<main><h1>Widgets</h1>${all}</main><script type="module" src="live.js"></script></html>
`,
);
