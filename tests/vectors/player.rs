//! Plays a story on a stage, which is a broker in memory or a daemon.

use crate::story::{Act, Names, Sent, Step, Story};

/// Where clients meet a daemon.
pub(crate) trait Stage {
    fn open(&mut self, client: &str);

    fn send(&mut self, client: &str, bytes: &[u8]);

    /// The next line that a client receives, without its end. None where none comes, and where the
    /// connection has ended.
    fn receive(&mut self, client: &str) -> Option<String>;

    /// The client closes its sending half.
    fn end(&mut self, client: &str);

    /// Whether the daemon closes the client's connection, which has received all.
    fn has_ended(&mut self, client: &str) -> bool;

    fn close(&mut self, client: &str);
}

/// # Errors
/// The first step that does not hold.
pub(crate) fn play(story: &Story, stage: &mut dyn Stage) -> Result<(), String> {
    let mut play = Play {
        stage,
        names: Names::default(),
        open: Vec::new(),
    };
    for (number, step) in &story.steps {
        let result = match step {
            Step::Act(client, act) => play.act(client, act),
            Step::Receive(lines) => play.receive(lines),
        };
        result.map_err(|failure| format!("{}, line {number}: {failure}", story.name))?;
    }
    play.finish()
        .map_err(|failure| format!("{}, at the end: {failure}", story.name))
}

struct Play<'s> {
    stage: &'s mut dyn Stage,
    names: Names,
    open: Vec<String>,
}

impl Play<'_> {
    fn act(&mut self, client: &str, act: &Act) -> Result<(), String> {
        if let Act::Open = act {
            if self.open.iter().any(|other| other == client) {
                return Err(format!("{client} is open"));
            }
            self.open.push(client.into());
            self.stage.open(client);
            return Ok(());
        }
        self.find(client)?;
        match act {
            Act::Open => {}
            Act::Send(Sent::Line(line)) => {
                let line = self.names.fill(line)? + "\n";
                self.stage.send(client, line.as_bytes());
            }
            Act::Send(Sent::Bytes(bytes)) => self.stage.send(client, bytes),
            Act::End => self.stage.end(client),
            Act::Ended => {
                if !self.stage.has_ended(client) {
                    return Err(format!("the connection of {client} goes on"));
                }
                self.forget(client);
            }
            Act::Close => {
                self.stage.close(client);
                self.forget(client);
            }
        }
        Ok(())
    }

    /// As many lines as there are come, each of which is another one of them.
    fn receive(&mut self, expected: &[(String, String)]) -> Result<(), String> {
        let mut left: Vec<_> = expected.iter().collect();
        for (client, _) in expected {
            let line = self.next(client)?;
            let mut failures = Vec::new();
            let found = left.iter().position(|(other, expected)| {
                if other != client {
                    return false;
                }
                let mut names = self.names.clone();
                match names.compare(expected, &line) {
                    Ok(()) => self.names = names,
                    Err(failure) => {
                        failures.push(format!("\n  not {expected}\n  {failure}"));
                        return false;
                    }
                }
                true
            });
            match found {
                Some(position) => drop(left.remove(position)),
                None => return Err(format!("{client} received\n  {line}{}", failures.concat())),
            }
        }
        Ok(())
    }

    /// Sees that nobody receives more.
    fn finish(mut self) -> Result<(), String> {
        for client in std::mem::take(&mut self.open) {
            self.stage
                .send(&client, b"{\"id\":\"the end\",\"op\":\"ping\"}\n");
            self.open.push(client.clone());
            let line = self.next(&client)?;
            if !line.starts_with(r#"{"id":"the end""#) {
                return Err(format!("{client} received\n  {line}"));
            }
        }
        Ok(())
    }

    fn next(&mut self, client: &str) -> Result<String, String> {
        self.find(client)?;
        let line = self.stage.receive(client);
        line.ok_or_else(|| format!("no line comes to {client}"))
    }

    fn find(&self, client: &str) -> Result<(), String> {
        match self.open.iter().any(|other| other == client) {
            true => Ok(()),
            false => Err(format!("{client} is not open")),
        }
    }

    fn forget(&mut self, client: &str) {
        self.open.retain(|other| other != client);
    }
}
