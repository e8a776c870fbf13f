//! What may not be typed into a page by hand: numbers that the code, a log or a fixture knows, output, and code.
//!
//! A number that somebody counted or measured has a source, however small it is. A number that says *what a thing is* is a word
//! like any other, and so is one that readers count along with the sentence.
//!
//! | refused | why |
//! | --- | --- |
//! | three digits or more; a fraction: `3.7`; `1e-5` | nobody has such a number from nothing |
//! | digits before a unit: `13 seconds`, `2x`, `40 clock cycles`, `8 tokens`, `97 %`; before a cross: `32 × 64` | a quantity: it was counted or measured, and may change |
//! | words above ten before a unit, `fifteen layers`; a scale, `two per cent`; `half a second`, `nine times of ten`; `some fifty` | the same, spelled out |
//!
//! | may be typed | why |
//! | --- | --- |
//! | `8 bits`, `32 lanes`, `a 4-bit code`, `8×8`, `2⁴` | a width names a format or a machine; another one would be another thing |
//! | `32 values`, `2 rows`, `16 columns` | the shape of what the sentence draws; one that the code chose may be asked for |
//! | up to ten in words: `two cores`, `five steps`; `a dozen`, `a thousand times` | readers count along, or know a figure of speech |
//! | `{{lit NUMBER \| KIND}}` | it has its reason beside it: [`KINDS`] |
//!
//! What remains is for whoever reads the page: *four times* may be wrong, and no rule finds out.

use crate::directive::MASK;
use crate::links::Outline;

/// Words behind a number that make it a measurement.
const UNITS: [&str; 38] = [
    "tokens/s", "tok/s", "GB/s", "TB/s", "MB/s", "kB/s", "GiB/s", "MiB/s", "KiB/s", "GFLOP/s", "TFLOP/s", "GOP/s", "s",
    "ms", "µs", "us", "ns", "GB", "MB", "kB", "KB", "TB", "GiB", "MiB", "KiB", "FLOP", "kFLOP", "MFLOP", "GFLOP",
    "TFLOP", "GHz", "MHz", "kHz", "W", "tests", "%", "x", "×",
];

/// Times of which a half or a quarter is a measurement, too.
const TIMES: [&str; 7] = ["second", "minute", "hour", "day", "millisecond", "microsecond", "nanosecond"];

/// What is counted: a number before one of these is a quantity. Bits and lanes are widths, rows, columns and values are shapes.
const COUNTED: [&str; 30] = [
    "times",
    "cycles",
    "instructions",
    "loads",
    "stores",
    "operations",
    "multiplications",
    "additions",
    "layers",
    "heads",
    "tokens",
    "bytes",
    "kilobytes",
    "megabytes",
    "gigabytes",
    "lines",
    "weights",
    "parameters",
    "threads",
    "cores",
    "dispatches",
    "barriers",
    "messages",
    "files",
    "steps",
    "rounds",
    "products",
    "kernels",
    "exercises",
    "chapters",
];

/// Words that begin something else behind a number: in `1 and 4 lines`, `1` is not counted in lines.
const JOINTS: [&str; 14] = ["and", "or", "of", "in", "to", "by", "for", "at", "as", "with", "on", "is", "are", "than"];

/// Numbers in words, up to ten and above.
const SMALL: [&str; 12] =
    ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "half", "quarter"];
const LARGE: [&str; 17] = [
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
];

/// What makes of a small number one that somebody knows.
const SCALES: [&str; 5] = ["hundred", "thousand", "million", "billion", "percent"];

/// What stands before a number that somebody estimated.
const ROUGHLY: [&str; 7] = ["some", "about", "around", "nearly", "almost", "over", "roughly"];

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

/// Numbers in digits that have a source.
pub fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | ',');
    let mut rest = text;
    let mut last = None;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find(|c: char| c.is_ascii_digit())?;
            let before = rest[..start].chars().next_back().or(last);
            let at = text.len() - rest.len() + start;
            let end = rest[start..].find(|c| !word(c)).map_or(rest.len(), |i| start + i);
            let number = rest[start..end].trim_end_matches(['.', ',']);
            // A sentence that ends in a number has no unit.
            let behind = if start + number.len() == end { &rest[end..] } else { "" };
            last = rest[..end].chars().next_back();
            rest = &rest[end..];
            // Part of a name, as in `Q4_K`, `AVX-512`, `U+0301` or `2.2.3`.
            let named = match before {
                // But not of one in `10-100` and `+25 %`.
                Some('-' | '+') => {
                    let word = text[..at].rsplit(char::is_whitespace).next().unwrap_or_default();
                    word.contains(char::is_alphabetic)
                }
                Some(c) => c.is_alphanumeric() || matches!(c, '_' | '.'),
                None => false,
            };
            // `1e-5` and `2.5e3`: tolerances and counts, and somebody chose them.
            let power = number.split_once('e').is_some_and(|(digits, power)| {
                let number =
                    |text: &str| text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains(char::is_alphabetic);
                number(digits) && (number(power) || power.is_empty() && behind.starts_with(['-', '−']))
            });
            if !named && power {
                return Some(number);
            }
            let digits = number.trim_end_matches(|c: char| c.is_alphabetic());
            if named
                || digits.matches('.').count() > 1
                || digits.contains(|c: char| !c.is_ascii_digit() && !",.".contains(c))
            {
                continue;
            }
            // `2x`, `13s`; but `32nd`.
            if digits.len() < number.len() {
                match UNITS.contains(&&number[digits.len()..]) {
                    true => return Some(number),
                    false => continue,
                }
            }
            if digits.contains('.') || digits.chars().filter(char::is_ascii_digit).count() >= 3 || has_unit(behind) {
                return Some(number);
            }
        }
    })
}

/// Whether what stands behind a number says of what it is that many: a unit, or one word and a unit.
fn has_unit(behind: &str) -> bool {
    if let Some(other) = behind.trim_start().strip_prefix('×') {
        // `8×8` is the name of a shape.
        return behind.starts_with(char::is_whitespace) || !other.starts_with(|c: char| c.is_ascii_digit());
    }
    let mut words = behind.split_whitespace();
    let Some(first) = words.next() else { return false };
    match bare(first) {
        // `per` alone is no unit, `per cent` is.
        "per" => words.next().is_some_and(|word| word.starts_with("cent")),
        unit if is_unit(unit) || SCALES.contains(&unit) => true,
        // `40 clock cycles`; what is multiplied, as in `3 values times 4`, is not counted.
        _ => {
            let plain = first.chars().all(char::is_lowercase) && !JOINTS.contains(&first);
            plain && words.next().map(bare).is_some_and(|unit| unit != "times" && is_counted(unit))
        }
    }
}

fn is_unit(word: &str) -> bool {
    UNITS.iter().any(|unit| unit.eq_ignore_ascii_case(word)) || is_counted(word)
}

fn is_counted(word: &str) -> bool {
    COUNTED.contains(&word) || word.strip_suffix('s').is_some_and(|one| TIMES.contains(&one))
}

/// A word without what the sentence puts around it.
fn bare(word: &str) -> &str {
    let word = word.trim_start_matches(['(', '"', '“', '‘']);
    word.trim_end_matches([',', '.', ';', ':', ')', '?', '!', '"', '”', '’'])
}

/// Numbers in words that have a source: `seven million`, `two per cent`, `fifteen layers`, `half a second`, `nine times of ten`.
fn words(text: &str) -> Vec<String> {
    let small = text.to_lowercase().replace('-', " ");
    let words: Vec<&str> = small.split_whitespace().collect();
    let mut found = Vec::new();
    for i in 0..words.len() {
        if i > 0 && ROUGHLY.contains(&words[i - 1]) && LARGE.contains(&bare(words[i])) {
            found.push(format!("{} {}", words[i - 1], bare(words[i])));
            continue;
        }
        // Nothing belongs to a word that ends its sentence.
        let number = words[i].trim_start_matches(['(', '"', '“', '‘']);
        let large = LARGE.contains(&number);
        if !large && !SMALL.contains(&number) {
            continue;
        }
        let at = |k: usize| words.get(i + k).copied().unwrap_or_default();
        let article = usize::from(matches!(at(1), "a" | "an"));
        let unit = at(1 + article);
        let scale = SCALES.iter().find(|scale| unit.starts_with(**scale));
        let scale = scale.copied().or((unit == "per" && at(2 + article).starts_with("cent")).then_some("per cent"));
        // `twenty-five layers`: the second word of the number.
        let counted = bare(if SMALL.contains(&unit) { at(2) } else { unit });
        let kind = usize::from(matches!(at(1), "time" | "times" | "place" | "places" | "case" | "cases"));
        let out = usize::from(at(1 + kind) == "out");
        let whole = at(2 + kind + out);
        let whole = bare(if whole == "a" { at(3 + kind + out) } else { whole });
        let share = matches!(at(1 + kind + out), "of" | "in")
            && (whole == "ten" || LARGE.contains(&whole) || SCALES.contains(&whole));
        if let Some(scale) = scale.filter(|_| number != "one") {
            found.push(format!("{number} {scale}"));
        } else if large && article == 0 && is_unit(counted) {
            found.push(format!("{number} {counted}"));
        } else if article == 1 && TIMES.contains(&bare(unit)) {
            found.push(format!("{number} {} {}", at(1), bare(unit)));
        } else if share {
            found.push(format!("{number} of {whole}"));
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
        assert_eq!(words("A block takes some fifty, nearly twice forty."), ["some fifty"]);
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

    /// All that a sentence is refused for.
    fn refused(text: &str) -> Vec<String> {
        found(text).into_iter().map(str::to_owned).chain(words(text)).collect()
    }

    #[test]
    fn quantities_are_refused_however_small() {
        for (text, number) in [
            ("3.7 times as fast", "3.7"),
            ("it takes 13 seconds.", "13"),
            ("a gain of 2x", "2x"),
            ("2× as fast", "2"),
            ("in 13s or so", "13s"),
            ("after 40 cycles, it", "40"),
            ("some 40 clock cycles", "40"),
            ("28 decoder layers", "28"),
            ("24 multiplications", "24"),
            ("(8 tokens)", "8"),
            ("5 bytes", "5"),
            ("excerpts of 8 lines", "8"),
            ("a tile of 32 × 64", "32"),
            ("about 4.5 bits", "4.5"),
            ("with 0.7 of it", "0.7"),
            ("Fifteen layers", "fifteen layers"),
            ("twenty-four tokens", "twenty tokens"),
            ("(sixteen times)", "sixteen times"),
            ("forty cores", "forty cores"),
            ("twelve GB/s of it", "twelve gb/s"),
            ("half a second to tell a story", "half a second"),
            ("half an hour", "half an hour"),
            ("right nine times of ten.", "nine of ten"),
            ("about one in twenty", "one of twenty"),
            ("+25 % of it", "25"),
            ("(-25 %)", "25"),
            ("10-90 tokens", "90"),
            ("within 5e−4", "5e"),
            ("all 1e5", "1e5"),
            ("2.5e3 of them", "2.5e3"),
            ("at 12 GiB/s", "12"),
            ("at 25 GHz", "25"),
            ("13 steps", "13"),
            ("one case out of a hundred", "one of hundred"),
        ] {
            assert_eq!(refused(text), [number], "{text}");
        }
    }

    #[test]
    fn widths_shapes_and_what_readers_count_may_be_typed() {
        for text in [
            "8 bits, sixteen bits, a 4-bit code, 32 lanes",
            "8×8 matrices, 2⁴ times as large",
            "32 values, 2 rows of 16 columns, x · 2",
            "the operations of layer 0, times the number of layers",
            "row 1 and lines below it",
            "3 values times that",
            "every 32nd element",
            "two cores, four cycles, ten tokens",
            "a dozen operations, a hundred tokens, half a step",
            "one of three, one after the other, one in each",
            "sixteen. Times change",
            "at position 3. Bytes follow",
        ] {
            assert_eq!(refused(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn a_unit_may_stand_behind_a_mark_or_a_line_s_end() {
        for page in ["**12** times\n", "12 *more*\ntokens\n", "12\ncycles\n", "12 [tokens](a.md)\n"] {
            assert_eq!(of(page).len(), 1, "{page}");
        }
        assert!(of("12\n\ntokens\n\n| 12 | tokens |\n| --- | --- |\n").is_empty(), "another paragraph, another cell");
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
