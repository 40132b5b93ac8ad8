//! The command line: from words to options, or to what is wrong with them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt};
use nkv::access::parse_size;
use nkv::journal::{self, Policy, SYNC_INTERVAL};
use nkv::server::{Options, SEND_BUFFER_BYTES};

use crate::places;

/// What the user asks for.
pub(crate) enum Asked {
    Serve(Box<Arguments>),
    /// What rules say of a user and a key.
    CheckAccess(Box<Question>),
    /// Help or the version.
    Print(String),
}

/// What is asked of a file with rules.
pub(crate) struct Question {
    pub(crate) file: PathBuf,
    /// A user's name or number, or `tcp`.
    pub(crate) user: String,
    pub(crate) key: String,
}

/// What the daemon is to do.
pub(crate) struct Arguments {
    pub(crate) options: Options,
    /// env_logger's filter.
    pub(crate) log: String,
}

/// The smallest `--max-message`: room for a request with the longest key and some value.
const MESSAGE_BYTES_MIN: u64 = 4096;

pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Asked, String> {
    let mut options = Options::default();
    let mut kept = Kept::default();
    let mut log = None;
    let mut parser = Parser::from_iter(words);
    while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
        let name = match argument {
            Arg::Value(address) => {
                let text = address.to_string_lossy();
                options
                    .addresses
                    .push(text.parse().map_err(|error| format!("{text}: {error}"))?);
                continue;
            }
            Arg::Long("help") | Arg::Short('h') => return Ok(Asked::Print(help())),
            Arg::Long("version") | Arg::Short('V') => {
                return Ok(Asked::Print(format!(
                    "nkv-server {}\n",
                    env!("CARGO_PKG_VERSION")
                )));
            }
            Arg::Long("check-access") => {
                return Ok(Asked::CheckAccess(Box::new(question(&mut parser)?)));
            }
            Arg::Long("in-memory") => {
                kept.in_memory = true;
                continue;
            }
            Arg::Long("recover") => {
                kept.recover = true;
                continue;
            }
            Arg::Long(name) if TAKE_A_VALUE.contains(&name) => name.to_owned(),
            unknown => return Err(unknown.unexpected().to_string()),
        };
        let value = parser
            .value()
            .and_then(ValueExt::string)
            .map_err(|error| error.to_string())?;
        match &*name {
            "log" => log = Some(filter(value).map_err(|error| format!("--log: {error}"))?),
            "data-dir" => {
                kept.data_directory =
                    Some(directory(&value).map_err(|error| format!("--data-dir: {error}"))?)
            }
            "runtime-dir" => {
                kept.runtime_directory =
                    Some(directory(&value).map_err(|error| format!("--runtime-dir: {error}"))?)
            }
            "sync" => kept.policy = policy(&value).map_err(|error| format!("--sync: {error}"))?,
            name => {
                set(&mut options, name, &value).map_err(|error| format!("--{name}: {error}"))?;
            }
        }
    }
    options.journals = kept.journals()?;
    let log = match (log, std::env::var("NKV_LOG")) {
        (Some(log), _) => log,
        (None, Ok(text)) => filter(text).map_err(|error| format!("NKV_LOG: {error}"))?,
        (None, Err(_)) => "info".into(),
    };
    Ok(Asked::Serve(Box::new(Arguments { options, log })))
}

/// Where the keyspace is to be kept, as far as it was said.
#[derive(Default)]
struct Kept {
    in_memory: bool,
    recover: bool,
    data_directory: Option<PathBuf>,
    runtime_directory: Option<PathBuf>,
    policy: Policy,
}

impl Kept {
    fn journals(self) -> Result<Option<journal::Options>, String> {
        if self.in_memory {
            return Ok(None);
        }
        let data_directory = self.data_directory.or_else(places::data_directory);
        let runtime_directory = self
            .runtime_directory
            .unwrap_or_else(places::runtime_directory);
        Ok(Some(journal::Options {
            data_directory: data_directory
                .ok_or("there is no $HOME: say --data-dir, or --in-memory")?,
            runtime_directory,
            policy: self.policy,
            recover: self.recover,
        }))
    }
}

fn directory(value: &str) -> Result<PathBuf, String> {
    match value {
        "" => Err("it is empty".into()),
        value => Ok(value.into()),
    }
}

/// The words of `--check-access`, behind which there are none.
fn question(parser: &mut Parser) -> Result<Question, String> {
    let takes = || "--check-access takes FILE, USER and KEY".to_owned();
    let mut word = || {
        let word = parser.value().and_then(ValueExt::string);
        word.map_err(|_| takes())
    };
    let question = Question {
        file: word()?.into(),
        user: word()?,
        key: word()?,
    };
    match parser.next() {
        Ok(None) => Ok(question),
        _ => Err(takes()),
    }
}

/// A filter of the log that env_logger takes as it is meant. It would pass over what it can't read, and
/// take a word alone for the name of a module, so that nothing else is logged: a mistyped level would
/// silence errors.
fn filter(text: String) -> Result<String, String> {
    env_filter::Builder::new()
        .try_parse(&text)
        .map_err(|error| error.to_string())?;
    let directives = text.split('/').next().unwrap_or_default().split(',');
    let is_meant = |word: &str| {
        let is_level = word.is_empty() || word.parse::<log::LevelFilter>().is_ok();
        is_level || word.contains(['=', ':']) || word.starts_with("nkv")
    };
    match directives.map(str::trim).find(|word| !is_meant(word)) {
        Some(word) => Err(format!(
            "{word:?} is none of error, warn, info, debug, trace and off, and no module of nkv"
        )),
        None => Ok(text),
    }
}

/// `always`, `interval`, `interval=MS` or `never`.
fn policy(text: &str) -> Result<Policy, String> {
    let unknown = || format!("{text:?} is none of always, interval, interval=MS and never");
    match text.split_once('=') {
        None if text == "always" => Ok(Policy::Always),
        None if text == "interval" => Ok(Policy::Interval(SYNC_INTERVAL)),
        None if text == "never" => Ok(Policy::Never),
        Some(("interval", milliseconds)) => {
            let milliseconds = digits(milliseconds).ok_or_else(unknown)?;
            Ok(Policy::Interval(Duration::from_millis(at_least(
                1,
                milliseconds,
            )?)))
        }
        _ => Err(unknown()),
    }
}

const TAKE_A_VALUE: [&str; 16] = [
    "data-dir",
    "runtime-dir",
    "sync",
    "socket-mode",
    "socket-group",
    "access",
    "token-file",
    "max-clients",
    "max-message",
    "max-keys",
    "max-bytes",
    "max-subscriptions",
    "tombstones",
    "send-buffer",
    "idle-exit",
    "log",
];

fn set(options: &mut Options, name: &str, value: &str) -> Result<(), String> {
    let limits = &mut options.limits;
    match name {
        "socket-mode" => options.socket_mode = mode(value)?,
        "socket-group" => options.socket_group = Some(value.to_owned()),
        "access" => options.access = Some(value.into()),
        "token-file" => options.token_file = Some(value.into()),
        "max-clients" => limits.clients = at_least(1, parse_size(value)?)?,
        "max-message" => limits.message = at_least(MESSAGE_BYTES_MIN, parse_size(value)?)?,
        "max-keys" => limits.keys = parse_size(value)?,
        "max-bytes" => limits.bytes = parse_size(value)?,
        "max-subscriptions" => limits.subscriptions = parse_size(value)?,
        "tombstones" => limits.tombstones = parse_size(value)?,
        "send-buffer" => {
            options.send_buffer =
                Some(usize::try_from(parse_size(value)?).map_err(|e| e.to_string())?);
        }
        "idle-exit" => {
            let seconds =
                digits(value).ok_or_else(|| format!("{value:?} is no number of seconds"))?;
            options.idle_exit = Some(Duration::from_secs(at_least(1, seconds)?));
        }
        _ => unreachable!("every option of the list is set here"),
    }
    Ok(())
}

/// A number of digits and nothing else: the standard library takes a sign as well.
fn digits(text: &str) -> Option<u64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

fn at_least(smallest: u64, number: u64) -> Result<u64, String> {
    if number >= smallest {
        Ok(number)
    } else {
        Err(format!("at least {smallest} is needed"))
    }
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && !text.starts_with('+') => Ok(mode),
        _ => Err(format!("{text:?} is no mode (like 0660)")),
    }
}

fn help() -> String {
    let default = Options::default();
    let limits = &default.limits;
    format!(
        "\
nkv-server keeps a keyspace and tells subscribers what changes.

Usage: nkv-server [OPTIONS] [ADDRESS]...

An ADDRESS is a path (anything with a '/', or unix:PATH) for a Unix socket, or HOST:PORT,
tcp:HOST:PORT or a bare port number (then on localhost) for TCP. Several may be given. Without one:
the sockets that the service manager passes ($LISTEN_FDS), else /run/nkv.sock as root, else
$XDG_RUNTIME_DIR/nkv.sock, else /tmp/nkv-UID/nkv.sock.

Options:
  --data-dir DIR           directory of the durable journal, made if missing [$STATE_DIRECTORY, else
                           /var/lib/nkv as root, else $XDG_STATE_HOME/nkv or ~/.local/state/nkv]
  --runtime-dir DIR        directory of the boot journal, which should go with the machine
                           [$RUNTIME_DIRECTORY, else /run/nkv as root, else $XDG_RUNTIME_DIR/nkv, else
                           /tmp/nkv-UID]
  --sync WHEN              when durable changes are on stable storage: always (before anyone hears of
                           them), interval or interval=MS (within {interval} ms, or MS), never (when the
                           kernel sees fit) [always]
  --recover                start from a damaged journal: keep all sound records, set the damaged file
                           aside, say what was dropped
  --in-memory              keep no files: nothing outlives the daemon
  --socket-mode MODE       mode of Unix sockets [{mode:04o}]
  --socket-group NAME      group of Unix sockets [the process's]
  --access FILE            rules who may do what [whoever can connect may do everything]
  --check-access FILE USER KEY
                           say what the rules of FILE let USER (a name, a number, or tcp) do to KEY,
                           and which line decides
  --token-file FILE        what a TCP client's hello must carry; without it, TCP is refused on any but
                           a loopback address
  --max-clients N          connections at a time [{clients}]
  --max-message BYTES      longest request line [{message}]
  --max-keys N             keys in the keyspace [{keys}]
  --max-bytes BYTES        keys and values in the keyspace [{bytes}]
  --max-subscriptions N    subscriptions of a connection [{subscriptions}]
  --tombstones N           deleted keys that are remembered for subscribers that resume or lag
                           [{tombstones}]
  --send-buffer BYTES      kernel's send buffer of a connection [{send_buffer}]
  --idle-exit SECONDS      stop after so long without a client [never]
  --log FILTER             what is logged: error, warn, info, debug, or a filter as env_logger takes
                           it [$NKV_LOG, else info]
  -h, --help               print this help
  -V, --version            print the version

Sizes and numbers take k, M and G.

Signals: SIGTERM and SIGINT stop cleanly (a second one at once), SIGHUP reads the rules and the token
file again, SIGUSR1 logs the statistics.

Exit codes: 0 clean stop, 1 failure at run time, 2 usage, 3 the address is in use, 4 a directory is
locked, damaged or not writable.
",
        interval = SYNC_INTERVAL.as_millis(),
        mode = default.socket_mode,
        clients = limits.clients,
        message = limits.message,
        keys = limits.keys,
        bytes = limits.bytes,
        subscriptions = limits.subscriptions,
        tombstones = limits.tombstones,
        send_buffer = SEND_BUFFER_BYTES,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use nkv::Address;

    fn parsed(words: &[&str]) -> Result<Box<Arguments>, String> {
        let words = std::iter::once("nkv-server").chain(words.iter().copied());
        match parse(words.map(OsString::from))? {
            Asked::Serve(arguments) => Ok(arguments),
            Asked::Print(text) => Err(text),
            Asked::CheckAccess(question) => Err(question.user),
        }
    }

    #[test]
    fn options_are_taken() {
        let arguments = parsed(&[
            "--data-dir",
            "/data",
            "--runtime-dir=/runtime",
            "--sync",
            "interval=20",
            "--recover",
            "--max-message",
            "64k",
            "--max-bytes=2G",
            "--socket-mode",
            "0600",
            "--idle-exit",
            "5",
            "--access",
            "/rules",
            "--log",
            "debug",
            "/tmp/a.sock",
            "4222",
        ])
        .unwrap();
        let options = &arguments.options;
        let journals = options.journals.as_ref().unwrap();
        assert_eq!(journals.data_directory.to_str(), Some("/data"));
        assert_eq!(journals.runtime_directory.to_str(), Some("/runtime"));
        assert_eq!(journals.policy, Policy::Interval(Duration::from_millis(20)));
        assert!(journals.recover);
        assert!(parsed(&["--in-memory"]).unwrap().options.journals.is_none());
        assert_eq!(options.limits.message, 64 << 10);
        assert_eq!(options.limits.bytes, 2 << 30);
        assert_eq!(options.socket_mode, 0o600);
        assert_eq!(options.idle_exit, Some(Duration::from_secs(5)));
        assert_eq!(options.access.as_deref(), Some("/rules".as_ref()));
        assert_eq!(arguments.log, "debug");
        let expected = [
            Address::Unix("/tmp/a.sock".into()),
            Address::Tcp("localhost:4222".into()),
        ];
        assert_eq!(options.addresses, expected);
    }

    #[test]
    fn filters_of_the_log_are_env_loggers() {
        for filter in [
            "",
            "off",
            "WARN",
            "info, nkv::server=debug",
            "nkv_server",
            "mio=trace",
            "info/journal",
        ] {
            assert_eq!(parsed(&["--log", filter]).unwrap().log, filter);
        }
    }

    #[test]
    fn the_option_at_fault_is_named() {
        let check = |words: &[&str], named: &str| {
            let message = parsed(words).err().unwrap();
            assert!(message.contains(named), "{words:?}: {message}");
        };
        check(&["--no-such"], "--no-such");
        check(&["--max-keys"], "--max-keys");
        check(&["--max-keys", "many"], "--max-keys");
        check(&["--max-keys", "-1"], "--max-keys");
        check(&["--max-keys", "99999999999999999999"], "--max-keys");
        check(&["--max-bytes", "99999999999999G"], "--max-bytes");
        check(&["--max-message", "10"], "--max-message");
        check(&["--socket-mode", "999"], "--socket-mode");
        check(&["--socket-mode", "+660"], "--socket-mode");
        check(&["--idle-exit", "0"], "--idle-exit");
        check(&["--idle-exit", "+5"], "--idle-exit");
        check(&["--sync", "often"], "--sync");
        check(&["--sync", "interval=0"], "--sync");
        check(&["--sync", "interval=+5"], "--sync");
        check(&["--sync", "always=1"], "--sync");
        check(&["--data-dir", ""], "--data-dir");
        check(&["--runtime-dir"], "--runtime-dir");
        check(&["--access"], "--access");
        check(&["--log", "warning"], "--log");
        check(&["--log", "info,nkv::server=loud"], "--log");
        check(&["--log", "info=warn=error"], "--log");
        check(&["--check-access", "a", "b"], "--check-access");
        check(&["-x"], "-x");
        check(&["nowhere"], "nowhere");
    }
}
