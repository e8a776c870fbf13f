//! Numbers out of texts that were not made to be read by programs: a constant of a source file, a measurement in a log.

/// A text of the repository, or a section of one.
#[derive(Debug)]
pub struct Text {
    text: String,
}

impl Text {
    /// A whole file.
    pub fn new(text: String) -> Self {
        Self { text }
    }

    /// The section below the line `== name`, as scripts title the parts of a log.
    pub fn section(&self, name: &str) -> Option<Self> {
        let title = |line: &str| line.strip_prefix("== ").map(str::trim) == Some(name);
        let mut lines = self.text.lines().skip_while(|line| !title(line));
        lines.next()?;
        let part: Vec<&str> = lines.take_while(|line| !line.starts_with("== ")).collect();
        Some(Self::new(part.join("\n")))
    }

    /// The number that stands for `*` in the only line that has the pattern. Any white space is one space.
    ///
    /// A pattern is text, one `*`, text: `["copying moves * GB/s"]`.
    pub fn find(&self, pattern: &str) -> Result<f64, String> {
        let [before, behind] = pattern.split('*').collect::<Vec<_>>()[..] else {
            return Err(format!("`{pattern}`: one `*` stands for the number"));
        };
        let mut found = Vec::new();
        for line in self.text.lines() {
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            for (at, _) in line.match_indices(before) {
                let rest = &line[at + before.len()..];
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"_.+-".contains(c)).unwrap_or(rest.len());
                // `1e-5` has a sign inside; `12-4` is no number, and is not found.
                if let (Some(value), true) = (number(&rest[..end]), rest[end..].starts_with(behind)) {
                    found.push(value);
                }
            }
        }
        match found[..] {
            [value] => Ok(value),
            [] => Err(format!("no line has `{pattern}`")),
            _ => Err(format!("{} places have `{pattern}`", found.len())),
        }
    }

    /// The value of the constant `name`, of Rust (`const NAME: T = …;`) or of C (`#define NAME …`).
    pub fn constant(&self, name: &str) -> Result<f64, String> {
        self.constant_at(name, 0)
    }

    fn constant_at(&self, name: &str, depth: usize) -> Result<f64, String> {
        let body = |line: &str| -> Option<String> {
            let line = line.split("//").next()?.trim();
            if let Some(rest) = line.strip_prefix("#define ") {
                return rest.strip_prefix(name)?.strip_prefix(' ').map(|body| body.trim().to_owned());
            }
            let (_, rest) = line.split_once("const ")?;
            let (_, body) = rest.strip_prefix(name)?.strip_prefix(':')?.split_once(" = ")?;
            Some(body.strip_suffix(';')?.trim().to_owned())
        };
        let bodies: Vec<String> = self.text.lines().filter_map(body).collect();
        let body = match &bodies[..] {
            [body] => body,
            [] => return Err(format!("there is no constant `{name}`")),
            _ => return Err(format!("there are {} constants `{name}`", bodies.len())),
        };
        let unclear =
            || format!("`{name}` is `{body}`: only numbers, other constants, `*`, `+`, `-` and `<<` are understood");
        if depth > 8 {
            return Err(unclear());
        }
        // From the weakest sign to the strongest.
        type Operation = (&'static str, fn(f64, f64) -> f64);
        let operations: [Operation; 4] =
            [(" << ", |a, b| a * b.exp2()), (" + ", |a, b| a + b), (" - ", |a, b| a - b), (" * ", |a, b| a * b)];
        let value = |word: &str| match number(word) {
            Some(value) => Ok(value),
            None if is_name(word) => self.constant_at(word, depth + 1),
            None => Err(unclear()),
        };
        for (sign, operation) in operations {
            if let Some((a, b)) = body.rsplit_once(sign) {
                // One sign is enough for what there is; more would need an order.
                return Ok(operation(value(a.trim())?, value(b.trim())?));
            }
        }
        value(body)
    }
}

fn is_name(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A number as Rust, C and logs write it: `1_024`, `0x10u`, `1e-5`, `2048.0f`, `4096usize`.
fn number(word: &str) -> Option<f64> {
    if !word.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
        return None;
    }
    let word = word.replace('_', "");
    let word =
        ["usize", "u64", "u32", "i32", "f64", "f32"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(&word);
    if let Some(hex) = word.strip_prefix("0x") {
        return u64::from_str_radix(hex.trim_end_matches('u'), 16).ok().map(|value| value as f64);
    }
    word.trim_end_matches(['u', 'f', '.']).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "a card\n== one\nf16   0   251.1  (237.4 to 283.7)\nx: 1.0 waits, 1.693 ms on the device\n== two\nmoves 2885.2 GB/s\nf16 0 3 (\n";
    const CODE: &str = "/// x\npub const PIECE: usize = 256;\nconst TWO: usize = 2 * PIECE;\nconst BIG: u64 = 1 << 20;\n#define TILE 32 // a tile\n#define TILE_ROWS 8\nconst F: f32 = f();\n    const T: f64 = 1e-6;\nlet draws = 200_000;\nconst D: u8 = 1;\nconst D: u8 = 2;\n";

    #[test]
    fn a_log_is_read_by_what_stands_around_a_number() {
        let log = Text::new(LOG.into());
        let one = log.section("one").unwrap();
        assert_eq!(one.find("f16 0 * ("), Ok(251.1));
        assert_eq!(one.find("waits, * ms on the device"), Ok(1.693));
        assert_eq!(log.find("moves * GB/s"), Ok(2885.2));
        assert!(log.find("f16 0 * (").unwrap_err().contains("2 places"));
        assert!(one.find("moves * GB/s").unwrap_err().contains("no line"));
        assert!(one.find("moves").unwrap_err().contains("one `*`"));
        assert!(log.section("three").is_none());
    }

    #[test]
    fn constants_have_names() {
        let code = Text::new(CODE.into());
        for (name, value) in
            [("PIECE", 256.0), ("TWO", 512.0), ("BIG", 1048576.0), ("TILE", 32.0), ("TILE_ROWS", 8.0), ("T", 1e-6)]
        {
            assert_eq!(code.constant(name), Ok(value), "{name}");
        }
        assert_eq!(code.find("let draws = *;"), Ok(200000.0));
        assert!(code.constant("NONE").unwrap_err().contains("no constant"));
        assert!(code.constant("D").unwrap_err().contains("2 constants"));
        assert!(code.constant("F").unwrap_err().contains("only numbers"));
    }
}
