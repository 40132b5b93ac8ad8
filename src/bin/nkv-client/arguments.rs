//! The command line, and the lines of the shell, which are the same commands and a few more.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory, Parser, Subcommand};
use nkv::client::{Error, Lifetime};
use nkv::{Address, Pattern};

use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  nkv-client put net.eth0.mtu 1500        a number; JSON is taken as JSON, else it is a string
  nkv-client get net.eth0.mtu
  nkv-client get 'net.*'                  'key value' lines of the whole subtree
  nkv-client subscribe 'net.*.up'         prints changes until it is interrupted
  nkv-client subscribe net --exec 'logger \"$NKV_KEY changed\"'
  nkv-client wait db.ready true --timeout 30s
  nkv-client announce present.web true -- ./web-server   there as long as the command runs
  nkv-client put leader '\"me\"' --if-rev 0 --ttl 30s
  nkv-client claim lock.backup --wait ./backup    one at a time
  nkv-client export > backup.jsonl        and back: nkv-client import backup.jsonl
  nkv-client localhost:4222               a shell on the daemon at that address
  echo 'get net.eth0.mtu' | nkv-client    the shell's commands from a pipe

Exit codes: 0 done, 1 no such key or condition not met, 2 usage, 3 cannot connect or connection lost,
4 refused by the server, 124 --timeout ran out.";

/// The shortest interval of `top`.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

const SHELL_HELP: &str = "\
Words are taken apart as by a POSIX shell, so JSON stands in quotes: put a '{\"x\": 1}'
'help COMMAND' tells more about a command.";

/// Reads, writes and follows the keyspace of an nkv daemon.
///
/// Without a COMMAND: an interactive shell on a terminal, or the same commands line by line from a
/// pipe. Commands may be written in any case.
#[derive(Parser)]
#[command(name = "nkv-client", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Where the daemon is: a path, HOST:PORT, or a port on localhost
    ///
    /// The first argument may be an ADDRESS without -a. By default $NKV_ADDRESS, else the first
    /// socket that there is at $XDG_RUNTIME_DIR/nkv.sock, /tmp/nkv-UID/nkv.sock, /run/nkv.sock.
    #[arg(short, long, value_name = "ADDRESS")]
    pub(crate) address: Option<Address>,

    /// A file with the token that a daemon asks of TCP clients
    #[arg(long, env = "NKV_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Print a key's value, or 'key value' lines for a pattern
    ///
    /// A pattern has '*' segments: in the middle one segment, at the end a whole subtree.
    /// Raw bytes go to a pipe as they are; elsewhere they are shown as base64:....
    Get(Get),
    /// Give a key a value
    ///
    /// VALUE is taken as JSON if it is JSON, else as a string. With --lifetime session the
    /// program holds on until it is interrupted, and the entry goes with it.
    Put(Put),
    /// Delete a key, or all keys of a pattern, and say how many there were
    #[command(visible_alias = "del")]
    Delete(Delete),
    /// Print changes as they come, reconnecting and resuming by itself
    ///
    /// The current entries come first. Values are printed as 'key value' lines, deletions as
    /// 'key (deleted)'. After a lost connection nothing is printed twice, unless the daemon has
    /// lost its history: then all current entries are printed, after a note on stderr (with
    /// --json, after a reset event).
    #[command(visible_alias = "sub")]
    Subscribe(Subscribe),
    /// Wait until a key exists, has a value, or is gone
    Wait(Wait),
    /// Keep a session entry there until interrupted, or as long as a command runs
    ///
    /// The entry comes back when the daemon was away. VALUE is taken as JSON if it is JSON, else as
    /// a string. With a COMMAND the exit code is the command's; SIGTERM and SIGHUP are passed on to
    /// it. In the shell the entry stays as long as the shell.
    Announce(Announce),
    /// Keep everybody else from writing below a key, until interrupted or as long as a command runs
    ///
    /// The claim is of the key and all that lies below it, and belongs to this program: a COMMAND can't
    /// write there either, so it is a lock for it. It comes back when the daemon was away. When somebody
    /// else has it by then, or may have had it, the command gets SIGTERM. With a COMMAND the exit code is the command's;
    /// SIGTERM and SIGHUP are passed on to it. In the shell the claim is the shell's, until release.
    Claim(Claim),
    /// Keep a directory of files, one a key, in step with a part of the keyspace, until interrupted
    ///
    /// A file's name is its key, with %2F for a '/', its text what get prints. Files are replaced by
    /// renaming. DIR is made where it is missing, has to be empty the first time, and is the mirror's
    /// own from then on: files of keys that there are no more are removed. While the files are
    /// exactly one state of the keyspace, .synced in it has the revision.
    Mirror(Mirror),
    /// Draw the keyspace as a tree
    Tree(Tree),
    /// Carry out operations, JSON lines from a file or stdin, all or nothing
    ///
    /// One operation a line, as in the protocol: {"op":"put","key":"a","value":1},
    /// {"op":"delete","key":"b.*"}, {"op":"check","key":"c","if_rev":7}.
    Batch(FromFile),
    /// Write the keyspace, or the keys of a pattern, as JSON lines
    ///
    /// Entries of lifetime 'session' belong to other programs' connections and are left out.
    Export(Export),
    /// Put the entries that export wrote, from a file or stdin
    Import(FromFile),
    /// Write what a subscriber sees, with times, as JSON lines, until interrupted
    ///
    /// For bug reports: replay does it again. It begins and ends with the daemon's counters. Keys
    /// are always recorded, values unless --no-values is given.
    Record(Record),
    /// Do again what was recorded: the same changes in the same order, with the same pauses
    ///
    /// Entries become durable, whatever they were. It is meant for a daemon of its own: where there
    /// are keys already it asks for --yes.
    Replay(Replay),
    /// Show the daemon's counters
    Stats(Stats),
    /// Show what the daemon is doing: rates, connections, how far they are behind, hottest keys
    ///
    /// On a terminal until 'q' is typed; elsewhere as plain text, once an interval. What it causes
    /// itself is left out of the rates.
    Top(Top),
    /// Show who is connected
    Clients(Listing),
    /// Ask the daemon for a sign of life
    Ping(Listing),
    /// Write a completion script for a shell
    Completions {
        /// bash, elvish, fish, powershell or zsh.
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
pub(crate) struct Get {
    /// A key, or a pattern with '*'.
    #[arg(value_name = "KEY|PATTERN")]
    pub(crate) pattern: String,
    /// Only the keys.
    #[arg(short, long, conflicts_with_all = ["json", "raw"])]
    pub(crate) keys: bool,
    /// One JSON object an entry, with revision and lifetime.
    #[arg(short, long)]
    pub(crate) json: bool,
    /// JSON strings without their quotes and escapes.
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) raw: bool,
}

#[derive(Args)]
pub(crate) struct Put {
    /// A key.
    pub(crate) key: String,
    /// The value; '-' reads it from stdin.
    #[arg(
        required_unless_present = "file",
        conflicts_with = "file",
        allow_negative_numbers = true
    )]
    pub(crate) value: Option<String>,
    /// Take the value from a file.
    #[arg(short, long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
    /// Take the value as a string even if it is JSON.
    #[arg(short, long, conflicts_with = "bytes")]
    pub(crate) string: bool,
    /// Take the value as raw bytes.
    #[arg(short, long)]
    pub(crate) bytes: bool,
    /// How long the entry lives: on disk, until a reboot, or as long as this program.
    #[arg(short, long, value_parser = lifetimes())]
    pub(crate) lifetime: Option<Lifetime>,
    /// Delete it after this time unless it is put again (30s, 500ms, 2m).
    #[arg(short, long, value_name = "DURATION", value_parser = duration)]
    pub(crate) ttl: Option<Duration>,
    /// Only if the key's revision is this; 0: only if there is no such key.
    #[arg(long, value_name = "REV")]
    pub(crate) if_rev: Option<u64>,
    /// Change nothing and notify nobody if the value is there already.
    #[arg(long)]
    pub(crate) if_changed: bool,
}

#[derive(Args)]
pub(crate) struct Delete {
    /// A key, or a pattern with '*'.
    #[arg(value_name = "KEY|PATTERN")]
    pub(crate) pattern: String,
    /// Only if the key's revision is this.
    #[arg(long, value_name = "REV")]
    pub(crate) if_rev: Option<u64>,
}

#[derive(Args, Clone)]
pub(crate) struct Subscribe {
    /// A key, or a pattern with '*'. What lies below is told too.
    #[arg(value_name = "KEY|PATTERN")]
    pub(crate) pattern: String,
    /// Only keys that match, not what lies below them.
    #[arg(short = 'x', long)]
    pub(crate) exact: bool,
    /// Leave the current entries out.
    #[arg(short, long)]
    pub(crate) changes_only: bool,
    /// One JSON object an event, sync and reset included.
    #[arg(short, long)]
    pub(crate) json: bool,
    /// End after so many puts and deletes.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Run a command (with sh -c) at each change instead of printing it.
    ///
    /// Its environment has NKV_KEY, NKV_EVENT (put or delete) and NKV_REV, its stdin the value.
    /// What changes while it runs is coalesced: it runs once for each key, with the newest value.
    #[arg(short, long, value_name = "COMMAND", conflicts_with = "json")]
    pub(crate) exec: Option<String>,
    /// Run the command once for all that has changed, and not for each key.
    ///
    /// Its stdin has one JSON object a key, as --json prints them, its environment only NKV_REV.
    /// A batch is never split. The current entries are the first burst, even where there are none.
    #[arg(short, long, requires = "exec")]
    pub(crate) burst: bool,
}

#[derive(Args)]
pub(crate) struct Wait {
    /// A key.
    pub(crate) key: String,
    /// Wait for this value (JSON if it is JSON, else a string). One that is there only for a
    /// moment may be missed.
    #[arg(conflicts_with = "gone", allow_negative_numbers = true)]
    pub(crate) value: Option<String>,
    /// Wait until there is no such key.
    #[arg(short, long)]
    pub(crate) gone: bool,
    /// Give up after this time, with exit code 124 (30s, 500ms, 2m).
    #[arg(short, long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Args)]
pub(crate) struct Announce {
    /// A key.
    pub(crate) key: String,
    /// The value; '-' reads it from stdin.
    #[arg(allow_negative_numbers = true)]
    pub(crate) value: String,
    /// Take the value as a string even if it is JSON.
    #[arg(short, long)]
    pub(crate) string: bool,
    /// What to run meanwhile.
    #[arg(last = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Args)]
pub(crate) struct Claim {
    /// A key.
    pub(crate) key: String,
    /// Wait until it is free, and don't fail where somebody else has it.
    #[arg(short, long)]
    pub(crate) wait: bool,
    /// Give up waiting after this time, with exit code 124 (30s, 500ms, 2m).
    #[arg(short, long, value_name = "DURATION", value_parser = duration, requires = "wait")]
    pub(crate) timeout: Option<Duration>,
    /// What to run meanwhile, with its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Args)]
pub(crate) struct Record {
    /// A key, with what lies below it, or a pattern with '*'.
    #[arg(default_value = "*")]
    pub(crate) pattern: String,
    /// Only the size and kind of values.
    #[arg(long)]
    pub(crate) no_values: bool,
    /// Write to a file and not to stdout.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// End after this time (30s, 500ms, 2m).
    #[arg(short, long, value_name = "DURATION", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
}

#[derive(Args)]
pub(crate) struct Replay {
    /// What record wrote; '-' is stdin.
    pub(crate) file: PathBuf,
    /// How much faster than it was (0.5, 10), or 'max' for without pauses.
    #[arg(short, long, value_name = "FACTOR", default_value = "1", value_parser = speed)]
    pub(crate) speed: f64,
    /// Even where there are keys already.
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Args)]
pub(crate) struct Top {
    /// How long to count before showing (1s, 500ms).
    #[arg(short, long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub(crate) interval: Duration,
    /// End after so many intervals.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Which keys to count changes of: a key, with what lies below it, or a pattern with '*'.
    ///
    /// The changes are counted by subscribing, so the daemon sends each to this program, values
    /// included. Several changes of a key that come faster than they are read count as one.
    #[arg(short, long, value_name = "PATTERN", default_value = "*")]
    pub(crate) keys: String,
    /// Subscribe to nothing, and show no keys.
    #[arg(long, conflicts_with = "keys")]
    pub(crate) no_keys: bool,
}

#[derive(Args)]
pub(crate) struct Mirror {
    /// Where the files are to be.
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(crate) directory: PathBuf,
    /// A key, with what lies below it, or a pattern with '*'.
    #[arg(value_name = "KEY|PATTERN")]
    pub(crate) pattern: String,
    /// Only keys that match, not what lies below them.
    #[arg(short = 'x', long)]
    pub(crate) exact: bool,
    /// JSON strings without their quotes and escapes.
    #[arg(short, long)]
    pub(crate) raw: bool,
    /// End when the files are what there is now.
    #[arg(short, long)]
    pub(crate) once: bool,
}

#[derive(Args)]
pub(crate) struct Tree {
    /// A key, with what lies below it, or a pattern with '*'.
    #[arg(default_value = "*")]
    pub(crate) pattern: String,
    /// The values too.
    #[arg(short, long)]
    pub(crate) values: bool,
}

#[derive(Args)]
pub(crate) struct Export {
    /// A key, or a pattern with '*'.
    #[arg(default_value = "*")]
    pub(crate) pattern: String,
}

#[derive(Args)]
pub(crate) struct FromFile {
    /// The file to read; '-' is stdin.
    #[arg(default_value = "-")]
    pub(crate) file: PathBuf,
}

#[derive(Args)]
pub(crate) struct Stats {
    /// One JSON object.
    #[arg(short, long, conflicts_with = "prometheus")]
    pub(crate) json: bool,
    /// The text format that Prometheus reads.
    #[arg(short, long)]
    pub(crate) prometheus: bool,
    /// Write to a file, which is replaced as a whole, and not to stdout.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Listing {
    /// JSON, one object a line.
    #[arg(short, long)]
    pub(crate) json: bool,
}

/// One line of the shell.
#[derive(Parser)]
#[command(name = "", no_binary_name = true)]
#[command(help_template = "{subcommands}{after-help}", after_help = SHELL_HELP)]
#[command(override_usage = "COMMAND [ARGUMENT]... ('help COMMAND' tells more)")]
pub(crate) struct ShellLine {
    #[command(subcommand)]
    pub(crate) command: ShellCommand,
}

#[derive(Subcommand)]
pub(crate) enum ShellCommand {
    #[command(flatten)]
    Common(Command),
    /// End a subscription, or all of them
    Unsubscribe {
        /// As it was given to subscribe.
        #[arg(value_name = "KEY|PATTERN")]
        pattern: Option<String>,
    },
    /// Let go of what the shell has claimed
    Release {
        /// As it was given to claim.
        key: String,
    },
    /// Leave
    #[command(visible_alias = "exit")]
    Quit,
}

/// The program's arguments in the form in which they are declared: the first word that is no
/// option is an ADDRESS (then `-a` is put before it) or a command (then in lower case, and so is one
/// that `help` is asked of).
pub(crate) fn normalized(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut normal: Vec<OsString> = Vec::new();
    let mut arguments = arguments.into_iter();
    normal.extend(arguments.next());
    let mut is_value = false;
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        if is_value || text.starts_with('-') {
            is_value = !is_value && ["-a", "--address", "--token-file"].contains(&&*text);
            normal.push(argument);
            continue;
        }
        if is_command::<Arguments>(&text) {
            let command = text.to_lowercase();
            if command == "help" {
                let words = arguments.map(|word| asked::<Arguments>(&word.to_string_lossy()));
                normal.extend([command].into_iter().chain(words).map(OsString::from));
            } else {
                normal.push(command.into());
                normal.extend(arguments);
            }
            break;
        }
        // A word that is neither is left for clap to complain about, unless it was meant as one.
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        if text.parse::<Address>().is_ok() || text.contains([':', '/']) || is_number {
            normal.push("-a".into());
        }
        normal.push(argument);
    }
    normal
}

/// The words of a shell line, its command in lower case.
pub(crate) fn shell_words(line: &str) -> Result<Vec<String>, shell_words::ParseError> {
    let mut words = shell_words::split(line)?;
    if let Some((first, others)) = words.split_first_mut()
        && is_command::<ShellLine>(first)
    {
        *first = first.to_lowercase();
        if first == "help" {
            for word in others {
                *word = asked::<ShellLine>(word);
            }
        }
    }
    Ok(words)
}

/// What stands after `help`: a command, in any case like others, or a wish for the help of `help` itself,
/// which clap takes for the name of a command.
fn asked<P: CommandFactory>(word: &str) -> String {
    match word {
        "-h" | "--help" => "help".to_owned(),
        word if is_command::<P>(word) => word.to_lowercase(),
        word => word.to_owned(),
    }
}

/// Every word that may stand at the front of a shell line.
pub(crate) fn shell_commands() -> Vec<String> {
    let command = ShellLine::command();
    let names = command
        .get_subcommands()
        .flat_map(|command| command.get_name_and_visible_aliases());
    names
        .map(str::to_owned)
        .chain(["help".to_owned()])
        .collect()
}

fn is_command<P: CommandFactory>(word: &str) -> bool {
    let word = word.to_lowercase();
    word == "help" || P::command().find_subcommand(&word).is_some()
}

fn lifetimes() -> impl TypedValueParser<Value = Lifetime> {
    PossibleValuesParser::new(["durable", "boot", "session"]).map(|name| match name.as_str() {
        "boot" => Lifetime::Boot,
        "session" => Lifetime::Session,
        _ => Lifetime::Durable,
    })
}

/// A number with a unit: ms, s, m, h or d. Without one, seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number = text[..end].parse::<u64>();
    let ms = match &text[end..] {
        "ms" => Some(1),
        "" | "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let duration = number
        .ok()
        .zip(ms)
        .and_then(|(number, ms)| number.checked_mul(ms));
    duration
        .map(Duration::from_millis)
        .ok_or_else(|| "not a duration such as 30s, 500ms, 2m".into())
}

/// A duration in which something can be counted.
fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        interval if interval < INTERVAL_MIN => Err("the shortest is 100ms".into()),
        interval => Ok(interval),
    }
}

/// A factor; infinite for `max`.
fn speed(text: &str) -> Result<f64, String> {
    let factor = match text {
        "max" => Some(f64::INFINITY),
        _ => text.parse().ok().filter(|factor: &f64| factor.is_finite()),
    };
    factor
        .filter(|factor| *factor > 0.0)
        .ok_or_else(|| "not a factor such as 0.5 or 10, or 'max'".into())
}

/// A pattern, or a failure that says what is wrong with which text.
pub(crate) fn checked(text: &str) -> Result<Pattern, Failure> {
    Pattern::new(text).map_err(|error| Failure::from(Error::Key(error)).during(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_sound() {
        Arguments::command().debug_assert();
        ShellLine::command().debug_assert();
    }

    #[test]
    fn arguments_are_normalized() {
        let check = |line: &str, expected: &str| {
            let words = line.split(' ').map(OsString::from);
            let expected: Vec<_> = expected.split(' ').map(OsString::from).collect();
            assert_eq!(normalized(words), expected, "{line}");
        };
        check("nkv-client", "nkv-client");
        check("nkv-client get a", "nkv-client get a");
        check("nkv-client GET A", "nkv-client get A");
        check("nkv-client Del A", "nkv-client del A");
        check("nkv-client Help GET", "nkv-client help get");
        check("nkv-client help --help", "nkv-client help help");
        check("nkv-client localhost:4222", "nkv-client -a localhost:4222");
        check("nkv-client 4222 GET GET", "nkv-client -a 4222 get GET");
        check("nkv-client ./s put a ./b", "nkv-client -a ./s put a ./b");
        check("nkv-client -a ./s Put a 1", "nkv-client -a ./s put a 1");
        check(
            "nkv-client --token-file get PING",
            "nkv-client --token-file get ping",
        );
        check(
            "nkv-client -a=x --address=y PING",
            "nkv-client -a=x --address=y ping",
        );
        check("nkv-client 70000 ping", "nkv-client -a 70000 ping");
        check("nkv-client frobnicate", "nkv-client frobnicate");
        check("nkv-client host:port ping", "nkv-client -a host:port ping");
    }

    #[test]
    fn durations_are_read() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(
                duration(text).ok(),
                expected.map(Duration::from_millis),
                "{text:?}"
            );
        };
        check("500ms", Some(500));
        check("30s", Some(30_000));
        check("30", Some(30_000));
        check("2m", Some(120_000));
        check("1h", Some(3_600_000));
        check("1d", Some(86_400_000));
        check("", None);
        check("s", None);
        check("-1s", None);
        check("1.5s", None);
        check("1 s", None);
        check("99999999999999999999s", None);
        check("18446744073709551615d", None);
    }
}
