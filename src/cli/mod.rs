//! The command line: arguments, printing and progress; no maths. One file a command.

mod bench;
mod chat;
mod common;
mod detokenize;
mod devices;
mod generate;
mod imatrix;
mod inspect;
mod logits;
mod models;
mod perplexity;
mod pull;
mod quantize;
mod synth;
mod tokenize;
mod trace;
mod verify;

use clap::{Parser, Subcommand};
use std::io::ErrorKind;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "fs", version, about = "Failed Star: a small LLM inference engine, written to be read")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Continue a text
    Generate(generate::Args),
    /// Talk with a model
    Chat(chat::Args),
    /// Turn text into token ids
    Tokenize(tokenize::Args),
    /// Turn token ids into text
    Detokenize(detokenize::Args),
    /// Show a model's architecture, tensors, memory and cost
    Inspect(inspect::Args),
    /// Show the most likely next tokens
    Logits(logits::Args),
    /// Show every operation of the forward pass: shapes, bytes, arithmetic, values, and what the model thinks after each layer
    Trace(trace::Args),
    /// Check a model, layer by layer, against recorded outputs of the official implementation
    Verify(verify::Args),
    /// Measure how well a model predicts a text, and how far it is from another model
    Perplexity(perplexity::Args),
    /// Measure which columns of a model's matrices a text uses most, for `fs quantize`
    Imatrix(imatrix::Args),
    /// Write a model as one GGUF file, in fewer bits
    Quantize(quantize::Args),
    /// Download a model
    Pull(pull::Args),
    /// List the models on this machine
    Models(models::Args),
    /// Measure a model's speed, and the machine's limits beside it
    Bench(bench::Args),
    /// List what a model can run on here, and why something cannot
    Devices(devices::Args),
    /// Make a full-size model with random weights, to time its shape
    Synth(synth::Args),
}

/// Runs the command line; the result is the process's exit code: 1 for a failure, 2 for wrong usage.
pub fn run() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => return explain(&error),
    };
    let result = common::catch_file_size_limit().and_then(|()| match command {
        Command::Generate(args) => generate::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Tokenize(args) => tokenize::run(args).map(done),
        Command::Detokenize(args) => detokenize::run(args).map(done),
        Command::Inspect(args) => inspect::run(args).map(done),
        Command::Logits(args) => logits::run(args),
        Command::Trace(args) => trace::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Imatrix(args) => imatrix::run(args),
        Command::Quantize(args) => quantize::run(args),
        Command::Pull(args) => pull::run(args).map(done),
        Command::Models(args) => models::run(args).map(done),
        Command::Bench(args) => bench::run(args),
        Command::Devices(args) => devices::run(args).map(done),
        Command::Synth(args) => synth::run(args),
    });
    match result {
        Ok(code) => code,
        // Whoever read our output has seen enough (`fs … | head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the help or version that was asked for, or what is wrong with the arguments.
fn explain(error: &clap::Error) -> ExitCode {
    match error.print() {
        Err(cause) if !error.use_stderr() && cause.kind() != ErrorKind::BrokenPipe => {
            eprintln!("error: cannot write to stdout: {cause}");
            ExitCode::FAILURE
        }
        _ => ExitCode::from(error.exit_code() as u8),
    }
}

/// Whether an error is that the reader of our output has gone.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        io.or_else(|| cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind))
    };
    error.chain().any(|cause| kind(cause) == Some(ErrorKind::BrokenPipe))
}
