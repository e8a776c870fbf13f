//! The expressions of `{{val …}}`, evaluated while they are parsed; [`crate::values`] says how they are written.

use crate::command::Fs;
use crate::node::Selector;
use crate::values::{Values, exact};
use serde_json::Value;

/// Lists whose elements have names, and of which one may be put before another: no place in them means anything.
const NAMED: [&str; 2] = ["operations", "tensors"];

/// What an operator makes of the numbers on its sides.
type Operator = fn(f64, f64) -> f64;

/// An expression, what of it is left, and what was found out on the way.
pub(crate) struct Parser<'a> {
    values: &'a Values,
    fs: &'a Fs,
    text: &'a str,
    rest: &'a str,
    /// How many sources were asked.
    pub sources: usize,
    /// A number in the expression that is neither small nor round.
    pub typed: Option<&'a str>,
}

impl<'a> Parser<'a> {
    pub fn new(values: &'a Values, text: &'a str, fs: &'a Fs) -> Self {
        Self { values, fs, text, rest: text, sources: 0, typed: None }
    }

    /// The value of all of it.
    pub fn whole(&mut self) -> Result<Value, String> {
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
        self.chain([("+", |a, b| a + b), ("-", |a, b| a - b)], Self::product)
    }

    fn product(&mut self) -> Result<Value, String> {
        self.chain([("*", |a, b| a * b), ("/", |a, b| a / b)], Self::factor)
    }

    /// Operands with operators of one rank between them, from left to right.
    fn chain(
        &mut self,
        operators: [(&str, Operator); 2],
        operand: fn(&mut Self) -> Result<Value, String>,
    ) -> Result<Value, String> {
        let mut value = operand(self)?;
        while let Some((_, apply)) = operators.iter().find(|(sign, _)| self.eat(sign)) {
            let (a, b) = (self.number(&value)?, operand(self)?);
            value = exact(apply(a, self.number(&b)?));
        }
        Ok(value)
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
        if self.eat("median(") {
            let how = || format!("`{}`: write median(list, …, field.of.each)", self.text);
            let (inner, rest) = self.rest.split_once(')').ok_or_else(how)?;
            let (lists, field) = inner.rsplit_once(',').ok_or_else(how)?;
            let mut all = Vec::new();
            for list in lists.split(',') {
                self.rest = list;
                match self.path()? {
                    Value::Array(more) if self.rest.trim().is_empty() => all.extend(more),
                    _ => return Err(format!("`{}`: `{list}` is no list", self.text)),
                }
            }
            self.rest = rest;
            return self.median(&all, field.trim());
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

    /// The median of one field of each object of a list.
    fn median(&self, all: &[Value], field: &str) -> Result<Value, String> {
        let pointer = format!("/{}", field.replace('.', "/"));
        let of = |each: &Value| self.number(each.pointer(&pointer).unwrap_or(&Value::Null));
        let numbers = all.iter().map(of).collect::<Result<_, _>>()?;
        crate::benchmarks::median(numbers).map(exact).ok_or_else(|| format!("`{}`: an empty list", self.text))
    }

    fn number(&self, value: &Value) -> Result<f64, String> {
        value.as_f64().ok_or_else(|| format!("`{}`: {value} is no number", self.text))
    }

    /// `source.key."other key"[1][2..4][name=value]`
    fn path(&mut self) -> Result<Value, String> {
        let source = self.word()?;
        self.sources += 1;
        let mut node = self.values.source(source, self.fs)?;
        let mut list = source;
        loop {
            let step = if let Some(rest) = self.rest.strip_prefix('.') {
                self.rest = rest;
                list = self.word()?;
                node.key(list)
            } else if let Some(rest) = self.rest.strip_prefix('[') {
                self.rest = rest;
                let selector = self.selector()?;
                match selector {
                    Selector::Index(_) | Selector::Range(..) if NAMED.contains(&list) => Err(format!(
                        "one of `{list}` is named by what it has, [key=value]: another may be put before it"
                    )),
                    _ => {
                        list = "";
                        node.select(&selector)
                    }
                }
            } else {
                return node.value().map_err(|error| format!("`{}`: {error}", self.text));
            };
            node = step.map_err(|error| format!("`{}`: {error}", self.text))?;
        }
    }

    fn selector(&mut self) -> Result<Selector<'a>, String> {
        let text = self.text;
        let bad = || {
            format!(
                "`{text}`: write [3], [0..4], [key=value], [key^=value], [key=value after key=value] or [\"text * text\"]"
            )
        };
        let start = self.rest;
        let word = self.word()?;
        let selector = match () {
            () if self.eat("^=") => {
                Selector::Where { key: word, text: self.word()?, begins: true, after: self.after()? }
            }
            () if self.eat("=") => {
                Selector::Where { key: word, text: self.word()?, begins: false, after: self.after()? }
            }
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

    /// ` after key=value`, if it is there.
    fn after(&mut self) -> Result<Option<(&'a str, &'a str)>, String> {
        if !self.eat("after ") {
            return Ok(None);
        }
        let key = self.word()?;
        match self.eat("=") {
            true => Ok(Some((key, self.word()?))),
            false => Err(format!("`{}`: `{key}` = what?", self.text)),
        }
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

/// Whether a number may be typed into an expression: what one counts on fingers, a power of two, or a unit and a round size
/// (one digit before zeros, from a hundred on, or behind a point).
fn is_plain(text: &str, number: f64) -> bool {
    let digits = text.trim_matches(['0', '.']).chars().filter(char::is_ascii_digit).count();
    let round = digits <= 1 && !(1.0..100.0).contains(&number);
    number.fract() == 0.0 && (number <= 16.0 || (number as u64).is_power_of_two()) || round
}
