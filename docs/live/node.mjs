// The engine under Node, from what tools/wasm built.

import { readFile } from "node:fs/promises";
import { Engine, gunzip } from "./engine.js";

const SITE = new URL("../../target/site-live/", import.meta.url);

/** The engine without a model. */
export async function bare() {
    return Engine.create(await gunzip(await readFile(new URL("fs.wasm.gz", SITE))));
}

/** The story model's bytes, as the page gets them. */
export const stories = async () => gunzip(await readFile(new URL("stories.gguf.gz", SITE)));

/** The engine with a model. */
export async function engine(gguf) {
    const fs = await bare();
    fs.load(gguf ?? (await stories()));
    return fs;
}
