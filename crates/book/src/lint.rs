//! What may not be typed into a page by hand: numbers that the code, a log or a fixture knows, output, and code.

use crate::directive::MASK;
use crate::links::Outline;

/// Words behind a number that make it a measurement, however small it is.
const UNITS: [&str; 30] = [
    "tokens/s", "tok/s", "GB/s", "TB/s", "MB/s", "GFLOP/s", "TFLOP/s", "GOP/s", "ms", "µs", "us", "ns", "GB", "MB",
    "kB", "KB", "TB", "GiB", "MiB", "KiB", "FLOP", "GFLOP", "MFLOP", "tests", "%", "percent", "per", "thousand",
    "million", "billion",
];

/// Numbers in words.
const WORDS: [&str; 28] = [
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
    "thirty",
    "forty",
    "fifty",
    "sixty",
    "seventy",
    "eighty",
    "ninety",
    "half",
    "quarter",
];

/// What makes a number in words one that somebody knows.
const SCALES: [&str; 6] = ["hundred", "thousand", "million", "billion", "percent", "per cent"];

/// Why a number may stand in a page without a source: `{{lit NUMBER | KIND}}`.
///
/// | kind | for |
/// | --- | --- |
/// | `example` | a size that a sentence supposes: *at 1,000 tokens*, *token 400* |
/// | `definition` | what a standard or a data sheet fixes: the largest f16, a line of a cache |
/// | `cited` | what the work cited in the same line says |
/// | `arithmetic` | a sum of numbers that stand beside it, computed while the page is built |
pub const KINDS: [&str; 4] = ["example", "definition", "cited", "arithmetic"];

/// What `{{lit NUMBER | KIND}}` shows, of the kinds that are shown as they are; `line` is where it stands.
pub fn literal<'a>(text: &'a str, kind: Option<&str>, line: &str) -> Result<&'a str, String> {
    match kind {
        Some("example" | "definition") => Ok(text),
        Some("cited") if line.contains("{{cite ") => Ok(text),
        Some("cited") => Err(format!("`{text}` is `cited`, and nothing is cited in its line")),
        _ => Err(format!("`{text}` has no reason: {{{{lit {text} | KIND}}}}, of {}", KINDS.join(", "))),
    }
}

/// The problems of a page (directives masked), as byte and message.
pub fn problems(outline: &Outline) -> Vec<(usize, String)> {
    let mut problems = Vec::new();
    for fence in &outline.fences {
        let mut problem = |what: &str| problems.push((fence.at, format!("a block of code typed by hand: {what}")));
        match fence.language.as_str() {
            // Commands are looked up: `shell`.
            "sh" => {}
            // What a program printed, put there by {{val}}.
            "text" if fence.text.lines().all(|line| line.trim().is_empty() || line.contains(MASK)) => {}
            "text" => problem("output comes by {{out}}; a drawing made of letters is a ```text sketch"),
            "text sketch" if fence.text.lines().any(|line| line.trim_start().starts_with(['$', '>'])) => {
                problem("what looks like a command's output is no sketch: {{out}}");
            }
            "text sketch" => problems.extend(typed(fence.at, &fence.text)),
            language => problem(&format!("({language}) source comes by {{{{code}}}}")),
        }
    }
    for (at, text) in &outline.prose {
        problems.extend(typed(*at, text));
    }
    problems
}

/// The numbers of a text as problems.
pub fn typed(at: usize, text: &str) -> impl Iterator<Item = (usize, String)> {
    let message = |number: &str| {
        format!(
            "`{number}` is typed by hand: {{{{val}}}} shows what the code, a fixture or a log knows, {{{{lit … | KIND}}}} what \
             nobody does"
        )
    };
    let digits = numbers(text).map(|number| (at, message(number)));
    digits.chain(words(text).into_iter().map(move |number| (at, message(&number)))).collect::<Vec<_>>().into_iter()
}

/// Numbers of three digits or more, and measurements.
pub fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | ',');
    let mut rest = text;
    let mut last = None;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find(|c: char| c.is_ascii_digit())?;
            let before = rest[..start].chars().next_back().or(last);
            let end = rest[start..].find(|c| !word(c)).map_or(rest.len(), |i| start + i);
            let number = rest[start..end].trim_end_matches(['.', ',']);
            let behind = &rest[end..];
            last = rest[..end].chars().next_back();
            rest = behind;
            // Part of a name, as in `Q4_K`, `AVX-512`, `U+0301` or `2.2.3`.
            let named = before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '+'));
            // `1e-5` and `5e-4` are tolerances, and somebody chose them.
            if !named && number.len() > 1 && number.ends_with('e') && behind.starts_with('-') {
                return Some(number);
            }
            if named || number.matches('.').count() > 1 || number.contains(|c: char| c.is_alphabetic() || c == '_') {
                continue;
            }
            let digits = number.chars().filter(char::is_ascii_digit).count();
            let behind = behind.trim_start();
            let unit = behind.split([' ', '\u{a0}', ',', '.', ';', ')', '\n', ':']).next().unwrap_or_default();
            // `per` alone is no unit, `per cent` is.
            let unit = if unit == "per" && !behind.starts_with("per cent") { "" } else { unit };
            if digits >= 3 || UNITS.contains(&unit) {
                return Some(number);
            }
        }
    })
}

/// Numbers in words that somebody knows: `seven million`, `two per cent`, `half a billion`.
fn words(text: &str) -> Vec<String> {
    let small = text.to_lowercase().replace(['\u{a0}', '-'], " ");
    let words: Vec<&str> = small.split(' ').collect();
    let mut found = Vec::new();
    for (i, pair) in words.windows(2).enumerate() {
        let rest = words[i + 1..].join(" ");
        let rest = rest.strip_prefix("a ").unwrap_or(&rest);
        let scaled = SCALES.iter().find(|scale| rest.starts_with(**scale));
        if let (true, Some(scale)) = (WORDS.contains(&pair[0]), scaled) {
            found.push(format!("{} {scale}", pair[0]));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<&str> {
        numbers(text).collect()
    }

    #[test]
    fn numbers_that_the_code_knows_are_found() {
        assert_eq!(
            found("a vocabulary of 151,936 rows, [15339, 1917] and 4.4 GB/s"),
            ["151,936", "15339", "1917", "4.4"]
        );
        assert_eq!(found("It passes 17 tests."), ["17"]);
        assert_eq!(found("97 % of it, 97\u{a0}%, 5% and 10 percent, 3 per cent"), ["97", "97", "5", "10", "3"]);
        assert_eq!(found("7 million, 2 billion, within 1e-5"), ["7", "2", "1e"]);
    }

    #[test]
    fn numbers_in_words_are_found() {
        assert_eq!(
            words("two percent of seven million, and half a billion"),
            ["two percent", "seven million", "half billion"]
        );
        assert_eq!(words("Twenty-five thousand"), ["five thousand"]);
    }

    #[test]
    fn names_and_small_numbers_are_left_alone() {
        for text in [
            "UTF-8, f32, Q8_0, AVX-512, U+0301, version 0.5.14, Qwen3-0.6B",
            "M0 to M4, 16 bits, 2 of 3",
            "bf16 [2, 64], 3 per row",
        ] {
            assert_eq!(found(text), Vec::<&str>::new());
        }
        for text in ["two of three", "a thousand times", "hundreds of billions", "half of it"] {
            assert_eq!(words(text), Vec::<String>::new());
        }
    }

    fn of(page: &str) -> Vec<String> {
        problems(&crate::links::outline(&crate::directive::mask(page)))
            .into_iter()
            .map(|(_, message)| message)
            .collect()
    }

    #[test]
    fn code_and_output_are_not_typed() {
        assert_eq!(of("```rust\nfn a() {}\n```\n\n```sh\nfs inspect\n```\n\n    indented\n").len(), 2);
        assert!(of("```text\n{{val a.b}}\n\n{{val a.c}}\n```\n").is_empty());
        assert!(of("```text\nall 13 agree\n```\n")[0].contains("{{out}}"));
        assert!(of("```text sketch\nx = rows\n```\n").is_empty());
        assert!(of("```text sketch\n$ fs inspect\n```\n")[0].contains("no sketch"));
        assert!(of("```text sketch\nx = 4096 rows\n```\n")[0].contains("4096"));
    }

    #[test]
    fn text_inside_of_html_is_read() {
        for page in [
            "<details><summary>Why 4096 rows?</summary>\n\nSo.\n\n</details>\n",
            "<p class=\"lead\">It has 97 % of it.</p>\n",
            "a <b title=\"151936 rows\">b</b>\n",
        ] {
            assert_eq!(of(page).len(), 1, "{page}");
        }
        assert!(
            of("<svg viewBox=\"0 0 200 200\"><path d=\"M128 108\"/></svg>\n").is_empty(),
            "a drawing's places are no numbers"
        );
    }

    #[test]
    fn a_literal_has_a_reason() {
        assert_eq!(literal("400", Some("example"), ""), Ok("400"));
        assert_eq!(literal("284", Some("cited"), "{{cite ds4:ds4.c}} says {{lit 284 | cited}}"), Ok("284"));
        assert!(literal("284", Some("cited"), "").unwrap_err().contains("nothing is cited"));
        assert!(literal("284", None, "").unwrap_err().contains("has no reason"));
        assert!(literal("284", Some("because"), "").unwrap_err().contains("has no reason"));
    }
}
