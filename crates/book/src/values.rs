//! `{{val expression | format}}`: numbers that a fixture, a benchmark result, a tensor or `fs … --json` knows.
//!
//! `docs/values.toml` names the sources. An expression is arithmetic (`+ - * /`, parentheses) over numbers, over paths
//! into a source (`qwen3.config.hidden_size`, `golden.cases[text="hello world"].ids`, `case.embedding[0][0..4]`) and
//! over `len(x)`, `sum(x)`, `max(x)`, `sqrt(x)` and `log2(x)`. Signs stand between spaces, since names may contain `-`.
//!
//! An element is chosen by what it has, `[name=value]`, or by how that begins, `[step^="Waiting threads"]`: one, and only one,
//! must fit. `[3]` is for what has an order, not for tables of a notebook; `[case.ids[0]]` is an index that a source knows.
//! Of a text, `["copying moves * GB/s"]` is the number at the star, and `text.NAME` a constant or a section (`text.rs`).

use crate::command::{ABSENT, Fs};
use crate::format;
use crate::node::{Node, Selector, tables};
use crate::text::Text;
use failed_star::session::verify::{Rounding, contract};
use failed_star::weights::{Checkpoint, DType};
use serde::Deserialize;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// An entry of `docs/values.toml`: one of the first six says where the numbers come from.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    json: Option<PathBuf>,
    tensors: Option<PathBuf>,
    fs: Option<String>,
    tables: Option<PathBuf>,
    text: Option<PathBuf>,
    engine: Option<String>,
    /// The test of `tests/` that holds the engine to these numbers; every fixture has one.
    test: Option<String>,
}

/// Where a source's numbers come from. Files are named from the repository's root.
#[derive(Debug)]
enum Source {
    /// A JSON file.
    Json(PathBuf),
    /// A safetensors file.
    Tensors(PathBuf),
    /// The arguments of `fs` for a command that prints JSON.
    Fs(String),
    /// A Markdown file, of which the tables are seen: a list of `{heading, rows}`, and each row has a text for every column's
    /// title, as in `log[heading=Decoding].rows[step^="Blocks of"].after`.
    Tables(PathBuf),
    /// A file of code, or a log: [`Text`].
    Text(PathBuf),
    /// A table of the engine that this program is linked with: [`engine_table`].
    Engine(String),
}

impl Entry {
    fn source(self) -> Result<(Source, Option<String>), String> {
        let of = [
            self.json.map(Source::Json),
            self.tensors.map(Source::Tensors),
            self.fs.map(Source::Fs),
            self.tables.map(Source::Tables),
            self.text.map(Source::Text),
            self.engine.map(Source::Engine),
        ];
        let mut of = of.into_iter().flatten();
        match (of.next(), of.next()) {
            (Some(source), None) => Ok((source, self.test)),
            _ => Err("one of json, tensors, fs, tables, text, engine".into()),
        }
    }
}

/// Recorded results, which a test must hold the engine to.
const FIXTURES: &str = "tests/golden";

/// All sources, read when a page asks for them.
pub struct Values {
    root: PathBuf,
    sources: BTreeMap<String, Source>,
    tests: BTreeSet<String>,
    read: RefCell<BTreeMap<String, Node>>,
    used: RefCell<BTreeSet<String>>,
}

impl Values {
    /// `table` is the text of `docs/values.toml`; its files are found from `root`.
    pub fn new(root: &Path, table: &str) -> Result<Self, String> {
        let entries: BTreeMap<String, Entry> = toml::from_str(table).map_err(|error| error.to_string())?;
        let (mut sources, mut tests) = (BTreeMap::new(), BTreeSet::new());
        for (name, entry) in entries {
            let (source, test) = entry.source().map_err(|error| format!("[{name}]: {error}"))?;
            guarded(root, &source, test.as_deref()).map_err(|error| format!("[{name}]: {error}"))?;
            tests.extend(test);
            sources.insert(name, source);
        }
        Ok(Self { root: root.to_owned(), sources, tests, read: RefCell::default(), used: RefCell::default() })
    }

    /// Whether an expression shows what was recorded or what the program says now: numbers that a worked trace is made of.
    pub fn is_recorded(&self, arguments: &str) -> bool {
        let recorded = |source: &Source| matches!(source, Source::Json(_) | Source::Tensors(_) | Source::Fs(_));
        self.sources.iter().any(|(name, source)| recorded(source) && names(arguments, name))
    }

    /// The tests that guard what pages show.
    pub fn tests(&self) -> BTreeSet<&str> {
        self.tests.iter().map(|test| test.rsplit('/').next().unwrap_or_default()).collect()
    }

    /// The text that stands for `expression | format | …`.
    pub fn show(&self, arguments: &str, fs: &Fs) -> Result<String, String> {
        let (expression, formats) = crate::directive::pipes(arguments);
        match self.evaluate(expression, fs) {
            // Nothing to show, and nothing wrong with the page: see `Fs::absent`.
            Err(error) if error == ABSENT => Ok("…".into()),
            value => format::show(&value?, &formats),
        }
    }

    /// The text of an expression that says where a line of a drawing begins: numbers in it are the drawing's own.
    pub fn place(&self, arguments: &str, fs: &Fs) -> Result<String, String> {
        let (expression, formats) = crate::directive::pipes(arguments);
        let mut parser = Parser { values: self, fs, text: expression, rest: expression, sources: 0, typed: None };
        match parser.whole() {
            Err(error) if error == ABSENT => Ok("0".into()),
            value => format::show(&value?, &formats),
        }
    }

    /// The text of arithmetic over numbers alone: `{{lit 2 * 3 | arithmetic | digits 1}}`.
    pub fn arithmetic(&self, expression: &str, formats: &[&str], fs: &Fs) -> Result<String, String> {
        let mut parser = Parser { values: self, fs, text: expression, rest: expression, sources: 0, typed: None };
        let value = parser.whole()?;
        if parser.sources > 0 {
            return Err(format!("`{expression}` asks a source: that is {{{{val}}}}"));
        }
        format::show(&value, formats)
    }

    /// `text` with each `$(expression)` replaced by its value, as it is typed on a command line.
    pub fn substitute(&self, text: &str, fs: &Fs) -> Result<String, String> {
        let (mut out, mut rest) = (String::new(), text);
        while let Some((before, inner)) = rest.split_once("$(") {
            let (expression, behind) = inner.split_once(')').ok_or_else(|| format!("`{text}`: `)` is missing"))?;
            out += before;
            out += &format::show(&self.evaluate(expression, fs)?, &["plain"])?;
            rest = behind;
        }
        Ok(out + rest)
    }

    /// The value of an expression.
    pub fn evaluate(&self, expression: &str, fs: &Fs) -> Result<Value, String> {
        let mut parser = Parser { values: self, fs, text: expression, rest: expression, sources: 0, typed: None };
        let value = parser.whole()?;
        match parser.typed {
            _ if parser.sources == 0 => Err(format!(
                "`{expression}` asks nobody: a number has a source in docs/values.toml, or is {{{{lit … | arithmetic}}}}"
            )),
            Some(number) => Err(format!("`{expression}`: {number} was measured or defined somewhere: name its source")),
            None => Ok(value),
        }
    }

    /// Sources that no page asks.
    pub fn unused(&self) -> Vec<String> {
        let used = self.used.borrow();
        self.sources.keys().filter(|name| !used.contains(*name)).cloned().collect()
    }

    fn source(&self, name: &str, fs: &Fs) -> Result<Node, String> {
        self.used.borrow_mut().insert(name.to_owned());
        if let Some(node) = self.read.borrow().get(name) {
            return Ok(node.clone());
        }
        let source = self.sources.get(name).ok_or_else(|| format!("docs/values.toml has no source `{name}`"))?;
        let json = |text: &str, from: &str| {
            let value = serde_json::from_str(text).map_err(|error| format!("{from}: {error}"))?;
            Ok::<_, String>(Node::Json(Rc::new(value)))
        };
        let read = |path: &Path| {
            std::fs::read_to_string(self.root.join(path)).map_err(|error| format!("{}: {error}", path.display()))
        };
        let node = match source {
            Source::Json(path) => json(&read(path)?, &path.display().to_string())?,
            Source::Tables(path) => Node::Rows(Rc::new(tables(&read(path)?))),
            Source::Text(path) => Node::Text(Rc::new(Text::new(read(path)?))),
            Source::Engine(table) => Node::Json(Rc::new(engine_table(table)?)),
            Source::Tensors(path) => {
                let checkpoint = Checkpoint::open(&self.root.join(path)).map_err(|error| error.to_string())?;
                Node::File(Rc::new(checkpoint))
            }
            Source::Fs(arguments) => json(&fs.run(&format!("fs {arguments}"), 0)?.stdout, arguments)?,
        };
        self.read.borrow_mut().insert(name.to_owned(), node.clone());
        Ok(node)
    }
}

/// Whether an expression asks a source.
fn names(expression: &str, source: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || "_-".contains(c);
    expression.match_indices(source).any(|(at, _)| {
        let begins = expression[..at].chars().next_back().is_none_or(|c| !part(c) && c != '.');
        begins && expression[at + source.len()..].starts_with(['.', '['])
    })
}

/// A fixture names the test that reads it, and that test does: a number that pages show and nothing checks is refused.
fn guarded(root: &Path, source: &Source, test: Option<&str>) -> Result<(), String> {
    let path = match source {
        Source::Json(path) | Source::Tensors(path) => path.to_string_lossy().replace('\\', "/"),
        _ => String::new(),
    };
    let fixture = path.strip_prefix(FIXTURES).and_then(|rest| rest.strip_prefix('/')?.split('/').next());
    match (fixture, test) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(format!("`test` is for files of {FIXTURES}")),
        (Some(_), None) => Err(format!("`test` is missing: which test holds the engine to {path}?")),
        (Some(fixture), Some(test)) => {
            // Of the engine, or of another package.
            let file = if test.contains('/') { format!("{test}.rs") } else { format!("tests/{test}.rs") };
            let text = std::fs::read_to_string(root.join(&file)).map_err(|error| format!("{file}: {error}"))?;
            match text.contains("golden") && text.contains(fixture) {
                true => Ok(()),
                false => Err(format!("{file} does not read {fixture}")),
            }
        }
    }
}

/// What the engine knows of itself: `formats` (bytes and values of a block, by name) or `tolerances` (how far a backend's linear
/// layers, attention and other operations may be from the reference).
fn engine_table(name: &str) -> Result<Value, String> {
    match name {
        "formats" => {
            let rows = DType::TABLE.iter();
            Ok(Value::Object(
                rows.map(|row| (row.name.to_owned(), json!({"bytes": row.block_bytes, "values": row.block}))).collect(),
            ))
        }
        "tolerances" => Ok(json!({
            "linear": contract("linear", Rounding::None),
            "linear_bf16": contract("linear", Rounding::Bf16),
            "linear_int8": contract("linear", Rounding::Int8),
            "attention": contract("attention", Rounding::None),
            "row": contract("rms_norm", Rounding::None),
        })),
        _ => Err(format!("the engine has no table `{name}`: formats, tolerances")),
    }
}

struct Parser<'a> {
    values: &'a Values,
    fs: &'a Fs,
    text: &'a str,
    rest: &'a str,
    /// How many sources were asked.
    sources: usize,
    /// A number in the expression that is neither small nor round.
    typed: Option<&'a str>,
}

impl<'a> Parser<'a> {
    fn whole(&mut self) -> Result<Value, String> {
        let value = self.sum()?;
        match self.rest.trim() {
            "" => Ok(value),
            rest => Err(format!("`{}`: what is `{rest}`?", self.text)),
        }
    }

    fn eat(&mut self, sign: &str) -> bool {
        let trimmed = self.rest.trim_start();
        trimmed.strip_prefix(sign).map(|rest| self.rest = rest).is_some()
    }

    fn sum(&mut self) -> Result<Value, String> {
        let mut value = self.product()?;
        loop {
            let add = match () {
                () if self.eat("+") => true,
                () if self.eat("-") => false,
                () => return Ok(value),
            };
            let (a, b) = (self.number(&value)?, self.product()?);
            let b = self.number(&b)?;
            value = exact(if add { a + b } else { a - b });
        }
    }

    fn product(&mut self) -> Result<Value, String> {
        let mut value = self.factor()?;
        loop {
            let times = match () {
                () if self.eat("*") => true,
                () if self.eat("/") => false,
                () => return Ok(value),
            };
            let (a, b) = (self.number(&value)?, self.factor()?);
            let b = self.number(&b)?;
            value = exact(if times { a * b } else { a / b });
        }
    }

    fn factor(&mut self) -> Result<Value, String> {
        if self.eat("(") {
            let value = self.sum()?;
            return if self.eat(")") { Ok(value) } else { Err(format!("`{}`: `)` is missing", self.text)) };
        }
        for name in ["len", "sum", "max", "sqrt", "log2"] {
            if self.eat(&format!("{name}(")) {
                let value = self.sum()?;
                if !self.eat(")") {
                    return Err(format!("`{}`: `)` is missing", self.text));
                }
                return self.call(name, &value);
            }
        }
        let rest = self.rest.trim_start();
        if rest.starts_with(|c: char| c.is_ascii_digit()) {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            self.rest = &rest[end..];
            let number: f64 = rest[..end].parse().map_err(|_| format!("`{}` is no number", &rest[..end]))?;
            if !is_plain(&rest[..end], number) {
                self.typed = Some(&rest[..end]);
            }
            return Ok(exact(number));
        }
        self.path()
    }

    fn call(&self, name: &str, value: &Value) -> Result<Value, String> {
        if name == "sqrt" {
            return Ok(exact(self.number(value)?.sqrt()));
        }
        if name == "log2" {
            return Ok(exact(self.number(value)?.log2()));
        }
        let all = value.as_array().ok_or_else(|| format!("{name}() is of an array"))?;
        if name == "len" {
            return Ok(all.len().into());
        }
        let numbers: Vec<f64> = all.iter().map(|v| self.number(v)).collect::<Result<_, _>>()?;
        Ok(exact(match name {
            "sum" => numbers.iter().sum(),
            _ => numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }))
    }

    fn number(&self, value: &Value) -> Result<f64, String> {
        value.as_f64().ok_or_else(|| format!("`{}`: {value} is no number", self.text))
    }

    /// `source.key."other key"[1][2..4][name=value]`
    fn path(&mut self) -> Result<Value, String> {
        let source = self.word()?;
        self.sources += 1;
        let mut node = self.values.source(source, self.fs)?;
        loop {
            let step = if let Some(rest) = self.rest.strip_prefix('.') {
                self.rest = rest;
                let key = self.word()?;
                node.key(key)
            } else if let Some(rest) = self.rest.strip_prefix('[') {
                self.rest = rest;
                let selector = self.selector()?;
                node.select(&selector)
            } else {
                return node.value().map_err(|error| format!("`{}`: {error}", self.text));
            };
            node = step.map_err(|error| format!("`{}`: {error}", self.text))?;
        }
    }

    fn selector(&mut self) -> Result<Selector<'a>, String> {
        let text = self.text;
        let bad = || format!("`{text}`: write [3], [0..4], [key=value], [key^=value] or [\"text * text\"]");
        let start = self.rest;
        let word = self.word()?;
        let selector = match () {
            () if self.eat("^=") => Selector::Where { key: word, text: self.word()?, begins: true },
            () if self.eat("=") => Selector::Where { key: word, text: self.word()?, begins: false },
            () if start.starts_with('"') => Selector::Find(word),
            () if self.eat("..") => {
                Selector::Range(word.parse().map_err(|_| bad())?, self.word()?.parse().map_err(|_| bad())?)
            }
            () if start.starts_with(|c: char| c.is_ascii_digit()) => Selector::Index(word.parse().map_err(|_| bad())?),
            // An index that another place knows.
            () => {
                self.rest = start;
                let index = self.sum()?;
                Selector::Index(index.as_u64().ok_or_else(|| format!("`{text}`: {index} is no index"))? as usize)
            }
        };
        self.rest = self.rest.strip_prefix(']').ok_or_else(bad)?;
        Ok(selector)
    }

    /// A name or a number, or anything between double quotes.
    fn word(&mut self) -> Result<&'a str, String> {
        let rest = self.rest.trim_start();
        if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.find('"').ok_or_else(|| format!("`{}`: a quote is not closed", self.text))?;
            self.rest = &quoted[end + 1..];
            return Ok(&quoted[..end]);
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').unwrap_or(rest.len());
        if end == 0 {
            return Err(format!("`{}`: a name is missing before `{rest}`", self.text));
        }
        self.rest = &rest[end..];
        Ok(&rest[..end])
    }
}

/// Whether a number may be typed into an expression: of two digits, or round (a multiple of a power of ten, a power of two).
fn is_plain(text: &str, number: f64) -> bool {
    let digits = text.trim_matches('0').chars().filter(char::is_ascii_digit).count();
    digits <= 2 || (number.fract() == 0.0 && (number as u64).is_power_of_two())
}

/// A number as JSON: whole ones as integers, so that they are shown without a point.
pub fn exact(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 2f64.powi(53) {
        return (number as i64).into();
    }
    number.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(json: &str) -> (tempfile::TempDir, Values, Fs) {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a.json"), json).unwrap();
        let values = Values::new(root.path(), "[a]\njson = 'a.json'\n[gone]\njson = 'gone.json'\n").unwrap();
        let fs = Fs::nowhere(root.path());
        (root, values, fs)
    }

    const JSON: &str =
        r#"{"n": 7, "x-y": 2, "long key": 1.5, "rows": [{"t": "one", "v": [1, 2, 3]}, {"t": "two", "v": [4]}]}"#;

    fn evaluates(expression: &str, expected: Value) {
        let (_root, values, fs) = values(JSON);
        assert_eq!(values.evaluate(expression, &fs).unwrap(), expected, "{expression}");
    }

    fn fails(expression: &str, words: &str) {
        let (_root, values, fs) = values(JSON);
        let error = values.evaluate(expression, &fs).unwrap_err();
        assert!(error.contains(words), "{expression}: {error}");
    }

    #[test]
    fn paths_and_arithmetic() {
        evaluates("a.n", 7.into());
        evaluates("a.x-y * a.n - 2 * (1 + 2)", 8.into());
        evaluates("a.\"long key\" * 2", 3.into());
        evaluates("a.rows[1].v[0]", 4.into());
        evaluates("a.rows[t=one].v[1..3]", serde_json::json!([2, 3]));
        evaluates("a.rows[t=\"two\"].v", serde_json::json!([4]));
        evaluates("len(a.rows) + sum(a.rows[0].v) + max(a.rows[0].v)", 11.into());
        evaluates("sqrt(a.n + 9) / 8 + log2(8)", 3.5.into());
        evaluates("a.rows[t^=tw].v[0]", 4.into());
        evaluates("a.rows[0].v[a.x-y]", 3.into());
        evaluates("a.rows[a.rows[1].v[0] - 3].v[0]", 4.into());
    }

    #[test]
    fn what_is_not_there_is_said() {
        fails("b.n", "no source `b`");
        fails("a.m", "no `m` among n, x-y");
        fails("a.rows[2]", "index 2 of 2");
        fails("a.rows[t=three]", "no element");
        fails("a.n[0]", "only an array");
        fails("a.n + ", "a name is missing");
        fails("a.n )", "what is `)`?");
        fails("a.rows + 1", "is no number");
        fails("gone.x", "gone.json");
    }

    #[test]
    fn tables_of_a_notebook_are_read() {
        let text =
            "# A\n\n| step | after |\n| --- | ---: |\n| one | 2 GB/s |\n| two | |\n\ntext\n\n| x |\n| --- |\n| - 3 |\n";
        let expected = json!([
            {"heading": "A", "rows": [{"step": "one", "after": "2 GB/s"}, {"step": "two", "after": ""}]},
            {"heading": "A", "rows": [{"x": "- 3"}]}
        ]);
        assert_eq!(tables(text), expected);
    }

    /// Sources in a repository with a notebook, code and tests.
    fn repository(table: &str) -> Result<(tempfile::TempDir, Values, Fs), String> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("log.md", "# A\n\n| step | after |\n| --- | --- |\n| one | 2 |\n| other | 3 |\n"),
            ("a.metal", "#define ROWS 32\n"),
            ("tests/golden/b.json", "{}"),
            ("tests/reads.rs", "golden/b.json"),
            ("tests/does_not.rs", ""),
        ] {
            std::fs::create_dir_all(root.path().join(path).parent().unwrap()).unwrap();
            std::fs::write(root.path().join(path), text).unwrap();
        }
        let values = Values::new(root.path(), table)?;
        let fs = Fs::nowhere(root.path());
        Ok((root, values, fs))
    }

    #[test]
    fn rows_of_a_notebook_have_names() {
        let (_root, values, fs) = repository("[log]\ntables = 'log.md'\n").unwrap();
        let after = |path: &str| values.evaluate(&format!("log{path}"), &fs);
        assert_eq!(after("[heading=A].rows[step^=ot].after").unwrap(), json!("3"));
        assert!(after("[0]").unwrap_err().contains("named by what it has"));
        assert!(after("[heading=A].rows[1].after").unwrap_err().contains("named by what it has"));
        assert!(after("[heading=A].rows[step^=o].after").unwrap_err().contains("several"));
    }

    #[test]
    fn code_and_the_engine_are_asked() {
        let table = "[code]\ntext = 'a.metal'\n[formats]\nengine = 'formats'\n[near]\nengine = 'tolerances'\n[x]\nengine = 'x'\n";
        let (_root, values, fs) = repository(table).unwrap();
        assert_eq!(values.evaluate("code.ROWS", &fs).unwrap(), 32);
        assert_eq!(values.evaluate("code[\"ROWS *\"]", &fs).unwrap(), 32);
        assert_eq!(values.evaluate("formats.Q8_0.bytes", &fs).unwrap(), 34);
        assert_eq!(values.evaluate("near.linear_int8", &fs).unwrap(), 5e-4);
        assert!(values.evaluate("x.y", &fs).unwrap_err().contains("no table `x`"));
    }

    #[test]
    fn a_program_that_was_not_built_leaves_a_mark() {
        let (root, values, _) = repository("[i]\nfs = 'inspect --json'\n").unwrap();
        assert_eq!(values.show("2 * i.n | KB", &Fs::absent(root.path())).unwrap(), "…");
        assert!(values.show("2 * j.n | KB", &Fs::absent(root.path())).is_err(), "what is asked for is still looked up");
    }

    #[test]
    fn a_fixture_has_a_test_that_reads_it() {
        let source = |rest: &str| repository(&format!("[b]\njson = 'tests/golden/b.json'\n{rest}")).map(|_| ());
        assert_eq!(source("test = 'reads'"), Ok(()));
        for (rest, reason) in [
            ("", "`test` is missing"),
            ("test = 'does_not'", "does not read b.json"),
            ("test = 'gone'", "tests/gone.rs"),
            ("test = 'reads'\nfs = 'inspect'", "one of json"),
        ] {
            let error = source(rest).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_number_is_not_typed_into_an_expression() {
        fails("4096 * 2", "asks nobody");
        fails("a.n * 2885000000", "2885000000 was measured");
        fails("a.n / 251.1", "251.1 was measured");
        evaluates("a.n * 4096 / 1000", 28.672.into());
        let (_root, values, fs) = values(JSON);
        assert_eq!(values.arithmetic("437 * 2", &[], &fs).unwrap(), "874");
        assert!(values.arithmetic("a.n * 2", &[], &fs).unwrap_err().contains("asks a source"));
        assert_eq!(values.substitute("fs x $(a.n) y", &fs).unwrap(), "fs x 7 y");
        assert!(values.substitute("fs x $(a.n", &fs).is_err());
    }

    #[test]
    fn sources_that_nobody_asks_are_known() {
        let (_root, values, fs) = values(JSON);
        values.evaluate("a.n", &fs).unwrap();
        assert_eq!(values.unused(), ["gone"]);
    }

    #[test]
    fn tensors_are_indexed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let table = "[case]\ntensors = 'tests/golden/forward/stories/case_0.safetensors'\ntest = 'forward'\n";
        let values = Values::new(&root, table).unwrap();
        let fs = Fs::nowhere(&root);
        let row = values.evaluate("case.embedding[0]", &fs).unwrap();
        assert_eq!(row.as_array().unwrap().len(), 256);
        assert_eq!(values.evaluate("case.embedding[0][3]", &fs).unwrap(), row[3]);
        assert_eq!(values.evaluate("case.embedding[0][2..4]", &fs).unwrap()[1], row[3]);
        assert!(values.evaluate("case.embedding", &fs).unwrap_err().contains("1 more ind"));
        assert!(values.evaluate("case.embedding[99]", &fs).unwrap_err().contains("index 99 of 10"));
        assert!(values.evaluate("case.nothing", &fs).unwrap_err().contains("no tensor"));
    }
}
