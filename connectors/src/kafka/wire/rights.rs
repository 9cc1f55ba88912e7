//! Rights, asked for without using them: what `doctor` shows. Nothing is written, committed or fenced by it.
//!
//! - A topic: brokers tell with its metadata what we may do with it (KIP-430).
//! - A group: a heartbeat of a member that the group does not have takes the right to read it, as committing does.
//! - A transactional id: `InitProducerId` takes the right to write it. A time-out of 0 is refused behind the question of the right,
//!   before the coordinator looks at the id, so whoever produces under it goes on.

use std::{sync::Arc, thread, time::Duration};

use kafka_protocol::{
    error::ResponseError,
    messages::{
        FindCoordinatorRequest, GroupId, HeartbeatRequest, InitProducerIdRequest, MetadataRequest, TopicName,
        TransactionalId, metadata_request::MetadataRequestTopic,
    },
    protocol::StrBytes,
};
use tidemill_engine::{Clock, Monotonic};

use super::{Address, Connection, Protection};
use crate::kafka::{
    config::KafkaConnection,
    fault::{Cause, Fault},
    range::deadline,
};

/// A coordinator that is being elected, or loads, is asked again after this.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// What a job does on a cluster, and has to be allowed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right<'a> {
    /// Write to this topic.
    Topic(&'a str),
    /// Commit offsets as this group.
    Group(&'a str),
    /// Write transactions under this id.
    TransactionalId(&'a str),
}

impl Right<'_> {
    /// As [`Fault::NotAllowed`] names what it is about.
    fn resource(self) -> String {
        match self {
            Self::Topic(name) => format!("topic `{name}`"),
            Self::Group(name) => format!("group `{name}`"),
            Self::TransactionalId(name) => format!("transactional id `{name}`"),
        }
    }

    fn operation(self) -> &'static str {
        match self {
            Self::Topic(_) | Self::TransactionalId(_) => "Write",
            Self::Group(_) => "Read",
        }
    }

    /// Whether the cluster lets us; `None` where it does not tell.
    ///
    /// # Errors
    /// Why it does not let us, or cannot be asked within `within`.
    pub fn is_given(
        self,
        connection: &KafkaConnection,
        clock: &Arc<dyn Clock>,
        within: Duration,
    ) -> Result<Option<()>, Fault> {
        let protection = Protection::of(&connection.security)?;
        let asker = Asker { protection, brokers: &connection.brokers, clock, until: deadline(clock.as_ref(), within) };
        let answer = match self {
            Self::Topic(topic) => asker.topic(topic),
            Self::Group(group) => asker.group(group),
            Self::TransactionalId(id) => asker.transactional_id(id),
        };
        let refused = |cause| match cause {
            Cause::Answered(
                ResponseError::TopicAuthorizationFailed
                | ResponseError::GroupAuthorizationFailed
                | ResponseError::TransactionalIdAuthorizationFailed,
            ) => Fault::not_allowed(self.resource()).by(connection, self.operation()),
            cause => Fault::Request { doing: "ask for the right", cause },
        };
        answer.map_err(refused)
    }
}

struct Asker<'a> {
    protection: Protection,
    brokers: &'a [String],
    clock: &'a Arc<dyn Clock>,
    until: Monotonic,
}

impl Asker<'_> {
    fn topic(&self, topic: &str) -> Result<Option<()>, Cause> {
        const WRITE: i32 = 1 << 4;
        const NOT_TOLD: i32 = i32::MIN;
        let name = TopicName(StrBytes::from_string(topic.to_owned()));
        let request = MetadataRequest::default()
            .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(name))]))
            .with_allow_auto_topic_creation(false)
            .with_include_topic_authorized_operations(true);
        let answer = self.any()?.ask(&request)?;
        let topic = answer.topics.first().ok_or(Cause::Answered(ResponseError::UnknownTopicOrPartition))?;
        refused(topic.error_code)?;
        match topic.topic_authorized_operations {
            NOT_TOLD => Ok(None),
            operations if operations & WRITE != 0 => Ok(Some(())),
            _ => Err(Cause::Answered(ResponseError::TopicAuthorizationFailed)),
        }
    }

    fn group(&self, group: &str) -> Result<Option<()>, Cause> {
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
            .with_generation_id(-1)
            .with_member_id(StrBytes::from_static_str("nobody"));
        self.at_coordinator(group, 0, |coordinator| Ok(coordinator.ask(&request)?.error_code))
    }

    fn transactional_id(&self, id: &str) -> Result<Option<()>, Cause> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(TransactionalId(StrBytes::from_string(id.to_owned()))))
            .with_transaction_timeout_ms(0);
        self.at_coordinator(id, 1, |coordinator| Ok(coordinator.ask(&request)?.error_code))
    }

    /// Asks the coordinator of a group (0) or a transactional id (1); any answer but a refusal of the right is a yes.
    fn at_coordinator(
        &self,
        key: &str,
        kind: i8,
        ask: impl Fn(&mut Connection) -> Result<i16, Cause>,
    ) -> Result<Option<()>, Cause> {
        loop {
            let asked = self.coordinator(key, kind).and_then(|address| {
                let mut coordinator = self.open(&address)?;
                match ResponseError::try_from_code(ask(&mut coordinator)?) {
                    Some(error) if is_refusal(error) || error.is_retriable() => Err(Cause::Answered(error)),
                    _ => Ok(Some(())),
                }
            });
            match asked {
                Err(Cause::Answered(error)) if error.is_retriable() && !self.left().is_zero() => {
                    thread::sleep(AGAIN_AFTER.min(self.left()));
                }
                asked => return asked,
            }
        }
    }

    fn coordinator(&self, key: &str, kind: i8) -> Result<Address, Cause> {
        let key = StrBytes::from_string(key.to_owned());
        let mut connection = self.any()?;
        // Newer versions take several keys.
        let request = FindCoordinatorRequest::default().with_key_type(kind);
        let (host, port, code) = match connection.version::<FindCoordinatorRequest>()? {
            4.. => {
                let answer = connection.ask(&request.with_coordinator_keys(vec![key]))?;
                let found = answer.coordinators.first();
                let found = found.ok_or(Cause::Answered(ResponseError::CoordinatorNotAvailable))?;
                (found.host.to_string(), found.port, found.error_code)
            }
            _ => {
                let answer = connection.ask(&request.with_key(key))?;
                (answer.host.to_string(), answer.port, answer.error_code)
            }
        };
        refused(code)?;
        Ok(Address { host, port: u16::try_from(port).map_err(|_| Cause::Unresolved)? })
    }

    /// A connection to whichever broker lets us in first.
    fn any(&self) -> Result<Connection, Cause> {
        let mut failure = Cause::NoAnswer;
        for broker in self.brokers {
            match self.open(&Address::parse(broker)) {
                Ok(connection) => return Ok(connection),
                Err(cause) => failure = cause,
            }
        }
        Err(failure)
    }

    fn open(&self, address: &Address) -> Result<Connection, Cause> {
        Connection::open(address, &self.protection, self.clock, self.left())
    }

    fn left(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.until.0.saturating_sub(self.clock.monotonic().0)).unwrap_or(0))
    }
}

fn refused(code: i16) -> Result<(), Cause> {
    ResponseError::try_from_code(code).map_or(Ok(()), |error| Err(Cause::Answered(error)))
}

fn is_refusal(error: ResponseError) -> bool {
    use ResponseError as E;
    matches!(error, E::GroupAuthorizationFailed | E::TransactionalIdAuthorizationFailed | E::ClusterAuthorizationFailed)
}
