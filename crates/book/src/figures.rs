//! `{{figure NAME | caption}}`: drawings of `docs/figures`, put into the page so that they follow its colours.

use crate::directive;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// All drawings, and where they were shown.
pub struct Figures {
    directory: PathBuf,
    shown: RefCell<BTreeMap<String, Shown>>,
}

/// A drawing in its page.
struct Shown {
    page: String,
    title: String,
    svg: String,
    caption: String,
}

impl Figures {
    /// Drawings of this directory.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), shown: RefCell::default() }
    }

    /// The figure's HTML. `expand` replaces the directives inside of the drawing.
    pub fn show(
        &self,
        arguments: &str,
        (page, title): (&str, &str),
        expand: impl FnOnce(&str) -> Result<String, String>,
    ) -> Result<String, String> {
        let (name, captions) = directive::pipes(arguments);
        let [caption] = captions[..] else { return Err("write {{figure NAME | caption}}".into()) };
        if let Some((_, message)) = crate::lint::typed(0, caption).next() {
            return Err(message);
        }
        let svg = self.source(name)?;
        check(name, &svg).map_err(|error| format!("docs/figures/{name}.svg: {error}"))?;
        let svg = expand(&svg).map_err(|error| format!("docs/figures/{name}.svg: {error}"))?;
        // An empty line would end the HTML block that Markdown sees.
        let svg: Vec<&str> = svg.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let shown = Shown { page: page.into(), title: title.into(), svg: svg.join("\n"), caption: caption.into() };
        let html = shown.html(name);
        if self.shown.borrow_mut().insert(name.to_owned(), shown).is_some() {
            return Err(format!("figure `{name}` is shown twice: link to the first"));
        }
        Ok(html)
    }

    /// A drawing as it was drawn, with its directives.
    pub fn source(&self, name: &str) -> Result<String, String> {
        let path = self.directory.join(format!("{name}.svg"));
        std::fs::read_to_string(&path).map_err(|error| format!("docs/figures/{name}.svg: {error}"))
    }

    /// Drawings that no page shows.
    pub fn unused(&self) -> std::io::Result<Vec<String>> {
        let mut unused = Vec::new();
        if self.directory.is_dir() {
            for entry in std::fs::read_dir(&self.directory)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if !self.shown.borrow().contains_key(name.trim_end_matches(".svg")) {
                    unused.push(name);
                }
            }
        }
        unused.sort();
        Ok(unused)
    }

    /// The gallery's body: every drawing, with a link to its page, in the order of `pages`.
    pub fn gallery(&self, pages: &[String]) -> String {
        let shown = self.shown.borrow();
        let mut out = String::new();
        for page in pages {
            let mut heading = false;
            for (name, figure) in shown.iter().filter(|(_, figure)| figure.page == *page) {
                if !std::mem::replace(&mut heading, true) {
                    out += &format!("\n## {}\n", figure.title);
                }
                // Ids are those of the figure with `--`: the gallery's copies get their own.
                let copy = figure.html(name).replace(&format!("{name}--"), &format!("gallery-{name}--"));
                let copy = copy.replace(&format!("id=\"figure-{name}\""), &format!("id=\"gallery-{name}\""));
                out += &format!(
                    "\n{copy}\n\n<div class=\"where\">\n\n[Where it is explained]({page}#figure-{name})\n\n</div>\n",
                );
            }
        }
        out
    }
}

impl Shown {
    fn html(&self, name: &str) -> String {
        let title = self
            .svg
            .split_once("--title\">")
            .and_then(|(_, rest)| rest.split_once('<'))
            .map_or(name, |(title, _)| title);
        // How wide it was drawn: on a phone the theme lets it shrink as far as its letters stay readable, and no further.
        let width =
            self.svg.split_once("viewBox=\"0 0 ").and_then(|(_, rest)| rest.split_once(' ')).map_or("0", |(w, _)| w);
        format!(
            "<figure id=\"figure-{name}\" style=\"--drawn: {width}\">\n{}\n{}\n</div>\n<figcaption>\n\n{}\n\n</figcaption>\n</figure>",
            crate::regions::open(&format!("Drawing: {title}")),
            self.svg,
            self.caption
        )
    }
}

/// What every drawing keeps to: it can be read aloud, follows the theme and brings no id that another may have.
fn check(name: &str, svg: &str) -> Result<(), String> {
    let head = svg.split('>').next().unwrap_or_default();
    if !head.starts_with("<svg") || !head.contains("role=\"img\"") || !head.contains("viewBox=\"0 0 ") {
        return Err("it starts with <svg role=\"img\" viewBox=\"0 0 …\">".into());
    }
    for part in ["title", "desc"] {
        if !svg.contains(&format!("<{part} id=\"{name}--{part}\">")) {
            return Err(format!("it has a <{part} id=\"{name}--{part}\">"));
        }
    }
    if !head.contains(&format!("aria-labelledby=\"{name}--title {name}--desc\"")) {
        return Err(format!("it says aria-labelledby=\"{name}--title {name}--desc\""));
    }
    if let Some(id) = svg.split(" id=\"").skip(1).find(|id| !id.starts_with(&format!("{name}--"))) {
        return Err(format!("ids start with `{name}--`: `{}`", id.split('"').next().unwrap_or_default()));
    }
    // By hand one draws to whole pixels, or halves: any other length stands for a number, and must move with it.
    for length in ["width", "height"] {
        for (_, rest) in svg.match_indices(&format!(" {length}=\"")).map(|(at, found)| svg.split_at(at + found.len())) {
            let typed = rest.split('"').next().unwrap_or_default();
            if typed.contains('.') && typed.parse::<f64>().is_ok_and(|number| (2.0 * number).fract() != 0.0) {
                return Err(format!(
                    "{length}=\"{typed}\": what stands for a number is computed from it, {{{{val …}}}}"
                ));
            }
        }
    }
    for colour in ["=\"#", ":#", ": #", "rgb(", "<style", "style="] {
        if svg.contains(colour) {
            return Err(format!("`{colour}`: colours are the theme's classes"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "<svg role=\"img\" viewBox=\"0 0 1 1\" aria-labelledby=\"a--title a--desc\">\n\n<title id=\"a--title\">A</title>\n<desc id=\"a--desc\">An A.</desc>\n<path id=\"a--p\"/></svg>";

    fn figures(svg: &str) -> (tempfile::TempDir, Figures) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.svg"), svg).unwrap();
        let figures = Figures::new(directory.path());
        (directory, figures)
    }

    fn refused(svg: &str, words: &str) {
        let (_directory, figures) = figures(svg);
        let error = figures.show("a | c", ("p.md", "P"), |svg| Ok(svg.into())).unwrap_err();
        assert!(error.contains(words), "{error}");
    }

    #[test]
    fn a_figure_is_one_block_of_html() {
        let (_directory, figures) = figures(GOOD);
        assert_eq!(figures.unused().unwrap(), ["a.svg"]);
        let html = figures.show("a | An *a*", ("p.md", "P"), |svg| Ok(svg.into())).unwrap();
        assert!(html.starts_with("<figure id=\"figure-a\" style=\"--drawn: 1\">\n<div class=\"wide\" role=\"region\" tabindex=\"0\" aria-label=\"Drawing: A\">\n<svg") && html.contains("\n\nAn *a*\n\n"), "{html}");
        assert!(!html.split("<figcaption>").next().unwrap().contains("\n\n"));
        assert!(figures.unused().unwrap().is_empty());
        let gallery = figures.gallery(&["p.md".into()]);
        assert!(
            gallery.contains("id=\"gallery-a--p\"")
                && gallery.contains("\n## P\n")
                && gallery.contains("](p.md#figure-a)"),
            "{gallery}"
        );
        assert!(figures.show("a | again", ("q.md", "Q"), |svg| Ok(svg.into())).unwrap_err().contains("twice"));
    }

    #[test]
    fn drawings_that_cannot_be_read_aloud_or_recoloured_are_refused() {
        refused(&GOOD.replace("role=\"img\"", ""), "role=");
        refused(&GOOD.replace("<title", "<text"), "title");
        refused(&GOOD.replace("a--desc\">\n", "\">\n"), "aria-labelledby");
        refused(&GOOD.replace("a--p", "p"), "ids start with");
        refused(&GOOD.replace("<path", "<path fill=\"#fff\""), "colours");
        refused(&GOOD.replace("<path", "<rect width=\"57.8\"/><path"), "is computed from it");
    }

    #[test]
    fn missing_drawings_and_captions_are_said() {
        let (_directory, figures) = figures(GOOD);
        let show = |arguments| figures.show(arguments, ("p.md", "P"), |svg| Ok(svg.into())).unwrap_err();
        assert!(show("b | c").contains("b.svg"));
        assert!(show("a").contains("caption"));
        assert!(show("a | 4096 rows").contains("typed by hand"));
    }
}
