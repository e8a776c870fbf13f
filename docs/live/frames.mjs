// Draws each widget's default frame with the engine's own answers, for readers without JavaScript and for the moment before anything
// runs: `node docs/live/frames.mjs FS-LIVE MODEL DIRECTORY` writes DIRECTORY/frames/NAME.html for the pages, and DIRECTORY/data/NAME.json
// for widgets that go on with these very answers and need no engine (`recorded`).

import { mkdir, writeFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import { escape, frame } from "./html.js";
import { native, recorder } from "./node.mjs";
import { WIDGETS } from "./widgets.js";

/** A widget's place in a page, with its frame, and what the frame shows. */
export async function draw(name, ask, record) {
    const widget = await WIDGETS[name]();
    const data = await widget.data(ask, record);
    // An empty line would end the block of HTML that Markdown sees; and until a script is there, no button does anything.
    const drawn = frame(widget.render(data)).replaceAll("\n", "&#10;").replaceAll("<button ", "<button disabled ");
    const recorded = widget.recorded ? " data-recorded" : "";
    const html = `<div class="live" data-live="${name}"${recorded} role="group" aria-label="${escape(widget.title)}">\n<div class="frame">${drawn}</div>\n</div>\n`;
    return { html, data, recorded: widget.recorded };
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
    const [program, model, directory] = process.argv.slice(2);
    if (!directory) throw new Error("usage: node docs/live/frames.mjs FS-LIVE MODEL DIRECTORY");
    for (const part of ["frames", "data"]) await mkdir(`${directory}/${part}`, { recursive: true });
    const { ask, close } = native(program, model);
    const record = recorder(program);
    for (const name of Object.keys(WIDGETS)) {
        const { html, data, recorded } = await draw(name, ask, record);
        await writeFile(`${directory}/frames/${name}.html`, html);
        if (recorded) await writeFile(`${directory}/data/${name}.json`, JSON.stringify(data));
    }
    close();
}
