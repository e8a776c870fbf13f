//! `{{widget NAME}}`: a widget of `docs/live` in its page. What stands there first is its default frame, which `tools/wasm` drew
//! with the engine; the widget's script takes it over in a browser that runs scripts.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What stands in a page if no frame could be drawn at all, for want of Node. `tools/test-site` does not let it pass.
const UNDRAWN: &str = "<div class=\"live undrawn\">\n<p>A widget. It was not drawn: Node was missing when these pages were built.</p>\n</div>\n";

/// The frames, and the pages that show them.
pub struct Widgets {
    frames: PathBuf,
    scripts: PathBuf,
    shown: RefCell<BTreeSet<(String, String)>>,
}

impl Widgets {
    /// Widgets whose scripts are in one directory and whose frames are in another.
    pub fn new(scripts: &Path, frames: &Path) -> Self {
        Self { frames: frames.to_owned(), scripts: scripts.to_owned(), shown: RefCell::default() }
    }

    /// The HTML of widget `name` for `page`.
    pub fn show(&self, name: &str, page: &str) -> Result<String, String> {
        let script = self.scripts.join(format!("{name}.js"));
        if name.contains(['/', '.']) || !script.is_file() {
            return Err(format!("there is no widget `{name}`"));
        }
        if !self.shown.borrow_mut().insert((name.to_owned(), page.to_owned())) {
            return Err(format!("widget `{name}` is shown twice on this page"));
        }
        if !self.frames.is_dir() {
            return Ok(UNDRAWN.to_owned());
        }
        let frame = std::fs::read_to_string(self.frames.join(format!("{name}.html")))
            .map_err(|error| format!("widget `{name}` has not been drawn (tools/wasm): {error}"))?;
        // It would end the block of HTML that Markdown sees.
        if frame.contains("\n\n") {
            return Err(format!("the frame of widget `{name}` has an empty line"));
        }
        Ok(frame)
    }

    /// Widgets that were drawn and that no page shows.
    pub fn unused(&self) -> std::io::Result<Vec<String>> {
        let shown = self.shown.borrow();
        let mut unused = Vec::new();
        if self.frames.is_dir() {
            for entry in std::fs::read_dir(&self.frames)? {
                let name = entry?.file_name().to_string_lossy().trim_end_matches(".html").to_owned();
                if !shown.iter().any(|(one, _)| *one == name) && self.scripts.join(format!("{name}.js")).is_file() {
                    unused.push(name);
                }
            }
        }
        unused.sort();
        Ok(unused)
    }
}
