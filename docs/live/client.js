// The page's side of worker.js: one worker for all widgets, started when the first of them asks something.

let worker = null;
let next = 0;
const waiting = new Map();
const listeners = new Set();

function start() {
    worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    worker.onmessage = ({ data }) => {
        if (data.progress) {
            for (const listener of listeners) listener(data.progress);
            return;
        }
        const call = waiting.get(data.id);
        if (!call) return;
        if (data.text !== undefined) return call.onText?.(data.text);
        waiting.delete(data.id);
        if (data.error !== undefined) call.reject(new Error(data.error));
        else call.resolve(data.answer);
    };
    worker.onerror = (event) => {
        // A worker that could not start, or whose engine ended: nobody will answer any more.
        const error = new Error(event.message || "the engine's worker could not be started");
        for (const call of waiting.values()) call.reject(error);
        waiting.clear();
        worker = null;
    };
}

function send(message, onText) {
    if (!worker) start();
    const id = next++;
    const promise = new Promise((resolve, reject) => waiting.set(id, { resolve, reject, onText }));
    worker.postMessage({ id, ...message });
    return { id, promise };
}

/** Asks the engine; see crates/web/src/lib.rs for requests and answers. */
export const ask = (request) => send({ ask: request }).promise;

/** Tells a story: `onText` hears its parts. Returns its promise and a function that stops it. */
export function tell(request, onText) {
    const { id, promise } = send({ story: request }, onText);
    return { promise, stop: () => worker?.postMessage({ stop: id }) };
}

/** Calls `listener({done, total})`, in bytes, while the engine is downloaded. */
export const onProgress = (listener) => listeners.add(listener);
