// The engine's wasm module, for anything that runs JavaScript: a worker, a page, Node. Requests and answers are those of
// crates/web/src/lib.rs.

const decoder = new TextDecoder();
const encoder = new TextEncoder();

/** The engine said no; its message says why. */
export class EngineError extends Error {}

export class Engine {
    #exports;

    /** @param {BufferSource | WebAssembly.Module} wasm the module, or its bytes */
    static async create(wasm) {
        const module = wasm instanceof WebAssembly.Module ? wasm : await WebAssembly.compile(wasm);
        const engine = new Engine();
        let panic = null;
        const host = {
            now_ms: () => performance.now(),
            panicked: (address, length) => {
                panic = engine.#text(address, length);
                console.error(panic);
            },
        };
        engine.#exports = (await WebAssembly.instantiate(module, { host })).exports;
        return engine;
    }

    /** @param {Uint8Array} gguf a model */
    load(gguf) {
        this.#run("load", gguf);
    }

    /** @param {object} request @returns {any} the answer */
    ask(request) {
        return this.#run("answer", encoder.encode(JSON.stringify(request)));
    }

    #run(name, input) {
        const { memory, input: room, output, output_len } = this.#exports;
        const address = room(input.length);
        // The memory may have grown, and then its old buffer is gone: views are made when they are needed.
        new Uint8Array(memory.buffer, address, input.length).set(input);
        const failed = this.#exports[name]();
        const text = this.#text(output(), output_len());
        if (failed) throw new EngineError(text);
        return JSON.parse(text);
    }

    #text(address, length) {
        return decoder.decode(new Uint8Array(this.#exports.memory.buffer, address, length));
    }
}

/** Unpacks gzip, which every browser and Node can; servers do not pack models by themselves. Where one says of a `.gz` that it is
 * packed for the way only, it arrives unpacked, and stays as it is. */
export async function gunzip(bytes) {
    if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
}
