//! The daemon under a service manager, which these tests play: they pass sockets, and listen to what
//! the daemon says of itself. How a real one takes it is told by the tests of the booted system.

use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;

use crate::support::{Client, PATIENCE, Plan};

/// Where a service manager hears its services.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(plan: &Plan) -> Manager {
        let path = plan.directory().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager { socket, path }
    }

    fn variable(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// The next message, without the line end.
    fn heard(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        text.trim_end().to_owned()
    }

    /// Hears messages up to one with this text, and returns it.
    fn hear(&self, text: &str) -> String {
        loop {
            let heard = self.heard();
            if heard.contains(text) {
                return heard;
            }
        }
    }
}

/// A listening socket in the plan's directory.
fn listener(plan: &Plan) -> (UnixListener, PathBuf) {
    let path = plan.directory().join("passed.sock");
    (UnixListener::bind(&path).unwrap(), path)
}

#[test]
fn passed_sockets_are_served_by_type_and_left_where_they_are() {
    let plan = Plan::new().without_socket();
    let (unix, path) = listener(&plan);
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp_address = tcp.local_addr().unwrap().to_string();
    // They connect and ask while there is no daemon.
    let (mut early, mut early_tcp) = (Client::unix(&path), Client::tcp(&tcp_address));
    early.send(r#"{"op":"put","key":"a","value":1}"#);
    early_tcp.send(r#"{"op":"ping"}"#);
    let plan = plan.passing(unix, "local").passing(tcp, "net.socket");

    let daemon = plan.start();
    assert_eq!(early.response()["ok"], true);
    assert_eq!(early_tcp.response()["ok"], true);
    let expected = [
        format!("listening on {} (passed as local)", path.display()),
        format!("listening on {tcp_address} (passed as net.socket)"),
    ];
    for line in expected {
        assert!(daemon.log().contains(&line), "{line}: {}", daemon.log());
    }
    daemon.stop();
    assert!(early.next_line().is_none());

    // The sockets are there still, and whoever connects now is served by the next daemon.
    let mut between = Client::unix(&path);
    between.send(r#"{"op":"ping"}"#);
    let _next = plan.start();
    assert_eq!(between.response()["ok"], true);
}

#[test]
fn a_crash_leaves_no_connection_refused() {
    let plan = Plan::keeping().without_socket();
    let (unix, path) = listener(&plan);
    let plan = plan.passing(unix, "local");
    for round in 0..3 {
        let daemon = plan.start();
        let mut client = Client::unix(&path);
        client.do_it(&format!(
            r#"{{"op":"put","key":"boot.{round}","value":{round},"lifetime":"boot"}}"#
        ));
        daemon.kill();
    }
    let _daemon = plan.start();
    let list = Client::unix(&path).do_it(r#"{"op":"get","key":"boot.*"}"#);
    assert_eq!(list["entries"].as_array().unwrap().len(), 3, "{list}");
}

#[test]
fn an_address_on_the_command_line_comes_before_passed_sockets() {
    let plan = Plan::new();
    let (unix, _) = listener(&plan);
    let daemon = plan.passing(unix, "local").start();
    daemon.connect().ping();
    daemon.wait_for_log("the socket passed as local is not served");
    assert!(!daemon.log().contains("passed.sock"), "{}", daemon.log());
}

#[test]
fn sockets_of_another_process_are_not_taken() {
    // They were for a process that has started this one and has left its environment behind.
    let daemon = Plan::new()
        .with_variable("LISTEN_PID", "1")
        .with_variable("LISTEN_FDS", "3")
        .start();
    daemon.connect().ping();
}

#[test]
fn what_can_not_be_served_is_named() {
    let check = |pass: &dyn Fn(Plan) -> Plan, expected: &str| {
        let output = pass(Plan::new().without_socket()).run();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
    };
    let no_listener = "passed as odd can't be served: it is no stream socket that is listened on";
    let datagram = UnixDatagram::unbound().unwrap();
    check(
        &|plan| plan.passing(datagram.try_clone().unwrap(), "odd"),
        no_listener,
    );
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    check(
        &|plan| plan.passing(udp.try_clone().unwrap(), "odd"),
        no_listener,
    );
    // One that a manager has accepted, as with `Accept=yes`.
    let (connection, _other) = UnixStream::pair().unwrap();
    check(
        &|plan| plan.passing(connection.try_clone().unwrap(), "odd"),
        no_listener,
    );
    check(
        &|plan| {
            let file = std::fs::File::create(plan.directory().join("file")).unwrap();
            plan.passing(file, "odd")
        },
        "passed as odd can't be served: Socket operation on non-socket",
    );
    let open = TcpListener::bind("0.0.0.0:0").unwrap();
    check(
        &|plan| plan.passing(open.try_clone().unwrap(), "odd"),
        "can be reached from other hosts",
    );
    let unix = |plan: &Plan| listener(plan).0;
    check(
        &|plan| {
            let socket = unix(&plan);
            plan.with(&["--in-memory=3"]).passing(socket, "odd")
        },
        "--in-memory",
    );
}

#[test]
fn an_idle_daemon_leaves_its_socket_to_the_next() {
    let plan = Plan::keeping().without_socket().with(&["--idle-exit", "1"]);
    let (unix, path) = listener(&plan);
    let plan = plan.passing(unix, "local");
    let mut client = Client::unix(&path);
    client.send(r#"{"op":"put","key":"a","value":1,"lifetime":"boot"}"#);
    let mut daemon = plan.start();
    assert_eq!(client.response()["ok"], true);
    drop(client);
    assert_eq!(daemon.wait().code(), Some(0));

    let mut client = Client::unix(&path);
    client.send(r#"{"op":"get","key":"a"}"#);
    let _next = plan.start();
    assert_eq!(client.response()["value"], 1);
}

#[test]
fn the_manager_is_told_of_readiness_reload_and_stop() {
    let plan = Plan::keeping();
    let manager = Manager::new(&plan);
    let plan = plan.with_variable("NOTIFY_SOCKET", manager.variable());
    let daemon = plan.launch();
    assert_eq!(manager.heard(), "STATUS=Reading the journals");
    let ready = "READY=1\nSTATUS=0 clients, 0 keys, revision 0";
    assert_eq!(manager.heard(), ready);
    // Who is told so can connect.
    let mut client = daemon.connect();
    client.do_it(r#"{"op":"put","key":"a","value":1}"#);

    daemon.signal("HUP");
    let reloading = manager.heard();
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    let ready = "READY=1\nSTATUS=1 client, 1 key, revision 1";
    assert_eq!(manager.heard(), ready);
    daemon.stop();
    assert_eq!(manager.heard(), "STOPPING=1\nSTATUS=Stopping");

    let _again = plan.launch();
    assert_eq!(manager.heard(), "STATUS=Reading the journals");
    let ready = "READY=1\nSTATUS=0 clients, 1 key, revision 1";
    assert_eq!(manager.heard(), ready);
}

#[test]
fn signs_of_life_come_from_a_loop_that_nobody_asks_anything() {
    let plan = Plan::new();
    let manager = Manager::new(&plan);
    let daemon = plan
        .with_variable("NOTIFY_SOCKET", manager.variable())
        .with_variable("WATCHDOG_USEC", "40000")
        .start();
    manager.hear("READY=1");
    for _ in 0..3 {
        assert_eq!(manager.heard(), "WATCHDOG=1");
    }
    // The status comes with one, once.
    let _client = daemon.connect();
    let status = manager.hear("STATUS=");
    assert_eq!(status, "STATUS=1 client, 0 keys, revision 0");
    for _ in 0..3 {
        assert_eq!(manager.heard(), "WATCHDOG=1");
    }
}

#[test]
fn a_manager_that_is_gone_hinders_nobody() {
    let plan = Plan::new()
        .with(&["--log", "debug"])
        .with_variable("NOTIFY_SOCKET", "/nowhere/notify")
        .with_variable("WATCHDOG_USEC", "40000");
    let daemon = plan.start();
    daemon.connect().ping();
    daemon.wait_for_log(r#"the service manager can't be told "WATCHDOG=1""#);
    daemon.stop();
}

#[test]
fn a_manager_that_does_not_listen_hinders_nobody() {
    let plan = Plan::new().with(&["--log", "debug"]);
    let manager = Manager::new(&plan);
    let daemon = plan
        .with_variable("NOTIFY_SOCKET", manager.variable())
        .with_variable("WATCHDOG_USEC", "2000")
        .start();
    // Its queue is full some time, and then the daemon has something better to do than to wait.
    daemon.wait_for_log(r#"can't be told "WATCHDOG=1": Resource temporarily unavailable"#);
    daemon.connect().ping();
}

#[test]
fn a_manager_may_have_an_abstract_name() {
    let plan = Plan::new();
    let name = format!("nkv-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let _daemon = plan
        .with_variable("NOTIFY_SOCKET", &format!("@{name}"))
        .launch();
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"STATUS=Reading the journals");
}

#[test]
fn the_manager_hears_of_failing_storage_at_once() {
    let plan = Plan::keeping();
    let manager = Manager::new(&plan);
    // No file may have more than a kilobyte.
    let limited = plan
        .with_variable("NOTIFY_SOCKET", manager.variable())
        .under(&["prlimit", "--fsize=1024"]);
    let daemon = limited.start();
    manager.hear("READY=1");
    let value = "x".repeat(2000);
    let put = format!(r#"{{"op":"put","key":"a","value":"{value}"}}"#);
    let mut client = daemon.connect();
    assert_eq!(client.fail(&put), "read_only");
    let status = manager.hear("STATUS=");
    assert!(status.ends_with("; durable writes are refused"), "{status}");
}
