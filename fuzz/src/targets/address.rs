//! Addresses: what is one, which kind it is, and that it can be written and read again.

use std::net::Ipv6Addr;
use std::path::Path;

use nkv::Address;

/// Each line is an address, or none.
pub fn address(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for text in text.split('\n') {
        let read: Result<Address, _> = text.parse();
        assert_eq!(read.as_ref().ok(), by_definition(text).as_ref(), "{text:?}");
        match read {
            Ok(address) => {
                let written = address.to_string();
                assert_eq!(written.parse(), Ok(address), "{text:?} as {written:?}");
            }
            Err(error) => {
                let message = error.to_string();
                let is_plain = !message.contains(char::is_control);
                assert!(is_plain, "{message:?} can be shown to anybody");
            }
        }
    }
}

/// `unix:PATH`, or anything with a `/`; `tcp:` or nothing before a port, with a host and a colon or
/// without.
fn by_definition(text: &str) -> Option<Address> {
    let is_tcp = text.starts_with("tcp:");
    let path = match text.strip_prefix("unix:") {
        Some(path) => Some(path),
        None => (!is_tcp && text.contains('/')).then_some(text),
    };
    if let Some(path) = path {
        return (!path.is_empty()).then(|| Address::Unix(Path::new(path).to_owned()));
    }
    let place = text.strip_prefix("tcp:").unwrap_or(text);
    let (host, port) = match place.rfind(':') {
        Some(colon) => (&place[..colon], &place[colon + 1..]),
        None => ("localhost", place),
    };
    let is_port = port.chars().all(|digit| digit.is_ascii_digit());
    let value = port.chars().fold(0, |value: u64, digit| {
        let digit = digit.to_digit(10).unwrap_or_default();
        (value * 10 + u64::from(digit)).min(u64::from(u16::MAX) + 1)
    });
    let is_port = is_port && !port.is_empty() && value <= u64::from(u16::MAX);
    (is_port && is_host(host)).then(|| Address::Tcp(format!("{host}:{port}")))
}

fn is_host(host: &str) -> bool {
    match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(host) => {
            let (address, scope) = host.split_once('%').unwrap_or((host, "0"));
            let is_scope = !scope.is_empty() && scope.chars().all(|digit| digit.is_ascii_digit());
            is_scope && scope.parse::<u32>().is_ok() && address.parse::<Ipv6Addr>().is_ok()
        }
        None => {
            let is_text = |c: char| !matches!(c, ':' | '[' | ']' | '/') && !c.is_whitespace();
            !host.is_empty() && host.chars().all(|c| is_text(c) && !c.is_control())
        }
    }
}
