//! What each command does. The shell runs them by the same function.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use nkv::Pattern;
use nkv::client::{Announcement, Client, Lifetime, Put, UserUse, Value};

use crate::arguments::{Command, Delete, Get, Listing, Put as PutArguments, Stats, Tree, checked};
use crate::daemon::Daemon;
use crate::failure::{Failure, NOT_MET, USAGE, plain};
use crate::follow::Follower;
use crate::interrupt::{Interrupts, Stopper};
use crate::output::{
    Style, buffered_stdout, entry_json, raw_text, replace_file, table, value_text, write_value,
};
use crate::tree::Node;
use crate::{
    announce, arguments, claim, mirror, prometheus, record, replay, subscribe, top, transfer,
};

/// Who runs a command.
pub(crate) struct Runner {
    pub(crate) daemon: Daemon,
    pub(crate) style: Style,
    /// Ends what the command follows.
    pub(crate) stopper: Arc<Stopper>,
    /// Whether the runner lives on after the command, and with it what belongs to the connection.
    pub(crate) stays: bool,
    /// Whether a person sees what is printed as it is typed.
    pub(crate) is_interactive: bool,
    /// What a shell has announced.
    pub(crate) announced: Vec<Announcement>,
}

impl Runner {
    /// Carries out a command, to its end.
    pub(crate) fn run(&mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Get(arguments) => get(&self.daemon.client()?, &arguments, self.style),
            Command::Put(arguments) => self.put(&arguments),
            Command::Delete(arguments) => delete(&self.daemon.client()?, &arguments),
            Command::Subscribe(arguments) => {
                let link = self.daemon.target.link();
                let wanted = subscribe::wanted(&link, &arguments)?;
                let notice = Arc::new(subscribe::notice);
                let mut follower = Follower::start(wanted, &self.stopper, notice)?;
                subscribe::run(&mut follower, &arguments, self.style, &mut print_line)
            }
            Command::Wait(arguments) => {
                let value = subscribe::wait(&self.daemon.target, &arguments, &self.stopper)?;
                match value.filter(|_| arguments.value.is_none()) {
                    Some(value) => Ok(write_value(&mut io::stdout(), &value, false)?),
                    None => Ok(()),
                }
            }
            Command::Tree(arguments) => tree(&self.daemon.client()?, &arguments, self.style),
            Command::Batch(arguments) => {
                self.needs_file(&arguments.file)?;
                let (ops, rev) = transfer::batch(&self.daemon.client()?, &arguments.file)?;
                print_line(&format!("{ops} done, revision {rev}"))
            }
            Command::Export(arguments) => {
                checked(&arguments.pattern)?;
                transfer::export(&self.daemon.client()?, &arguments.pattern)
            }
            Command::Import(arguments) => {
                self.needs_file(&arguments.file)?;
                let imported = transfer::import(&self.daemon.client()?, &arguments.file)?;
                print_line(&format!("{imported} imported"))
            }
            Command::Announce(arguments) => self.announce(&arguments),
            Command::Claim(arguments) => self.claim(&arguments),
            Command::Record(arguments) => {
                let interrupts = self.interrupts()?;
                let target = &self.daemon.target;
                let recorded = record::run(target, &arguments, &self.stopper);
                drop(interrupts);
                recorded
            }
            Command::Mirror(arguments) => {
                let interrupts = self.interrupts()?;
                let mirrored = mirror::run(&self.daemon.target, &arguments, &self.stopper);
                drop(interrupts);
                mirrored
            }
            Command::Replay(arguments) => {
                self.needs_file(&arguments.file)?;
                let (changes, time) = replay::run(&self.daemon.client()?, &arguments)?;
                print_line(&format!("{changes} replayed in {} ms", time.as_millis()))
            }
            Command::Top(arguments) => {
                top::run(&self.daemon.target, &arguments, self.style, &self.stopper)
            }
            Command::Stats(arguments) => stats(&self.daemon.client()?, &arguments),
            Command::Clients(arguments) => clients(&self.daemon.client()?, &arguments),
            Command::Ping(arguments) => ping(&self.daemon.client()?, &arguments),
            Command::Completions { shell } => completions(shell),
        }
    }

    fn put(&mut self, arguments: &PutArguments) -> Result<(), Failure> {
        if self.stays && arguments.value.as_deref() == Some("-") {
            let message = "stdin is where the commands come from; --file reads a value";
            return Err(Failure::new(USAGE, message));
        }
        let value = put_value(&Given {
            file: arguments.file.as_deref(),
            text: arguments.value.as_deref(),
            is_string: arguments.string,
            is_bytes: arguments.bytes,
        })?;
        let is_session = arguments.lifetime == Some(Lifetime::Session);
        let is_plain =
            arguments.ttl.is_none() && arguments.if_rev.is_none() && !arguments.if_changed;
        if is_session && is_plain && !self.stays {
            let target = &self.daemon.target;
            return announce::Announcing::start(target, &arguments.key, value, &self.stopper)?
                .until_stopped();
        }
        let mut put = Put::new(&arguments.key, value)
            .map_err(|error| Failure::from(error).during(&arguments.key))?;
        if let Some(lifetime) = arguments.lifetime {
            put = put.lifetime(lifetime);
        }
        if let Some(ttl) = arguments.ttl {
            put = put.ttl(ttl);
        }
        if let Some(rev) = arguments.if_rev {
            put = put.if_rev(rev);
        }
        if arguments.if_changed {
            put = put.if_changed();
        }
        if is_session && !self.stays {
            return announce::hold(&self.daemon.target, put, arguments.if_rev.is_some());
        }
        let written = self.daemon.client()?.put_with(put)?;
        let what = if written.is_unchanged {
            "unchanged, revision"
        } else {
            "revision"
        };
        self.tell_rev(what, written.rev)
    }

    fn announce(&mut self, arguments: &arguments::Announce) -> Result<(), Failure> {
        if self.stays && arguments.value == "-" {
            let message = "stdin is where the commands come from";
            return Err(Failure::new(USAGE, message));
        }
        let value = put_value(&Given {
            file: None,
            text: Some(&arguments.value),
            is_string: arguments.string,
            is_bytes: false,
        })?;
        let target = &self.daemon.target;
        let announcing = announce::Announcing::start(target, &arguments.key, value, &self.stopper)?;
        if !arguments.command.is_empty() {
            announcing.during(&arguments.command)
        } else if self.stays {
            self.announced.push(announcing.announcement);
            Ok(())
        } else {
            announcing.until_stopped()
        }
    }

    fn claim(&mut self, arguments: &arguments::Claim) -> Result<(), Failure> {
        let target = self.daemon.target.clone();
        if !self.stays || !arguments.command.is_empty() {
            let claiming = claim::Claiming::start(&target, arguments, &self.stopper)?;
            return match arguments.command.as_slice() {
                [] => claiming.until_lost(),
                command => claiming.during(command),
            };
        }
        let client = self.daemon.client()?;
        let rev = claim::on_connection(&client, &target, arguments, &self.stopper)?;
        self.daemon.claimed.insert(arguments.key.clone());
        self.tell_rev("revision", rev)
    }

    /// Lets go of what a shell has claimed.
    pub(crate) fn release(&mut self, key: &str) -> Result<(), Failure> {
        let client = self.daemon.client()?;
        self.daemon.claimed.remove(key);
        let rev = client.release(key)?;
        self.tell_rev("revision", rev)
    }

    /// Tells a person what revision something has.
    fn tell_rev(&self, what: &str, rev: u64) -> Result<(), Failure> {
        if !self.is_interactive {
            return Ok(());
        }
        print_line(&self.style.faint(&format!("{what} {rev}")))
    }

    /// Lets signals end what a command follows, where the shell doesn't do it already.
    fn interrupts(&self) -> Result<Option<Interrupts>, Failure> {
        if self.is_interactive {
            return Ok(None);
        }
        let signals = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];
        let interrupts = Interrupts::take(&signals)
            .map_err(|error| Failure::new(NOT_MET, format!("signals: {}", plain(&error))))?;
        interrupts.end(&self.stopper, None);
        Ok(Some(interrupts))
    }

    fn needs_file(&self, file: &Path) -> Result<(), Failure> {
        if self.stays && file == Path::new("-") {
            let message = "stdin is where the commands come from; name a file to read";
            return Err(Failure::new(USAGE, message));
        }
        Ok(())
    }
}

/// Writes a line to stdout at once.
pub(crate) fn print_line(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn get(client: &Client, arguments: &Get, style: Style) -> Result<(), Failure> {
    let pattern = checked(&arguments.pattern)?;
    let mut out = buffered_stdout();
    if !pattern.has_star() {
        let Some(entry) = client.get_value(pattern.as_str())? else {
            return Err(no_such_key(pattern.as_str()));
        };
        if arguments.keys {
            writeln!(out, "{}", entry.key)?;
        } else if arguments.json {
            writeln!(out, "{}", entry_json(&entry))?;
        } else {
            write_value(&mut out, &entry.value, arguments.raw)?;
        }
    } else if arguments.keys {
        for key in client.list_keys(pattern.as_str())? {
            writeln!(out, "{}", style.key(key?.as_str()))?;
        }
    } else {
        for entry in client.list(pattern.as_str())? {
            let entry = entry?;
            let key = entry.key.as_str();
            if arguments.json {
                writeln!(out, "{}", entry_json(&entry))?;
            } else if arguments.raw {
                writeln!(out, "{} {}", style.key(key), raw_text(&entry.value))?;
            } else {
                writeln!(out, "{}", style.entry_line(key, &entry.value))?;
            }
        }
    }
    Ok(out.flush()?)
}

fn delete(client: &Client, arguments: &Delete) -> Result<(), Failure> {
    let pattern = checked(&arguments.pattern)?;
    let deleted = match arguments.if_rev {
        Some(rev) => u64::from(client.delete_if_rev(pattern.as_str(), rev)?),
        None => client.delete_pattern(pattern.as_str())?,
    };
    if deleted == 0 && !pattern.has_star() {
        return Err(no_such_key(pattern.as_str()));
    }
    print_line(&format!("{deleted} deleted"))
}

fn tree(client: &Client, arguments: &Tree, style: Style) -> Result<(), Failure> {
    let pattern = checked(&arguments.pattern)?;
    // A key stands for the tree from it on, as for a subscription.
    let subtree = (!pattern.has_star())
        .then(|| Pattern::new(&format!("{}.*", pattern.as_str())).ok())
        .flatten();
    // The longest key has nothing below it.
    let pattern = subtree.as_ref().unwrap_or(&pattern);
    let mut root = Node::default();
    if arguments.values {
        for entry in client.list(pattern.as_str())? {
            let entry = entry?;
            root.insert(entry.key.as_str(), format!(" {}", value_text(&entry.value)));
        }
    } else {
        for key in client.list_keys(pattern.as_str())? {
            root.insert(key?.as_str(), String::new());
        }
    }
    let mut out = buffered_stdout();
    out.write_all(root.draw(&|name| style.key(name)).as_bytes())?;
    Ok(out.flush()?)
}

fn stats(client: &Client, arguments: &Stats) -> Result<(), Failure> {
    let stats = client.stats()?;
    let text = if arguments.prometheus {
        prometheus::exposition(&stats)
    } else if arguments.json {
        stats_json(stats)
    } else {
        stats_table(stats)
    };
    match &arguments.output {
        Some(file) => replace_file(file, text.as_bytes()),
        None => Ok(io::stdout().write_all(text.as_bytes())?),
    }
}

fn stats_json(stats: nkv::client::Stats) -> String {
    let users: Vec<_> = stats.users.iter().map(user_json).collect();
    let mut object = stats_object(stats);
    if !users.is_empty() {
        object.insert("users".to_owned(), users.into());
    }
    format!("{}\n", serde_json::Value::Object(object))
}

/// What a user takes, as the daemon has told it.
fn user_json(user: &UserUse) -> serde_json::Value {
    let whose = match user.uid {
        Some(uid) => ("uid".to_owned(), uid.into()),
        None => ("tcp".to_owned(), true.into()),
    };
    let figures = user_figures(user).map(|(name, figure)| (name.to_owned(), figure.into()));
    serde_json::Value::Object([whose].into_iter().chain(figures).collect())
}

/// The daemon's counters as one JSON object.
pub(crate) fn stats_object(
    stats: nkv::client::Stats,
) -> serde_json::Map<String, serde_json::Value> {
    let mut object: serde_json::Map<_, _> = stats
        .counters
        .into_iter()
        .map(|(name, count)| (name, count.into()))
        .collect();
    object.insert("epoch".to_owned(), stats.epoch.into());
    object.insert("version".to_owned(), stats.version.into());
    object
}

fn stats_table(stats: nkv::client::Stats) -> String {
    let mut rows: Vec<Vec<String>> = vec![
        vec!["version".into(), stats.version],
        vec!["epoch".into(), stats.epoch],
    ];
    rows.extend(
        stats
            .counters
            .into_iter()
            .map(|(name, count)| vec![name, count.to_string()]),
    );
    let mut text = table(&rows);
    if !stats.users.is_empty() {
        text.push('\n');
        text.push_str(&users_table(&stats.users));
    }
    text
}

fn users_table(users: &[UserUse]) -> String {
    let names = user_figures(&UserUse::default()).map(|(name, _)| name.to_uppercase());
    let mut rows = vec![[vec!["UID".to_owned()], names.to_vec()].concat()];
    for user in users {
        let figures = user_figures(user).map(|(_, figure)| figure.to_string());
        rows.push([vec![user_name(user)], figures.to_vec()].concat());
    }
    table(&rows)
}

/// Who it is: a number, or `tcp` for all who come over TCP.
pub(crate) fn user_name(user: &UserUse) -> String {
    user.uid.map_or("tcp".to_owned(), |uid| uid.to_string())
}

/// What a user takes, by the names that the protocol has for it.
pub(crate) fn user_figures(user: &UserUse) -> [(&'static str, u64); 5] {
    [
        ("connections", user.connections),
        ("subscriptions", user.subscriptions),
        ("keys", user.keys),
        ("bytes", user.bytes),
        ("buffered", user.buffered),
    ]
}

fn clients(client: &Client, arguments: &Listing) -> Result<(), Failure> {
    const COLUMNS: [&str; 8] = [
        "name",
        "pid",
        "uid",
        "gid",
        "address",
        "subscriptions",
        "lag",
        "claims",
    ];
    let clients = client.clients()?;
    if arguments.json {
        for client in clients {
            print_line(&serde_json::Value::Object(client).to_string())?;
        }
        return Ok(());
    }
    let mut rows = vec![COLUMNS.map(str::to_uppercase).to_vec()];
    for client in &clients {
        let cell = |name: &&str| match client.get(*name) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(serde_json::Value::Array(parts)) => words(parts),
            Some(other) => other.to_string(),
            None => "-".to_owned(),
        };
        rows.push(COLUMNS.iter().map(cell).collect());
    }
    Ok(io::stdout().write_all(table(&rows).as_bytes())?)
}

/// Texts, with spaces between them.
fn words(parts: &[serde_json::Value]) -> String {
    let parts = parts.iter().filter_map(serde_json::Value::as_str);
    parts.collect::<Vec<_>>().join(" ")
}

fn ping(client: &Client, arguments: &Listing) -> Result<(), Failure> {
    let start = Instant::now();
    client.ping()?;
    let micros = start.elapsed().as_micros();
    let ms = format!("{}.{:03}", micros / 1000, micros % 1000);
    let server = client.server();
    print_line(&if arguments.json {
        format!(
            "{{\"server\":{},\"ms\":{ms}}}",
            serde_json::Value::from(server)
        )
    } else {
        format!("{server} answered in {ms} ms")
    })
}

/// The bash script of clap_complete 4.6 calls a command by two names where the program's own has a
/// hyphen, and so offers no options behind it (clap-rs/clap#6421): they are made one.
fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut command = <arguments::Arguments as clap::CommandFactory>::command();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "nkv-client", &mut script);
    if shell == clap_complete::Shell::Bash {
        let text = String::from_utf8_lossy(&script);
        script = text.replace("nkv__subcmd__client", "nkv__client").into();
    }
    Ok(io::stdout().write_all(&script)?)
}

/// Where a value comes from, and what it is taken as.
struct Given<'a> {
    file: Option<&'a Path>,
    text: Option<&'a str>,
    is_string: bool,
    is_bytes: bool,
}

fn put_value(given: &Given<'_>) -> Result<Value, Failure> {
    let bytes = match (given.file, given.text) {
        (Some(path), _) => fs::read(path).map_err(|error| {
            let message = format!("cannot read {}: {}", path.display(), plain(&error));
            Failure::new(USAGE, message)
        })?,
        (None, Some("-")) => {
            let mut bytes = Vec::new();
            io::stdin().read_to_end(&mut bytes).map_err(|error| {
                Failure::new(USAGE, format!("cannot read stdin: {}", plain(&error)))
            })?;
            bytes
        }
        (None, text) => text.unwrap_or_default().as_bytes().to_vec(),
    };
    if given.is_bytes {
        return Ok(Value::from_bytes(bytes));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::new(USAGE, "the value is not UTF-8; --bytes puts it as it is"))?;
    if !given.is_string
        && let Ok(value) = Value::from_json_text(&text)
    {
        return Ok(value);
    }
    Ok(Value::of(&text)?)
}

fn no_such_key(key: &str) -> Failure {
    Failure::new(NOT_MET, format!("no such key: {key}"))
}
