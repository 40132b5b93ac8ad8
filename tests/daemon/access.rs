//! Rules in a file: real users, real groups, a file that changes.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use nkv::Address;
use nkv::client::{Event, Link};

use crate::support::{Client, PATIENCE, Plan, has_program, skip};

/// Users that nobody has.
const NETD: &str = "64001";
const WEB: &str = "64002";
/// A group that is not anybody's first.
const STAFF: &str = "64050";

const RULES: &str = "\
allow user:0       all        *
allow user:64001   read,write net.*
allow group:64050  read       net.*   # whoever is on duty
allow tcp          read       public.*
lifetime net.rx.* boot
";

/// A request by a user with supplementary groups, through nc, and its answer.
fn ask_as(plan: &Plan, uid: &str, groups: &str, request: &str) -> String {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", uid, "--regid", uid]);
    match groups {
        "" => command.arg("--clear-groups"),
        groups => command.args(["--groups", groups]),
    };
    let mut child = command
        .args(["nc", "-N", "-U"])
        .arg(plan.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let line = format!("{request}\n");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), line.as_bytes()).unwrap();
    let output: Output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A daemon's plan with rules, in a directory that everybody may enter.
fn with_rules(rules: &str) -> Plan {
    ruled(Plan::new(), rules)
}

fn ruled(plan: Plan, rules: &str) -> Plan {
    use std::os::unix::fs::PermissionsExt;
    let everybody = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(plan.directory(), everybody).unwrap();
    let file = plan.directory().join("rules");
    std::fs::write(&file, rules).unwrap();
    plan.with(&["--access", file.to_str().unwrap(), "--socket-mode", "666"])
}

fn can_be_others() -> bool {
    if !nix::unistd::geteuid().is_root() {
        skip("only root can be other users");
        return false;
    }
    for program in ["setpriv", "nc"] {
        if !has_program(program) && program == "setpriv" {
            skip("there is no setpriv");
            return false;
        }
    }
    true
}

const PUT: &str = r#"{"op":"put","key":"net.eth0.mtu","value":1500}"#;
const GET: &str = r#"{"op":"get","key":"net.eth0.mtu"}"#;

#[test]
fn users_and_groups_are_who_the_kernel_says() {
    if !can_be_others() {
        return;
    }
    let plan = with_rules(RULES).with(&["127.0.0.1:0"]);
    let daemon = plan.start();
    let check = |uid: &str, groups: &str, request: &str, expected: &str| {
        let answer = ask_as(&plan, uid, groups, request);
        assert!(
            answer.contains(expected),
            "{uid} {groups} {request}: {answer}"
        );
    };
    check(NETD, "", PUT, r#""ok":true"#);
    check(WEB, "", PUT, r#""error":"denied""#);
    check(WEB, "", GET, r#""error":"denied""#);
    // By a supplementary group, among many.
    let many: Vec<String> = (64100..64160).map(|group| group.to_string()).collect();
    let many = format!("{},{STAFF}", many.join(","));
    check(WEB, &many, GET, r#""value":1500"#);
    check(WEB, &many, PUT, r#""error":"denied""#);
    check(
        NETD,
        "",
        r#"{"op":"put","key":"net.rx.a","value":1,"lifetime":"durable"}"#,
        "may be boot at the longest",
    );
    check(
        "0",
        "",
        r#"{"op":"put","key":"public.a","value":1}"#,
        r#""ok":true"#,
    );
    let mut tcp = daemon.connect_tcp();
    tcp.do_it(r#"{"op":"get","key":"public.a"}"#);
    assert_eq!(tcp.fail(GET), "denied");
    assert_eq!(
        tcp.fail(r#"{"op":"put","key":"public.a","value":1}"#),
        "denied"
    );
}

/// What is denied, what may be owned, and how much may be held, by users that are really others.
#[test]
fn each_kind_of_rule_is_for_real_users() {
    if !can_be_others() {
        return;
    }
    let plan = with_rules(
        "\
allow user:0       all        *
deny  user:64002   read,write net.secret.*
allow anyone       read,write net.*
allow user:64001   own        net.*
quota user:64001   keys       2
quota group:64050  bytes      100
quota user:64003   connections 0
",
    );
    let _daemon = plan.start();
    let check = |uid: &str, groups: &str, request: &str, expected: &str| {
        let answer = ask_as(&plan, uid, groups, request);
        let said = format!("{uid} {groups} {request}: {answer}");
        assert!(answer.contains(expected), "{said}");
    };
    let secret = r#"{"op":"put","key":"net.secret.a","value":1}"#;
    check(NETD, "", secret, r#""ok":true"#);
    check(WEB, "", secret, "denied");
    // Patterns cover what may be seen: in lists, and in what is deleted.
    let list = r#"{"op":"get","key":"net.*","keys_only":true}"#;
    check(NETD, "", PUT, r#""ok":true"#);
    check(WEB, "", list, r#"[{"key":"net.eth0.mtu","rev":2}]"#);
    check(WEB, "", r#"{"op":"delete","key":"*"}"#, r#""deleted":1"#);
    check(NETD, "", list, r#"[{"key":"net.secret.a","rev":1}]"#);
    // Claims.
    let claim = r#"{"op":"claim","key":"net.eth0"}"#;
    check(WEB, "", claim, "denied");
    check(NETD, "", claim, r#""ok":true"#);
    // Quotas, by a user and by a supplementary group.
    let put = |key: &str, bytes: usize| {
        let value = "x".repeat(bytes);
        format!(r#"{{"op":"put","key":"{key}","value":"{value}"}}"#)
    };
    check(NETD, "", &put("net.a", 1), r#""ok":true"#);
    check(
        NETD,
        "",
        &put("net.b", 1),
        "user 64001 has used up the quota `keys`: 2 of 2",
    );
    check(
        WEB,
        STAFF,
        &put("net.c", 200),
        "user 64002 has used up the quota `bytes`: 0 of 100",
    );
    check(WEB, "", &put("net.c", 200), r#""ok":true"#);
    check(
        "64003",
        "",
        list,
        "user 64003 has used up the quota `connections`: 0 of 0",
    );
    check(
        "0",
        "",
        r#"{"op":"stats"}"#,
        r#"{"uid":64002,"connections":0,"subscriptions":0,"keys":1,"bytes":207,"buffered":0}"#,
    );
}

/// What the command line exports and follows as a user is what the user may see, and no more.
#[test]
fn an_export_has_what_may_be_seen() {
    if !can_be_others() {
        return;
    }
    let plan = with_rules("allow user:0 all *\nallow anyone read net.*\n");
    let daemon = plan.start();
    let mut root = daemon.connect();
    root.do_it(PUT);
    root.do_it(r#"{"op":"put","key":"other","value":"hidden"}"#);
    // Where it was built others need not get to. Another process copies it: what another test starts in
    // this moment would hold a file that is written here, and a file that is held so can't be executed.
    let program = plan.directory().join("nkv-client");
    let mut copy = Command::new("cp");
    copy.arg(env!("CARGO_BIN_EXE_nkv-client")).arg(&program);
    assert!(copy.status().unwrap().success());
    let run = |words: &[&str]| {
        let output = Command::new("setpriv")
            .args(["--reuid", WEB, "--regid", WEB, "--clear-groups"])
            .arg(&program)
            .arg("-a")
            .arg(plan.socket())
            .args(words)
            .output()
            .unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let exported = run(&["export"]);
    assert!(exported.contains("net.eth0.mtu"), "{exported}");
    assert_eq!(exported.lines().count(), 1, "{exported}");
    let tree = run(&["tree"]);
    assert!(tree.contains("mtu") && !tree.contains("other"), "{tree}");
    let told = run(&["subscribe", "*", "--count", "1"]);
    assert!(
        told.contains("net.eth0.mtu") && !told.contains("other"),
        "{told}"
    );
    let refused = run(&["get", "other"]);
    assert!(refused.contains("denied"), "{refused}");
}

/// Subscribes and returns the keys of the first entries.
fn first_keys(client: &mut Client) -> Vec<String> {
    let events = client.subscribe("*");
    let keys = events.iter().map(|event| event["key"].as_str().unwrap());
    keys.map(str::to_owned).collect()
}

#[test]
fn rules_are_read_again_if_they_are_good() {
    let plan = with_rules("allow anyone all *\n");
    let daemon = plan.start();
    let mut client = daemon.connect();
    client.do_it(PUT);
    client.do_it(r#"{"op":"put","key":"public.a","value":1}"#);
    assert_eq!(first_keys(&mut client), ["net.eth0.mtu", "public.a"]);

    let file = plan.directory().join("rules");
    std::fs::write(&file, "allow anyone read public.*\n").unwrap();
    daemon.signal("HUP");
    daemon.wait_for_log("the rules are read again");
    let words: Vec<String> = (0..3)
        .map(|_| client.event())
        .map(|event| {
            let word = event["event"].as_str().unwrap();
            format!("{word} {}", event["key"].as_str().unwrap_or("-"))
        })
        .collect();
    assert_eq!(words, ["reset -", "put public.a", "sync -"]);
    assert_eq!(client.fail(GET), "denied");

    std::fs::write(&file, "allow anyone read public.*\nallow all\n").unwrap();
    daemon.signal("HUP");
    let line = daemon.wait_for_log("the old rules stay");
    assert!(
        line.contains("line 2: allow: it takes three words"),
        "{line}"
    );
    assert_eq!(client.fail(GET), "denied");
    client.do_it(r#"{"op":"get","key":"public.a"}"#);
}

/// Rules that hide something are read, taken back, and the daemon is restarted. Who was told to start over
/// holds what was to be seen in between, and must not resume with the name of the history before.
#[test]
fn what_was_hidden_for_a_while_comes_back_after_a_restart() {
    let all = "allow anyone all *\n";
    let plan = ruled(Plan::keeping(), all);
    let file = plan.directory().join("rules");
    let daemon = plan.start();
    let mut client = daemon.connect();
    client.do_it(PUT);
    client.do_it(r#"{"op":"put","key":"public.a","value":1}"#);
    let link = Link::builder().link(Address::Unix(plan.socket()));
    let mirror = link.mirror("*").unwrap().start().unwrap();
    mirror
        .wait_until(PATIENCE, |view| view.len() == 2)
        .expect("all is there");
    let mut events = link.events("*").unwrap().start().unwrap();
    let mut told = move |count: usize| {
        let mut next = || events.next_timeout(PATIENCE).unwrap().expect("an event");
        let words = (0..count).map(|_| word(&next()));
        words.collect::<Vec<String>>()
    };
    assert_eq!(told(3), ["put net.eth0.mtu", "put public.a", "sync"]);

    std::fs::write(&file, "allow anyone read public.*\n").unwrap();
    daemon.signal("HUP");
    mirror
        .wait_until(PATIENCE, |view| view.len() == 1)
        .expect("the rest is hidden");
    assert_eq!(told(3), ["reset", "put public.a", "sync"]);

    daemon.stop();
    std::fs::write(&file, all).unwrap();
    let _daemon = plan.start();
    assert_eq!(
        told(4),
        ["reset", "put net.eth0.mtu", "put public.a", "sync"]
    );
    mirror
        .wait_until(PATIENCE, |view| view.len() == 2)
        .expect("all is there again");
}

fn word(event: &Event) -> String {
    match event {
        Event::Put { key, .. } => format!("put {key}"),
        Event::Delete { key, .. } => format!("delete {key}"),
        Event::Sync { .. } => "sync".into(),
        Event::Reset { .. } => "reset".into(),
    }
}

#[test]
fn a_bad_file_is_no_start() {
    let check = |rules: &str, expected: &str| {
        let output = with_rules(rules).run();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
    };
    check("allow user:no-such-user read *", "line 1: there is no user");
    check("\nforbid anyone read *", "line 2: \"forbid\" is none of");
    let missing = Plan::new().with(&["--access", "/nowhere/rules"]).run();
    let message = String::from_utf8(missing.stderr).unwrap();
    assert!(
        message.contains("no rules in /nowhere/rules: No such file"),
        "{message}"
    );
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn what_rules_say_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules");
    std::fs::write(&file, RULES).unwrap();
    let ask = |file: &Path, user: &str, key: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_nkv-server"))
            .arg("--check-access")
            .args([file.as_os_str(), user.as_ref(), key.as_ref()])
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (code, text) = ask(&file, "64001", "net.rx.a");
    assert_eq!(
        text,
        "64001 is user 64001, in no group\n\
         read     allowed by line 2: allow user:64001   read,write net.*\n\
         write    allowed by line 2: allow user:64001   read,write net.*\n\
         own      denied: no line allows it\n\
         lifetime at most boot by line 5: lifetime net.rx.* boot\n"
    );
    assert_eq!(code, Some(0));
    let (_, text) = ask(&file, "root", "other");
    assert!(text.starts_with("root is user 0, in root"), "{text}");
    assert!(text.contains("own      allowed by line 1: allow user:0       all        *\n"));
    let (_, text) = ask(&file, "tcp", "net.a");
    assert!(
        text.contains("read     denied: no line allows it\n"),
        "{text}"
    );
    assert!(
        text.ends_with("lifetime any: no line bounds it\n"),
        "{text}"
    );
    assert_eq!(ask(&file, "no-such-user", "a").0, Some(2));
    assert_eq!(ask(&file, "+5", "a").0, Some(2));
    assert_eq!(ask(&file, "root", "a..b").0, Some(2));
    assert_eq!(ask(Path::new("/nowhere"), "root", "a").0, Some(2));
}

/// A claim is of all that lies below a key, so its line has to be one that allows all of it, and none
/// before it may deny some of it.
#[test]
fn who_may_own_is_explained_as_a_claim_is_judged() {
    let plan = with_rules(
        "\
deny  anyone      own a.b.secret
allow anyone      own a.*
allow user:0      own c
",
    );
    let daemon = plan.start();
    let mut client = daemon.connect();
    let mut check = |key: &str, is_allowed: bool, expected: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_nkv-server"))
            .arg("--check-access")
            .args([plan.directory().join("rules").as_os_str(), "0".as_ref()])
            .arg(key)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|line| line.starts_with("own")).unwrap();
        assert_eq!(line, format!("own      {expected}"), "{key}");
        let claim = format!(r#"{{"op":"claim","key":"{key}"}}"#);
        let is_claimed = client.ask(&claim)["ok"] == true;
        assert_eq!(is_claimed, is_allowed, "{key}");
    };
    check("a.c", true, "allowed by line 2: allow anyone      own a.*");
    check(
        "a.b.c",
        true,
        "allowed by line 2: allow anyone      own a.*",
    );
    let secret = "denied by line 1: deny  anyone      own a.b.secret";
    for key in ["a", "a.b", "a.b.secret", "a.b.secret.x"] {
        let is_allowed = key == "a.b.secret.x";
        let expected = match is_allowed {
            true => "allowed by line 2: allow anyone      own a.*",
            false => secret,
        };
        check(key, is_allowed, expected);
    }
    check(
        "c",
        false,
        "denied: no line allows all that can lie below it",
    );
    check("d", false, "denied: no line allows it");
}

/// A file that has lost its lines, say with the power, lets everybody do everything. That is not to go
/// unnoticed.
#[test]
fn a_file_without_rules_is_noticed() {
    const NOTICE: &str = "everybody may do everything";
    let plan = with_rules("# nothing\n");
    let daemon = plan.start();
    let line = daemon.wait_for_log(NOTICE);
    assert!(line.contains("/rules has no line"), "{line}");
    for rules in ["lifetime a.* boot\n", "allow anyone all *\n"] {
        let daemon = with_rules(rules).start();
        assert!(!daemon.log().contains(NOTICE), "{rules}");
    }
    let plan = with_rules("allow user:0 read *\n");
    let daemon = plan.start();
    std::fs::write(plan.directory().join("rules"), "").unwrap();
    daemon.signal("HUP");
    daemon.wait_for_log(NOTICE);
}
