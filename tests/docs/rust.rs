//! The examples of `docs/rust.md`, in programs that are run.
//!
//! A Rust example of the document must stand here line for line, however far it is indented
//! ([`examples_stand_here`]). So the document shows what matters and nothing around it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nkv::client::{Change, Error, ErrorCode, Event, Lifetime, Link, Put, Value};
use nkv::journal::{self, Figures, LoadError, Policy, Storage, Unkept, Wake, Writable};
use nkv::keyspace::{Class, Keyspace, Time};
use nkv::server::{Options, Running, Server};
use nkv::{Address, Client, Key};
use rustix::event::{PollFd, PollFlags, poll};

type Run<T = ()> = Result<T, Box<dyn std::error::Error>>;

#[test]
fn examples_stand_here() {
    let without_indent = |text: &str| {
        let lines = text.lines().map(|line| format!("{}\n", line.trim()));
        lines.collect::<String>()
    };
    let here = without_indent(include_str!("rust.rs"));
    for block in crate::blocks_of("docs/rust.md", "rust") {
        let lines: Vec<&str> = block.lines.iter().map(|(_, line)| line.as_str()).collect();
        let is_here = here.contains(&without_indent(&lines.join("\n")));
        let number = block.lines[0].0;
        assert!(is_here, "docs/rust.md:{number}: this example is not run");
    }
}

/// A daemon that is reached by an address, and a link to it.
fn linked() -> Run<(Running, Link, tempfile::TempDir)> {
    let directory = tempfile::tempdir()?;
    let address = Address::Unix(directory.path().join("nkv.sock"));
    let mut options = Options::default();
    options.addresses.push(address.clone());
    let server = Server::bind(options)?.spawn()?;
    Ok((server, Link::builder().link(address), directory))
}

fn daemon() -> Run<(Running, Client)> {
    let server = Server::bind(Options::default())?.spawn()?;
    let client = Client::from_stream(server.handle().connect()?)?;
    Ok((server, client))
}

#[test]
fn a_first_program() -> Run {
    let (server, link, _directory) = linked()?;
    // It connects to nothing, so it can be made without a daemon.
    let of_the_document = || -> Run<Link> {
        let link = Link::new("/run/nkv.sock")?;
        Ok(link)
    };
    assert_eq!(of_the_document()?.address().to_string(), "/run/nkv.sock");

    link.put("net.eth0.mtu", &1500)?;
    let mtu = link.get::<u32>("net.eth0.mtu")?.expect("it was just put");
    assert_eq!((mtu.value, mtu.rev), (1500, 1));
    assert!(link.get::<u32>("net.eth1.mtu")?.is_none());

    let key = Key::from_segments(["hosts", "edge-7.example.org", "up"])?;
    link.put(&key, &true)?;
    assert_eq!(key.as_str(), "hosts.edge-7%2Eexample%2Eorg.up");
    assert_eq!(key.segments().nth(1).as_deref(), Some("edge-7.example.org"));

    for entry in link.list("net.*")? {
        println!("{} = {:?}", entry.key, entry.value.as_json_text());
    }
    Ok(server.stop()?)
}

#[test]
fn a_mirror() -> Run {
    let (server, link, _directory) = linked()?;
    link.put("config.web.port", &80)?;
    link.put("config.ssh.port", &22)?;
    let (sender, told) = std::sync::mpsc::channel();
    let tell = move |what: String| drop(sender.send(what));
    let ports = link
        .mirror("config.*.port")?
        .typed::<u16>()
        .on_change(move |change| match change {
            Change::Created { key, value, .. } => tell(format!("{key} is {value}")),
            Change::Modified { key, value, .. } => tell(format!("{key} is {value} now")),
            Change::Deleted { key, .. } => tell(format!("{key} is gone")),
            Change::Invalid { key, error, .. } => tell(format!("{key} is no port: {error}")),
            _ => {}
        })
        .start()?;
    ports.wait_until_synced(Duration::from_secs(10))?;
    assert_eq!(ports.get("config.web.port").as_deref(), Some(&80));

    let view = ports.view();
    let both = (view.get("config.web.port"), view.get("config.ssh.port"));
    assert_eq!(both, (Some(&Arc::new(80)), Some(&Arc::new(22))));
    drop(view); // while it is held the copy stands still

    let mut config = link.mirror("config")?.follow();
    let cut = config.next().expect("it never ends")?;
    assert!(cut.is_reset); // the first one, or one that had to be compared
    for change in &cut.changes {
        println!("{} has changed", change.key());
    }
    assert_eq!(config.view().len(), 2);

    link.put("config.web.port", &443)?;
    link.put("config.ssh.port", "ssh")?;
    ports.wait_until(Duration::from_secs(10), |view| {
        view.error("config.ssh.port").is_some()
    })?;
    link.delete("config.web.port")?;
    let lines: Vec<String> = (0..5).map(|_| told.recv().unwrap()).collect();
    let begins = [
        "config.web.port is 80",
        "config.ssh.port is 22",
        "config.web.port is 443 now",
        "config.ssh.port is no port: the value does not fit",
        "config.web.port is gone",
    ];
    for (line, begins) in lines.iter().zip(begins) {
        assert!(line.starts_with(begins), "{lines:?}");
    }
    Ok(server.stop()?)
}

#[test]
fn timeouts_and_one_connection() -> Run {
    let (server, link, _directory) = linked()?;
    let address = link.address().clone();
    let client = Client::builder()
        .name("thermostat")
        .connect_timeout(Duration::from_secs(2))
        .connect(&address)?;
    assert!(client.server().starts_with("nkv/"));
    assert_eq!(client.clients()?[0]["name"], "thermostat");

    client.put("net.eth0.mtu", &1500)?;
    for entry in client.list("net.*")? {
        let entry = entry?;
        println!("{} = {:?}", entry.key, entry.value.as_json_text());
    }

    let link = Link::builder()
        .connection(
            Client::builder()
                .name("thermostat")
                .reply_timeout(Some(Duration::from_secs(5))),
        )
        .patience(Duration::from_secs(2))
        .link(address);
    assert_eq!(link.client()?.clients()?.len(), 2);
    Ok(server.stop()?)
}

#[test]
fn subscribing() -> Run {
    let (server, client) = daemon()?;
    client.put("net.eth0.mtu", &1500)?;
    for event in client.subscribe("net")? {
        match event? {
            Event::Put { key, value, .. } => println!("{key} = {:?}", value.as_json_text()),
            Event::Delete { key, .. } => println!("{key} is gone"),
            Event::Reset { .. } => println!("forget all that was told"),
            Event::Sync { .. } => break, // a program that follows goes on
        }
    }
    Ok(server.stop()?)
}

#[test]
fn keeping_a_copy() -> Run {
    let (server, client) = daemon()?;
    client.put("config.port", &80)?;
    client.put("config.host", "::1")?;
    let ender = std::cell::Cell::new(Some(client.clone()));
    let applied = std::cell::RefCell::new(Vec::new());
    let apply = |copy: &BTreeMap<Key, Value>| {
        applied.borrow_mut().push(copy.len());
        match ender.take() {
            Some(client) => drop(client.batch().delete("config.*").commit().unwrap()),
            None => client.close(),
        }
    };
    let keep = || -> Run {
        let mut copy = BTreeMap::new();
        for event in client.subscribe_with("config").cuts().start()? {
            match event? {
                Event::Put { key, value, .. } => drop(copy.insert(key, value)),
                Event::Delete { key, .. } => drop(copy.remove(&key)),
                Event::Reset { .. } => copy.clear(),
                Event::Sync { .. } => apply(&copy),
            }
        }
        Ok(())
    };
    let end = keep().unwrap_err();
    assert!(matches!(end.downcast_ref(), Some(Error::Closed)), "{end}");
    assert_eq!(*applied.borrow(), [2, 0]);
    Ok(server.stop()?)
}

fn follow(link: &Link, mut handle: impl FnMut(Event)) -> Result<(), Error> {
    for event in link.events("net")?.start()? {
        handle(event?);
    }
    Ok(())
}

#[test]
fn when_the_connection_is_lost() -> Run {
    let directory = tempfile::tempdir()?;
    let address = Address::Unix(directory.path().join("nkv.sock"));
    let mut options = Options::default();
    options.addresses.push(address.clone());
    let server = Server::bind(options.clone())?.spawn()?;
    Client::from_stream(server.handle().connect()?)?.put("net.a", &1)?;
    let (sender, told) = std::sync::mpsc::channel();
    let link = Link::builder().link(address);
    // It goes on for ever, so it ends with the process.
    thread::spawn(move || follow(&link, |event| drop(sender.send(event))));
    let patience = Duration::from_secs(10);
    assert!(matches!(told.recv_timeout(patience)?, Event::Put { .. }));
    assert!(matches!(
        told.recv_timeout(patience)?,
        Event::Sync { rev: 1 }
    ));
    server.stop()?;
    let server = Server::bind(options)?.spawn()?;
    assert!(matches!(
        told.recv_timeout(patience)?,
        Event::Reset { rev: 0, .. }
    ));
    assert!(matches!(
        told.recv_timeout(patience)?,
        Event::Sync { rev: 0 }
    ));
    Ok(server.stop()?)
}

#[test]
fn writing_safely() -> Run {
    let (server, link, _directory) = linked()?;
    let put = Put::new("state.thermostat", Value::of("heating")?)?;
    link.put_with(put.lifetime(Lifetime::Boot).if_changed())?;

    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| -> Result<(), Error> {
                for _ in 0..25 {
                    link.update("jobs.done", |done: Option<u64>| Some(done.unwrap_or(0) + 1))?;
                }
                Ok(())
            });
        }
    });
    let done = link.get::<u64>("jobs.done")?.map(|entry| entry.value);
    assert_eq!(done, Some(100));

    let client = link.client()?;
    client.put("leader", "edge-2")?;
    let put = Put::new("leader", Value::of("edge-1")?)?;
    let lost = client.put_with(put.lifetime(Lifetime::Session).if_rev(0));
    assert_eq!(lost.unwrap_err().code(), Some(ErrorCode::Conflict));

    link.batch(|batch| {
        batch
            .check("config.locked", 0)
            .delete("config.dns.*")
            .put("config.dns.1", "9.9.9.9")
    })?;
    assert!(link.get_value("config.dns.1")?.is_some());
    Ok(server.stop()?)
}

#[test]
fn many_requests_at_once() -> Run {
    let (server, client) = daemon()?;
    let pipeline = client.pipeline();
    let puts: Vec<_> = (0..1000)
        .map(|sensor| pipeline.put(format!("sensor.{sensor}"), &20.5))
        .collect::<Result<_, _>>()?;
    for put in puts {
        put.wait()?;
    }
    assert_eq!(client.stats()?.counter("keys"), Some(1000));
    Ok(server.stop()?)
}

#[test]
fn being_present() -> Run {
    let (server, link, _directory) = linked()?;
    let other = Client::from_stream(server.handle().connect()?)?;
    let here = link.announce("present.thermostat", &"starting")?;
    here.set(&"heating")?;
    assert!(other.get::<String>("present.thermostat")?.is_some());
    drop(here);
    // The same connection, so the deletion has been asked for before.
    assert!(link.get_value("present.thermostat")?.is_none());

    let client = Client::from_stream(server.handle().connect()?)?;
    let here = Put::new("present.thermostat", Value::of(&true)?)?
        .lifetime(Lifetime::Session)
        .ttl(Duration::from_secs(30))
        .if_changed();
    client.put_with(here)?;
    assert!(other.get::<bool>("present.thermostat")?.is_some());
    Ok(server.stop()?)
}

#[test]
fn having_a_subtree_to_oneself() -> Run {
    let (server, link, _directory) = linked()?;
    let other = Client::from_stream(server.handle().connect()?)?;
    let claim = link.claim("net.eth0")?;
    link.put("net.eth0.mtu", &1500)?;
    let refused = other.put("net.eth0.mtu", &9000).unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::Denied));
    assert!(other.claim("net").is_err()); // nor can they claim above or below
    drop(claim);

    // The daemon lets go when the connection is closed, and the link claims again: twice, then it is told
    // that there is nothing to publish any more.
    let mut left = 2;
    let mut publish = |link: &Link| -> Run {
        left -= 1;
        link.client()?.close();
        if left > 0 {
            Ok(())
        } else {
            Err("enough".into())
        }
    };
    let service = || -> Run {
        loop {
            let claim = link.claim_when_free("net.eth0", None)?;
            publish(&link)?; // all of it: somebody else may have written before
            claim.wait_until_lost(None);
        }
    };
    let mut service = service;
    assert_eq!(service().unwrap_err().to_string(), "enough");
    Ok(server.stop()?)
}

#[test]
fn in_a_loop_of_your_own() -> Run {
    let (server, client) = daemon()?;
    let mut lamps = client.subscribe("lamp")?;
    let mut put = client.pipeline().put("lamp.1", &true)?;
    let (mut is_put, mut is_told) = (false, false);
    while !(is_put && is_told) {
        let step = client.step();
        if step.has_news {
            is_put |= put.try_wait()?.is_some();
            while let Some(event) = lamps.try_next()? {
                is_told |= matches!(event, Event::Put { .. });
            }
        } else {
            // Among whatever else the program waits for.
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, step.wants_room);
            poll(&mut [PollFd::new(&client, flags)], None)?;
        }
    }
    Ok(server.stop()?)
}

#[cfg(feature = "async")]
#[tokio::test]
async fn asynchronous_programs() -> Run {
    use nkv::client::asynchronous;

    let (server, link, _directory) = linked()?;
    let address = link.address().to_string();
    let link = asynchronous::Link::new(&address)?;
    link.put("config.web.port", &80).await?;
    let ports = link.mirror("config.*.port")?.typed::<u16>().start();
    ports.wait_until_synced(Duration::from_secs(10)).await?;
    let mut watch = ports.watch();
    link.put("config.web.port", &443).await?;
    watch.changed().await?;
    let port = watch.view().get("config.web.port").map(|port| **port);
    assert_eq!(port, Some(443));
    Ok(server.stop()?)
}

#[test]
fn threads() -> Run {
    let (server, client) = daemon()?;
    let subscription = client.subscribe("net")?;
    let ender = subscription.ender();
    let follower = thread::spawn(move || subscription.map_while(Result::ok).count());
    ender.end();
    follower.join().expect("the thread does not panic");
    Ok(server.stop()?)
}

#[test]
fn a_daemon_inside_a_program() -> Run {
    let server = Server::bind(Options::default())?.spawn()?;
    let client = Client::from_stream(server.handle().connect()?)?;
    client.put("a", &1)?;
    server.stop()?;

    let directory = tempfile::tempdir()?;
    let path = directory.path().join("nkv.sock");
    let mut options = Options::default();
    options.addresses.push(Address::Unix(path.clone()));
    options.limits.keys = 10_000;
    let server = Server::bind(options)?;
    assert!(path.exists());
    drop(server);
    assert!(!path.exists());
    Ok(())
}

#[test]
fn journals() -> Run {
    let directory = tempfile::tempdir()?;
    let mut options = Options::default();
    options.journals = Some(journal::Options {
        data_directory: directory.path().join("data"),
        runtime_directory: directory.path().join("runtime"),
        policy: Policy::Interval(Duration::from_secs(1)),
        recover: false,
    });
    let server = Server::bind(options.clone())?.spawn()?;
    Client::from_stream(server.handle().connect()?)?.put("a", &1)?;
    server.stop()?;
    let server = Server::bind(options)?.spawn()?;
    let client = Client::from_stream(server.handle().connect()?)?;
    assert_eq!(client.get::<u32>("a")?.map(|entry| entry.value), Some(1));
    Ok(server.stop()?)
}

#[derive(Debug)]
struct Failing {
    has_failed: Arc<AtomicBool>,
}

impl Storage for Failing {
    fn load(&mut self, _: &mut Keyspace, _: Time, _: Wake) -> Result<String, LoadError> {
        Ok("an epoch that no other start has".into())
    }

    fn commit(&mut self, keyspace: &Keyspace, after: u64, _: Time) -> Result<(), Unkept> {
        let changes = keyspace.changes_after(after);
        let mut changes = changes.filter_map(|(_, change)| change);
        // What takes a durable entry's place concerns the disk, too.
        let concerns_disk = changes.any(|change| change.class == Class::Durable)
            || !keyspace.displaced().is_empty();
        if concerns_disk && !self.writable().durable {
            return Err(Unkept);
        }
        Ok(())
    }

    fn writable(&self) -> Writable {
        Writable {
            durable: !self.has_failed.load(Ordering::Relaxed),
            boot: true,
        }
    }

    fn can_fail(&self) -> bool {
        true
    }

    fn figures(&self) -> Figures {
        Figures::default()
    }

    fn next_deadline(&self) -> Option<Time> {
        None
    }

    fn tend(&mut self, _: &Keyspace, _: Time) {}

    fn close(&mut self, _: &Keyspace) {}
}

#[test]
fn another_storage() -> Run {
    let has_failed = Arc::new(AtomicBool::new(false));
    let storage = Failing {
        has_failed: has_failed.clone(),
    };
    let server = Server::bind_with(Options::default(), Box::new(storage))?.spawn()?;
    let client = Client::from_stream(server.handle().connect()?)?;
    client.put("config.port", &80)?;
    has_failed.store(true, Ordering::Relaxed);
    let refused = client.put("config.port", &443).unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::ReadOnly));
    let port = client.get::<u32>("config.port")?.map(|entry| entry.value);
    assert_eq!(port, Some(80));
    has_failed.store(false, Ordering::Relaxed);
    client.ping()?;
    client.put("config.port", &443)?;
    Ok(server.stop()?)
}
