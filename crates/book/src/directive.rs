//! The syntax of directives: `{{name arguments}}` in a page, `\{{` for two braces that are none.

use std::ops::Range;

/// `{{name arguments}}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive<'a> {
    /// The first word.
    pub name: &'a str,
    /// The rest, trimmed.
    pub arguments: &'a str,
    /// The line it stands in, from 1.
    pub line: usize,
    /// Whether nothing else stands in that line.
    pub alone: bool,
    /// Its bytes in the page, braces included.
    pub span: Range<usize>,
}

/// All directives of a text, in order; `Err` has the line and the reason.
pub fn find(text: &str) -> Vec<Result<Directive<'_>, (usize, String)>> {
    let mut found = Vec::new();
    let mut start = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let mut at = 0;
        while let Some(open) = line[at..].find("{{").map(|i| at + i) {
            if line[..open].ends_with('\\') {
                at = open + 2;
                continue;
            }
            let Some(close) = line[open..].find("}}").map(|i| open + i) else {
                found.push(Err((number + 1, "`{{` is not closed in its line; write `\\{{` for two braces".into())));
                break;
            };
            let inner = line[open + 2..close].trim();
            let (name, arguments) = inner.split_once(char::is_whitespace).unwrap_or((inner, ""));
            found.push(Ok(Directive {
                name,
                arguments: arguments.trim(),
                line: number + 1,
                alone: line[..open].trim().is_empty() && line[close + 2..].trim().is_empty(),
                span: start + open..start + close + 2,
            }));
            at = close + 2;
        }
        start += line.len();
    }
    found
}

/// The text with each directive replaced by what `f` makes of it, and the lines where that failed.
pub fn replace(
    text: &str,
    mut f: impl FnMut(&Directive<'_>) -> Result<String, String>,
) -> (String, Vec<(usize, String)>) {
    let (mut out, mut problems, mut end) = (String::with_capacity(text.len()), Vec::new(), 0);
    for directive in find(text) {
        match directive {
            Err(problem) => problems.push(problem),
            Ok(directive) => {
                out.push_str(&text[end..directive.span.start]);
                end = directive.span.end;
                match f(&directive) {
                    Ok(replacement) => out.push_str(&replacement),
                    Err(message) => problems.push((directive.line, message)),
                }
            }
        }
    }
    out.push_str(&text[end..]);
    (out.replace("\\{{", "{{"), problems)
}

/// Where a masked text has a directive.
pub const MASK: char = '\u{1}';

/// The text with each directive's bytes replaced by [`MASK`] and `x`, so that positions stay what they are.
pub fn mask(text: &str) -> String {
    let mut masked = text.to_owned();
    for directive in find(text).into_iter().flatten() {
        masked.replace_range(directive.span.clone(), &format!("{MASK}{}", "x".repeat(directive.span.len() - 1)));
    }
    masked
}

/// The arguments up to the first ` | `, and each part behind one.
pub fn pipes(arguments: &str) -> (&str, Vec<&str>) {
    let mut parts = arguments.split(" | ").map(str::trim);
    (parts.next().unwrap_or_default(), parts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lines_and_spans() {
        let text = "a {{val x.y | digits 2}} b\n  {{code a.rs#b}}  \n";
        let all: Vec<_> = find(text).into_iter().map(Result::unwrap).collect();
        assert_eq!((all[0].name, all[0].arguments, all[0].line, all[0].alone), ("val", "x.y | digits 2", 1, false));
        assert_eq!((all[1].name, all[1].arguments, all[1].line, all[1].alone), ("code", "a.rs#b", 2, true));
        assert_eq!(&text[all[0].span.clone()], "{{val x.y | digits 2}}");
        assert_eq!(mask(text).len(), text.len());
        assert!(!mask(text).contains("{{"));
    }

    #[test]
    fn escaped_braces_stay() {
        let (out, problems) = replace("\\{{ message }} and {{a}}", |_| Ok("A".into()));
        assert_eq!((out.as_str(), problems.len()), ("{{ message }} and A", 0));
    }

    #[test]
    fn an_open_directive_is_a_problem_with_its_line() {
        let (_, problems) = replace("fine\n{{val x\n}}", |_| Ok(String::new()));
        assert_eq!(problems[0].0, 2);
    }
}
