//! What may be wider than its place scrolls inside of it, so it must be reachable without a mouse and say what it is (WCAG 2.1.1):
//! tables, blocks of code and drawings stand in a region with a label that the keyboard can focus.

use crate::links::options;
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};
use std::collections::BTreeMap;
use std::ops::Range;

/// A table or a block of code.
struct Wide {
    span: Range<usize>,
    label: String,
}

/// An expanded page with regions around its tables and blocks of code. `Err` has the byte of one that stands inside of a list or a
/// quotation, where no region can be put around it.
pub fn wrap(text: &str) -> Result<String, usize> {
    let (mut out, mut end, mut labels) = (String::with_capacity(text.len()), 0, BTreeMap::new());
    for wide in find(text) {
        let line = text[..wide.span.start].rfind('\n').map_or(0, |i| i + 1);
        if line != wide.span.start {
            return Err(wide.span.start);
        }
        // Two regions of a page do not have one name.
        let count = labels.entry(wide.label.clone()).and_modify(|n| *n += 1).or_insert(1);
        let label = if *count == 1 { wide.label } else { format!("{} ({count})", wide.label) };
        out += &text[end..wide.span.start];
        out += &format!("{}\n\n{}\n\n</div>\n", open(&label), text[wide.span.clone()].trim_end());
        end = wide.span.end;
    }
    Ok(out + &text[end..])
}

/// The tag that begins a region.
pub fn open(label: &str) -> String {
    format!("<div class=\"wide\" role=\"region\" tabindex=\"0\" aria-label=\"{}\">", crate::escape(label))
}

fn find(text: &str) -> Vec<Wide> {
    let mut found: Vec<Wide> = Vec::new();
    let mut head: Option<Vec<String>> = None;
    let mut code: Option<(String, String)> = None;
    // The place that a snippet names above its code.
    let mut place = String::new();
    let mut html = crate::links::Html::default();
    for (event, span) in Parser::new_ext(text, options()).into_offset_iter() {
        match event {
            Event::Html(text) if text.contains("class=\"where\"") => {
                let text = html.text(&text).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
                let text = text.trim().trim_start_matches("in ");
                place = text.split(", after ").next().unwrap_or_default().to_owned();
            }
            Event::Html(text) => drop(html.text(&text)),
            Event::Start(Tag::Table(_)) => head = Some(Vec::new()),
            Event::Start(Tag::TableCell) => {
                if let Some(cells) = &mut head {
                    cells.push(String::new());
                }
            }
            Event::End(TagEnd::TableHead) => {
                let cells = head.take().unwrap_or_default();
                let cells: Vec<&str> = cells.iter().map(|cell| cell.trim()).filter(|cell| !cell.is_empty()).collect();
                let label = if cells.is_empty() { "Table".to_owned() } else { format!("Table: {}", cells.join(", ")) };
                found.push(Wide { span: 0..0, label });
            }
            Event::End(TagEnd::Table) => {
                if let Some(wide) = found.last_mut() {
                    wide.span = span;
                }
            }
            Event::Start(Tag::CodeBlock(kind)) => {
                let language = match kind {
                    CodeBlockKind::Fenced(language) => language.to_string(),
                    CodeBlockKind::Indented => String::new(),
                };
                code = Some((language, String::new()));
            }
            Event::End(TagEnd::CodeBlock) => {
                let (language, body) = code.take().unwrap_or_default();
                let first = body.lines().next().unwrap_or_default();
                let label = match language.as_str() {
                    "rust" | "cpp" if !place.is_empty() => format!("Code: {place}"),
                    "sh" => "Commands".to_owned(),
                    _ => match first.strip_prefix("$ ") {
                        Some(command) => format!("Output of {command}"),
                        None => "Code".to_owned(),
                    },
                };
                place.clear();
                found.push(Wide { span, label });
            }
            Event::Text(text) | Event::Code(text) => match (&mut code, &mut head) {
                (Some((_, body)), _) => body.push_str(&text),
                (None, Some(cells)) => {
                    if let Some(cell) = cells.last_mut() {
                        cell.push_str(&text);
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_code_can_be_reached() {
        let page = "a\n\n| | one | `two` |\n| --- | --- | --- |\n| 1 | 2 | 3 |\n\n```sh\nfs\n```\n\n```sh\nls\n```\n\n```text\n$ fs x\n```\n";
        let wrapped = wrap(page).unwrap();
        for part in [
            "<div class=\"wide\" role=\"region\" tabindex=\"0\" aria-label=\"Table: one, two\">\n\n| | one | `two` |\n",
            "| 1 | 2 | 3 |\n\n</div>\n",
            "aria-label=\"Commands\">\n\n```sh\nfs\n```\n\n</div>\n",
            "aria-label=\"Commands (2)\">",
            "aria-label=\"Output of fs x\">",
        ] {
            assert!(wrapped.contains(part), "{part}\n{wrapped}");
        }
        assert_eq!(find(&wrapped).len(), 4, "what was wrapped is still Markdown");
    }

    #[test]
    fn code_is_called_by_its_place() {
        let page = "<div class=\"snippet\">\n<p class=\"where\"><a href=\"x\">src/a.rs</a> · <code>fn f</code></p>\n\n```rust\nfn f() {}\n```\n\n</div>\n";
        assert!(wrap(page).unwrap().contains("aria-label=\"Code: src/a.rs · fn f\""), "{}", wrap(page).unwrap());
    }

    #[test]
    fn what_cannot_be_wrapped_is_refused() {
        assert_eq!(wrap("- a\n\n  ```sh\n  fs\n  ```\n"), Err(7));
    }
}
