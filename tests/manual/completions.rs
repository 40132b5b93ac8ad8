//! Completions: the client's, which it writes itself, and the server's, which are written by hand.
//!
//! bash and fish are asked what they would offer. zsh completes only on a terminal, so there the
//! functions that take the offers are replaced by ones that print them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::help::{self, Listed};
use crate::{has, root, same};

/// The completions of one shell, in a directory with nothing else but `folder` and `file`.
struct Shell {
    name: &'static str,
    directory: TempDir,
}

impl Shell {
    fn new(name: &'static str) -> Option<Shell> {
        if !has(name) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("folder")).unwrap();
        std::fs::write(directory.path().join("file"), "").unwrap();
        std::fs::create_dir(directory.path().join(".completions")).unwrap();
        let shell = Shell { name, directory };
        let written = Command::new(env!("CARGO_BIN_EXE_nkv-client"))
            .args(["completions", name])
            .output()
            .unwrap();
        assert!(written.status.success());
        std::fs::write(shell.script("nkv-client"), written.stdout).unwrap();
        let by_hand = root().join("packaging/completions").join(match name {
            "zsh" => "_nkv-server",
            "fish" => "nkv-server.fish",
            _ => "nkv-server.bash",
        });
        std::fs::copy(by_hand, shell.script("nkv-server")).unwrap();
        Some(shell)
    }

    /// Where the completions of a program are.
    fn script(&self, program: &str) -> PathBuf {
        let name = match self.name {
            "zsh" => format!("_{program}"),
            name => format!("{program}.{name}"),
        };
        self.directory.path().join(".completions").join(name)
    }

    /// Runs a script of the shell's language; returns the lines that it prints. Nothing may be said
    /// on stderr.
    fn run(&self, options: &[&str], script: &str, arguments: &[&str]) -> BTreeSet<String> {
        let output = Command::new(self.name)
            .args(options)
            .args(["-c", script])
            .args(arguments)
            .current_dir(self.directory.path())
            .env("HOME", self.directory.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_DATA_HOME")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said, "", "{} {arguments:?}", self.name);
        assert!(
            output.status.success(),
            "{} {arguments:?}: {}",
            self.name,
            output.status
        );
        let printed = String::from_utf8(output.stdout).unwrap();
        printed
            .lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// What bash offers for the last of these words.
    fn bash(&self, words: &[&str]) -> BTreeSet<String> {
        const SCRIPT: &str = r#"
            source "$0"
            COMP_WORDS=("$@")
            COMP_CWORD=$(($# - 1))
            specification=($(complete -p "$1"))
            for ((i = 0; i < ${#specification[@]}; i++)); do
                if [[ ${specification[i]} == -F ]]; then function=${specification[i + 1]}; fi
            done
            "$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf '%s\n' "${COMPREPLY[@]}"
        "#;
        let script = self.script(words[0]);
        let arguments = [&[script.to_str().unwrap()], words].concat();
        self.run(&["--norc", "--noprofile"], SCRIPT, &arguments)
    }

    /// What fish offers at the end of a line, without what it says about it.
    fn fish(&self, line: &str) -> BTreeSet<String> {
        let program = line.split(' ').next().unwrap();
        let script = format!(
            "source {}; complete -C '{line}'",
            self.script(program).display()
        );
        let offers = self.run(&["--no-config"], &script, &[]);
        let offers = offers.iter().filter_map(|offer| offer.split('\t').next());
        offers.map(str::to_owned).collect()
    }

    /// What zsh's completion function prints once it is loaded as zsh loads it.
    fn zsh(&self, script: &str) -> BTreeSet<String> {
        let script = format!(
            "fpath=(${{PWD}}/.completions $fpath)
            autoload -Uz compinit && compinit -u -D
            _arguments() {{ print -rl -- \"$@\" }}
            _describe() {{ print -rl -- ${{(P)4}} }}
            {script}"
        );
        self.run(&["-f"], &script, &[])
    }
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn names(options: BTreeSet<Listed>) -> BTreeSet<String> {
    options
        .into_iter()
        .flat_map(|option| option.names)
        .collect()
}

fn server_options() -> BTreeSet<String> {
    names(help::options(&help::of_server()))
}

/// Every word that may stand where a command does.
fn client_commands() -> BTreeSet<String> {
    let mut commands = BTreeSet::new();
    for (command, aliases) in help::commands(&help::of_client(&[])) {
        commands.insert(command);
        commands.extend(aliases);
    }
    commands
}

fn client_options(command: &[&str]) -> BTreeSet<String> {
    names(help::options(&help::of_client(command)))
}

#[test]
fn bash_completes_the_server() {
    let Some(shell) = Shell::new("bash") else {
        return;
    };
    let check = |words: &[&str], expected: &[&str]| {
        assert_eq!(shell.bash(words), set(expected), "{words:?}");
    };
    same("bash", &shell.bash(&["nkv-server", "-"]), &server_options());
    check(
        &["nkv-server", "--sync", ""],
        &["always", "interval", "never"],
    );
    check(&["nkv-server", "--sync", "a"], &["always"]);
    check(&["nkv-server", "--sync", "=", "n"], &["never"]);
    check(
        &["nkv-server", "--sync", "="],
        &["always", "interval", "never"],
    );
    check(
        &["nkv-server", "--data-dir", ""],
        &["folder", ".completions"],
    );
    check(&["nkv-server", "--runtime-dir", "f"], &["folder"]);
    check(&["nkv-server", "--token-file", "f"], &["file", "folder"]);
    check(
        &["nkv-server", "--recover", "--sync", "never", "fo"],
        &["folder"],
    );
    check(&["nkv-server", "--max-keys", ""], &[]);
    check(&["nkv-server", "--log", "w"], &["warn"]);
    assert!(
        shell
            .bash(&["nkv-server", "--socket-group", "roo"])
            .contains("root")
    );
}

#[test]
fn bash_completes_the_client() {
    let Some(shell) = Shell::new("bash") else {
        return;
    };
    let offered = shell.bash(&["nkv-client", ""]);
    // Its first argument may be an option as well.
    let (options, commands): (BTreeSet<String>, BTreeSet<String>) =
        offered.into_iter().partition(|word| word.starts_with('-'));
    same("bash", &options, &client_options(&[]));
    same("bash", &commands, &client_commands());
    same(
        "bash",
        &shell.bash(&["nkv-client", "stats", "-"]),
        &client_options(&["stats"]),
    );
    assert_eq!(shell.bash(&["nkv-client", "comp"]), set(&["completions"]));
    let shells = shell.bash(&["nkv-client", "put", "--lifetime", ""]);
    assert_eq!(shells, set(&["durable", "boot", "session"]));
}

#[test]
fn fish_completes_both() {
    let Some(shell) = Shell::new("fish") else {
        return;
    };
    same("fish", &shell.fish("nkv-server -"), &server_options());
    assert_eq!(
        shell.fish("nkv-server --sync "),
        set(&["always", "interval", "never"])
    );
    assert_eq!(shell.fish("nkv-server --data-dir "), set(&["folder/"]));
    assert!(shell.fish("nkv-server --socket-group roo").contains("root"));
    assert_eq!(shell.fish("nkv-server --max-keys "), set(&[]));
    same("fish", &shell.fish("nkv-client -"), &client_options(&[]));
    let commands: BTreeSet<String> = help::commands(&help::of_client(&[])).into_keys().collect();
    let offered = shell.fish("nkv-client ");
    assert!(offered.is_superset(&commands), "{offered:?}");
    same(
        "fish",
        &shell.fish("nkv-client stats -"),
        &client_options(&["stats"]),
    );
}

#[test]
fn zsh_completes_both() {
    let Some(shell) = Shell::new("zsh") else {
        return;
    };
    let loaded = shell.zsh("print -l $_comps[nkv-server] $_comps[nkv-client]");
    assert_eq!(loaded, set(&["_nkv-server", "_nkv-client"]));
    // `--sync=[help]:when:(always interval never)`, `(- *)-h[help]`
    let specifications = shell.zsh("_nkv-server");
    let offered = specifications.iter().filter(|text| !text.starts_with("*:"));
    let offered = offered.map(|text| {
        let option = text.trim_start_matches("(- *)");
        option[..option.find(['=', '[']).unwrap()].to_owned()
    });
    same("zsh", &offered.collect(), &server_options());
    let sync = specifications
        .iter()
        .find(|text| text.starts_with("--sync"));
    assert!(
        sync.unwrap().ends_with(":(always interval never)"),
        "{sync:?}"
    );
    let commands = shell.zsh("_nkv-client > /dev/null; _nkv-client_commands");
    let commands = commands
        .iter()
        .filter_map(|command| command.split(':').next());
    same(
        "zsh",
        &commands.map(str::to_owned).collect(),
        &client_commands(),
    );
}
