//! Chat templates: a conversation becomes the one text that the model was trained to continue.
//!
//! Templates are Jinja programs, written for transformers' set-up of Python's Jinja2. `minijinja` runs them; what is here
//! makes it behave the same: white space control, Python's string methods, `raise_exception`, and `tojson` as
//! Python's `json.dumps` writes it.

use super::TextError;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind};
use serde::Serialize;

/// One message of a conversation, as chat templates see it.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text; empty if a message has none (`null` or absent), as one that only calls tools.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub content: String,
    /// What the assistant thought before it answered, if that is kept apart from the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The tools that the assistant calls, as JSON values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<serde_json::Value>>,
    /// Who speaks, or which tool answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Message {
    /// A plain message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into(), ..Message::default() }
    }
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(<Option<String> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
}

/// What a template is told besides the messages.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// End with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    /// `None` leaves it to the template; `Some(false)` asks for an answer without thinking.
    pub enable_thinking: Option<bool>,
    /// Tool descriptions, as JSON values; empty for none.
    pub tools: Vec<serde_json::Value>,
}

/// A model's chat template (Jinja).
pub struct ChatTemplate {
    environment: Environment<'static>,
}

/// The name of the one template in its environment. It has no file ending, so that nothing is escaped as if for HTML.
const NAME: &str = "chat_template";

/// How many Jinja instructions one rendering may take: a long conversation takes thousands, an endless template all.
const FUEL: u64 = 5_000_000;

impl ChatTemplate {
    /// Compiles a template; `file` is the name used in errors.
    pub fn new(source: &str, file: &str) -> Result<ChatTemplate, TextError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", to_json);
        let compiled = environment.add_template_owned(NAME, source.to_string());
        compiled.map_err(|error| TextError::Template(format!("{file}: {}", explain(&error))))?;
        Ok(ChatTemplate { environment })
    }

    /// The prompt text for a conversation.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String, TextError> {
        #[derive(Serialize)]
        struct Context<'a> {
            messages: &'a [Message],
            add_generation_prompt: bool,
            /// Left out rather than null: templates ask whether it is defined.
            #[serde(skip_serializing_if = "Option::is_none")]
            enable_thinking: Option<bool>,
            tools: Option<&'a [serde_json::Value]>,
        }
        let RenderOptions { add_generation_prompt, enable_thinking, ref tools } = *options;
        let tools = Some(tools.as_slice()).filter(|tools| !tools.is_empty());
        let template = self.environment.get_template(NAME);
        template
            .and_then(|template| template.render(Context { messages, add_generation_prompt, enable_thinking, tools }))
            .map_err(|error| TextError::Template(explain(&error)))
    }
}

/// The error with the errors that caused it, in one line.
fn explain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// `tojson` as transformers defines it: `json.dumps(value, ensure_ascii=False, indent=indent)`. Jinja's own filter would
/// escape `<`, `>`, `&` and `'` for HTML, which a model never saw in training.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let value = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("tojson: {error}")))?;
    let mut json = String::new();
    write_json(&value, indent, 0, &mut json);
    // Marked safe: transformers returns plain text too, and nothing may escape it further.
    Ok(Value::from_safe_string(json))
}

/// Appends a value as Python's `json.dumps` writes it: `", "` and `": "` on one line, or one item a line if indented.
fn write_json(value: &serde_json::Value, indent: Option<usize>, depth: usize, json: &mut String) {
    use serde_json::Value::{Array, Number, Object};
    let line = |json: &mut String, depth: usize| {
        if let Some(indent) = indent {
            json.push('\n');
            json.extend(std::iter::repeat_n(' ', indent.min(64) * depth));
        }
    };
    let separate = |json: &mut String, at: usize| {
        match (at, indent) {
            (0, _) => {}
            (_, None) => json.push_str(", "),
            (_, Some(_)) => json.push(','),
        }
        line(json, depth + 1);
    };
    match value {
        Array(items) if !items.is_empty() => {
            json.push('[');
            for (at, item) in items.iter().enumerate() {
                separate(json, at);
                write_json(item, indent, depth + 1, json);
            }
            line(json, depth);
            json.push(']');
        }
        Object(items) if !items.is_empty() => {
            json.push('{');
            for (at, (key, item)) in items.iter().enumerate() {
                separate(json, at);
                json.push_str(&serde_json::Value::from(key.as_str()).to_string());
                json.push_str(": ");
                write_json(item, indent, depth + 1, json);
            }
            line(json, depth);
            json.push('}');
        }
        Number(number) if number.is_f64() => json.push_str(&python_float(number.as_f64().unwrap_or_default())),
        other => json.push_str(&other.to_string()),
    }
}

/// A float as Python's `repr` writes it: `1e+16`, `1e-05`, but `0.0001` and `1e15` in full.
fn python_float(number: f64) -> String {
    let scientific = format!("{number:e}");
    match scientific.split_once('e').and_then(|(digits, exponent)| Some((digits, exponent.parse::<i32>().ok()?))) {
        Some((digits, exponent)) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{number:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str, tool: serde_json::Value) -> Result<String, TextError> {
        let options = RenderOptions { tools: vec![tool], ..RenderOptions::default() };
        ChatTemplate::new(template, "test")?.render(&[Message::new("user", "  hi\n\n")], &options)
    }

    /// Expected strings are Python's: `json.dumps(x, ensure_ascii=False)`.
    #[test]
    fn tojson_writes_what_python_writes() {
        let tool = serde_json::json!({
            "z": [1, 2.0, 1e16, 1e-5, 0.0001, 123456789012345.0, -0.5], "a": {"é": "<'&\u{1}\n\"\u{7f}>"}, "e": [], "n": null, "t": true
        });
        let expected = "{\"z\": [1, 2.0, 1e+16, 1e-05, 0.0001, 123456789012345.0, -0.5], \
                        \"a\": {\"é\": \"<'&\\u0001\\n\\\"\u{7f}>\"}, \"e\": [], \"n\": null, \"t\": true}";
        assert_eq!(render("{{ tools[0] | tojson }}", tool).unwrap(), expected);
        let indented = render("{{ tools[0] | tojson(indent=2) }}", serde_json::json!({"a": [1, {}], "b": 2}));
        assert_eq!(indented.unwrap(), "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": 2\n}");
    }

    #[test]
    fn python_methods_and_white_space_control() {
        let template = "{% for m in messages[::-1] %}\n  {% if m.content.strip().startswith('h') %}\n{{ m.content.lstrip() }}|\
                        {{ m.content.rstrip('\\n') }}|{{ 'a,b'.split(',')[-1] }}{% break %}\n  {% endif %}\n{% endfor %}\n";
        assert_eq!(render(template, serde_json::json!(0)).unwrap(), "hi\n\n|  hi|b");
    }

    #[test]
    fn a_bad_template_is_an_error_that_says_where() {
        let error = |template: &str| render(template, serde_json::json!(0)).unwrap_err().to_string();
        assert!(error("{% if %}").contains("test:"), "{}", error("{% if %}"));
        assert!(error("{{ raise_exception('No user query found.') }}").contains("No user query found."));
        assert!(error("{{ nothing.here.at_all }}").contains("undefined"));
        let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}";
        assert!(error(endless).contains("fuel"), "{}", error(endless));
    }
}
