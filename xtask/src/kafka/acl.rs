//! Rights of users, given over the wire: rdkafka has no call for it.

use anyhow::{Result, ensure};
use kafka_protocol::messages::{CreateAclsRequest, create_acls_request::AclCreation};
use kafka_protocol::protocol::StrBytes;

use super::{Broker, wire::ask};

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
        const LITERAL: i8 = 3;
        const ALLOW: i8 = 3;
        let (kind, name): (i8, &str) = match resource {
            Resource::Topic(name) => (2, name),
            Resource::Group(name) => (3, name),
            Resource::TransactionalId(name) => (5, name),
        };
        let right = AclCreation::default()
            .with_resource_type(kind)
            .with_resource_name(StrBytes::from_string(name.to_owned()))
            .with_resource_pattern_type(LITERAL)
            .with_principal(StrBytes::from_string(format!("User:{user}")))
            .with_host(StrBytes::from_static_str("*"))
            .with_operation(operation as i8)
            .with_permission_type(ALLOW);
        let answer = ask(self.bootstrap(), &CreateAclsRequest::default().with_creations(vec![right]), 1)?;
        let code = answer.results.first().map(|result| result.error_code);
        ensure!(code == Some(0), "the broker refused the right: code {code:?}");
        Ok(())
    }
}
