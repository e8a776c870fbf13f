//! `{{val expression | format}}`: numbers that a fixture, a benchmark result, a tensor or `fs … --json` knows.
//!
//! `docs/values.toml` names the sources. An expression is arithmetic (`+ - * /`, parentheses) over numbers, over paths
//! into a source (`qwen3.config.hidden_size`, `golden.cases[text="hello world"].ids`, `case.embedding[0][0..4]`) and
//! over `len(x)`, `sum(x)`, `max(x)` and `sqrt(x)`. Signs stand between spaces, since names may contain `-`.

use crate::command::Fs;
use crate::format;
use failed_star::weights::Checkpoint;
use serde::Deserialize;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Where a source's numbers come from: one of these.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// A JSON file, from the repository's root.
    Json(PathBuf),
    /// A safetensors file, from the repository's root.
    Tensors(PathBuf),
    /// The arguments of `fs` for a command that prints JSON.
    Fs(String),
    /// A Markdown file, from the repository's root, of which the tables are seen: a list of tables, each a list of rows, each
    /// with a text for every column's title, as in `log[0][2].after`.
    Tables(PathBuf),
}

/// What a path can be followed into.
#[derive(Clone)]
enum Node {
    Json(Rc<Value>),
    File(Rc<Checkpoint>),
    /// Part of a tensor, row-major.
    Tensor {
        shape: Vec<usize>,
        values: Rc<Vec<f32>>,
        start: usize,
    },
}

/// All sources, read when a page asks for them.
pub struct Values {
    root: PathBuf,
    sources: BTreeMap<String, Source>,
    read: RefCell<BTreeMap<String, Node>>,
    used: RefCell<BTreeSet<String>>,
}

impl Values {
    /// `table` is the text of `docs/values.toml`; its files are found from `root`.
    pub fn new(root: &Path, table: &str) -> Result<Self, String> {
        let sources = toml::from_str(table).map_err(|error| error.to_string())?;
        Ok(Self { root: root.to_owned(), sources, read: RefCell::default(), used: RefCell::default() })
    }

    /// The text that stands for `expression | format | …`.
    pub fn show(&self, arguments: &str, fs: &Fs) -> Result<String, String> {
        let (expression, formats) = crate::directive::pipes(arguments);
        format::show(&self.evaluate(expression, fs)?, &formats)
    }

    /// The value of an expression.
    pub fn evaluate(&self, expression: &str, fs: &Fs) -> Result<Value, String> {
        let mut parser = Parser { values: self, fs, text: expression, rest: expression };
        let value = parser.sum()?;
        match parser.rest.trim() {
            "" => Ok(value),
            rest => Err(format!("`{expression}`: what is `{rest}`?")),
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
            Source::Tables(path) => Node::Json(Rc::new(tables(&read(path)?))),
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

/// `[…]` behind a path.
enum Selector<'a> {
    Index(usize),
    Range(usize, usize),
    /// The element of an array whose field has this text.
    Where(&'a str, &'a str),
}

impl Node {
    fn key(self, key: &str) -> Result<Node, String> {
        match self {
            Node::Json(value) => match value.get(key) {
                Some(value) => Ok(Node::Json(Rc::new(value.clone()))),
                None => Err(format!("there is no `{key}`{}", keys(&value))),
            },
            Node::File(file) => {
                let tensor = file.get(key).ok_or_else(|| format!("there is no tensor `{key}`"))?;
                Ok(Node::Tensor { shape: tensor.shape.clone(), values: Rc::new(tensor.to_f32()), start: 0 })
            }
            Node::Tensor { .. } => Err(format!("a tensor has indices, not `{key}`")),
        }
    }

    fn select(self, selector: &Selector<'_>) -> Result<Node, String> {
        let outside = |i: usize, len: usize| format!("index {i} of {len}");
        match (self, selector) {
            (Node::Tensor { shape, values, start }, &Selector::Index(i)) => {
                let (&len, inner) = shape.split_first().ok_or("a single value has no indices")?;
                if i >= len {
                    return Err(outside(i, len));
                }
                let start = start + i * inner.iter().product::<usize>();
                Ok(Node::Tensor { shape: inner.to_vec(), values, start })
            }
            (node @ Node::Tensor { .. }, &Selector::Range(a, b)) => {
                let Value::Array(all) = node.value()? else { return Err("a single value has no indices".into()) };
                let part = all.get(a..b).ok_or_else(|| outside(b, all.len()))?;
                Ok(Node::Json(Rc::new(part.to_vec().into())))
            }
            (Node::Json(value), selector) => {
                let all = value.as_array().ok_or("only an array has `[…]`")?;
                let found = match *selector {
                    Selector::Index(i) => all.get(i).cloned().ok_or_else(|| outside(i, all.len()))?,
                    Selector::Range(a, b) => all.get(a..b).ok_or_else(|| outside(b, all.len()))?.to_vec().into(),
                    Selector::Where(key, text) => {
                        let is = |value: &Value| match value {
                            Value::String(other) => other == text,
                            other => {
                                let number = other.to_string();
                                number == text
                            }
                        };
                        let mut fit = all.iter().filter(|element| element.get(key).is_some_and(is));
                        match (fit.next(), fit.next()) {
                            (Some(one), None) => one.clone(),
                            (None, _) => return Err(format!("no element has `{key}` = `{text}`")),
                            _ => return Err(format!("several elements have `{key}` = `{text}`")),
                        }
                    }
                };
                Ok(Node::Json(Rc::new(found)))
            }
            _ => Err("only arrays and tensors have `[…]`".into()),
        }
    }

    fn value(self) -> Result<Value, String> {
        match self {
            Node::Json(value) => Ok((*value).clone()),
            Node::File(_) => Err("which tensor?".into()),
            Node::Tensor { shape, values, start } => match shape[..] {
                [] => Ok(f64::from(values[start]).into()),
                [len] => Ok(values[start..start + len].iter().map(|v| f64::from(*v)).collect()),
                _ => Err(format!("{} more indices, please", shape.len() - 1)),
            },
        }
    }
}

/// The tables of a Markdown text.
fn tables(text: &str) -> Value {
    let cells = |line: &str| -> Option<Vec<String>> {
        let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        Some(inner.split('|').map(|cell| cell.trim().to_owned()).collect())
    };
    let (mut tables, mut titles): (Vec<Value>, Option<Vec<String>>) = (Vec::new(), None);
    for line in text.lines() {
        let Some(cells) = cells(line) else {
            titles = None;
            continue;
        };
        let Some(titles) = &titles else {
            titles = Some(cells);
            tables.push(Value::Array(Vec::new()));
            continue;
        };
        let rule = cells.iter().all(|cell| cell.chars().all(|c| matches!(c, '-' | ':')));
        if let (false, Some(Value::Array(rows))) = (rule, tables.last_mut()) {
            rows.push(titles.iter().cloned().zip(cells.into_iter().map(Value::String)).collect());
        }
    }
    tables.into()
}

/// The keys that there are, for a message.
fn keys(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let keys: Vec<&str> = fields.keys().map(String::as_str).take(12).collect();
            format!(" among {}", keys.join(", "))
        }
        _ => String::new(),
    }
}

struct Parser<'a> {
    values: &'a Values,
    fs: &'a Fs,
    text: &'a str,
    rest: &'a str,
}

impl<'a> Parser<'a> {
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
        let bad = || format!("`{text}`: write [3], [0..4] or [key=value]");
        let number = |word: &str| word.parse().map_err(|_| bad());
        let selector = match self.word()? {
            key if self.rest.starts_with('=') => {
                self.rest = &self.rest[1..];
                Selector::Where(key, self.word()?)
            }
            from if self.rest.starts_with("..") => {
                self.rest = &self.rest[2..];
                Selector::Range(number(from)?, number(self.word()?)?)
            }
            index => Selector::Index(number(index)?),
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

/// A number as JSON: whole ones as integers, so that they are shown without a point.
fn exact(number: f64) -> Value {
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
        evaluates("sqrt(16) / 8 + log2(8)", 3.5.into());
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
        let expected = serde_json::json!([
            [{"step": "one", "after": "2 GB/s"}, {"step": "two", "after": ""}],
            [{"x": "- 3"}]
        ]);
        assert_eq!(tables(text), expected);
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
        let table = "[case]\ntensors = 'tests/golden/forward/stories/case_0.safetensors'\n";
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
