//! Rules as a person reads them: from the top, line by line, each time anew.
//!
//! This is the format of `docs/access.md` a second time, with nothing kept that could be kept wrongly.

use std::fmt;
use std::rc::Rc;

use nkv::access::{Action, Resource, Subject};
use nkv::wire::Lifetime;

use super::number::size;
use super::pattern::{covers, is_pattern, key_of_both, matches};

/// Lines that say who may do what, and how long entries may live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rights {
    /// With the numbers of the lines.
    lines: Vec<(usize, Line)>,
}

/// One line of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Rule {
        is_allowed: bool,
        who: Who,
        actions: Vec<Action>,
        pattern: String,
    },
    Lifetime {
        pattern: String,
        lifetime: Lifetime,
    },
    Quota {
        who: Who,
        resource: Resource,
        amount: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    User(u32),
    Group(u32),
    Tcp,
    Anyone,
}

/// What one peer may do: rights, or none where nobody has made rules, and who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) rights: Option<Rc<Rights>>,
    pub(crate) subject: Subject,
}

impl View {
    pub(crate) fn may(&self, action: Action, key: &str) -> bool {
        let rights = self.rights.as_ref();
        rights.is_none_or(|rights| rights.decide(&self.subject, action, key).0)
    }

    pub(crate) fn sees(&self, key: &str) -> bool {
        self.may(Action::Read, key)
    }

    /// Whether a deletion by pattern covers a key.
    pub(crate) fn sweeps(&self, key: &str) -> bool {
        self.may(Action::Write, key) && self.may(Action::Read, key)
    }

    /// Whether there is a key of a pattern to which something may be done, as far as the rules by
    /// themselves tell: the first one that allows some of it, or denies all of it, decides.
    pub(crate) fn may_some(&self, action: Action, pattern: &str, exact: bool) -> bool {
        let Some(rights) = &self.rights else {
            return true;
        };
        // A pattern with all that is below it, as one that says so.
        let below = if exact || pattern.ends_with('*') {
            pattern.to_owned()
        } else {
            format!("{pattern}.*")
        };
        let mut is_said = false;
        for (_, line) in &rights.lines {
            let Line::Rule {
                is_allowed,
                who,
                actions,
                pattern,
            } = line
            else {
                continue;
            };
            is_said = true;
            if !who.is(&self.subject) || !actions.contains(&action) {
                continue;
            }
            if *is_allowed && key_of_both(pattern, &below).is_some() {
                return true;
            }
            if !is_allowed && covers(pattern, &below) {
                return false;
            }
        }
        !is_said
    }

    /// Whether something may be done to a key and all that can lie below it, as far as one line by
    /// itself tells.
    pub(crate) fn may_all(&self, action: Action, key: &str) -> bool {
        let Some(rights) = &self.rights else {
            return true;
        };
        let below = format!("{key}.*");
        let mut is_said = false;
        for (_, line) in &rights.lines {
            let Line::Rule {
                is_allowed,
                who,
                actions,
                pattern,
            } = line
            else {
                continue;
            };
            is_said = true;
            if !who.is(&self.subject) || !actions.contains(&action) {
                continue;
            }
            if *is_allowed && covers(pattern, &below) {
                return true;
            }
            if !is_allowed && key_of_both(pattern, &below).is_some() {
                return false;
            }
        }
        !is_said
    }

    /// How much of something it may hold, if the rules say so.
    pub(crate) fn quota(&self, resource: Resource) -> Option<u64> {
        let rights = self.rights.as_ref()?;
        Some(rights.quota(&self.subject, resource)?.0)
    }

    pub(crate) fn longest_lifetime(&self, key: &str) -> Option<Lifetime> {
        let rights = self.rights.as_ref()?;
        Some(rights.longest_lifetime(key)?.0)
    }
}

impl Rights {
    pub(crate) fn new(lines: Vec<Line>) -> Rights {
        Rights {
            lines: (1..).zip(lines).collect(),
        }
    }

    /// Reads rules of a text in which everybody is named by number, or the number of the first bad line.
    pub(crate) fn parse(text: &str) -> Result<Rights, usize> {
        let mut lines = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let words = line.split_whitespace();
            // A comment begins with a word that begins with a `#`.
            let words: Vec<&str> = words.take_while(|word| !word.starts_with('#')).collect();
            if !words.is_empty() {
                lines.push((number, Line::parse(&words).ok_or(number)?));
            }
        }
        Ok(Rights { lines })
    }

    /// Whether something is allowed, and the number of the line that says so.
    pub(crate) fn decide(
        &self,
        subject: &Subject,
        action: Action,
        key: &str,
    ) -> (bool, Option<usize>) {
        let mut is_said = false;
        for (number, line) in &self.lines {
            if let Line::Rule {
                is_allowed,
                who,
                actions,
                pattern,
            } = line
            {
                is_said = true;
                if who.is(subject) && actions.contains(&action) && matches(pattern, true, key) {
                    return (*is_allowed, Some(*number));
                }
            }
        }
        (!is_said, None)
    }

    /// The longest lifetime under a key, and the number of the line that says so.
    pub(crate) fn longest_lifetime(&self, key: &str) -> Option<(Lifetime, usize)> {
        self.lines.iter().find_map(|(number, line)| match line {
            Line::Lifetime { pattern, lifetime } if matches(pattern, true, key) => {
                Some((*lifetime, *number))
            }
            _ => None,
        })
    }

    /// How much of something one may hold, and the number of the line that says so.
    pub(crate) fn quota(&self, subject: &Subject, resource: Resource) -> Option<(u64, usize)> {
        self.lines.iter().find_map(|(number, line)| match line {
            Line::Quota {
                who,
                resource: said,
                amount,
            } if who.is(subject) && *said == resource => Some((*amount, *number)),
            _ => None,
        })
    }

    /// The same with what one line allows denied, or the other way round; nothing where there is no such
    /// line, or it does neither.
    pub(crate) fn turned(&self, at: usize) -> Option<Rights> {
        let mut turned = self.clone();
        let Line::Rule { is_allowed, .. } = &mut turned.lines.get_mut(at)?.1 else {
            return None;
        };
        *is_allowed = !*is_allowed;
        Some(turned)
    }

    /// The patterns that it speaks of.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|(_, line)| match line {
            Line::Rule { pattern, .. } | Line::Lifetime { pattern, .. } => Some(pattern.as_str()),
            Line::Quota { .. } => None,
        })
    }
}

impl Line {
    fn parse(words: &[&str]) -> Option<Line> {
        match *words {
            [verdict @ ("allow" | "deny"), who, actions, pattern] => Some(Line::Rule {
                is_allowed: verdict == "allow",
                who: Who::parse(who)?,
                actions: parse_actions(actions)?,
                pattern: parse_pattern(pattern)?,
            }),
            ["lifetime", pattern, lifetime] => Some(Line::Lifetime {
                pattern: parse_pattern(pattern)?,
                lifetime: match lifetime {
                    "session" => Lifetime::Session,
                    "boot" => Lifetime::Boot,
                    "durable" => Lifetime::Durable,
                    _ => return None,
                },
            }),
            ["quota", who, resource, amount] => Some(Line::Quota {
                who: Who::parse(who)?,
                resource: *Resource::ALL.iter().find(|one| one.as_str() == resource)?,
                amount: size(amount)?,
            }),
            _ => None,
        }
    }
}

impl Who {
    fn parse(text: &str) -> Option<Who> {
        match text {
            "anyone" => Some(Who::Anyone),
            "tcp" => Some(Who::Tcp),
            _ => match text.split_once(':')? {
                ("user", number) => Some(Who::User(parse_number(number)?)),
                ("group", number) => Some(Who::Group(parse_number(number)?)),
                _ => None,
            },
        }
    }

    fn is(self, subject: &Subject) -> bool {
        match subject {
            Subject::User { uid, gids } => match self {
                Who::User(user) => user == *uid,
                Who::Group(group) => gids.contains(&group),
                Who::Anyone => true,
                Who::Tcp => false,
            },
            Subject::Tcp => matches!(self, Who::Tcp | Who::Anyone),
        }
    }
}

/// Digits and nothing else.
fn parse_number(text: &str) -> Option<u32> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

fn parse_actions(text: &str) -> Option<Vec<Action>> {
    let mut actions = Vec::new();
    for word in text.split(',') {
        match word {
            "all" => actions.extend(Action::ALL),
            word => actions.push(*Action::ALL.iter().find(|action| action.as_str() == word)?),
        }
    }
    Some(actions)
}

fn parse_pattern(text: &str) -> Option<String> {
    is_pattern(text).then(|| text.to_owned())
}

/// The text of a file.
impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines
            .iter()
            .try_for_each(|(_, line)| writeln!(f, "{line}"))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Line::Rule {
                is_allowed,
                who,
                actions,
                pattern,
            } => {
                let verdict = if *is_allowed { "allow" } else { "deny" };
                let actions: Vec<&str> = actions.iter().map(|action| action.as_str()).collect();
                write!(f, "{verdict} {who} {} {pattern}", actions.join(","))
            }
            Line::Quota {
                who,
                resource,
                amount,
            } => write!(f, "quota {who} {} {amount}", resource.as_str()),
            Line::Lifetime { pattern, lifetime } => {
                write!(f, "lifetime {pattern} {}", lifetime.as_str())
            }
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::User(number) => write!(f, "user:{number}"),
            Who::Group(number) => write!(f, "group:{number}"),
            Who::Tcp => f.write_str("tcp"),
            Who::Anyone => f.write_str("anyone"),
        }
    }
}
