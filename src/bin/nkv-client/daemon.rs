//! The daemon that the commands speak to: connected to when first needed, and again by a shell's next
//! command after the connection was lost.

use std::time::Duration;

use nkv::Address;
use nkv::client::{Builder, Client, Error, ErrorCode};

use crate::arguments::Arguments;
use crate::failure::{Failure, USAGE, plain};

/// The pause before the first attempt to reconnect. It doubles with each attempt.
pub(crate) const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause between two attempts.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(5);

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

    /// Connects after the connection was lost, for as long as it takes, with growing pauses.
    pub(crate) fn connect_again(&self) -> Result<Client, Error> {
        let mut pause = PAUSE_MIN;
        loop {
            std::thread::sleep(pause);
            match self.connect() {
                Err(error) if is_passing(&error) => pause = (pause * 2).min(PAUSE_MAX),
                connected => return connected,
            }
        }
    }
}

impl Daemon {
    pub(crate) fn new(target: Target) -> Daemon {
        Daemon {
            target,
            client: None,
        }
    }

    pub(crate) fn client(&mut self) -> Result<Client, Failure> {
        match &self.client {
            Some(client) if !client.is_closed() => Ok(client.clone()),
            _ => {
                let client = self.target.connect()?;
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

/// Whether another attempt to connect may succeed.
pub(crate) fn is_passing(error: &Error) -> bool {
    error.is_disconnect()
        || matches!(error, Error::Timeout)
        || error.code() == Some(ErrorCode::Limit)
}
