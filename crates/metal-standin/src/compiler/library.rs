//! A checked program, and the kernels that are made of it.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::lexer::{self, Place, Token};
use super::program::{Fault, KernelFunction, Origin, Program};
use super::rewrite::{Rewriter, Text};
use super::{Argument, ArgumentKind, ConstantValue, Diagnostics, Kernel, Source, Target};
use super::{build, cache, clang, ir, rules};

/// A function constant of a kernel: `MTLFunctionConstant`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionConstant {
    /// As in the source.
    pub name: String,
    /// `[[function_constant(index)]]`.
    pub index: u32,
    /// `bool`, `short`, `ushort`, `int`, `uint`, `float`.
    pub type_name: String,
}

/// What is known of a kernel before it is built.
#[derive(Clone, Debug, Default, PartialEq)]
struct Entry {
    name: String,
    constants: Vec<FunctionConstant>,
}

/// A program that compiles: what `newLibraryWithSource:options:error:` answers.
pub struct Library {
    source: Source,
    /// The hash of all that decides what its kernels are.
    key: String,
    entries: Vec<Entry>,
    /// Made again when a kernel must be built and the library came from the cache.
    parsed: OnceLock<Result<Parsed, Diagnostics>>,
}

struct Parsed {
    kernels: Vec<KernelFunction>,
    constants: Vec<(String, u32)>,
    /// All tokens: threadgroup variables are numbered by the one that is their name.
    tokens: Vec<(Place, String)>,
    text: Text,
}

impl Library {
    /// Checks the whole program.
    ///
    /// # Errors
    /// What Apple's compiler would refuse, and a missing clang if this program is not in the cache.
    pub fn compile(source: &Source) -> Result<Library, Diagnostics> {
        let (version, fast) = (source.language_version.to_string(), source.fast_math.to_string());
        let mut parts = vec![&*source.text, &*version, &*fast];
        parts.extend(source.macros.iter().flat_map(|(name, body)| [&**name, &**body]));
        let headers = cache::headers_key();
        parts.push(&headers);
        let key = cache::key(&parts);
        let mut library = Library { source: source.clone(), key, entries: Vec::new(), parsed: OnceLock::new() };
        let mut accepted = vec![&*library.key];
        accepted.extend(rules::TEXT);
        let file = cache::directory().join(format!("{}.library", cache::key(&accepted)));
        if let Some(entries) = std::fs::read_to_string(&file).ok().and_then(|text| entries_from(&text)) {
            library.entries = entries;
            return Ok(library);
        }
        let program = parse(source)?;
        let found = rules::check(&program, source);
        if !found.is_empty() {
            return Err(clang::faults(&found, source));
        }
        library.entries = entries_of(&program);
        let questions = rules::may_refuse_lowered(&program);
        let parsed = Parsed::from(program);
        clang::check(&parsed.text, source)?;
        if let Some(questions) = questions {
            let ir = clang::everything(&parsed.text, source)?;
            if let Some(fault) = rules::check_lowered(&ir, &parsed.text, &questions) {
                return Err(clang::faults(&[fault], source));
            }
        }
        library.parsed = OnceLock::from(Ok(parsed));
        cache::write(&file, entries_text(&library.entries).as_bytes())?;
        Ok(library)
    }

    /// Names of its kernels, in order of declaration.
    #[must_use]
    pub fn function_names(&self) -> Vec<String> {
        self.entries.iter().map(|entry| entry.name.clone()).collect()
    }

    /// The function constants that kernel `name` may read.
    #[must_use]
    pub fn function_constants(&self, name: &str) -> Vec<FunctionConstant> {
        self.entries.iter().find(|entry| entry.name == name).map_or(Vec::new(), |entry| entry.constants.clone())
    }

    /// Compiles one kernel with its function constants set.
    ///
    /// # Errors
    /// No such kernel; a constant that it needs and was not given; threadgroup memory over 32 KiB; no clang and not in
    /// the cache.
    pub fn build(&self, name: &str, constants: &[(u32, ConstantValue)], target: Target) -> Result<Kernel, Diagnostics> {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        let entry = entry.ok_or_else(|| Diagnostics(format!("there is no kernel '{name}' in this library")))?;
        let mut given: Vec<(u32, ConstantValue)> =
            constants.iter().copied().filter(|(i, _)| entry.constants.iter().any(|c| c.index == *i)).collect();
        given.sort_by_key(|(index, _)| *index);
        let key = cache::key(&[&self.key, name, &format!("{given:?}"), &format!("{target:?}")]);
        let extension = if target == Target::Cpu { "ll" } else { "ptx" };
        let code = cache::directory().join(format!("{key}.{extension}"));
        let about = cache::directory().join(format!("{key}.kernel"));
        if let Some(kernel) = std::fs::read_to_string(&about).ok().and_then(|text| kernel_from(&text, &code))
            && code.exists()
        {
            return Ok(kernel);
        }
        let kernel = self.make(name, &given, target, &code)?;
        cache::write(&about, kernel_text(&kernel).as_bytes())?;
        Ok(kernel)
    }

    fn parsed(&self) -> Result<&Parsed, Diagnostics> {
        let parsed = self.parsed.get_or_init(|| parse(&self.source).map(Parsed::from));
        parsed.as_ref().map_err(Clone::clone)
    }

    fn make(
        &self,
        name: &str,
        given: &[(u32, ConstantValue)],
        target: Target,
        code: &Path,
    ) -> Result<Kernel, Diagnostics> {
        let parsed = self.parsed()?;
        let function = parsed.kernels.iter().find(|k| k.name == name);
        let function = function.ok_or_else(|| Diagnostics(format!("there is no kernel '{name}' in this library")))?;
        let value = |index: u32| given.iter().find(|(i, _)| *i == index).map(|(_, value)| *value);
        let constants: Vec<(String, Option<ConstantValue>)> =
            parsed.constants.iter().map(|(name, index)| (name.clone(), value(*index))).collect();
        let present = self.present(parsed, function, &constants)?;
        let entry = build::entry_name(name);
        let text = build::entry_point(function, &present, target);
        let lowered = clang::lower(&parsed.text, &text, &self.source, target)?;
        let name_of = |variable: usize| parsed.tokens.get(variable).map_or("", |(_, text)| text);
        let prepared = ir::prepare(&lowered, &entry, &constants, target, &name_of);
        let temporary = cache::temporary(code);
        let mut finished = clang::optimize(&prepared, target, &temporary)?;
        if target == Target::Cpu {
            finished = ir::resolve_lane(&finished);
            cache::write(&temporary, finished.as_bytes())?;
        }
        let undefined = ir::undefined(&finished);
        if let Some((missing, _)) = constants.iter().find(|(c, v)| v.is_none() && undefined.contains(c)) {
            let index = parsed.constants.iter().find(|(c, _)| c == missing).map_or(0, |(_, index)| *index);
            let _ = std::fs::remove_file(&temporary);
            return Err(Diagnostics(format!(
                "kernel '{name}' reads function constant '{missing}' (index {index}), which has no value"
            )));
        }
        let variables = ir::threadgroup_variables(&finished);
        let static_threadgroup_bytes = variables.iter().map(|(_, bytes)| bytes.next_multiple_of(16)).sum();
        if static_threadgroup_bytes > 32 * 1024 {
            let _ = std::fs::remove_file(&temporary);
            let largest = variables.iter().max_by_key(|(_, bytes)| *bytes).map_or(0, |(variable, _)| *variable);
            let place = parsed.tokens.get(largest).map(|(place, _)| *place).unwrap_or_default();
            let message = format!(
                "kernel '{name}' declares {static_threadgroup_bytes} bytes of threadgroup memory; 32768 is the most"
            );
            return Err(clang::faults(&[Fault { place, message }], &self.source));
        }
        if target == Target::Cpu {
            // For the executor's checks: an optimizer may read early what is read only under a condition.
            cache::write(&code.with_extension("unoptimized.ll"), prepared.as_bytes())?;
        }
        cache::rename(&temporary, code)?;
        let arguments =
            function.parameters.iter().zip(present).filter_map(|(parameter, present)| match &parameter.origin {
                Origin::Bound { argument, .. } if present => Some(argument.clone()),
                _ => None,
            });
        Ok(Kernel {
            name: name.to_string(),
            entry,
            arguments: arguments.collect(),
            static_threadgroup_bytes,
            max_threads: function.max_threads,
            code: Arc::new(code.to_path_buf()),
        })
    }

    /// Which parameters exist: those without a condition, and those whose function constant is true.
    fn present(
        &self,
        parsed: &Parsed,
        function: &KernelFunction,
        constants: &[(String, Option<ConstantValue>)],
    ) -> Result<Vec<bool>, Diagnostics> {
        let conditions: Vec<&str> = function.parameters.iter().filter_map(|p| p.condition.as_deref()).collect();
        let mut query = String::new();
        for (number, condition) in conditions.iter().enumerate() {
            let _ = writeln!(query, "extern \"C\" int msl_present_{number}() {{ return {condition} ? 1 : 0; }}");
        }
        let mut values = HashMap::new();
        if !conditions.is_empty() {
            let lowered = clang::lower(&parsed.text, &query, &self.source, Target::Cpu)?;
            let prepared = ir::prepare(&lowered, "", constants, Target::Cpu, &|_| "");
            let temporary = cache::temporary(&cache::directory().join("present.ll"));
            let answers = clang::optimize(&prepared, Target::Cpu, &temporary);
            let _ = std::fs::remove_file(&temporary);
            let answers = answers?;
            for (number, condition) in conditions.iter().enumerate() {
                let body = answers.split(&format!("@msl_present_{number}(")).nth(1).unwrap_or("");
                let answer = body.split("ret i32 ").nth(1).unwrap_or("");
                values.insert(*condition, answer.starts_with('1'));
            }
        }
        let exists = |condition: &Option<String>| {
            condition.as_deref().is_none_or(|condition| values.get(condition).copied().unwrap_or(false))
        };
        Ok(function.parameters.iter().map(|p| exists(&p.condition)).collect())
    }
}

fn parse(source: &Source) -> Result<Program, Diagnostics> {
    let preprocessed = clang::preprocess(source)?;
    let tokens = lexer::tokens(&preprocessed, &source.text, clang::FILE);
    match lexer::unbalanced(&tokens) {
        Some(bracket) => {
            let message = format!("'{bracket}' has no partner");
            Err(clang::faults(&[Fault { place: bracket.place, message }], source))
        }
        None => Ok(Program::parse(tokens)),
    }
}

impl From<Program> for Parsed {
    fn from(program: Program) -> Parsed {
        Parsed {
            text: Rewriter::new(&program).write(),
            tokens: program.tokens.iter().map(|token| (token.place, token.text.to_string())).collect(),
            constants: program.constants.iter().map(|c| (c.name.clone(), c.index)).collect(),
            kernels: program.kernels,
        }
    }
}

/// Kernels with the function constants that they, or what they call, name.
fn entries_of(program: &Program) -> Vec<Entry> {
    let constants: Vec<FunctionConstant> = program
        .constants
        .iter()
        .map(|c| FunctionConstant { name: c.name.clone(), index: c.index, type_name: c.type_name.clone() })
        .collect();
    // A constant may be named by another constant, a function or a struct: follow names through everything.
    let mut uses: HashMap<&str, Vec<&Token>> = HashMap::new();
    if !constants.is_empty() {
        for function in &program.functions {
            let words = program.tokens[function.parameters.start..function.body.end].iter().filter(|t| t.is_name());
            uses.entry(&*program.tokens[function.name].text).or_default().extend(words);
        }
        for found in &program.structs {
            let words = program.tokens[found.body.clone()].iter().filter(|t| t.is_name());
            uses.entry(&*found.name).or_default().extend(words);
        }
        for range in &program.variables {
            let words: Vec<&Token> = program.tokens[range.clone()].iter().filter(|t| t.is_name()).collect();
            // `constant bool both = left && right;`: the name before the initializer reaches what is in it.
            let end = range.clone().find(|i| matches!(&*program.tokens[*i].text, "=" | "[" | "{")).unwrap_or(range.end);
            if let Some(name) = program.tokens[range.start..end].iter().rfind(|t| t.is_name()) {
                uses.entry(&*name.text).or_default().extend(words);
            }
        }
    }
    let entry = |kernel: &KernelFunction| {
        let mut seen: HashSet<&str> = HashSet::new();
        // The kernel, and functions that are its template's arguments.
        let names = kernel.callee.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|name| !name.is_empty());
        let mut open: Vec<&str> = names.collect();
        open.extend(kernel.parameters.iter().filter_map(|p| p.condition.as_deref()));
        while let Some(name) = open.pop() {
            if seen.insert(name) {
                open.extend(uses.get(name).into_iter().flatten().map(|t| &*t.text));
            }
        }
        let constants = constants.iter().filter(|c| seen.contains(&*c.name)).cloned().collect();
        Entry { name: kernel.name.clone(), constants }
    };
    program.kernels.iter().map(entry).collect()
}

fn entries_text(entries: &[Entry]) -> String {
    let mut text = String::new();
    for entry in entries {
        let _ = writeln!(text, "kernel\t{}", entry.name);
        for constant in &entry.constants {
            let _ = writeln!(text, "constant\t{}\t{}\t{}", constant.index, constant.type_name, constant.name);
        }
    }
    text + "end\n"
}

fn entries_from(text: &str) -> Option<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in text.strip_suffix("end\n")?.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        match fields[..] {
            ["kernel", name] => entries.push(Entry { name: name.into(), constants: Vec::new() }),
            ["constant", index, type_name, name] => entries.last_mut()?.constants.push(FunctionConstant {
                name: name.into(),
                index: index.parse().ok()?,
                type_name: type_name.into(),
            }),
            _ => return None,
        }
    }
    Some(entries)
}

fn kernel_text(kernel: &Kernel) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}\t{}", kernel.name, kernel.entry);
    let _ = writeln!(text, "{}\t{}", kernel.static_threadgroup_bytes, kernel.max_threads);
    for argument in &kernel.arguments {
        let kind = match argument.kind {
            ArgumentKind::Device => "device",
            ArgumentKind::Constant => "constant",
            ArgumentKind::Threadgroup => "threadgroup",
        };
        let _ = writeln!(text, "{kind}\t{}\t{}", argument.index, argument.name);
    }
    text + "end\n"
}

fn kernel_from(text: &str, code: &std::path::Path) -> Option<Kernel> {
    let mut lines = text.strip_suffix("end\n")?.lines();
    let (name, entry) = lines.next()?.split_once('\t')?;
    let (bytes, threads) = lines.next()?.split_once('\t')?;
    let mut arguments = Vec::new();
    for line in lines {
        let mut fields = line.split('\t');
        let kind = match fields.next()? {
            "device" => ArgumentKind::Device,
            "constant" => ArgumentKind::Constant,
            "threadgroup" => ArgumentKind::Threadgroup,
            _ => return None,
        };
        let index = fields.next()?.parse().ok()?;
        arguments.push(Argument { name: fields.next()?.into(), kind, index });
    }
    Some(Kernel {
        name: name.into(),
        entry: entry.into(),
        arguments,
        static_threadgroup_bytes: bytes.parse().ok()?,
        max_threads: threads.parse().ok()?,
        code: Arc::new(code.to_path_buf()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs cut off or with a token missing must not bring the passes down, only the program.
    #[test]
    fn mutilated_programs_do_not_panic() {
        let text = include_str!("../../tests/language.metal");
        let source = Source { text: text.into(), language_version: 0x3_0001, macros: Vec::new(), fast_math: true };
        let all = lexer::tokens(&format!("# 1 \"{}\"\n{text}", clang::FILE), text, clang::FILE);
        let survive = |tokens: Vec<Token>| {
            if lexer::unbalanced(&tokens).is_none() {
                let program = Program::parse(tokens);
                let _ = (
                    rules::check(&program, &source),
                    rules::may_refuse_lowered(&program).is_some(),
                    entries_of(&program),
                );
                Rewriter::new(&program).write();
            }
        };
        for at in (0..all.len()).step_by(3) {
            survive(all[..at].to_vec());
            survive(all[at..].to_vec());
            survive([&all[..at], &all[at + 1..]].concat());
        }
    }
}
