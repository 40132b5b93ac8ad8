//! `stats --prometheus`, read by a strict parser of the text exposition format 0.0.4.
//!
//! The parser refuses more than the format does: what its lines may leave out has to be there, and
//! what they may have besides (timestamps, remarks) must not be. So a metric that passes here can be
//! read by whatever reads the format.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;

use crate::daemon::{Daemon, client};

/// What stands in an exposition about one name.
#[derive(Debug, Default)]
struct Metric {
    help: Option<String>,
    kind: String,
    /// Labels with their values, and the sample's value.
    samples: Vec<(Vec<(String, String)>, f64)>,
}

/// Every metric, in no order, or the first line at fault.
fn parse(text: &str) -> Result<BTreeMap<String, Metric>, String> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    let Some(text) = text.strip_suffix('\n') else {
        return Err("the last line has no end".into());
    };
    let mut current = String::new();
    for line in text.split('\n') {
        let at = |what: &str| format!("{what}: {line}");
        let name = take_line(line, &mut metrics).map_err(|what| at(&what))?;
        if name != current {
            // The lines of a metric stand together: a name that was left does not come again.
            let metric = &metrics[&name];
            let lines = usize::from(metric.help.is_some())
                + usize::from(!metric.kind.is_empty())
                + metric.samples.len();
            if lines != 1 {
                return Err(at("not beside its other lines"));
            }
            current = name;
        }
    }
    for (name, metric) in &metrics {
        if metric.kind.is_empty() || metric.samples.is_empty() {
            return Err(format!("without a type or a sample: {name}"));
        }
    }
    Ok(metrics)
}

/// Takes a line in and returns the name that it is about.
fn take_line(line: &str, metrics: &mut BTreeMap<String, Metric>) -> Result<String, String> {
    if let Some(rest) = line.strip_prefix("# HELP ") {
        let (name, help) = rest.split_once(' ').ok_or("no help")?;
        let metric = metrics.entry(checked_name(name, ":")?).or_default();
        if !metric.kind.is_empty() || !metric.samples.is_empty() {
            return Err("help after the type or a sample".into());
        }
        let help = unescaped(help, "")?;
        return match metric.help.replace(help) {
            None => Ok(name.into()),
            Some(_) => Err("a second help".into()),
        };
    }
    if let Some(rest) = line.strip_prefix("# TYPE ") {
        let (name, kind) = rest.split_once(' ').ok_or("no type")?;
        if !["counter", "gauge", "untyped"].contains(&kind) {
            return Err("a type that is not known".into());
        }
        let metric = metrics.entry(checked_name(name, ":")?).or_default();
        if !metric.kind.is_empty() || !metric.samples.is_empty() {
            return Err("a second type, or one after a sample".into());
        }
        metric.kind = kind.into();
        return Ok(name.into());
    }
    let (name, labels, value) = sample(line)?;
    let metric = metrics.entry(name.clone()).or_default();
    if metric.samples.iter().any(|(other, _)| *other == labels) {
        return Err("the same sample again".into());
    }
    if metric.kind == "counter" && value < 0.0 {
        return Err("a counter below 0".into());
    }
    metric.samples.push((labels, value));
    Ok(name)
}

type Labels = Vec<(String, String)>;

/// `name{label="value",…} value`.
fn sample(line: &str) -> Result<(String, Labels, f64), String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let name = checked_name(&line[..end], ":")?;
    let mut rest = &line[end..];
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, value) = rest.split_once("=\"").ok_or("no label")?;
            // A quote with an odd number of backslashes before it is a part of the value.
            let ends = |(at, _): &(usize, &str)| {
                let before = &value[..*at];
                (before.len() - before.trim_end_matches('\\').len()) % 2 == 0
            };
            let quote = value.match_indices('"').find(ends);
            let (end, _) = quote.ok_or("a label's value does not end")?;
            let label = checked_name(label, "")?;
            if labels.iter().any(|(other, _)| *other == label) {
                return Err("a label twice".into());
            }
            labels.push((label, unescaped(&value[..end], "\"")?));
            rest = &value[end + 1..];
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').ok_or("the labels do not end")?;
    }
    let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
    let is_plain = !value.is_empty()
        && value
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
    match value.parse() {
        Ok(value) if is_plain => Ok((name, labels, value)),
        _ => Err("no plain number".into()),
    }
}

/// A name of letters, digits, `_` and what else is allowed, not with a digit first.
fn checked_name(name: &str, others: &str) -> Result<String, String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || others.contains(c);
    if name.starts_with(|c: char| c.is_ascii_digit())
        || name.is_empty()
        || !name.chars().all(is_part)
    {
        return Err("not a name".into());
    }
    Ok(name.into())
}

/// The text that was escaped: `\\`, `\n`, and a quote where those are escaped.
fn unescaped(text: &str, others: &str) -> Result<String, String> {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => match characters.next() {
                Some('\\') => '\\',
                Some('n') => '\n',
                Some(other) if others.contains(other) => other,
                _ => return Err("an escape that there is not".into()),
            },
            plain => plain,
        });
    }
    Ok(plain)
}

fn printed(address: &str, arguments: &[&str]) -> String {
    let output = client(address).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a counter is called as a metric: one of these.
fn names_of(counter: &str) -> [String; 2] {
    match counter.strip_suffix("_ms") {
        Some(counter) => [
            format!("nkv_{counter}_seconds"),
            format!("nkv_{counter}_seconds_total"),
        ],
        None => [format!("nkv_{counter}"), format!("nkv_{counter}_total")],
    }
}

#[test]
fn every_counter_is_a_metric_with_help() {
    let daemon = Daemon::start();
    let json = printed(&daemon.address(), &["stats", "--json"]);
    let json: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&json).unwrap();
    let metrics = parse(&printed(&daemon.address(), &["stats", "--prometheus"])).unwrap();
    let mut expected = BTreeSet::from(["nkv_info".to_owned()]);
    for counter in json.keys().filter(|name| json[*name].is_u64()) {
        let names = names_of(counter);
        let name = names.into_iter().find(|name| metrics.contains_key(name));
        let name = name.unwrap_or_else(|| panic!("{counter} is not told"));
        let metric = &metrics[&name];
        assert!(
            metric.help.is_some(),
            "{counter} has no help: src/bin/nkv-client/prometheus.rs"
        );
        let is_counter = metric.kind == "counter";
        assert_eq!(is_counter, name.ends_with("_total"), "{name}");
        assert_ne!(metric.kind, "untyped", "{name}");
        expected.insert(name);
    }
    assert!(expected.len() > 20, "the counters were found: {expected:?}");
    let user = json["users"][0].as_object().unwrap();
    for figure in user.keys().filter(|name| *name != "uid") {
        let name = format!("nkv_user_{figure}");
        let metric = &metrics[&name];
        assert!(metric.help.is_some() && metric.kind == "gauge", "{name}");
        let uid = ("uid".to_owned(), user["uid"].to_string());
        let value = user[figure].as_f64().unwrap();
        assert_eq!(metric.samples, [(vec![uid], value)], "{name}");
        expected.insert(name);
    }
    let told: BTreeSet<String> = metrics.into_keys().collect();
    assert_eq!(told, expected);
}

#[test]
fn metrics_have_the_daemons_figures() {
    let daemon = Daemon::start();
    for (key, value) in [("a", "1"), ("b", "22"), ("a", "333")] {
        printed(&daemon.address(), &["put", key, value]);
    }
    let metrics = parse(&printed(&daemon.address(), &["stats", "--prometheus"])).unwrap();
    let check = |name: &str, kind: &str, expected: f64| {
        let metric = &metrics[name];
        assert_eq!(metric.kind, kind, "{name}");
        assert_eq!(metric.samples, [(vec![], expected)], "{name}");
    };
    check("nkv_puts_total", "counter", 3.0);
    check("nkv_keys", "gauge", 2.0);
    check("nkv_bytes", "gauge", 7.0);
    check("nkv_rev", "gauge", 3.0);
    check("nkv_read_only", "gauge", 0.0);
    let uptime = metrics["nkv_uptime_seconds"].samples[0].1;
    assert!((0.0..3600.0).contains(&uptime), "{uptime}");
    let (labels, one) = &metrics["nkv_info"].samples[0];
    let names: Vec<&str> = labels.iter().map(|(name, _)| &**name).collect();
    assert_eq!((names, *one), (vec!["version", "epoch"], 1.0));
    assert_eq!(labels[0].1, env!("CARGO_PKG_VERSION"));
}

#[test]
fn what_users_take_has_a_table() {
    let daemon = Daemon::start();
    printed(&daemon.address(), &["put", "a", "22"]);
    let table = printed(&daemon.address(), &["stats"]);
    let (_, users) = table.split_once("\n\n").unwrap();
    let rows: Vec<Vec<&str>> = users
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let head = "UID CONNECTIONS SUBSCRIPTIONS KEYS BYTES BUFFERED";
    assert_eq!(rows[0].join(" "), head);
    assert_eq!(rows[1][1..].join(" "), "1 0 1 3 0");
    assert_eq!(rows.len(), 2);
}

/// A daemon of another version may tell what this client knows nothing of.
#[test]
fn what_is_not_known_is_told_as_that() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let answers = [
        r#"{"id":1,"ok":true,"server":"s","protocol":1,"epoch":"e","rev":9}"#,
        r#"{"id":2,"ok":true,"version":"1\"\\\n}","epoch":"größe","uptime_ms":1500,"puts":3,"queue":4,"wait_ms":5,"a{b":6,"":7,"users":[{"uid":7,"keys":1,"new":2},{"tcp":true,"keys":3}]}"#,
    ];
    let server = std::thread::spawn(move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        for answer in answers {
            stream.read_line(&mut String::new()).unwrap();
            writeln!(stream.get_mut(), "{answer}").unwrap();
        }
    });
    let metrics = parse(&printed(path.to_str().unwrap(), &["stats", "--prometheus"])).unwrap();
    server.join().unwrap();
    let told: Vec<(&str, &str, bool, f64)> = metrics
        .iter()
        .map(|(name, metric)| {
            (
                &**name,
                &*metric.kind,
                metric.help.is_some(),
                metric.samples[0].1,
            )
        })
        .collect();
    let expected = [
        ("nkv_info", "gauge", true, 1.0),
        ("nkv_puts_total", "counter", true, 3.0),
        ("nkv_queue", "untyped", false, 4.0),
        ("nkv_uptime_seconds", "gauge", true, 1.5),
        ("nkv_user_buffered", "gauge", true, 0.0),
        ("nkv_user_bytes", "gauge", true, 0.0),
        ("nkv_user_connections", "gauge", true, 0.0),
        ("nkv_user_keys", "gauge", true, 1.0),
        ("nkv_user_subscriptions", "gauge", true, 0.0),
        ("nkv_wait_ms", "untyped", false, 5.0),
    ];
    assert_eq!(told, expected);
    let users: Vec<_> = metrics["nkv_user_keys"].samples.iter().collect();
    let label = |uid: &str| vec![("uid".to_owned(), uid.to_owned())];
    assert_eq!(users, [&(label("7"), 1.0), &(label("tcp"), 3.0)]);
    let (labels, _) = &metrics["nkv_info"].samples[0];
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        *labels,
        [pair("version", "1\"\\\n}"), pair("epoch", "größe")]
    );
}

/// A collector may read at any time, and must never see a part of a file.
#[test]
fn a_file_is_replaced_as_a_whole() {
    let daemon = Daemon::start();
    let file = daemon.directory().join("nkv.prom");
    let arguments = ["stats", "--prometheus", "--output", file.to_str().unwrap()];
    assert_eq!(printed(&daemon.address(), &arguments), "");
    std::thread::scope(|scope| {
        let writer =
            scope.spawn(|| (0..20).for_each(|_| drop(printed(&daemon.address(), &arguments))));
        while !writer.is_finished() {
            parse(&std::fs::read_to_string(&file).unwrap()).unwrap();
        }
    });
    let names = || -> Vec<_> {
        let entries = std::fs::read_dir(daemon.directory()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("prom")).collect()
    };
    assert_eq!(names(), ["nkv.prom"]);
    // Where nothing can be told, what was told before stays.
    let before = std::fs::read_to_string(&file).unwrap();
    let output = client("/nowhere/nkv.sock")
        .args(arguments)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    // A place that can't be written to is told, and nothing is left there.
    let wrong = daemon.directory().join("prom.d");
    std::fs::create_dir(&wrong).unwrap();
    let output = client(&daemon.address())
        .args(["stats", "--output", wrong.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let expected = format!(
        "nkv-client: cannot write {}: Is a directory\n",
        wrong.display()
    );
    assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
    let mut found = names();
    found.sort();
    assert_eq!(found, ["nkv.prom", "prom.d"]);
}

#[test]
fn the_parser_is_strict() {
    let check = |text: &str, fault: &str| match parse(text) {
        Ok(_) => assert_eq!(fault, "", "{text:?}"),
        Err(found) => assert!(
            !fault.is_empty() && found.contains(fault),
            "{text:?}: {found}"
        ),
    };
    let sound = "# HELP a b\n# TYPE a counter\na 1\n";
    check(sound, "");
    check(
        "# TYPE a gauge\na{b=\"c\",d=\"\\\"\\\\\"} 1.5\na{b=\"d\"} 2\n",
        "",
    );
    check("# TYPE a counter\na 1", "no end");
    check("a 1\n", "without a type");
    check("# TYPE a counter\n", "without a type or a sample");
    check("# TYPE a counter\na -1\n", "no plain number");
    check("# TYPE a counter\na 1 2\n", "no plain number");
    check("# TYPE a counter\na  1\n", "no plain number");
    check("# TYPE a count\na 1\n", "a type");
    check("# TYPE a-b counter\na-b 1\n", "not a name");
    check("# TYPE 1a counter\n1a 1\n", "not a name");
    check("# TYPE a counter\na 1\na 2\n", "the same sample");
    check("a 1\n# TYPE a counter\n", "after a sample");
    check("# TYPE a counter\n# HELP a b\na 1\n", "help after");
    check("# TYPE a counter\n# TYPE a counter\na 1\n", "a second type");
    check(
        &format!("{sound}# TYPE b gauge\nb 1\na{{c=\"d\"}} 1\n"),
        "beside",
    );
    check("# TYPE a gauge\na{b=\"c\\d\"} 1\n", "an escape");
    check("# TYPE a gauge\na{b=\"c} 1\n", "does not end");
    check("# TYPE a gauge\na{b=\"c\",b=\"c\"} 1\n", "a label twice");
    check("# TYPE a gauge\na{b:c=\"c\"} 1\n", "not a name");
    check("# a remark\n# TYPE a gauge\na 1\n", "not a name");
}
