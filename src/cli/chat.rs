//! `fs chat`: a conversation.

use super::common::{self, CacheArgs, INTERRUPTED, ModelArgs, SamplingArgs};
use anyhow::{Context, bail};
use failed_star::session::{Event, GenerateOptions, Session, SessionError, StopReason, Timings};
use failed_star::text::{ChatTemplate, Message, RenderOptions};
use rustyline::error::ReadlineError;
use std::io::{BufRead, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

/// Arguments of `fs chat`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fs chat
  fs chat --model qwen3-0.6b --no-think --system \"Answer in one sentence.\"
  echo \"Tell me a story about a cat who lost her hat\" | fs chat --seed 3

In a conversation, /help lists the commands; Ctrl-C stops an answer, Ctrl-D ends the conversation.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// What the model is told before the conversation
    #[arg(short, long, value_name = "TEXT", conflicts_with = "load")]
    system: Option<String>,
    /// Let the model think before it answers (where it can)
    #[arg(long, overrides_with = "no_think")]
    think: bool,
    /// Ask for answers without thinking
    #[arg(long, overrides_with = "think")]
    no_think: bool,
    /// The most tokens of one answer [default: until the context is full]
    #[arg(short = 'n', long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Continue a conversation that /save wrote
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// The commands of a conversation: name, argument, what it does.
const COMMANDS: [(&str, &str, &str); 10] = [
    ("/help", "", "show this list"),
    ("/system", "TEXT", "tell the model something before the conversation, which starts anew"),
    ("/think", "", "let the model think before it answers"),
    ("/nothink", "", "ask for answers without thinking"),
    ("/undo", "", "take back the last question and its answer"),
    ("/reset", "", "forget the conversation"),
    ("/save", "FILE", "write the conversation to a file"),
    ("/load", "FILE", "continue a conversation from a file"),
    ("/stats", "", "show speed, context and cache"),
    ("/quit", "", "end (so does Ctrl-D)"),
];

/// Who can say something.
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// Runs `fs chat`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    common::catch_interrupts()?;
    let engine = args.model.load()?;
    let template = engine.chat_template().with_context(|| {
        format!(
            "{} has no chat template (chat_template.jinja or tokenizer_config.json); try `fs generate`",
            engine.name()
        )
    })?;
    let options = GenerateOptions {
        sampling: args.sampling.params(&engine),
        max_tokens: args.max_tokens,
        stop_tokens: engine.stop_tokens(),
        ..GenerateOptions::default()
    };
    let mut chat = Chat {
        template,
        session: args.cache.session(&engine)?,
        options,
        messages: Vec::new(),
        enable_thinking: if args.think {
            Some(true)
        } else if args.no_think {
            Some(false)
        } else {
            None
        },
        quiet: args.model.device.quiet,
        last_timings: None,
        answers: 0,
        colours: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    };
    if let Some(system) = args.system {
        chat.set_system(system);
    }
    if let Some(file) = &args.load {
        chat.load(file)?;
    }
    let mut input = Input::new()?;
    while let Some(line) = input.next_line()? {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        if line.starts_with('/') {
            match chat.command(line) {
                Ok(ControlFlow::Break(())) => break,
                Ok(ControlFlow::Continue(())) => {}
                // A typing error in a command is no reason to lose a conversation.
                Err(error) if input.is_terminal() => eprintln!("error: {error:#}"),
                Err(error) => return Err(error),
            }
        } else {
            match chat.answer(line) {
                Ok(()) => {}
                Err(error) if is_interruption(&error) => eprintln!("(stopped)"),
                Err(error) if input.is_terminal() && !super::is_broken_pipe(&error) => eprintln!("error: {error:#}"),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Lines from a terminal with editing and history, or from a pipe.
enum Input {
    Terminal(Box<rustyline::DefaultEditor>, Option<PathBuf>),
    Pipe,
}

impl Input {
    fn new() -> anyhow::Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Pipe);
        }
        let mut editor = rustyline::DefaultEditor::new().context("cannot use the terminal")?;
        let history =
            failed_star::weights::model_directory().ok().and_then(|dir| Some(dir.parent()?.join("chat-history")));
        if let Some(history) = &history {
            // There is none the first time.
            let _ = editor.load_history(history);
        }
        eprintln!("/help lists the commands; Ctrl-C stops an answer, Ctrl-D ends the conversation");
        Ok(Self::Terminal(Box::new(editor), history))
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(..))
    }

    fn next_line(&mut self) -> anyhow::Result<Option<String>> {
        match self {
            Self::Pipe => {
                let mut bytes = Vec::new();
                let read = common::wait(|| std::io::stdin().lock().read_until(b'\n', &mut bytes));
                if read.context("stdin")? == 0 {
                    return Ok(None);
                }
                Ok(Some(common::utf8(bytes, "stdin")?))
            }
            Self::Terminal(editor, history) => loop {
                match common::wait(|| editor.readline("> ")) {
                    Ok(line) => {
                        let _ = editor.add_history_entry(&line);
                        if let Some(history) = history {
                            let _ = history.parent().map(std::fs::create_dir_all);
                            // A history that cannot be kept is no reason to stop talking.
                            let _ = editor.save_history(history);
                        }
                        return Ok(Some(line));
                    }
                    Err(ReadlineError::Interrupted) => eprintln!("(Ctrl-D or /quit ends the conversation)"),
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(error) => return Err(error).context("cannot read from the terminal"),
                }
            },
        }
    }
}

struct Chat<'a> {
    template: &'a ChatTemplate,
    session: Session,
    options: GenerateOptions,
    messages: Vec<Message>,
    enable_thinking: Option<bool>,
    quiet: bool,
    last_timings: Option<Timings>,
    /// Answers so far: each draws from a seed of its own, so that asking again after /undo gives another answer.
    answers: u64,
    colours: bool,
}

impl Chat<'_> {
    /// Asks and streams the answer to stdout. On an error the question is taken back.
    fn answer(&mut self, question: &str) -> anyhow::Result<()> {
        self.messages.push(message("user", question));
        match self.generate() {
            Ok(answer) => {
                self.messages.push(message("assistant", &answer));
                Ok(())
            }
            Err(error) => {
                self.messages.pop();
                Err(error)
            }
        }
    }

    fn generate(&mut self) -> anyhow::Result<String> {
        INTERRUPTED.store(false, Ordering::Relaxed);
        let engine = self.session.engine().clone();
        let render = RenderOptions {
            add_generation_prompt: true,
            enable_thinking: self.enable_thinking,
            ..RenderOptions::default()
        };
        let prompt = engine.tokenizer()?.encode(&self.template.render(&self.messages, &render)?);
        let bar = common::PromptBar::new(self.quiet);
        let mut screen = Screen { colours: self.colours, dimmed: false };
        let mut output = Ok(());
        let mut options = self.options.clone();
        options.sampling.seed = options.sampling.seed.wrapping_add(self.answers);
        self.answers += 1;
        let completion = self.session.generate(&prompt, &options, &mut |event| {
            match event {
                Event::Prefill { done, total } => bar.update(done, total),
                Event::Token(token) => {
                    bar.clear();
                    output = screen.print(&token.text, &mut common::stdout());
                }
                Event::Rest(text) => {
                    bar.clear();
                    output = screen.print(text, &mut common::stdout());
                }
            }
            if output.is_err() || INTERRUPTED.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        output?;
        screen.end(&mut common::stdout())?;
        match completion.stop_reason {
            StopReason::Interrupted => eprintln!("(stopped)"),
            StopReason::ContextFull => {
                eprintln!("(the context of {} tokens is full: /reset or /undo)", self.session.context())
            }
            _ => {}
        }
        self.last_timings = Some(completion.timings);
        Ok(without_thoughts(&completion.text).to_owned())
    }

    fn command(&mut self, line: &str) -> anyhow::Result<ControlFlow<()>> {
        let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let argument = argument.trim();
        match name {
            "/help" => {
                for (name, argument, what) in COMMANDS {
                    eprintln!("  {:<16} {what}", format!("{name} {argument}"));
                }
            }
            "/system" => {
                self.messages.clear();
                if !argument.is_empty() {
                    self.set_system(argument.to_owned());
                }
            }
            "/think" => self.enable_thinking = Some(true),
            "/nothink" => self.enable_thinking = Some(false),
            "/undo" => match self.messages.iter().rposition(|message| message.role == "user") {
                Some(question) => self.messages.truncate(question),
                None => bail!("there is nothing to undo"),
            },
            "/reset" => self.messages.retain(|message| message.role == "system"),
            "/save" => self.save(file_argument(name, argument)?)?,
            "/load" => self.load(file_argument(name, argument)?)?,
            "/stats" => self.stats(),
            "/quit" | "/exit" => return Ok(ControlFlow::Break(())),
            _ => bail!("there is no command {name}; /help lists them"),
        }
        Ok(ControlFlow::Continue(()))
    }

    fn set_system(&mut self, text: String) {
        self.messages.insert(0, message("system", &text));
    }

    fn save(&self, file: &Path) -> anyhow::Result<()> {
        let json = serde_json::to_vec_pretty(&self.messages)?;
        // Written beside under a name that nobody has, then renamed: a full disk leaves an earlier save as it was.
        let mut beside = file.as_os_str().to_owned();
        beside.push(format!(".{}.partial", std::process::id()));
        let beside = PathBuf::from(beside);
        let failed = || format!("cannot write {}", file.display());
        let mut partial = std::fs::File::create_new(&beside).with_context(failed)?;
        let written = partial.write_all(&json).and_then(|()| partial.sync_all());
        written.and_then(|()| std::fs::rename(&beside, file)).with_context(failed).inspect_err(|_| {
            let _ = std::fs::remove_file(&beside);
        })?;
        eprintln!("{} written to {}", common::count(self.messages.len(), "message"), file.display());
        Ok(())
    }

    fn load(&mut self, file: &Path) -> anyhow::Result<()> {
        let json = std::fs::read(file).with_context(|| file.display().to_string())?;
        let messages: Vec<Message> =
            serde_json::from_slice(&json).with_context(|| format!("{}: not a saved conversation", file.display()))?;
        if let Some(wrong) = messages.iter().find(|m| !ROLES.contains(&m.role.as_str())) {
            bail!("{}: role {:?}, expected one of {}", file.display(), wrong.role, ROLES.join(", "));
        }
        self.messages = messages;
        eprintln!("{} read from {}", common::count(self.messages.len(), "message"), file.display());
        Ok(())
    }

    fn stats(&self) {
        let used = self.session.tokens().len();
        let cache = used * self.session.kv_bytes_per_token();
        eprintln!("context: {used} of {} tokens, {:.1} MB of KV cache", self.session.context(), cache as f64 / 1e6);
        match &self.last_timings {
            Some(timings) => eprintln!("last answer: {}", common::speed_line(&self.session, timings)),
            None => eprintln!("no answer yet"),
        }
        eprintln!("seed {}", self.options.sampling.seed);
    }
}

/// Ctrl-C while the prompt was being read.
fn is_interruption(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(SessionError::Interrupted { .. }))
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.into(), content: content.into(), ..Message::default() }
}

fn file_argument<'a>(command: &str, argument: &'a str) -> anyhow::Result<&'a Path> {
    if argument.is_empty() {
        bail!("{command} needs a file name");
    }
    Ok(Path::new(argument))
}

/// The answer without the thoughts before it: templates do not want to see them again. Thoughts that were broken off
/// are no answer.
fn without_thoughts(answer: &str) -> &str {
    let answer = answer.trim();
    match answer.strip_prefix("<think>") {
        Some(thoughts) => thoughts.split_once("</think>").map_or("", |(_, answer)| answer.trim()),
        None => answer,
    }
}

/// Streams an answer to stdout, thoughts dimmed where there are colours.
struct Screen {
    colours: bool,
    dimmed: bool,
}

impl Screen {
    fn print(&mut self, text: &str, out: &mut impl Write) -> anyhow::Result<()> {
        // `<think>` and `</think>` are single tokens, so they never come in parts.
        if self.colours && text.contains("<think>") {
            out.write_all(b"\x1b[2m")?;
            self.dimmed = true;
        }
        out.write_all(text.as_bytes())?;
        if self.dimmed && text.contains("</think>") {
            self.brighten(out)?;
        }
        out.flush()?;
        Ok(())
    }

    fn end(&mut self, out: &mut impl Write) -> anyhow::Result<()> {
        self.brighten(out)?;
        out.write_all(b"\n")?;
        out.flush()?;
        Ok(())
    }

    fn brighten(&mut self, out: &mut impl Write) -> std::io::Result<()> {
        if std::mem::take(&mut self.dimmed) { out.write_all(b"\x1b[0m") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Screen, without_thoughts};

    fn shown(colours: bool, tokens: &[&str]) -> String {
        let (mut screen, mut out) = (Screen { colours, dimmed: false }, Vec::new());
        for token in tokens {
            screen.print(token, &mut out).unwrap();
        }
        screen.end(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn thoughts_are_dimmed_on_a_terminal_only_and_never_past_their_end() {
        let answer = ["<think>", "hm", "</think>", "Yes."];
        assert_eq!(shown(true, &answer), "\x1b[2m<think>hm</think>\x1b[0mYes.\n");
        assert_eq!(shown(false, &answer), "<think>hm</think>Yes.\n");
        assert_eq!(shown(true, &answer[..2]), "\x1b[2m<think>hm\x1b[0m\n", "an answer that was broken off");
    }

    #[test]
    fn thoughts_are_left_out_and_nothing_else() {
        assert_eq!(without_thoughts("<think>\nhm\n</think>\n\nYes."), "Yes.");
        assert_eq!(without_thoughts("<think>\nbroken off"), "");
        assert_eq!(without_thoughts("The tag </think> ends a thought."), "The tag </think> ends a thought.");
    }
}
