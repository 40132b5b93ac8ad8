//! What wakes the daemon: somebody who wants something, and nothing else.

use crate::support::{Plan, has_program, skip, until};

const ROUNDS: usize = 100;

/// Each put is one wake-up. That its answer and its event are read is none.
#[test]
fn nothing_wakes_the_daemon_when_clients_read() {
    if !has_program("strace") {
        return skip("there is no strace");
    }
    let plan = Plan::new();
    let trace = plan.directory().join("trace");
    let words = ["strace", "-D", "-f", "-e", "trace=epoll_wait", "-o"];
    let plan = plan.under(&[&words[..], &[trace.to_str().unwrap()]].concat());
    let daemon = plan.start();
    let mut subscribers: Vec<_> = (0..3).map(|_| daemon.connect()).collect();
    for subscriber in &mut subscribers {
        subscriber.subscribe("a");
    }
    let mut writer = daemon.connect();
    for round in 0..ROUNDS {
        writer.do_it(&format!(r#"{{"op":"put","key":"a","value":{round}}}"#));
        for subscriber in &mut subscribers {
            assert_eq!(subscriber.event()["value"], round);
        }
    }
    daemon.stop();
    let told = || std::fs::read_to_string(&trace).unwrap_or_default();
    until("strace has told all", || told().contains("+++ exited"));
    let trace = told();
    // Room that becomes free where there was room is no news.
    assert_eq!(trace.matches("EPOLLOUT").count(), 0, "{trace}");
    let woken = trace
        .lines()
        .filter(|line| line.contains("epoll_wait(") && !line.ends_with(" = 0"));
    let woken = woken.count();
    // Connecting, subscribing and stopping wake it, too.
    assert!((ROUNDS..ROUNDS + 40).contains(&woken), "{woken} times");
}
