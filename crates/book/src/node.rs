//! Where a path of an expression leads: through JSON, the tables of a notebook, a text, a file of tensors.

use crate::text::Text;
use crate::values::exact;
use failed_star::weights::Checkpoint;
use serde_json::{Value, json};
use std::rc::Rc;

/// What a path can be followed into.
#[derive(Clone)]
pub enum Node {
    Json(Rc<Value>),
    /// Tables of a notebook, whose rows come and go.
    Rows(Rc<Value>),
    Text(Rc<Text>),
    File(Rc<Checkpoint>),
    /// Part of a tensor, row-major.
    Tensor {
        shape: Vec<usize>,
        values: Rc<Vec<f32>>,
        start: usize,
    },
}

/// `[…]` behind a path.
pub enum Selector<'a> {
    Index(usize),
    Range(usize, usize),
    /// The element of an array whose field is this text, or begins with it; or the first such behind another element, which
    /// is named by key and text.
    Where {
        key: &'a str,
        text: &'a str,
        begins: bool,
        after: Option<(&'a str, &'a str)>,
    },
    /// The number in a text, by what stands around it.
    Find(&'a str),
}

impl Node {
    /// What a name leads to.
    pub fn key(self, key: &str) -> Result<Node, String> {
        match self {
            Node::Json(value) => match value.get(key) {
                Some(value) => Ok(Node::Json(Rc::new(value.clone()))),
                None => Err(format!("there is no `{key}`{}", keys(&value))),
            },
            Node::Rows(value) => match value.get(key) {
                Some(value) => Ok(Node::Rows(Rc::new(value.clone()))),
                None => Err(format!("there is no `{key}`{}", keys(&value))),
            },
            Node::Text(text) => match text.section(key) {
                Some(section) => Ok(Node::Text(Rc::new(section))),
                None => text.constant(key).map(|value| Node::Json(Rc::new(exact(value)))),
            },
            Node::File(file) => {
                let tensor = file.get(key).ok_or_else(|| format!("there is no tensor `{key}`"))?;
                Ok(Node::Tensor { shape: tensor.shape.clone(), values: Rc::new(tensor.to_f32()), start: 0 })
            }
            Node::Tensor { .. } => Err(format!("a tensor has indices, not `{key}`")),
        }
    }

    /// What a selector chooses.
    pub fn select(self, selector: &Selector<'_>) -> Result<Node, String> {
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
            (Node::Text(text), Selector::Find(pattern)) => Ok(Node::Json(Rc::new(exact(text.find(pattern)?)))),
            (Node::Rows(value), Selector::Where { .. }) => Ok(Node::Rows(Rc::new(chosen(&value, selector)?))),
            (Node::Rows(_), _) => {
                Err("a row is named by what it has, [step=\"…\"] or [step^=\"…\"]: another may be put before it".into())
            }
            (Node::Json(value), selector) => Ok(Node::Json(Rc::new(chosen(&value, selector)?))),
            _ => Err("only arrays and tensors have `[…]`".into()),
        }
    }

    /// The value that a path has arrived at.
    pub fn value(self) -> Result<Value, String> {
        match self {
            Node::Json(value) | Node::Rows(value) => Ok((*value).clone()),
            Node::Text(_) => Err("which number? [\"text * text\"] or a constant's name".into()),
            Node::File(_) => Err("which tensor?".into()),
            Node::Tensor { shape, values, start } => match shape[..] {
                [] => Ok(f64::from(values[start]).into()),
                [len] => Ok(values[start..start + len].iter().map(|v| f64::from(*v)).collect()),
                _ => Err(format!("{} more indices, please", shape.len() - 1)),
            },
        }
    }
}

/// The element of an array.
fn chosen(value: &Value, selector: &Selector<'_>) -> Result<Value, String> {
    let outside = |i: usize, len: usize| format!("index {i} of {len}");
    let all = value.as_array().ok_or("only an array has `[…]`")?;
    match *selector {
        Selector::Index(i) => all.get(i).cloned().ok_or_else(|| outside(i, all.len())),
        Selector::Range(a, b) => Ok(all.get(a..b).ok_or_else(|| outside(b, all.len()))?.to_vec().into()),
        Selector::Find(_) => Err("`[\"…\"]` is for texts".into()),
        Selector::Where { key, text, begins, after: None } => Ok(all[only(all, key, text, begins)?].clone()),
        Selector::Where { key, text, begins, after: Some((other, name)) } => {
            let behind = &all[only(all, other, name, false)? + 1..];
            let found = behind.iter().find(|element| fits(element, key, text, begins));
            found.cloned().ok_or_else(|| format!("no element after `{other}` = `{name}` has `{key}` = `{text}`"))
        }
    }
}

/// The place of the one element whose field is this text.
fn only(all: &[Value], key: &str, text: &str, begins: bool) -> Result<usize, String> {
    let mut fit = (0..all.len()).filter(|i| fits(&all[*i], key, text, begins));
    match (fit.next(), fit.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(format!("no element has `{key}` = `{text}`")),
        _ => Err(format!("several elements have `{key}` = `{text}`")),
    }
}

fn fits(element: &Value, key: &str, text: &str, begins: bool) -> bool {
    match element.get(key) {
        Some(Value::String(other)) if begins => other.starts_with(text),
        Some(Value::String(other)) => other == text,
        Some(other) if !begins => serde_json::to_string(other).is_ok_and(|shown| shown == text),
        _ => false,
    }
}

/// The tables of a Markdown text, each with the heading above it.
pub fn tables(text: &str) -> Value {
    let cells = |line: &str| -> Option<Vec<String>> {
        let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        Some(inner.split('|').map(|cell| cell.trim().to_owned()).collect())
    };
    let (mut tables, mut heading) = (Vec::<(String, Vec<Value>)>::new(), String::new());
    let mut titles: Option<Vec<String>> = None;
    for line in text.lines() {
        if line.starts_with('#') {
            heading = line.trim_start_matches('#').trim().to_owned();
        }
        let Some(cells) = cells(line) else {
            titles = None;
            continue;
        };
        let Some(titles) = &titles else {
            titles = Some(cells);
            tables.push((heading.clone(), Vec::new()));
            continue;
        };
        let rule = cells.iter().all(|cell| cell.chars().all(|c| matches!(c, '-' | ':')));
        if let (false, Some((_, rows))) = (rule, tables.last_mut()) {
            rows.push(titles.iter().cloned().zip(cells.into_iter().map(Value::String)).collect());
        }
    }
    tables.into_iter().map(|(heading, rows)| json!({"heading": heading, "rows": rows})).collect()
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
