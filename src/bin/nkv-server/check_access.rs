//! What rules say, and why: for whoever writes them.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use nkv::access::{Action, Decision, Resource, Rules, Subject, parse_number};
use nkv::{Key, Pattern, server};

use crate::arguments::Question;

/// The answer to a question: a line for each thing that can be done, and for each quota that the rules name.
pub(crate) fn explain(question: &Question) -> Result<String, String> {
    let rules = server::read_rules(&question.file)
        .map_err(|error| format!("{}: {error}", question.file.display()))?;
    let subject = subject(&question.user)?;
    let key = Key::new(&question.key).map_err(|error| format!("{}: {error}", question.key))?;
    let mut text = format!("{} is {}\n", question.user, described(&subject));
    for action in Action::ALL {
        let reason = match action {
            Action::Own => claiming(&rules, &subject, &key)?,
            _ => reason(&rules.decide(&subject, action, key.borrowed())),
        };
        text.push_str(&format!("{:<8} {reason}\n", action.as_str()));
    }
    text.push_str(&format!("lifetime {}\n", lifetime(&rules, &key)));
    for resource in Resource::ALL {
        if let Some((amount, line, said)) = rules.quota(&subject, resource) {
            let resource = resource.as_str();
            text.push_str(&format!(
                "quota    {resource}: {amount} by line {line}: {said}\n"
            ));
        }
    }
    Ok(text)
}

/// A user of this machine with all groups, by name or number, or TCP.
fn subject(user: &str) -> Result<Subject, String> {
    if user == "tcp" {
        return Ok(Subject::Tcp);
    }
    let number = parse_number(user);
    let found = match number {
        Some(uid) => User::from_uid(Uid::from_raw(uid)),
        None => User::from_name(user),
    };
    match (found, number) {
        (Ok(Some(user)), _) => {
            let name = CString::new(user.name).map_err(|error| error.to_string())?;
            let groups = getgrouplist(&name, user.gid).map_err(|error| error.to_string())?;
            Ok(Subject::User {
                uid: user.uid.as_raw(),
                gids: groups.into_iter().map(Gid::as_raw).collect(),
            })
        }
        // A number need not have a name.
        (_, Some(uid)) => Ok(Subject::User {
            uid,
            gids: Vec::new(),
        }),
        (Ok(None), None) => Err(format!("there is no user {user}")),
        (Err(error), None) => Err(format!("can't look up {user}: {error}")),
    }
}

fn described(subject: &Subject) -> String {
    let Subject::User { uid, gids } = subject else {
        return "whoever comes over TCP".into();
    };
    let named = |gid: &u32| match Group::from_gid(Gid::from_raw(*gid)) {
        Ok(Some(group)) => group.name,
        _ => gid.to_string(),
    };
    let groups: Vec<String> = gids.iter().map(named).collect();
    match groups.as_slice() {
        [] => format!("user {uid}, in no group"),
        groups => format!("user {uid}, in {}", groups.join(", ")),
    }
}

fn reason(decision: &Decision<'_>) -> String {
    match (decision.is_allowed, decision.line) {
        (true, Some((line, text))) => format!("allowed by line {line}: {text}"),
        (false, Some((line, text))) => format!("denied by line {line}: {text}"),
        (true, None) => "allowed: there are no rules".into(),
        (false, None) => "denied: no line allows it".into(),
    }
}

/// Whether a key can be claimed: with it goes all that can lie below.
fn claiming(rules: &Rules, subject: &Subject, key: &Key) -> Result<String, String> {
    let subtree = Pattern::new(key.as_str()).map_err(|error| error.to_string())?;
    let decision = rules.decide_all(subject, Action::Own, &subtree.with_descendants());
    let alone = rules.decide(subject, Action::Own, key.borrowed());
    Ok(match (decision.line, alone.line) {
        (None, Some(_)) => "denied: no line allows all that can lie below it".into(),
        _ => reason(&decision),
    })
}

fn lifetime(rules: &Rules, key: &Key) -> String {
    match rules.longest_lifetime(key.borrowed()) {
        Some((lifetime, line, text)) => {
            format!("at most {} by line {line}: {text}", lifetime.as_str())
        }
        None => "any: no line bounds it".into(),
    }
}
