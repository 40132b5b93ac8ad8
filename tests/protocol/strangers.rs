//! Strangers whose places are fewer because TCP has few connections. The rest of what holds for them
//! stands in the transcript `s4_strangers`.

use std::sync::Arc;

use nkv::access::{Names, Rules};
use nkv::broker::Peer;
use nkv::wire::Limits;

use crate::support::Bench;

struct Nobody;

impl Names for Nobody {
    fn user(&self, _: &str) -> Option<u32> {
        None
    }

    fn group(&self, _: &str) -> Option<u32> {
        None
    }
}

/// Silent ones that fill the quota of all who come over TCP would keep those out who have the token.
#[test]
fn strangers_do_not_use_up_the_connections_of_tcp() {
    let mut bench = Bench::with_token(Limits::default(), Some("secret"));
    let rules = Rules::parse("quota tcp connections 4\nallow anyone all *", &Nobody);
    bench.set_rules(Some(Arc::new(rules.unwrap())));
    let peer = |port: u16| Peer::Tcp(([192, 0, 2, 1], port).into());
    let members: Vec<usize> = (0..2)
        .map(|number| {
            let member = bench.connect(peer(number)).unwrap();
            bench.send(member, b"{\"op\":\"hello\",\"token\":\"secret\"}\n");
            bench.settle(usize::MAX);
            member
        })
        .collect();
    let strangers: Vec<usize> = (10..12)
        .map(|number| bench.connect(peer(number)).unwrap())
        .collect();
    // Two of four are strangers, and that is all.
    let refusal = bench.connect(peer(20)).unwrap_err();
    assert!(refusal.contains("`connections`: 4 of 4"), "{refusal}");
    bench.disconnect(members[0]);
    let third = bench.connect(peer(21)).unwrap();
    bench.settle(usize::MAX);
    assert!(!bench.is_connected(strangers[0]), "it makes room");
    for client in [members[1], strangers[1], third] {
        assert!(bench.is_connected(client));
    }
}
