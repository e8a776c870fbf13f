// The widgets there are. Each is a file with `title`, `data(ask, record)`, what its default frame shows, `render(data)`, that frame as
// `{now, view}`, its status line and all else as HTML, and `mount(root, page)`, the same with controls.

export const WIDGETS = {
    story: () => import("./story.js"),
    bpe: () => import("./bpe.js"),
    logits: () => import("./logits.js"),
    tracer: () => import("./tracer.js"),
    ledger: () => import("./ledger.js"),
    file: () => import("./file.js"),
    microscope: () => import("./microscope.js"),
    roofline: () => import("./roofline.js"),
    stepper: () => import("./stepper.js"),
};
