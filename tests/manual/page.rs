//! A manual page's source, read as far as the checks need it.
//!
//! Pages are written in mdoc(7). What is looked at: sections (`.Sh`), lists and their items (`.Bl`,
//! `.It`, `.El`), options (`Fl`), and literal displays (`.Bd -literal`). A display that begins with
//! `$ ` is commands and what they print; where a remark `.\" needs=PROGRAM` stands before it, it is
//! run only where there is such a program.

use std::collections::BTreeSet;

use crate::document::Block;
use crate::help::Listed;
use crate::source;

pub(crate) struct Page {
    lines: Vec<String>,
}

/// One `.It` of a list.
struct Item {
    /// How many lists it is in.
    depth: usize,
    /// The words after `.It`.
    head: Vec<String>,
    /// Its lines, without those of lists in it.
    text: String,
}

impl Page {
    pub(crate) fn read(name: &str) -> Page {
        let text = source(&format!("docs/man/{name}"));
        Page {
            lines: text.lines().map(str::to_owned).collect(),
        }
    }

    fn section(&self, name: &str) -> impl Iterator<Item = &str> {
        let heading = format!(".Sh {name}");
        let lines = self.lines.iter().map(String::as_str);
        let lines = lines.skip_while(move |line| *line != heading).skip(1);
        lines.take_while(|line| !line.starts_with(".Sh "))
    }

    fn items(&self, section: &str) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        let mut depth = 0;
        for line in self.section(section) {
            if line.starts_with(".Bl ") {
                depth += 1;
            } else if line == ".El" {
                depth -= 1;
                open.truncate(depth);
            } else if let Some(head) = line.strip_prefix(".It ") {
                open.truncate(depth - 1);
                open.push(items.len());
                items.push(Item {
                    depth,
                    head: head.split(' ').map(str::to_owned).collect(),
                    text: String::new(),
                });
            } else if let Some(index) = open.last() {
                items[*index].text.push_str(&format!("{line}\n"));
            }
        }
        assert!(!items.is_empty(), "a section {section} with a list");
        items
    }

    /// The options that a section lists, with what is said about each.
    pub(crate) fn options(&self, section: &str) -> Vec<(Listed, String)> {
        let items = self.items(section).into_iter();
        let options = items.filter(|item| item.head[0] == "Fl");
        options
            .map(|item| (listed(&item.head), item.text))
            .collect()
    }

    /// A command of a section: how it is called, its options, and what is said about it.
    pub(crate) fn command(&self, section: &str, name: &str) -> (String, BTreeSet<Listed>, String) {
        let mut items = self.items(section).into_iter();
        let command = items.find(|item| item.head[..2] == ["Ic", name]);
        let command = command.unwrap_or_else(|| panic!("no page has the command {name}"));
        let below = items.take_while(|item| item.depth > command.depth);
        let options = below.filter(|item| item.head[0] == "Fl");
        let options = options.map(|item| listed(&item.head)).collect();
        (usage(&command.head), options, command.text)
    }

    /// All commands of a section.
    pub(crate) fn commands(&self, section: &str) -> BTreeSet<String> {
        let items = self.items(section).into_iter();
        let heads = items
            .filter(|item| item.head[0] == "Ic")
            .map(|item| item.head);
        let names = heads.flat_map(|head| {
            let end = head.iter().position(|word| ["Ar", "Op"].contains(&&**word));
            head[1..end.unwrap_or(head.len())].to_vec()
        });
        names.filter(|word| word != ",").collect()
    }

    /// The plain words that the items of a section begin with.
    pub(crate) fn heads(&self, section: &str) -> BTreeSet<String> {
        self.entries(section)
            .into_iter()
            .flat_map(|entry| entry.0)
            .collect()
    }

    /// The items of a section: the plain words of each head, and what is said.
    pub(crate) fn entries(&self, section: &str) -> Vec<(Vec<String>, String)> {
        const MACROS: [&str; 7] = ["Cm", "Op", "Oo", "Oc", "Ns", ",", "|"];
        let is_plain = |word: &String| !MACROS.contains(&&**word);
        let items = self.items(section).into_iter();
        let entries = items.map(|item| {
            let words = item.head.into_iter().filter(is_plain).collect();
            (words, item.text)
        });
        entries.collect()
    }

    /// Every option that is named anywhere, with its line.
    pub(crate) fn mentioned_options(&self) -> Vec<(usize, String)> {
        let mut mentioned = Vec::new();
        for (number, line) in (1..).zip(&self.lines) {
            if line.starts_with('.') && !line.starts_with(".\\\"") {
                let words: Vec<String> = line[1..].split(' ').map(str::to_owned).collect();
                mentioned.extend(listed(&words).names.into_iter().map(|name| (number, name)));
            }
        }
        mentioned
    }

    /// The displays that are commands and what they print.
    pub(crate) fn consoles(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut lines = (1..).zip(&self.lines);
        let mut needs = String::new();
        while let Some((_, line)) = lines.next() {
            if !line.starts_with(".Bd -literal") {
                needs = line.strip_prefix(".\\\" ").unwrap_or_default().to_owned();
                continue;
            }
            let inner = lines.by_ref().take_while(|(_, line)| *line != ".Ed");
            let inner: Vec<(usize, String)> =
                inner.map(|(number, line)| (number, typed(line))).collect();
            if inner[0].1.starts_with("$ ") {
                blocks.push(Block {
                    info: format!("console {needs}"),
                    lines: inner,
                });
            }
        }
        blocks
    }
}

/// The options of a macro line, and the argument that comes last.
fn listed(words: &[String]) -> Listed {
    let mut listed = Listed {
        names: BTreeSet::new(),
        argument: None,
    };
    let mut words = words.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        match word {
            "Fl" if words.next_if_eq(&"Fl").is_some() => {
                listed.names.insert(format!("--{}", words.next().unwrap()));
            }
            "Fl" => {
                listed.names.insert(format!("-{}", words.next().unwrap()));
            }
            "Ar" => listed.argument = words.next().map(str::to_owned),
            _ => {}
        }
    }
    listed
}

/// `Ic put Ar KEY Op Ar VALUE` as `put KEY [VALUE]`.
fn usage(head: &[String]) -> String {
    let mut usage = String::new();
    let mut is_optional = false;
    let mut is_joined = true;
    for word in head {
        match word.as_str() {
            "Ic" | "Ar" => {}
            "Op" => is_optional = true,
            "Ns" => is_joined = true,
            "..." => usage.push_str(word),
            word => {
                if !is_joined {
                    usage.push(' ');
                }
                if is_optional && !is_joined && !usage.contains('[') {
                    usage.push('[');
                }
                usage.push_str(&typed(word));
                is_joined = false;
            }
        }
    }
    if is_optional {
        usage.push(']');
    }
    usage
}

/// A line of a display as it is shown.
fn typed(line: &str) -> String {
    let mut typed = String::new();
    let mut rest = line;
    while let Some((before, escape)) = rest.split_once('\\') {
        const ESCAPES: [(&str, &str); 7] = [
            ("-", "-"),
            ("e", "\\"),
            ("&", ""),
            ("(aq", "'"),
            ("(ga", "`"),
            ("(ti", "~"),
            ("(ha", "^"),
        ];
        let known = ESCAPES.iter().find(|known| escape.starts_with(known.0));
        let (escaped, shown) = known.unwrap_or_else(|| panic!("what is shown for \\{escape}?"));
        typed.push_str(before);
        typed.push_str(shown);
        rest = &escape[escaped.len()..];
    }
    typed + rest
}

#[test]
fn pages_are_read() {
    let words = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
    let check = |head: &str, expected: &str| assert_eq!(usage(&words(head)), expected);
    check("Ic stats", "stats");
    check("Ic put Ar KEY Op Ar VALUE", "put KEY [VALUE]");
    check("Ic get Ar KEY Ns | Ns Ar PATTERN", "get KEY|PATTERN");
    check("Ic run Ar A Op \\-\\- Ar B ...", "run A [-- B...]");
    check("Ic end Op Ar KEY Ns | Ns Ar PATTERN", "end [KEY|PATTERN]");
    let found = listed(&words("It Fl k , Fl Fl keys Ar N"));
    assert_eq!(found.names, BTreeSet::from(["-k".into(), "--keys".into()]));
    assert_eq!(found.argument.as_deref(), Some("N"));
    assert_eq!(typed("a\\-b \\(aqc\\en\\(aq"), "a-b 'c\\n'");
}
