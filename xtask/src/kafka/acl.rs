//! Rights of users, given over the wire: rdkafka has no call for it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Broker;

/// What a right is about; the numbers are those of the protocol.
#[derive(Clone, Copy, Debug)]
pub enum Resource<'a> {
    /// A topic.
    Topic(&'a str),
    /// A consumer group.
    Group(&'a str),
    /// A transactional id.
    TransactionalId(&'a str),
}

/// What a right allows.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// Everything.
    All = 2,
    /// Reading records, or a group's offsets.
    Read = 3,
    /// Producing.
    Write = 4,
    /// Seeing that it exists.
    Describe = 8,
    /// Seeing its settings.
    DescribeConfigs = 10,
}

impl Broker {
    /// Gives a user, `bob`, a right.
    ///
    /// # Errors
    /// When the broker refuses it.
    pub fn allow(&self, user: &str, operation: Operation, resource: Resource<'_>) -> Result<()> {
        const CREATE_ACLS: i16 = 30;
        const LITERAL: i8 = 3;
        const ALLOW: i8 = 3;
        let (kind, name): (i8, &str) = match resource {
            Resource::Topic(name) => (2, name),
            Resource::Group(name) => (3, name),
            Resource::TransactionalId(name) => (5, name),
        };
        let mut request = vec![];
        request.extend(CREATE_ACLS.to_be_bytes());
        request.extend(1i16.to_be_bytes()); // version
        request.extend(7i32.to_be_bytes()); // correlation id
        text(&mut request, "xtask")?;
        request.extend(1i32.to_be_bytes());
        request.extend(kind.to_be_bytes());
        text(&mut request, name)?;
        request.extend(LITERAL.to_be_bytes());
        text(&mut request, &format!("User:{user}"))?;
        text(&mut request, "*")?;
        request.extend((operation as i8).to_be_bytes());
        request.extend(ALLOW.to_be_bytes());

        let mut socket = TcpStream::connect(self.bootstrap())?;
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        socket.write_all(&i32::try_from(request.len())?.to_be_bytes())?;
        socket.write_all(&request)?;
        // Size, correlation id, throttle time, number of results, error code of the first.
        let mut answer = [0; 18];
        socket.read_exact(&mut answer)?;
        let code = i16::from_be_bytes([answer[16], answer[17]]);
        ensure!(code == 0, "the broker refused the right: code {code}");
        Ok(())
    }
}

fn text(request: &mut Vec<u8>, text: &str) -> Result<()> {
    request.extend(i16::try_from(text.len())?.to_be_bytes());
    request.extend(text.as_bytes());
    Ok(())
}
