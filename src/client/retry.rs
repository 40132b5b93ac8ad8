//! What may be asked again after a connection is lost, decided without one: the blocking link and the
//! asynchronous one do what stands here.
//!
//! What surely changed nothing is asked again, and whatever only reads. A put that was sent and not
//! answered may have been carried out. It is sent again only where its conditions make that harmless, and
//! from then on every failure to find out leaves its fate unknown: whatever hinders a repetition, what is
//! reported is the answer that was lost.

use serde::Serialize;

use super::{Entry, Error, Put, Value, Written};
use crate::wire::ErrorCode;

/// Whether a request has surely not been carried out and may be asked again.
pub(super) fn is_unsent(error: &Error) -> bool {
    matches!(error, Error::Closed | Error::Io(_) | Error::Connect { .. })
}

/// Whether another attempt to connect may succeed.
pub(super) fn is_passing(error: &Error) -> bool {
    error.is_disconnect()
        || matches!(error, Error::Timeout)
        || error.code() == Some(ErrorCode::Limit)
}

/// A put on its way through one connection after the other.
#[derive(Debug)]
pub(super) struct Attempts {
    is_if_changed: bool,
    is_if_rev: bool,
    /// The first answer that was lost, and the history in which the put was made.
    lost: Option<(Error, String)>,
}

impl Attempts {
    pub(super) fn new(put: &Put) -> Attempts {
        Attempts {
            is_if_changed: put.is_if_changed(),
            is_if_rev: put.rev_wanted().is_some(),
            lost: None,
        }
    }

    /// Whether the put may be sent where the history is this one. Asked before each attempt.
    ///
    /// # Errors
    /// The put's fate, where it may not.
    pub(super) fn begin(&mut self, epoch: &str) -> Result<(), Error> {
        // Revisions of another history say nothing about this put.
        let is_other = |lost: &mut (Error, String)| self.is_if_rev && lost.1 != epoch;
        match self.lost.take_if(is_other) {
            Some((error, _)) => Err(error),
            None => Ok(()),
        }
    }

    /// What an attempt came to; nothing where there is to be another one.
    pub(super) fn end(
        &mut self,
        done: Result<Written, Error>,
        epoch: &str,
        is_in_time: bool,
    ) -> Option<Result<Written, Error>> {
        let error = match done {
            Ok(written) => return Some(Ok(written)),
            Err(error) => error,
        };
        let is_lost = matches!(error, Error::Unanswered(_));
        let is_repeatable = self.is_if_changed || self.is_if_rev;
        if is_in_time && (is_unsent(&error) || is_lost && is_repeatable) {
            if is_lost {
                self.lost.get_or_insert((error, epoch.to_owned()));
            }
            return None;
        }
        Some(Err(self.fate(error)))
    }

    /// What a failure says about the put: nothing, where an answer was lost before.
    pub(super) fn fate(&mut self, error: Error) -> Error {
        match self.lost.take() {
            Some((lost, _)) => lost,
            None => error,
        }
    }
}

/// What a read-modify-write comes to.
pub(super) enum Update {
    Put(Put),
    /// Nothing is to be changed. The revision of what is there; `0` where nothing is.
    Nothing {
        rev: u64,
    },
}

/// Makes a new value of what was read, to be put if nobody else was faster. The entry keeps its
/// lifetime, and what is left of its time to live.
pub(super) fn update<T: Serialize>(
    key: &str,
    entry: Option<Entry<T>>,
    change: impl FnOnce(Option<T>) -> Option<T>,
) -> Result<Update, Error> {
    let rev = entry.as_ref().map_or(0, |entry| entry.rev);
    let terms = entry.as_ref().map(|entry| (entry.lifetime, entry.ttl));
    let Some(value) = change(entry.map(|entry| entry.value)) else {
        return Ok(Update::Nothing { rev });
    };
    let put = Put::new(key, Value::of(&value)?)?.if_rev(rev);
    Ok(Update::Put(match terms {
        Some((lifetime, ttl)) => put.on_terms(lifetime, ttl),
        None => put,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Failure;

    const REV: Written = Written {
        rev: 7,
        is_unchanged: false,
    };

    fn lost() -> Error {
        Error::Unanswered(Box::new(Error::Closed))
    }

    fn refused(code: &str) -> Error {
        let line = format!(r#"{{"ok":false,"error":"{code}","message":""}}"#);
        let Ok(crate::wire::Incoming::Reply { result, .. }) = crate::wire::Incoming::parse(&line)
        else {
            panic!("{line}");
        };
        let failure: Failure = result.unwrap_err();
        Error::Server(failure)
    }

    /// Each word is an attempt in the history after the `@`; `late` ends the patience. The last word is
    /// what comes of it: `again`, or the outcome.
    #[test]
    fn a_put_is_repeated_where_that_does_no_harm() {
        let plain = || Put::new("a", Value::from_bytes("")).unwrap();
        let check = |put: Put, script: &str, expected: &str| {
            let mut attempts = Attempts::new(&put);
            let mut is_in_time = true;
            let mut outcome = "again".to_owned();
            for word in script.split_whitespace() {
                assert_eq!(outcome, "again", "{script}");
                if word == "late" {
                    is_in_time = false;
                    continue;
                }
                let (what, epoch) = word.split_once('@').unwrap_or((word, "e"));
                let done = match what {
                    "done" => Ok(REV),
                    "lost" => Err(lost()),
                    "unsent" => Err(Error::Closed),
                    "timeout" => Err(Error::Timeout),
                    code => Err(refused(code)),
                };
                let came = match attempts.begin(epoch) {
                    Ok(()) => attempts.end(done, epoch, is_in_time),
                    Err(error) => Some(Err(error)),
                };
                outcome = match came {
                    None => "again".into(),
                    Some(Ok(_)) => "done".into(),
                    Some(Err(Error::Unanswered(_))) => "lost".into(),
                    Some(Err(Error::Closed)) => "unsent".into(),
                    Some(Err(Error::Timeout)) => "timeout".into(),
                    Some(Err(error)) => format!("{:?}", error.code().unwrap()),
                };
            }
            assert_eq!(outcome, expected, "{script}");
        };
        check(plain(), "unsent unsent done", "done");
        check(plain(), "unsent late unsent", "unsent");
        check(plain(), "lost", "lost");
        check(plain(), "timeout", "timeout");
        check(plain(), "limit", "Limit");
        let if_changed = || plain().if_changed();
        check(if_changed(), "lost unsent lost@f done@g", "done");
        check(if_changed(), "lost late unsent", "lost");
        check(if_changed(), "lost timeout", "lost");
        check(if_changed(), "lost read_only", "lost");
        let if_rev = || plain().if_rev(3);
        check(if_rev(), "conflict", "Conflict");
        check(if_rev(), "lost done", "done");
        check(if_rev(), "lost conflict", "lost");
        check(if_rev(), "unsent conflict", "Conflict");
        check(if_rev(), "lost lost unsent conflict", "lost");
        check(if_rev(), "lost done@f", "lost");
        check(if_rev(), "unsent done@f", "done");
    }

    #[test]
    fn what_hinders_a_repetition_is_not_the_puts_fate() {
        let mut attempts = Attempts::new(&Put::new("a", Value::from_bytes("")).unwrap().if_rev(1));
        assert!(matches!(attempts.fate(Error::Timeout), Error::Timeout));
        assert!(attempts.end(Err(lost()), "e", true).is_none());
        assert!(matches!(
            attempts.fate(Error::Timeout),
            Error::Unanswered(_)
        ));
    }
}
