//! Checks and compiles `.metal` files without a Mac: `mslc FILE.metal`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use metal_standin::compiler::{ConstantValue, Library, Source, Target};

const USAGE: &str = "\
mslc FILE.metal [options]
Checks a program in the Metal Shading Language and lists its kernels; with --function, compiles one.

  --std VERSION        language version, 3.1 by default
  --target cpu|nvidia  what to compile for: LLVM IR (default) or PTX
  --function NAME      the kernel to compile; `all` compiles each
  --constant I=VALUE   a function constant: true, 3, 3u or 3.0
  --any-constants      function constants that are not given are 1
  --define NAME=VALUE  a preprocessor macro
  --no-fast-math       IEEE arithmetic
  -I DIRECTORY         where #include \"…\" is looked for too
  -o FILE              where the compiled kernel goes; standard output without it

  mslc norm.metal
  mslc norm.metal --function rms_norm --target nvidia -o norm.ptx";

struct Options {
    file: PathBuf,
    source: Source,
    target: Target,
    function: Option<String>,
    constants: Vec<(u32, ConstantValue)>,
    any_constants: bool,
    include: Vec<PathBuf>,
    output: Option<PathBuf>,
}

fn options() -> Result<Options, String> {
    let mut arguments = std::env::args().skip(1);
    let source = Source { text: String::new(), language_version: 0x3_0001, macros: Vec::new(), fast_math: true };
    let mut options = Options {
        file: PathBuf::new(),
        source,
        target: Target::Cpu,
        function: None,
        constants: Vec::new(),
        any_constants: false,
        include: Vec::new(),
        output: None,
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} wants a value"));
        match &*argument {
            "--std" => {
                let text = value()?;
                let (major, minor) = text.split_once('.').ok_or(format!("--std {text}: want 3.1"))?;
                let number = |n: &str| n.parse::<u32>().map_err(|_| format!("--std {text}: want 3.1"));
                options.source.language_version = number(major)? << 16 | number(minor)?;
            }
            "--target" => {
                options.target = match &*value()? {
                    "cpu" => Target::Cpu,
                    "nvidia" => Target::Nvidia,
                    other => return Err(format!("--target {other}: want cpu or nvidia")),
                }
            }
            "--function" => options.function = Some(value()?),
            "--constant" => {
                let text = value()?;
                let (index, number) = text.split_once('=').ok_or(format!("--constant {text}: want INDEX=VALUE"))?;
                let index = index.parse().map_err(|_| format!("--constant {text}: want INDEX=VALUE"))?;
                options.constants.push((index, constant(number).ok_or(format!("--constant {text}: no such value"))?));
            }
            "--define" => {
                let text = value()?;
                let (name, body) = text.split_once('=').unwrap_or((&text, "1"));
                options.source.macros.push((name.into(), body.into()));
            }
            "--any-constants" => options.any_constants = true,
            "--no-fast-math" => options.source.fast_math = false,
            "-I" => options.include.push(value()?.into()),
            "-o" => options.output = Some(value()?.into()),
            "-h" | "--help" => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            _ if options.file.as_os_str().is_empty() && !argument.starts_with('-') => options.file = argument.into(),
            _ => return Err(format!("{argument}: no such option")),
        }
    }
    if options.file.as_os_str().is_empty() { Err("which file?".into()) } else { Ok(options) }
}

fn constant(text: &str) -> Option<ConstantValue> {
    Some(match text {
        "true" => ConstantValue::Bool(true),
        "false" => ConstantValue::Bool(false),
        _ if text.contains('.') => ConstantValue::Float(text.parse().ok()?),
        _ => match text.strip_suffix('u') {
            Some(digits) => ConstantValue::UInt(digits.parse().ok()?),
            None => ConstantValue::Int(text.parse().ok()?),
        },
    })
}

/// 1 in a type.
fn one(type_name: &str) -> ConstantValue {
    match type_name {
        "bool" => ConstantValue::Bool(true),
        "short" | "int16_t" => ConstantValue::Short(1),
        "ushort" | "uint16_t" => ConstantValue::UShort(1),
        "uint" | "uint32_t" => ConstantValue::UInt(1),
        "float" => ConstantValue::Float(1.0),
        _ => ConstantValue::Int(1),
    }
}

/// The file with each `#include "…"` in its place, once: Metal compiles one text at run time.
fn inlined(file: &Path, include: &[PathBuf], seen: &mut Vec<PathBuf>) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut result = String::new();
    for line in text.lines() {
        let name = line.trim().strip_prefix('#').map(str::trim_start).and_then(|l| l.strip_prefix("include"));
        let name = name.and_then(|l| l.trim().strip_prefix('"')).and_then(|l| l.split('"').next());
        let beside = file.parent().into_iter().map(Path::to_path_buf).chain(include.iter().cloned());
        match name.and_then(|name| beside.map(|d| d.join(name)).find(|p| p.is_file())) {
            Some(path) => {
                let path = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
                if !seen.contains(&path) {
                    seen.push(path.clone());
                    result.push_str(&inlined(&path, include, seen)?);
                }
            }
            None if line.trim() == "#pragma once" => {}
            None => result.push_str(line),
        }
        result.push('\n');
    }
    Ok(result)
}

pub fn run() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("mslc: {message}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match work(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn work(mut options: Options) -> Result<(), String> {
    options.source.text = inlined(&options.file, &options.include, &mut Vec::new())?;
    let start = Instant::now();
    let library = Library::compile(&options.source).map_err(|error| error.to_string())?;
    let names = library.function_names();
    eprintln!("checked in {} ms: {} kernels", start.elapsed().as_millis(), names.len());
    let Some(function) = &options.function else {
        for name in names {
            print_line(&name)?;
            for constant in library.function_constants(&name) {
                print_line(&format!("    constant {} {} [{}]", constant.type_name, constant.name, constant.index))?;
            }
        }
        return Ok(());
    };
    let all = function == "all";
    let mut failed = 0;
    for name in names.iter().filter(|name| all || *name == function) {
        let mut constants = options.constants.clone();
        for constant in library.function_constants(name) {
            if options.any_constants && !constants.iter().any(|(index, _)| *index == constant.index) {
                constants.push((constant.index, one(&constant.type_name)));
            }
        }
        let start = Instant::now();
        match library.build(name, &constants, options.target) {
            Ok(kernel) => {
                eprintln!(
                    "{name}: {} ms, {} bytes of threadgroup memory, at most {} threads",
                    start.elapsed().as_millis(),
                    kernel.static_threadgroup_bytes,
                    kernel.max_threads
                );
                for argument in &kernel.arguments {
                    eprintln!("    {:?}({}) {}", argument.kind, argument.index, argument.name);
                }
                if !all {
                    let code = std::fs::read_to_string(&*kernel.code).map_err(|error| error.to_string())?;
                    match &options.output {
                        Some(file) => std::fs::write(file, code).map_err(|e| format!("{}: {e}", file.display()))?,
                        None => print_line(&code)?,
                    }
                }
            }
            Err(error) => {
                failed += 1;
                eprintln!("{name}: {error}");
            }
        }
    }
    match (failed, all || names.contains(function)) {
        (0, true) => Ok(()),
        (0, false) => Err(format!("there is no kernel '{function}'; this file has: {}", names.join(", "))),
        (n, _) => Err(format!("{n} kernels failed")),
    }
}

/// A line on standard output; a reader that closed it has read enough.
fn print_line(line: &str) -> Result<(), String> {
    use std::io::Write as _;
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(|error| error.to_string()),
    }
}
