//! What may not be typed into a page by hand: numbers that the code knows, and code.

use crate::links::Outline;

/// Languages of fenced blocks in a page: commands to type, and drawings made of letters. Source comes by `{{code}}`,
/// output by `{{out}}`.
const LANGUAGES: [&str; 2] = ["sh", "text"];

/// Words behind a number that make it a measurement, however small it is.
const UNITS: [&str; 21] = [
    "tokens/s", "tok/s", "GB/s", "TB/s", "MB/s", "GFLOP/s", "TFLOP/s", "ms", "µs", "ns", "GB", "MB", "KB", "TB", "GiB",
    "MiB", "KiB", "FLOP", "GFLOP", "MFLOP", "tests",
];

/// The problems of a page (directives masked), as byte and message.
pub fn problems(outline: &Outline) -> Vec<(usize, String)> {
    let mut problems = Vec::new();
    for (at, language) in &outline.fences {
        if !LANGUAGES.contains(&language.as_str()) {
            let what = if language.is_empty() { "without a language" } else { language };
            problems.push((*at, format!("a block of code ({what}) typed by hand: show source by {{{{code}}}}")));
        }
    }
    for (at, text) in &outline.prose {
        problems.extend(numbers(text).map(|number| {
            (
                *at,
                format!(
                    "`{number}` is typed by hand: {{{{val}}}} shows what the code knows, {{{{lit}}}} what nobody does"
                ),
            )
        }));
    }
    problems
}

/// Numbers of three digits or more, and measurements, in prose.
pub fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | ',');
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find(|c: char| c.is_ascii_digit())?;
            let before = rest[..start].chars().next_back();
            let end = rest[start..].find(|c| !word(c)).map_or(rest.len(), |i| start + i);
            let number = rest[start..end].trim_end_matches(['.', ',']);
            let behind = &rest[end..];
            rest = behind;
            // Part of a name, as in `Q4_K`, `AVX-512`, `U+0301` or `2.2.3`.
            let named = before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '+'));
            if named || number.matches('.').count() > 1 || number.contains(|c: char| c.is_alphabetic() || c == '_') {
                continue;
            }
            let digits = number.chars().filter(char::is_ascii_digit).count();
            let unit = behind.trim_start().split([' ', '\u{a0}', ',', '.', ';', ')']).next().unwrap_or_default();
            if digits >= 3 || UNITS.contains(&unit) {
                return Some(number);
            }
        }
    })
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
    }

    #[test]
    fn names_and_small_numbers_are_left_alone() {
        for text in [
            "UTF-8, f32, Q8_0, AVX-512, U+0301, version 0.5.14, Qwen3-0.6B",
            "M0 to M4, 16 bits, 2 of 3",
            "bf16 [2, 64]",
        ] {
            assert_eq!(found(text), Vec::<&str>::new());
        }
    }

    #[test]
    fn code_is_not_typed() {
        let outline = crate::links::outline("```rust\nfn a() {}\n```\n\n```sh\nfs inspect\n```\n\n    indented\n");
        assert_eq!(problems(&outline).len(), 2);
    }
}
