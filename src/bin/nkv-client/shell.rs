//! The shell: commands from a terminal, with line editing, or from a pipe, without.
//!
//! Both carry out the same commands by the same words. What differs is what happens around them: a
//! terminal gets a prompt, a history, completion and a farewell, and a failed command is forgotten;
//! from a pipe the first failure becomes the exit code, though the commands after it are carried out,
//! unless the daemon can't be reached.
//!
//! `subscribe` doesn't block the shell: a thread follows, on a connection of its own so that it can
//! reconnect, and prints between the lines that are being typed. When a pipe ends while there are
//! subscriptions, they go on until the program is interrupted, as they do for a client that
//! half-closes its socket; `quit` ends them.
//!
//! Words are taken apart as a POSIX shell does, quotes included: `put a '"1"'` puts a string.

use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use clap::Parser;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor, ExternalPrinter};

use crate::arguments::{ShellCommand, ShellLine, Subscribe, checked, shell_words};
use crate::commands::{Runner, print_line};
use crate::completion::Completer;
use crate::failure::{Failure, NOT_MET, UNREACHABLE, USAGE, plain};
use crate::follow::{Follower, Notice};
use crate::interrupt::{Interrupts, Stopper};
use crate::subscribe;

/// How many lines the history keeps.
const HISTORY_LINES_MAX: usize = 1000;

/// Where the lines of subscriptions go.
type Printer = Arc<Mutex<dyn FnMut(&str) -> Result<(), Failure> + Send>>;

/// A shell between two lines.
pub(crate) struct Shell {
    runner: Runner,
    printer: Printer,
    subscriptions: BTreeMap<String, Running>,
}

/// A subscription that goes on while one types.
struct Running {
    stopper: Arc<Stopper>,
    thread: JoinHandle<()>,
}

/// What comes after a line.
enum Next {
    Line,
    End,
}

/// Reads commands until the input ends.
pub(crate) fn run(mut runner: Runner) -> Result<(), Failure> {
    runner.stays = true;
    runner.is_interactive = io::stdin().is_terminal() && io::stdout().is_terminal();
    if runner.is_interactive {
        on_terminal(runner)
    } else {
        on_pipe(runner)
    }
}

fn on_terminal(mut runner: Runner) -> Result<(), Failure> {
    let client = runner.daemon.client()?;
    print_line(&format!(
        "{} at {}; 'help' lists commands",
        client.server(),
        runner.daemon.target.address
    ))?;
    let cannot_edit =
        |error: ReadlineError| Failure::new(NOT_MET, format!("cannot use the terminal: {error}"));
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .history_ignore_dups(true)
        .map_err(cannot_edit)?
        .history_ignore_space(true)
        .max_history_size(HISTORY_LINES_MAX)
        .map_err(cannot_edit)?
        .build();
    let mut editor: Editor<Completer, FileHistory> =
        Editor::with_config(config).map_err(cannot_edit)?;
    let interrupts = Interrupts::take(&[signal_hook::consts::SIGINT])
        .map_err(|error| cannot_edit(error.into()))?;
    let history = history_path();
    if let Some(path) = &history {
        // There is none the first time.
        drop(editor.load_history(path));
    }
    let mut external = editor.create_external_printer().map_err(cannot_edit)?;
    let printer: Printer = Arc::new(Mutex::new(move |line: &str| {
        external
            .print(format!("{line}\n"))
            .map_err(|error| Failure::new(NOT_MET, error.to_string()))
    }));
    let mut shell = Shell {
        runner,
        printer,
        subscriptions: BTreeMap::new(),
    };
    editor.set_helper(Some(Completer::default()));
    loop {
        if let Some(helper) = editor.helper_mut() {
            helper.client = shell.runner.daemon.connected().cloned();
        }
        match editor.readline("nkv> ") {
            Ok(line) => {
                remember(&mut editor, &line, history.as_deref());
                shell.runner.stopper = Arc::default();
                interrupts.end(&shell.runner.stopper, shell.runner.daemon.connected());
                if let Next::End = shell.lines(&line) {
                    break;
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(cannot_edit(error)),
        }
    }
    Ok(())
}

/// Adds a line to the history at once, so that an interrupted shell loses nothing. A history that
/// can't be written is no reason to fail.
fn remember(editor: &mut Editor<Completer, FileHistory>, line: &str, history: Option<&Path>) {
    let is_new = editor.add_history_entry(line).unwrap_or(false);
    if let (true, Some(path)) = (is_new, history) {
        drop(editor.append_history(path));
    }
}

fn on_pipe(runner: Runner) -> Result<(), Failure> {
    let printer: Printer = Arc::new(Mutex::new(print_line));
    let mut shell = Shell {
        runner,
        printer,
        subscriptions: BTreeMap::new(),
    };
    let mut first_failure = None;
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|error| {
            Failure::new(
                USAGE,
                format!("cannot read the commands: {}", plain(&error)),
            )
        })?;
        match shell.line(&line) {
            Ok(Next::Line) => {}
            Ok(Next::End) => return first_failure.map_or(Ok(()), Err),
            Err(failure) if failure.is_reader_gone() || failure.code == UNREACHABLE => {
                return Err(first_failure.unwrap_or(failure));
            }
            Err(failure) => {
                complain(&failure);
                let code = failure.code;
                first_failure.get_or_insert(Failure::new(code, ""));
            }
        }
    }
    for (_, running) in shell.subscriptions {
        drop(running.thread.join());
    }
    first_failure.map_or(Ok(()), Err)
}

impl Shell {
    /// What was typed at once: a line, or several where they were pasted.
    fn lines(&mut self, typed: &str) -> Next {
        for line in typed.lines() {
            match self.line(line) {
                Ok(Next::Line) => {}
                Ok(Next::End) => return Next::End,
                Err(failure) => complain(&failure),
            }
        }
        Next::Line
    }

    fn line(&mut self, line: &str) -> Result<Next, Failure> {
        let words = shell_words(line)
            .map_err(|_| Failure::new(USAGE, "a quote is open at the end of the line"))?;
        if words.is_empty() || words[0].starts_with('#') {
            return Ok(Next::Line);
        }
        let command = match ShellLine::try_parse_from(words) {
            Ok(line) => line.command,
            Err(error) if error.use_stderr() => {
                return Err(Failure::new(USAGE, first_paragraph(&error)));
            }
            // Help was asked for.
            Err(help) => {
                print_line(help.render().to_string().trim_end())?;
                return Ok(Next::Line);
            }
        };
        let done = match command {
            ShellCommand::Quit => return Ok(Next::End),
            ShellCommand::Unsubscribe { pattern } => self.unsubscribe(pattern.as_deref()),
            ShellCommand::Common(crate::arguments::Command::Subscribe(arguments)) => {
                self.subscribe(arguments)
            }
            ShellCommand::Release { key } => self.runner.release(&key),
            ShellCommand::Common(command) => self.runner.run(command),
        };
        if let Err(failure) = &done
            && failure.is_disconnect
        {
            self.runner.daemon.forget();
        }
        done.map(|()| Next::Line)
    }

    /// Follows on a thread of its own.
    fn subscribe(&mut self, arguments: Subscribe) -> Result<(), Failure> {
        self.subscriptions
            .retain(|_, running| !running.thread.is_finished());
        let pattern = arguments.pattern.clone();
        checked(&pattern)?;
        if self.subscriptions.contains_key(&pattern) {
            let message = format!("{pattern} is subscribed to already; unsubscribe ends that");
            return Err(Failure::new(NOT_MET, message));
        }
        let is_interactive = self.runner.is_interactive;
        let printer = Arc::clone(&self.printer);
        let notice: Notice = Arc::new(move |text: &str| {
            if is_interactive {
                drop(print_with(&printer, text));
            } else {
                subscribe::notice(text);
            }
        });
        let stopper: Arc<Stopper> = Arc::default();
        let link = self.runner.daemon.target.link();
        let wanted = subscribe::wanted(&link, &arguments)?;
        let mut follower = Follower::start(wanted, &stopper, notice)?;
        let printer = Arc::clone(&self.printer);
        let style = self.runner.style;
        let thread = std::thread::spawn(move || {
            let mut print = |line: &str| print_with(&printer, line);
            match subscribe::run(&mut follower, &arguments, style, &mut print) {
                Err(failure) if failure.is_reader_gone() => std::process::exit(0),
                Err(failure) => complain(&failure.during(&arguments.pattern)),
                Ok(()) => {}
            }
        });
        self.subscriptions
            .insert(pattern, Running { stopper, thread });
        Ok(())
    }

    fn unsubscribe(&mut self, pattern: Option<&str>) -> Result<(), Failure> {
        let ended = match pattern {
            None => std::mem::take(&mut self.subscriptions),
            Some(pattern) => match self.subscriptions.remove_entry(pattern) {
                Some(entry) => BTreeMap::from([entry]),
                None => {
                    let message = format!("{pattern} is not subscribed to");
                    return Err(Failure::new(NOT_MET, message));
                }
            },
        };
        // Not waited for: at a terminal its thread may be waiting for the next prompt to print.
        for running in ended.into_values() {
            running.stopper.stop();
        }
        Ok(())
    }
}

fn print_with(printer: &Printer, line: &str) -> Result<(), Failure> {
    let mut print = printer.lock().unwrap_or_else(PoisonError::into_inner);
    print(line)
}

fn complain(failure: &Failure) {
    eprintln!("nkv-client: {}", failure.message);
}

/// What is wrong, without the usage that follows after it.
fn first_paragraph(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    paragraph.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `$XDG_STATE_HOME/nkv/history`, in a directory that is made if missing; `None` without a home.
fn history_path() -> Option<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state =
        absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    let directory = state.join("nkv");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .ok()?;
    Some(directory.join("history"))
}
