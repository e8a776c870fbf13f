//! `{{val expression | format}}`: numbers that a fixture, a benchmark result, a tensor or `fs … --json` knows.
//!
//! `docs/values.toml` names the sources. An expression is arithmetic (`+ - * /`, parentheses) over numbers, over paths
//! into a source (`qwen3.config.hidden_size`, `golden.cases[text="hello world"].ids`, `case.embedding[0][0..4]`) and
//! over `len(x)`, `sum(x)`, `max(x)`, `sqrt(x)`, `log2(x)` and `median(list, …, field.of.each)`. Signs stand between spaces,
//! since names may contain `-`.
//!
//! An element is chosen by what it has, `[name=value]`, or by how that begins, `[step^="Waiting threads"]`: one, and only one,
//! must fit; or by the element that it comes after: `[operation=add after tensor="….o_proj.weight"]` is the first of its kind
//! behind that one. `[3]` is for what has an order, not for tables of a notebook nor for a trace's operations, which come and go;
//! `[case.ids[0]]` is an index that a source knows.
//! Of a text, `["copying moves * GB/s"]` is the number at the star, and `text.NAME` a constant or a section (`text.rs`).

use crate::command::{ABSENT, Fs};
use crate::expression::Parser;
use crate::format;
use crate::node::{Node, tables};
use crate::text::Text;
use failed_star::session::verify::{Rounding, contract};
use failed_star::weights::{Checkpoint, DType};
use serde::Deserialize;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// An entry of `docs/values.toml`: one of the first seven says where the numbers come from.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    json: Option<PathBuf>,
    tensors: Option<PathBuf>,
    fs: Option<String>,
    tables: Option<PathBuf>,
    text: Option<PathBuf>,
    engine: Option<String>,
    is: Option<String>,
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
    /// An expression over other sources, for what several places show.
    Is(String),
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
            self.is.map(Source::Is),
        ];
        let mut of = of.into_iter().flatten();
        match (of.next(), of.next()) {
            (Some(source), None) => Ok((source, self.test)),
            _ => Err("one of json, tensors, fs, tables, text, engine, is".into()),
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
        // One that asks another would be hard to read, and one that asks itself never ends.
        for (name, source) in &sources {
            let Source::Is(expression) = source else { continue };
            let other = sources.iter().find(|(other, of)| matches!(of, Source::Is(_)) && expression.contains(*other));
            if let Some((other, _)) = other {
                return Err(format!("[{name}]: it asks [{other}], which is an expression too"));
            }
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
        let mut parser = Parser::new(self, expression, fs);
        match parser.whole() {
            Err(error) if error == ABSENT => Ok("0".into()),
            value => format::show(&value?, &formats),
        }
    }

    /// The text of arithmetic over numbers alone: `{{lit 2 * 3 | arithmetic | digits 1}}`.
    pub fn arithmetic(&self, expression: &str, formats: &[&str], fs: &Fs) -> Result<String, String> {
        let mut parser = Parser::new(self, expression, fs);
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
        let mut parser = Parser::new(self, expression, fs);
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

    /// The beginning of a path, which counts as used from then on.
    pub(crate) fn source(&self, name: &str, fs: &Fs) -> Result<Node, String> {
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
            Source::Is(expression) => Node::Json(Rc::new(self.evaluate(expression, fs)?)),
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

    const JSON: &str = r#"{"n": 7, "x-y": 2, "long key": 1.5, "rows": [{"t": "one", "v": [1, 2, 3], "of": {"w": 5}}, {"t": "two", "v": [4], "of": {"w": 8}}]}"#;

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
        evaluates("median(a.rows, of.w) * 2", 13.into());
        evaluates("median(a.rows, a.rows[0..1], of.w)", 5.into());
        fails("median(a.rows, v)", "no number");
        fails("median(a.rows)", "write median(list, …, field.of.each)");
        evaluates("a.rows[0].v[a.x-y]", 3.into());
        evaluates("a.rows[a.rows[1].v[0] - 3].v[0]", 4.into());
    }

    #[test]
    fn an_expression_with_a_name_is_a_source() {
        let (root, _, fs) = values(JSON);
        let of = |text: &str| Values::new(root.path(), &format!("[a]\njson = 'a.json'\n{text}"));
        let values = of("[twice]\nis = 'a.n * 2'\n").unwrap();
        assert_eq!(values.evaluate("twice + 1", &fs).unwrap(), 15);
        assert!(values.unused().is_empty());
        let error = of("[twice]\nis = 'a.n * 2'\n[more]\nis = 'twice * 2'\n").err().unwrap();
        assert!(error.contains("[more]: it asks [twice]"), "{error}");
    }

    #[test]
    fn what_has_a_name_is_not_chosen_by_its_place() {
        let json = r#"{"operations": [{"o": "linear", "t": "q", "v": 1}, {"o": "add", "v": 2}, {"o": "linear", "t": "k", "v": 3},
            {"o": "add", "v": [4, 5]}, {"o": "add", "v": 6}], "cases": [{"operations": [{"o": "x", "v": 7}]}]}"#;
        let (_root, values, fs) = values(json);
        let of = |expression: &str| values.evaluate(expression, &fs);
        assert_eq!(of("a.operations[o=add after t=q].v").unwrap(), 2);
        assert_eq!(of("a.operations[o=\"add\" after t=\"k\"].v[1]").unwrap(), 5);
        assert_eq!(of("a.cases[0].operations[o=x].v").unwrap(), 7);
        for (expression, reason) in [
            ("a.operations[1].v", "named by what it has"),
            ("a.cases[0].operations[0].v", "named by what it has"),
            ("a.operations[0..2]", "named by what it has"),
            ("a.operations[o=add].v", "several elements"),
            ("a.operations[o=add after o=linear].v", "several elements"),
            ("a.operations[o=linear after t=k].v", "no element after `t` = `k`"),
            ("a.operations[o=add after t]", "what?"),
        ] {
            let error = of(expression).unwrap_err();
            assert!(error.contains(reason), "{expression}: {error}");
        }
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
