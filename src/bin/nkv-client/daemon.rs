//! The daemon that the commands speak to: connected to when first needed, and again by a shell's next
//! command after the connection was lost.

use std::collections::BTreeSet;
use std::time::Duration;

use nkv::Address;
use nkv::client::{Builder, CONNECT_TIMEOUT, Client, Error, Link};

use crate::arguments::Arguments;
use crate::failure::{Failure, USAGE, plain};
use crate::subscribe::notice;

/// How long a daemon has to answer a greeting, however little time there is: one that is there does.
const GREETING_MIN: Duration = Duration::from_millis(100);

/// How to reach the daemon.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: Address,
    builder: Builder,
}

/// The daemon, and the connection to it where there is one.
pub(crate) struct Daemon {
    pub(crate) target: Target,
    client: Option<Client>,
    /// What a shell has claimed, to be claimed again on a new connection.
    pub(crate) claimed: BTreeSet<String>,
}

impl Target {
    pub(crate) fn new(arguments: &Arguments) -> Result<Target, Failure> {
        let address = match &arguments.address {
            Some(address) => address.clone(),
            None => Address::client_default()
                .map_err(|error| Failure::new(USAGE, format!("NKV_ADDRESS: {error}")))?,
        };
        let mut builder = Client::builder().name("nkv-client");
        if let Some(path) = &arguments.token_file {
            let token = std::fs::read_to_string(path).map_err(|error| {
                let message = format!("cannot read {}: {}", path.display(), plain(&error));
                Failure::new(USAGE, message)
            })?;
            builder = builder.token(token.trim_end());
        }
        Ok(Target { address, builder })
    }

    pub(crate) fn connect(&self) -> Result<Client, Error> {
        self.builder.connect(&self.address)
    }

    /// The same, for who has no more time than this.
    pub(crate) fn within(&self, timeout: Duration) -> Target {
        let patience = timeout.clamp(GREETING_MIN, CONNECT_TIMEOUT);
        Target {
            address: self.address.clone(),
            builder: self.builder.clone().connect_timeout(patience),
        }
    }

    /// A daemon that is reached again whenever the connection was lost. The first attempt to reach it is
    /// the only one: a mistyped address should be told.
    pub(crate) fn link(&self) -> Link {
        self.link_within(Duration::ZERO)
    }

    /// The same, waiting so long for a connection whenever there is none.
    pub(crate) fn link_within(&self, patience: Duration) -> Link {
        Link::builder()
            .connection(self.builder.clone())
            .patience(patience)
            .link(self.address.clone())
    }
}

impl Daemon {
    pub(crate) fn new(target: Target) -> Daemon {
        Daemon {
            target,
            client: None,
            claimed: BTreeSet::new(),
        }
    }

    pub(crate) fn client(&mut self) -> Result<Client, Failure> {
        match &self.client {
            Some(client) if !client.is_closed() => Ok(client.clone()),
            _ => {
                let client = self.target.connect()?;
                self.claimed.retain(|key| match client.claim(key) {
                    Ok(_) => true,
                    Err(error) => {
                        let lost = Failure::from(error).during(&format!("{key} is lost"));
                        notice(&lost.message);
                        false
                    }
                });
                Ok(self.client.insert(client).clone())
            }
        }
    }

    /// The connection, where there is one already.
    pub(crate) fn connected(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// Makes the next command connect again.
    pub(crate) fn forget(&mut self) {
        self.client = None;
    }
}
