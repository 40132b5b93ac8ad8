//! A story as it stands in its file, and what its placeholders stand for. `README.md` tells the format.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

/// The words that the `needs` of a story may hold.
const NEEDS: [&str; 5] = ["tcp", "unix", "end", "token", "fresh"];

/// What the daemon's token is in stories that need one.
pub(crate) const TOKEN: &str = "sesame";

pub(crate) struct Story {
    pub(crate) name: String,
    pub(crate) limits: BTreeMap<String, u64>,
    pub(crate) needs: Vec<String>,
    /// With the numbers of their lines.
    pub(crate) steps: Vec<(usize, Step)>,
    /// The numbers of the lines that no client library sends, and of their answers.
    pub(crate) raw: Vec<usize>,
}

pub(crate) enum Step {
    /// A client does this.
    Act(String, Act),
    /// Clients receive these lines, in any order where there are several.
    Receive(Vec<(String, String)>),
}

pub(crate) enum Act {
    Open,
    Send(Sent),
    Close,
    /// It closes its sending half.
    End,
    /// The daemon closes its connection.
    Ended,
}

/// What a client sends.
pub(crate) enum Sent {
    /// With placeholders, and without its line end.
    Line(String),
    Bytes(Vec<u8>),
}

/// A line of the file, read in one go.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    about: Option<String>,
    limits: Option<BTreeMap<String, u64>>,
    needs: Option<Vec<String>>,
    open: Option<String>,
    r#in: Option<String>,
    out: Option<String>,
    line: Option<Box<RawValue>>,
    text: Option<String>,
    base64: Option<String>,
    any_order: Option<Vec<Fields>>,
    close: Option<String>,
    end: Option<String>,
    ended: Option<String>,
    raw: Option<bool>,
}

impl Story {
    pub(crate) fn read(path: &Path) -> Story {
        let text = std::fs::read_to_string(path).unwrap();
        Story::parse(path.file_stem().unwrap().to_str().unwrap(), &text)
            .unwrap_or_else(|failure| panic!("{}: {failure}", path.display()))
    }

    /// # Errors
    /// Names the line that is no step.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Story, String> {
        let mut lines = text.split_terminator('\n').enumerate();
        let (_, first) = lines.next().ok_or("nothing is in it")?;
        let first: Fields = serde_json::from_str(first).map_err(|e| format!("line 1: {e}"))?;
        if first.about.is_none_or(|about| about.is_empty()) {
            return Err("line 1: it does not say what the story is about".into());
        }
        let needs = first.needs.unwrap_or_default();
        if let Some(word) = needs.iter().find(|word| !NEEDS.contains(&word.as_str())) {
            return Err(format!("line 1: nobody knows the need {word}"));
        }
        let (mut steps, mut raw) = (Vec::new(), Vec::new());
        for (number, line) in lines {
            let number = number + 1;
            let fields: Fields =
                serde_json::from_str(line).map_err(|e| format!("line {number}: {e}"))?;
            if fields.raw == Some(true) {
                raw.push(number);
            }
            let step = step(fields).map_err(|e| format!("line {number}: {e}"))?;
            steps.push((number, step));
        }
        Ok(Story {
            name: name.into(),
            limits: first.limits.unwrap_or_default(),
            needs,
            steps,
            raw,
        })
    }

    pub(crate) fn needs(&self, word: &str) -> bool {
        self.needs.iter().any(|need| need == word)
    }
}

fn step(mut fields: Fields) -> Result<Step, String> {
    if let Some(lines) = fields.any_order {
        let lines: Result<Vec<_>, _> = lines.into_iter().map(expected).collect();
        return lines.map(Step::Receive);
    }
    if fields.out.is_some() {
        return expected(fields).map(|line| Step::Receive(vec![line]));
    }
    if let Some(name) = fields.r#in.take() {
        return sent(fields).map(|sent| Step::Act(name, Act::Send(sent)));
    }
    let acts = [
        (fields.open, Act::Open),
        (fields.close, Act::Close),
        (fields.end, Act::End),
        (fields.ended, Act::Ended),
    ];
    let act = acts
        .into_iter()
        .find_map(|(name, act)| Some(Step::Act(name?, act)));
    act.ok_or_else(|| "it is no step".into())
}

fn sent(fields: Fields) -> Result<Sent, String> {
    match (fields.line, fields.text, fields.base64) {
        (Some(line), None, None) => Ok(Sent::Line(line.get().into())),
        (None, Some(text), None) => Ok(Sent::Bytes((text + "\n").into_bytes())),
        (None, None, Some(text)) => {
            let bytes = STANDARD.decode(text).map_err(|e| e.to_string())?;
            Ok(Sent::Bytes(bytes))
        }
        _ => Err("a client sends a line, a text or bytes".into()),
    }
}

fn expected(fields: Fields) -> Result<(String, String), String> {
    let line = fields.line.as_ref().map(|line| line.get().to_owned());
    fields
        .out
        .zip(line)
        .ok_or_else(|| "it is no expected line".into())
}

/// What the placeholders of a story stand for: JSON texts.
#[derive(Clone, Default)]
pub(crate) struct Names {
    bound: BTreeMap<String, String>,
    ids: u64,
}

impl Names {
    /// Writes a line that is to be sent.
    ///
    /// # Errors
    /// It has a placeholder that stands for nothing yet and is no id.
    pub(crate) fn fill(&mut self, line: &str) -> Result<String, String> {
        let mut parts = line.split("\"$");
        let mut filled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            if let Some(rest) = part.strip_prefix('$') {
                filled.push_str("\"$");
                filled.push_str(rest);
                continue;
            }
            let (name, rest) = part.split_once('"').ok_or("a placeholder without an end")?;
            if name.starts_with("id") && !self.bound.contains_key(name) {
                self.ids += 1;
                // Integers and strings in turn.
                let id = match self.ids % 2 {
                    1 => self.ids.to_string(),
                    _ => format!("\"request {}\"", self.ids),
                };
                self.bound.insert(name.into(), id);
            }
            let text = self
                .bound
                .get(name)
                .ok_or(format!("${name} is not known"))?;
            filled.push_str(text);
            filled.push_str(rest);
        }
        Ok(filled)
    }

    /// Compares a line that has come.
    ///
    /// # Errors
    /// Says what differs.
    pub(crate) fn compare(&mut self, expected: &str, line: &str) -> Result<(), String> {
        match (Node::read(expected)?, Node::read(line)?) {
            (Node::Text(expected), node) if expected.starts_with('$') => {
                self.compare_placeholder(&expected, line, &node)
            }
            (Node::Object(expected), Node::Object(fields)) => {
                self.compare_objects(&expected, &fields)
            }
            (Node::List(expected), Node::List(elements)) => {
                if expected.len() != elements.len() {
                    return Err(differ(expected.len(), elements.len()));
                }
                let mut pairs = expected.iter().zip(&elements);
                pairs
                    .try_for_each(|(expected, element)| self.compare(expected.get(), element.get()))
            }
            (Node::Text(expected), Node::Text(text)) if expected == text => Ok(()),
            (Node::Other, Node::Other) if expected == line => Ok(()),
            _ => Err(differ(expected, line)),
        }
    }

    fn compare_objects(&mut self, expected: &[Field], fields: &[Field]) -> Result<(), String> {
        let mut open = false;
        let mut left: BTreeSet<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        if left.len() < fields.len() {
            return Err("a field stands twice".into());
        }
        for (name, expected) in expected {
            if name == "..." {
                open = true;
                continue;
            }
            let found = fields.iter().find(|(other, _)| other == name);
            let (_, found) = found.ok_or(format!("the field {name} is missing"))?;
            left.remove(name.as_str());
            let (expected, found) = (expected.get(), found.get());
            let is_literal = name == "value" || name == "id" && !expected.starts_with("\"$");
            let result = match is_literal {
                true if expected == found => Ok(()),
                true => Err(differ(expected, found)),
                false => self.compare(expected, found),
            };
            result.map_err(|failure| format!("{name}: {failure}"))?;
        }
        match left.first() {
            Some(name) if !open => Err(format!("the field {name} is not expected")),
            _ => Ok(()),
        }
    }

    fn compare_placeholder(
        &mut self,
        expected: &str,
        text: &str,
        node: &Node,
    ) -> Result<(), String> {
        let name = &expected[1..];
        if let Some(rest) = name.strip_prefix('$') {
            let is_same = matches!(node, Node::Text(text) if text.strip_prefix('$') == Some(rest));
            return match is_same {
                true => Ok(()),
                false => Err(differ(name, text)),
            };
        }
        if let Some(bound) = self.bound.get(name) {
            return match bound == text {
                true => Ok(()),
                false => Err(format!("${name}: {}", differ(bound, text))),
            };
        }
        let is_integer = text.parse::<u64>().is_ok();
        let is_text = matches!(node, Node::Text(_));
        let fits = match name {
            _ if name.starts_with("id") => return Err(format!("${name} has not been sent")),
            _ if revision(name).is_some() => is_integer && self.grows(name, text),
            _ if name.starts_with('n') => is_integer,
            _ => is_text,
        };
        if !fits {
            return Err(format!("{text} does not fit ${name}"));
        }
        if name != "_" {
            self.bound.insert(name.into(), text.into());
        }
        Ok(())
    }

    /// Whether a revision lies right among those that are known.
    fn grows(&self, name: &str, text: &str) -> bool {
        let rev: u64 = text.parse().unwrap();
        let number = revision(name);
        self.bound.iter().all(|(other, bound)| {
            revision(other).is_none_or(|_| {
                let bound: u64 = bound.parse().unwrap();
                rev.cmp(&bound) == number.cmp(&revision(other))
            })
        })
    }
}

/// The number of a placeholder for a revision.
fn revision(name: &str) -> Option<u64> {
    name.strip_prefix('r')?.parse().ok()
}

fn differ(expected: impl fmt::Display, found: impl fmt::Display) -> String {
    format!("expected {expected}, found {found}")
}

type Field<'a> = (String, &'a RawValue);

/// One level of a line.
enum Node<'a> {
    Object(Vec<Field<'a>>),
    List(Vec<&'a RawValue>),
    /// A string without its escapes.
    Text(String),
    /// A number or a word.
    Other,
}

impl Node<'_> {
    fn read(text: &str) -> Result<Node<'_>, String> {
        let told = |e: serde_json::Error| format!("{e} in {text}");
        match text.trim_start().chars().next() {
            Some('{') => {
                let Fieldwise(fields) = serde_json::from_str(text).map_err(told)?;
                Ok(Node::Object(fields))
            }
            Some('[') => Ok(Node::List(serde_json::from_str(text).map_err(told)?)),
            Some('"') => Ok(Node::Text(serde_json::from_str(text).map_err(told)?)),
            _ => {
                let _: &RawValue = serde_json::from_str(text).map_err(told)?;
                Ok(Node::Other)
            }
        }
    }
}

/// The fields of an object as they stand.
struct Fieldwise<'a>(Vec<Field<'a>>);

impl<'de> Deserialize<'de> for Fieldwise<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Fieldwise<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fieldwise(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}
