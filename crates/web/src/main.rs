//! What a page's engine answers, on this machine: `fs-live MODEL.gguf` reads a request a line, and writes for each a line with
//! `{"answer": …}` or `{"error": "…"}`. The frames that pages show before anything runs are drawn with it, and the wasm module
//! is compared with it. `fs-live --record WHAT REPOSITORY` prints what a widget shows that needs no engine.

use failed_star_web::{Live, recorded, roofline};
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["--record", what, root] => record(what, Path::new(root)),
        [model] => serve(Path::new(model)),
        _ => {
            eprintln!(
                "usage: fs-live MODEL.gguf, and requests on stdin, one a line; fs-live --record file|microscope|roofline REPOSITORY"
            );
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fs-live: {error}");
            ExitCode::FAILURE
        }
    }
}

type Done = Result<(), Box<dyn std::error::Error>>;

fn record(what: &str, root: &Path) -> Done {
    let stories = root.join("models/stories");
    let data = match what {
        "file" => recorded::file_map(&stories)?,
        "microscope" => recorded::microscope(&stories)?,
        "roofline" => roofline::roofline(root)?,
        _ => return Err(format!("`{what}` is neither file, microscope nor roofline").into()),
    };
    println!("{data}");
    Ok(())
}

fn serve(model: &Path) -> Done {
    let mut live = Live::default();
    live.load(std::fs::read(model).map_err(|error| format!("{}: {error}", model.display()))?)?;
    // The order of sums that the module has with simd128: the same numbers, to the last bit.
    live.answer(br#"{"command": "backend", "name": "cpu", "simd": "scalar"}"#)?;
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        match live.answer(line?.as_bytes()) {
            Ok(answer) => {
                out.write_all(b"{\"answer\":")?;
                out.write_all(&answer)?;
                out.write_all(b"}\n")?;
            }
            Err(error) => writeln!(out, "{}", serde_json::json!({"error": error.to_string()}))?,
        }
        out.flush()?;
    }
    Ok(())
}
