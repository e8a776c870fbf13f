// Frames read as a reader would: text without tags, tables cell by cell.

import assert from "node:assert/strict";

export const text = (html) =>
    html.replace(/<[^>]*>/g, "").replace(/&(amp|lt|gt|quot|#39);/g, (_, name) => ({ amp: "&", lt: "<", gt: ">", quot: '"', "#39": "'" })[name]);

/** The cells of the first table whose caption begins so, row by row. */
export function cells(html, caption) {
    const found = [...html.matchAll(/<table><caption>(.*?)<\/caption>.*?<tbody>(.*?)<\/tbody>/gs)].find(([, name]) => text(name).startsWith(caption));
    assert.ok(found, `no table “${caption}”`);
    return [...found[2].matchAll(/<tr.*?<\/tr>/gs)].map(([row]) => [...row.matchAll(/<t[dh][^>]*>(.*?)<\/t[dh]>/gs)].map(([, cell]) => text(cell)));
}
