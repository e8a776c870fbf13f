//! The Metal backend's table of messages and constants against Apple's headers.
//!
//! The crates `objc2-metal` and `objc2-foundation` are generated from the SDK's headers. Nothing of them is built: their
//! sources, which cargo has downloaded, say which methods a class or protocol has, with types and method families, and
//! which value an enumeration's name has.

#![cfg(any(target_os = "macos", feature = "metal-standin"))]

use failed_star::backend::metal::objc::{CONSTANTS, Constant, MESSAGES, Message, Ownership, Type};
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;

/// A method as `header-translator` wrote it down.
#[derive(Debug)]
struct Method {
    to_class: bool,
    family: String,
    /// Rust types, without the receiver.
    arguments: Vec<String>,
    /// The Rust type; empty for nothing.
    result: String,
}

/// What the headers declare.
#[derive(Default)]
struct Headers {
    /// By class or protocol, and selector.
    methods: HashMap<(String, String), Method>,
    /// What a class or protocol inherits.
    parents: HashMap<String, Vec<String>>,
    /// What an enumeration or option set is made of: `NSUInteger`, …
    underlying: HashMap<String, String>,
    /// Values as they are written, by enumeration and name.
    constants: HashMap<(String, String), String>,
}

impl Headers {
    fn read() -> Headers {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--locked", "--manifest-path", manifest])
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
        let mut headers = Headers::default();
        for wanted in ["objc2-metal", "objc2-foundation"] {
            let packages = metadata["packages"].as_array().expect("a list");
            let package = packages.iter().find(|package| package["name"] == wanted).expect("it is in Cargo.toml");
            let manifest = PathBuf::from(package["manifest_path"].as_str().expect("a path"));
            let source = manifest.with_file_name("src");
            for entry in std::fs::read_dir(source.join("generated")).expect("its sources") {
                headers.scan(&std::fs::read_to_string(entry.unwrap().path()).expect("a source file"));
            }
            if let Ok(by_hand) = std::fs::read_to_string(source.join("resource.rs")) {
                headers.scan(&by_hand);
            }
        }
        // What C macros say is written by hand in those crates.
        headers.underlying.insert("CFTimeInterval".into(), "c_double".into());
        headers
    }

    fn scan(&mut self, source: &str) {
        // Of a declaration, only the tokens that matter are left: one line each, without comments.
        let code: Vec<&str> =
            source.lines().map(str::trim).filter(|line| !line.starts_with("//") && !line.is_empty()).collect();
        let (mut owner, mut enumeration) = (String::new(), String::new());
        for (i, line) in code.iter().enumerate() {
            let word =
                |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("").to_owned();
            if let Some(rest) = line.strip_prefix("pub unsafe trait ") {
                owner = word(rest);
                // `trait NAME: A + B {`, on one line or on several.
                let declaration =
                    code[i..].iter().take_while(|line| !line.starts_with("#[")).copied().collect::<String>();
                let parents = declaration.split('{').next().unwrap_or("").split(':').nth(1).unwrap_or("");
                self.parents.insert(owner.clone(), parents.split('+').map(|parent| word(parent.trim())).collect());
            } else if let Some(rest) = line.strip_prefix("impl ") {
                (owner, enumeration) = (word(rest), word(rest));
            } else if let Some(rest) = line.strip_prefix("pub struct ") {
                if let Some((name, inner)) = rest.split_once("(pub ") {
                    self.underlying.insert(name.into(), inner.trim_end_matches([')', ';']).into());
                }
            } else if let Some(rest) = line.strip_prefix("pub const ").or(line.strip_prefix("const ")) {
                let Some((left, value)) = rest.split_once('=') else { continue };
                let (name, alone) = (word(left), !left.contains("Self") && line.starts_with("pub"));
                let of = if alone { String::new() } else { enumeration.clone() };
                self.constants.insert((of, name), value.trim().trim_end_matches(';').into());
            } else if let Some(rest) = line.strip_prefix("#[unsafe(method(") {
                self.method(&owner, rest.trim_end_matches(")]").trim_end_matches(')'), &code[i + 1..]);
            }
        }
    }

    fn method(&mut self, owner: &str, selector: &str, following: &[&str]) {
        let family = following.iter().find_map(|line| line.strip_prefix("#[unsafe(method_family = "));
        let family = family.unwrap_or("").trim_end_matches(")]").to_owned();
        let lines = following.iter().skip_while(|line| line.starts_with("#["));
        let mut declaration = String::new();
        for line in lines {
            declaration += line;
            declaration += " ";
            if line.ends_with(';') {
                break;
            }
        }
        let Some((_, signature)) = declaration.split_once('(') else { return };
        // The parenthesis that closes the arguments stands before `->` or `;`.
        let (arguments, result) = match signature.rsplit_once(") ->") {
            Some((arguments, result)) => (arguments, result.trim().trim_end_matches(';').to_owned()),
            None => (signature.trim().trim_end_matches(';').trim_end_matches(')'), String::new()),
        };
        let mut arguments = split(arguments);
        let receiver = arguments.first().is_some_and(|first| first == "&self" || first.starts_with("this:"));
        if receiver {
            arguments.remove(0);
        }
        let types = |argument: &String| argument.split_once(':').map_or(String::new(), |pair| pair.1.trim().to_owned());
        let mut arguments: Vec<String> = arguments.iter().map(types).collect();
        // A trailing `_` is an `NSError **`, of which Rust's `Result` is made; success is then a BOOL or the object.
        let (mut selector, mut result) = (selector.to_owned(), result);
        if selector.ends_with(":_") {
            selector.pop();
            arguments.push("NSError **".into());
            let inside = result.trim_start_matches("Result<");
            result = split(inside).into_iter().next().unwrap_or_default();
            if result == "()" {
                result = "bool".into();
            }
        }
        let method = Method { to_class: !receiver, family, arguments, result };
        self.methods.entry((owner.to_owned(), selector)).or_insert(method);
    }

    fn find(&self, receiver: &str, selector: &str) -> Option<&Method> {
        let found = self.methods.get(&(receiver.to_owned(), selector.to_owned()));
        found.or_else(|| self.parents.get(receiver)?.iter().find_map(|parent| self.find(parent, selector)))
    }

    /// A Rust type of those sources as the table writes it.
    fn kind(&self, rust: &str, receiver: &str) -> Result<(&'static str, String), String> {
        let rust = rust.trim();
        let inside = |text: &str, before: &str| Some(text.strip_prefix(before)?.strip_suffix('>')?.to_owned());
        if let Some(inner) = inside(rust, "Option<") {
            return self.kind(&inner, receiver);
        }
        if let Some(inner) = inside(rust, "Retained<").or(inside(rust, "Allocated<")) {
            return self.kind(&format!("&{inner}"), receiver);
        }
        if let Some(object) = rust.strip_prefix('&') {
            if object.contains("block2") {
                return Ok(("Block", String::new()));
            }
            let object = inside(object, "ProtocolObject<dyn ").unwrap_or(object.to_owned());
            let object = if object == "Self" { receiver.to_owned() } else { object };
            return Ok(("Object", object));
        }
        Ok((
            match rust {
                "" | "()" => "Void",
                "bool" => "Bool",
                "NSUInteger" | "u64" => "Unsigned",
                "NSInteger" | "i64" => "Signed",
                "c_double" | "f64" => "Double",
                "MTLSize" => "Size",
                "NSError **" => "ErrorOut",
                pointer if pointer.starts_with("NonNull<") || pointer.starts_with('*') => "Pointer",
                named => match self.underlying.get(named) {
                    Some(inner) => return self.kind(inner, receiver),
                    None if named == "NSStringEncoding" => "Unsigned",
                    None => return Err(format!("a type that this test does not know: {named}")),
                },
            },
            String::new(),
        ))
    }

    fn check_type(&self, ours: Type, theirs: &str, receiver: &str) -> Result<(), String> {
        let (kind, object) = self.kind(theirs, receiver)?;
        let ours_kind = match ours {
            Type::Void => "Void",
            Type::Bool => "Bool",
            Type::Unsigned => "Unsigned",
            Type::Signed => "Signed",
            Type::Double => "Double",
            Type::Size => "Size",
            Type::Pointer => "Pointer",
            Type::Block => "Block",
            Type::ErrorOut => "ErrorOut",
            Type::Object(_) => "Object",
        };
        let same_object = match ours {
            // `AnyObject` is `id`: any object will do.
            Type::Object(name) => object == "AnyObject" || name.to_str() == Ok(&object),
            _ => true,
        };
        if kind == ours_kind && same_object { Ok(()) } else { Err(format!("we say {ours:?}, the header {theirs}")) }
    }

    /// Whether a row of the table is as the headers say.
    fn check(&self, message: &Message) -> Result<(), String> {
        let [receiver, selector] = [message.receiver, message.selector].map(|name| name.to_str().unwrap());
        // The root class's own, which the runtime defines (`objc/NSObject.h`): every object has them.
        match (selector, message.arguments, message.result, message.ownership) {
            ("alloc", [], Type::Object(class), Ownership::Retained)
                if message.to_class && class == message.receiver =>
            {
                return Ok(());
            }
            ("retain", [], Type::Pointer, Ownership::None) | ("release", [], Type::Void, Ownership::None)
                if receiver == "NSObject" && !message.to_class =>
            {
                return Ok(());
            }
            _ => {}
        }
        let method = self.find(receiver, selector).ok_or(format!("{receiver} has no method {selector}"))?;
        if method.to_class != message.to_class {
            return Err("one is a class method, the other an instance's".into());
        }
        if method.arguments.len() != message.arguments.len() {
            return Err(format!("{} arguments, the header has {}", message.arguments.len(), method.arguments.len()));
        }
        for (i, (ours, theirs)) in message.arguments.iter().zip(&method.arguments).enumerate() {
            self.check_type(*ours, theirs, receiver).map_err(|error| format!("argument {i}: {error}"))?;
        }
        self.check_type(message.result, &method.result, receiver).map_err(|error| format!("result: {error}"))?;
        let theirs = match (message.result, method.family.as_str()) {
            (Type::Object(_), "new" | "alloc" | "init" | "copy" | "mutableCopy") => Ownership::Retained,
            (Type::Object(_), _) => Ownership::Autoreleased,
            _ => Ownership::None,
        };
        if theirs == message.ownership {
            Ok(())
        } else {
            Err(format!("owned as {:?}, not {theirs:?}", message.ownership))
        }
    }

    /// The value of an expression as it is written in those sources: numbers, names, `<<`, `+`, `|`.
    #[allow(clippy::only_used_in_recursion, reason = "it names whose value is looked for")]
    fn value(&self, of: &str, expression: &str) -> Option<i128> {
        let expression = expression.trim();
        let wrapped =
            |text: &str| text.starts_with('(') && text.ends_with(')') && !text[1..text.len() - 1].contains('(');
        if wrapped(expression) {
            return self.value(of, &expression[1..expression.len() - 1]);
        }
        if let Some(inner) = expression.strip_prefix("Self(").and_then(|text| text.strip_suffix(')')) {
            return self.value(of, inner);
        }
        for (sign, join) in
            [("|", (|a, b| a | b) as fn(i128, i128) -> i128), ("+", |a, b| a + b), ("<<", |a, b| a << b)]
        {
            if let Some((left, right)) = expression.rsplit_once(sign) {
                return Some(join(self.value(of, left)?, self.value(of, right)?));
            }
        }
        let number = match expression.strip_prefix("0x") {
            Some(digits) => i128::from_str_radix(digits, 16).ok(),
            None => expression.parse().ok(),
        };
        number.or_else(|| {
            let (of, name) = expression.split_once("::").unwrap_or(("", expression));
            let name = name.trim_end_matches(".0");
            self.value(of, self.constants.get(&(of.to_owned(), name.to_owned()))?)
        })
    }

    fn check_constant(&self, Constant { of, name, value }: &Constant) -> Result<(), String> {
        let written = self.constants.get(&(of.to_string(), name.to_string())).ok_or(format!("no {name} in {of}"))?;
        match self.value(of, written) {
            Some(found) if found == *value => Ok(()),
            found => Err(format!("{of} {name} is {written} ({found:?}), not {value}")),
        }
    }
}

/// Splits at commas that are in no bracket, up to a bracket that closes more than was opened.
fn split(list: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for c in list.chars() {
        match c {
            '<' | '(' | '[' => depth += 1,
            '>' if parts.last().is_some_and(|part| part.ends_with('-')) => {}
            '>' | ')' | ']' => depth -= 1,
            _ => {}
        }
        match c {
            _ if depth < 0 => break,
            ',' if depth == 0 => parts.push(String::new()),
            _ => parts.last_mut().unwrap().push(c),
        }
    }
    parts.iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

#[test]
fn every_message_and_constant_is_in_apples_headers() {
    let headers = Headers::read();
    let messages = MESSAGES.iter().filter_map(|message| {
        let what = format!("{} {}", message.receiver.to_string_lossy(), message.selector.to_string_lossy());
        headers.check(message).err().map(|error| format!("{what}: {error}"))
    });
    let constants = CONSTANTS.iter().filter_map(|constant| headers.check_constant(constant).err());
    let wrong: Vec<String> = messages.chain(constants).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(MESSAGES.len() > 40 && CONSTANTS.len() > 10);
}

#[test]
fn a_wrong_message_is_found() {
    let headers = Headers::read();
    let row = |selector: &[u8]| *MESSAGES.iter().find(|row| row.selector.to_bytes() == selector).unwrap();
    let refused = |message: Message, reason: &str| {
        let error = headers.check(&message).expect_err(reason);
        assert!(error.contains(reason), "{error}, expected {reason}");
    };
    let set_buffer = row(b"setBuffer:offset:atIndex:");
    refused(Message { selector: c"setBuffer:offset:index:", ..set_buffer }, "has no method");
    refused(Message { receiver: c"MTLCommandBuffer", ..set_buffer }, "has no method");
    refused(Message { arguments: &[Type::Object(c"MTLBuffer"), Type::Unsigned], ..set_buffer }, "2 arguments");
    let wrong = &[Type::Object(c"MTLBuffer"), Type::Signed, Type::Unsigned];
    refused(Message { arguments: wrong, ..set_buffer }, "argument 1: we say Signed");
    let wrong = &[Type::Object(c"MTLTexture"), Type::Unsigned, Type::Unsigned];
    refused(Message { arguments: wrong, ..set_buffer }, "argument 0: we say Object");
    refused(Message { result: Type::Double, ..row(b"status") }, "result: we say Double");
    refused(Message { result: Type::Unsigned, ..row(b"GPUStartTime") }, "result: we say Unsigned");
    // The two mistakes that leak and that free too early.
    refused(Message { ownership: Ownership::Autoreleased, ..row(b"newCommandQueue") }, "owned as Autoreleased");
    refused(Message { ownership: Ownership::Retained, ..row(b"commandBuffer") }, "owned as Retained");
    refused(Message { to_class: true, ..set_buffer }, "class method");
    refused(Message { to_class: false, ..row(b"sharedCaptureManager") }, "class method");
}

#[test]
fn a_wrong_constant_is_found() {
    let headers = Headers::read();
    for constant in CONSTANTS {
        assert!(headers.check_constant(&Constant { value: constant.value + 1, ..*constant }).is_err(), "{constant:?}");
    }
    assert!(headers.check_constant(&Constant { of: "MTLDispatchType", name: "Parallel", value: 1 }).is_err());
}
