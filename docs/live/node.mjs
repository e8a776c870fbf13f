// The engine under Node: the module that tools/wasm built for pages, or the same engine built for this machine.

import { execFileSync, spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { Engine, EngineError, gunzip } from "./engine.js";

/** Where tools/wasm puts what pages load. */
export const SITE = new URL("../../target/site-live/", import.meta.url);

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

/** The engine of this machine: `program` is an `fs-live`, `model` a GGUF file. Returns `ask`, as a page has it, and `close`. */
export function native(program, model) {
    const child = spawn(program, [model], { stdio: ["pipe", "pipe", "inherit"] });
    const waiting = [];
    createInterface({ input: child.stdout, crlfDelay: Infinity }).on("line", (line) => {
        const { answer, error } = JSON.parse(line);
        const { resolve, reject } = waiting.shift();
        if (error === undefined) resolve(answer);
        else reject(new EngineError(error));
    });
    const ended = (why) => waiting.splice(0).forEach(({ reject }) => reject(new Error(`${program}: ${why}`)));
    child.on("error", (error) => ended(error.message));
    child.on("exit", () => ended("it ended"));
    child.stdin.on("error", () => {});
    const ask = (request) =>
        new Promise((resolve, reject) => {
            waiting.push({ resolve, reject });
            child.stdin.write(JSON.stringify(request) + "\n");
        });
    return { ask, close: () => child.stdin.end() };
}

/** What `fs-live --record` says of this repository; a path is a file of it, JSON or text. */
export const recorder = (program) => async (what) => {
    const root = fileURLToPath(new URL("../..", import.meta.url));
    if (what.endsWith(".json")) return JSON.parse(await readFile(root + what, "utf8"));
    if (what.includes(".")) return readFile(root + what, "utf8");
    return JSON.parse(execFileSync(program, ["--record", what, root], { maxBuffer: 1 << 26 }));
};
