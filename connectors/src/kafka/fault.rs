//! What can go wrong with a cluster, by name: librdkafka's texts and codes become a [`Fault`] with a [`Cause`].

use std::{fmt, time::Duration};

use kafka_protocol::error::ResponseError;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tidemill_engine::{EngineError, ErrorKind};

use super::config::KafkaConnection;

/// Why a broker did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nothing listens there.
    Refused,
    /// The host name has no address.
    Unresolved,
    /// No answer in time: a firewall, a paused or overloaded broker.
    NoAnswer,
    /// The connection was closed by the other side.
    Disconnected,
    /// Closed at the first request: a TLS listener, or not Kafka at all.
    WrongProtocol,
    /// TLS was spoken to a plain-text listener.
    PlaintextListener,
    /// Plain text was spoken to a TLS listener.
    TlsListener,
    /// Closed after the first request, where none says who we are: a SASL listener does that.
    SaslWanted,
    /// The listener does not take SASL.
    NoSasl,
    /// The certificate of the broker was not accepted; librdkafka does not say why.
    CertificateNotVerified,
    /// The certificate of the broker was signed by nobody whom we trust.
    UnknownIssuer,
    /// The certificate of the broker is for another name; the text has both.
    WrongName(String),
    /// The certificate of the broker was valid once.
    CertificateExpired,
    /// The certificate of the broker is not valid yet.
    CertificateNotYetValid,
    /// The broker wants a certificate of ours and got none that it trusts.
    CertificateWanted,
    /// Wrong user or password.
    WrongCredentials,
    /// The broker does not take our token; with its own word for why, if it said one.
    TokenRefused(String),
    /// We have no token to authenticate with.
    NoToken {
        /// Why.
        why: String,
        /// Whether there may be one at another try.
        may_pass: bool,
    },
    /// The broker does not offer the mechanism.
    MechanismRefused {
        /// The one that was asked for; empty when librdkafka asked.
        mechanism: String,
        /// What it offers, if it said so.
        offered: Vec<String>,
    },
    /// The broker speaks no version of a request that we do.
    TooOld {
        /// The request's name.
        request: String,
        /// Its lowest and highest version.
        offered: (i16, i16),
        /// Ours.
        needed: (i16, i16),
    },
    /// The broker answered with an error.
    Answered(ResponseError),
    /// None of the above, in librdkafka's words.
    Unnamed(String),
}

impl Cause {
    /// Finds the cause in a text of librdkafka's log and error callbacks.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let table: [(&[&str], Self); 11] = [
            (&["Connection refused"], Self::Refused),
            (&["Failed to resolve"], Self::Unresolved),
            (&["connecting to a PLAINTEXT broker listener"], Self::PlaintextListener),
            (&["certificate verify failed", "could not be verified"], Self::CertificateNotVerified),
            (&["certificate required", "bad certificate", "alert handshake failure"], Self::CertificateWanted),
            (&["SASL authentication error", "Authentication failed"], Self::WrongCredentials),
            (&["current SASL state"], Self::NoSasl),
            (&["Unsupported SASL mechanism"], Self::MechanismRefused { mechanism: String::new(), offered: Vec::new() }),
            (&["timed out", "Timed out", "setup time"], Self::NoAnswer),
            (&["SSL listener", "Invalid response size", "in state APIVERSION_QUERY"], Self::WrongProtocol),
            (&["Disconnected", "Connection reset", "Broken pipe"], Self::Disconnected),
        ];
        table
            .into_iter()
            .find(|(marks, _)| marks.iter().any(|mark| text.contains(mark)))
            .map_or_else(|| Self::Unnamed(text.to_owned()), |(_, cause)| cause)
    }

    /// Whether trying again cannot help: credentials, certificates, the kind of listener.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Answered(error) if !may_pass(*error))
            || matches!(
                self,
                Self::NoToken { may_pass: false, .. }
                    | Self::TokenRefused(_)
                    | Self::PlaintextListener
                    | Self::TlsListener
                    | Self::NoSasl
                    | Self::CertificateNotVerified
                    | Self::UnknownIssuer
                    | Self::WrongName(_)
                    | Self::CertificateExpired
                    | Self::CertificateNotYetValid
                    | Self::CertificateWanted
                    | Self::WrongCredentials
                    | Self::MechanismRefused { .. }
                    | Self::TooOld { .. }
            )
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::Unresolved => "the host name does not resolve",
            Self::NoAnswer => "no answer",
            Self::Disconnected => "the connection was closed",
            Self::WrongProtocol => "closed the connection at the first request: a TLS listener, or not a Kafka broker",
            Self::PlaintextListener => "a plain-text listener, but the job says TLS",
            Self::TlsListener => "a TLS listener, but the job says plain text: set `security` to `sasl_ssl` or `mtls`",
            Self::SaslWanted => "closed the connection after the first request: does this listener want SASL?",
            Self::NoSasl => {
                "this listener does not take SASL: another port does, or `security` is to be `mtls` or `none`"
            }
            Self::CertificateNotVerified => "its certificate is not trusted: check `ca`, the host name, the dates",
            Self::UnknownIssuer => "its certificate was signed by nobody in `ca`: check that `ca` is this cluster's",
            Self::WrongName(text) => return write!(f, "its certificate is for another host: {text}"),
            Self::CertificateExpired => "its certificate has expired",
            Self::CertificateNotYetValid => "its certificate is not valid yet: check the clocks",
            Self::CertificateWanted => "it wants a client certificate that it trusts: check `certificate` and `key`",
            Self::WrongCredentials => "wrong user or password",
            Self::TokenRefused(status) => {
                let status = if status.is_empty() { String::new() } else { format!(" ({status})") };
                return write!(
                    f,
                    "it does not take our token{status}: is it for this cluster (issuer, audience, scope)?"
                );
            }
            Self::NoToken { why, .. } => return write!(f, "no token for it: {why}"),
            Self::MechanismRefused { offered, .. } if offered.is_empty() => "it does not offer this mechanism",
            Self::MechanismRefused { mechanism, offered } => {
                return write!(f, "it does not offer `{mechanism}`, only {}", offered.join(", "));
            }
            Self::TooOld { request, offered, needed } => {
                return write!(
                    f,
                    "it speaks versions {} to {} of `{request}`, needed is one of {} to {}: set `fetch: rdkafka`",
                    offered.0, offered.1, needed.0, needed.1
                );
            }
            Self::Answered(error) => return write!(f, "{error}"),
            Self::Unnamed(text) => text,
        })
    }
}

/// An error of Kafka, named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nobody answered in time.
    #[error("no Kafka broker answered within {}s: {}", waited.as_secs(), each(answers))]
    Unreachable {
        /// What each broker said last, by `host:port`.
        answers: Vec<(String, Cause)>,
        /// How long was tried.
        waited: Duration,
    },
    /// A broker refused us for good.
    #[error("broker `{broker}`: {cause}")]
    Refused {
        /// Its `host:port`.
        broker: String,
        /// Why.
        cause: Cause,
    },
    /// The connection cannot be protected as it was asked for.
    #[error("{0}")]
    Protection(String),
    /// There is no token to authenticate with.
    #[error("no token for Kafka: {why}")]
    NoToken {
        /// Why.
        why: String,
    },
    /// The principal lacks a right.
    #[error("{}", not_allowed(what, asked.as_ref()))]
    NotAllowed {
        /// "topic `a`", "group `g`", "the cluster".
        what: String,
        /// Who asked, and whom; `None` where only the broker knows.
        asked: Option<Asked>,
    },
    /// There is no such topic.
    #[error(
        "topic `{topic}` does not exist{}; create it with: kafka-topics --bootstrap-server {bootstrap} --create --topic \
         {topic} --partitions 4",
        existing(near)
    )]
    UnknownTopic {
        /// The name asked for.
        topic: String,
        /// Names that exist, the nearest first; at most five.
        near: Vec<String>,
        /// Brokers, for the command.
        bootstrap: String,
    },
    /// The brokers answer, but the topic's partitions have no leader.
    #[error("topic `{topic}` has no leader: its brokers are away or still electing one")]
    Leaderless {
        /// Its name.
        topic: String,
    },
    /// The topic was deleted and made again under the job: its offsets are others' now.
    #[error("topic `{topic}` was deleted and made again while the job ran; start anew with `--from-start`")]
    TopicReplaced {
        /// Its name.
        topic: String,
    },
    /// The log of a partition lost records that were read from it.
    #[error(
        "topic `{topic}` partition {number} lost records that were read already (unclean leader election): its log was cut at \
         offset {log_end}, read was up to {read_to}; what was computed from them stays, start anew with `--from-start` for a \
         result without them"
    )]
    Truncated {
        /// Its topic.
        topic: String,
        /// Its partition.
        number: i32,
        /// Where the log ended when it was cut.
        log_end: i64,
        /// The offset that was to be read next.
        read_to: i64,
    },
    /// The topic was deleted under the job.
    #[error("topic `{topic}` was deleted while the job ran")]
    TopicGone {
        /// Its name.
        topic: String,
    },
    /// The topic keeps the producers' timestamps.
    #[error(
        "topic `{topic}` carries the producers' timestamps (CreateTime); let the broker stamp its records with: kafka-configs \
         --bootstrap-server {bootstrap} --alter --entity-type topics --entity-name {topic} --add-config \
         message.timestamp.type=LogAppendTime; or accept them with `timestamp: create_time`"
    )]
    CreateTimeTopic {
        /// Its name.
        topic: String,
        /// Brokers, for the command.
        bootstrap: String,
    },
    /// A record from before the topic was switched to LogAppendTime.
    #[error(
        "record {offset} of topic `{topic}` partition {number} carries its producer's timestamp (CreateTime): it is older \
         than the topic's switch to LogAppendTime; {}",
        advice(*switch, *number, offsets)
    )]
    CreateTimeRecord {
        /// Its topic.
        topic: String,
        /// Its partition.
        number: i32,
        /// Its offset.
        offset: i64,
        /// First offset of the partition from which on all records are LogAppendTime, when it was found.
        switch: Option<i64>,
        /// The same for all partitions of the topic, when all were found.
        offsets: Vec<(i32, i64)>,
    },
    /// The offset to read next is not in the log.
    #[error(
        "offset {wanted} of topic `{topic}` partition {number} is not in the log, which has {earliest} to {end}; start \
         elsewhere with `--from-start` or `start`"
    )]
    OffsetsGone {
        /// Its topic.
        topic: String,
        /// Its partition.
        number: i32,
        /// The offset that was to be read.
        wanted: i64,
        /// First offset in the log.
        earliest: i64,
        /// The offset after the last.
        end: i64,
    },
    /// `start: {offsets: ...}` names a partition that no topic of the input has.
    #[error("`start` gives an offset for partition {number}; the input has partitions 0 to {last}")]
    UnknownPartition {
        /// The number given.
        number: i32,
        /// The highest one.
        last: i32,
    },
    /// Another consumer of the group is active and owns its offsets.
    #[error("group `{group}` is in use by another consumer; choose another `group`")]
    GroupInUse {
        /// Its name.
        group: String,
    },
    /// Another run of the job has taken the transactional id.
    #[error(
        "another run of this job has taken over (transactional id `{transactional_id}`); this one stops: two copies of a job \
         cannot run at once"
    )]
    TakenOver {
        /// The id.
        transactional_id: String,
    },
    /// The cluster cannot do what exactly once needs.
    #[error("the cluster has no transactions, which `delivery: exactly_once` needs; write `delivery: at_least_once`")]
    NoTransactions,
    /// The cluster has transactions, but nobody coordinates ours.
    #[error(
        "no broker coordinates transactions: fewer brokers than `transaction.state.log.replication.factor`, or they are \
         starting; `delivery: at_least_once` needs none"
    )]
    NoCoordinator,
    /// The job's epochs topic is missing and cannot be made.
    #[error(
        "the job keeps its epochs in topic `{topic}`, which does not exist and cannot be created ({code}); create it with: \
         kafka-topics --bootstrap-server {bootstrap} --create --topic {topic} --partitions 1 --config cleanup.policy=compact"
    )]
    EpochsTopic {
        /// Its name.
        topic: String,
        /// Brokers, for the command.
        bootstrap: String,
        /// Why not.
        code: RDKafkaErrorCode,
    },
    /// A partition cannot be read on.
    #[error("topic `{topic}` partition {number} cannot be read at offset {offset}: {text}")]
    Unreadable {
        /// Its topic.
        topic: String,
        /// Its partition.
        number: i32,
        /// Where reading stopped.
        offset: i64,
        /// librdkafka's words.
        text: String,
    },
    /// A request failed for now.
    #[error("cannot {doing}: {cause}")]
    Request {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        cause: Cause,
    },
    /// A broker answered with an error that stays.
    #[error("cannot {doing}: {what} was answered with `{error}`, which no retry cures")]
    RefusedForGood {
        /// What was tried.
        doing: &'static str,
        /// "topic `a`", "the request".
        what: String,
        /// The answer.
        error: ResponseError,
    },
    /// The operating system refused something.
    #[error("the operating system refused to wait for sockets: {0}")]
    Io(String),
    /// librdkafka did not take a setting of ours.
    #[error("librdkafka refused its settings: {0}")]
    Client(KafkaError),
}

/// Who asked for something that was not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// As the broker's ACLs name it, `User:alice`.
    pub principal: String,
    /// Brokers, for the command.
    pub bootstrap: String,
    /// What it takes, `Read` or `Write`.
    pub operation: &'static str,
}

fn not_allowed(what: &str, asked: Option<&Asked>) -> String {
    let Some(Asked { principal, bootstrap, operation }) = asked else {
        return format!("not allowed to use {what}: ask for the right (ACL) on it");
    };
    let kinds = [("topic `", "topic"), ("group `", "group"), ("transactional id `", "transactional-id")];
    let resource = kinds
        .iter()
        .find_map(|(prefix, kind)| Some(format!("--{kind} {}", what.strip_prefix(prefix)?.trim_end_matches('`'))));
    let resource = resource.as_deref().unwrap_or("--cluster");
    format!(
        "`{principal}` is not allowed to use {what}; whoever may can allow it with: kafka-acls --bootstrap-server {bootstrap} \
         --add --allow-principal '{principal}' --operation {operation} {resource}"
    )
}

fn each(answers: &[(String, Cause)]) -> String {
    let texts: Vec<_> = answers.iter().map(|(broker, cause)| format!("`{broker}`: {cause}")).collect();
    texts.join("; ")
}

fn existing(near: &[String]) -> String {
    let names: Vec<_> = near.iter().map(|name| format!("`{name}`")).collect();
    if names.is_empty() {
        " (the cluster has no topics)".to_owned()
    } else {
        format!(" (there are {})", names.join(", "))
    }
}

fn advice(switch: Option<i64>, number: i32, offsets: &[(i32, i64)]) -> String {
    let Some(switch) = switch else {
        return "start behind the switch with `start`, or accept such records with `timestamp: create_time`".to_owned();
    };
    let offsets = if offsets.is_empty() { &[(number, switch)] } else { offsets };
    let pairs: Vec<_> = offsets.iter().map(|(number, offset)| format!("{number}: {offset}")).collect();
    format!(
        "the first LogAppendTime offset is {switch}: begin there with `start: {{offsets: {{{}}}}}`",
        pairs.join(", ")
    )
}

/// Whether a later try may succeed where a broker answered with this: the protocol says so of each error. Three more are a
/// broker's own trouble, which passes with it.
pub(super) fn may_pass(error: ResponseError) -> bool {
    use ResponseError as E;
    error.is_retriable()
        || matches!(error, E::UnknownServerError | E::BrokerNotAvailable | E::OffsetMovedToTieredStorage)
}

impl Fault {
    /// Makes a fault of a failed request; `what` is what a missing right would be about.
    pub(super) fn request(doing: &'static str, what: &str, error: &KafkaError) -> Self {
        use RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(
                Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed,
            ) => Self::not_allowed(what.to_owned()),
            Some(Code::OperationTimedOut | Code::RequestTimedOut) => Self::Request { doing, cause: Cause::NoAnswer },
            Some(code) => Self::Request { doing, cause: Cause::Unnamed(code.to_string()) },
            None => Self::Client(error.clone()),
        }
    }

    /// A right is missing; [`Fault::by`] says whose.
    pub(super) fn not_allowed(what: String) -> Self {
        Self::NotAllowed { what, asked: None }
    }

    /// Says who asked, where a right was missing.
    #[must_use]
    pub(super) fn by(self, connection: &KafkaConnection, operation: &'static str) -> Self {
        match self {
            Self::NotAllowed { what, asked: None } => {
                let (principal, bootstrap) = (connection.security.principal(), connection.bootstrap());
                Self::NotAllowed { what, asked: Some(Asked { principal, bootstrap, operation }) }
            }
            other => other,
        }
    }

    /// Makes a fault of an error in an answer about `topic`.
    pub(super) fn request_refused(doing: &'static str, topic: &str, error: ResponseError) -> Self {
        match error {
            ResponseError::TopicAuthorizationFailed => Self::not_allowed(format!("topic `{topic}`")),
            ResponseError::ClusterAuthorizationFailed => Self::not_allowed("the cluster".to_owned()),
            error if may_pass(error) => Self::Request { doing, cause: Cause::Answered(error) },
            error => Self::RefusedForGood { doing, what: format!("topic `{topic}`"), error },
        }
    }

    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable { .. } | Self::Leaderless { .. } | Self::Request { .. } | Self::NoCoordinator => {
                ErrorKind::Unavailable
            }
            Self::Client(_) | Self::Io(_) => ErrorKind::Bug,
            _ => ErrorKind::User,
        }
    }

    /// As the engine's error of an input.
    #[must_use]
    pub fn of_input(self, input: &str) -> EngineError {
        EngineError::Source { input: input.to_owned(), kind: self.kind(), message: self.to_string() }
    }

    /// As the engine's error of an output.
    #[must_use]
    pub fn of_output(self, output: &str) -> EngineError {
        EngineError::Sink { output: output.to_owned(), kind: self.kind(), message: self.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_librdkafka_become_causes() {
        let cases = [
            (
                "h:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)",
                Cause::Refused,
            ),
            ("nope:9092/bootstrap: Failed to resolve 'nope:9092': Name or service not known", Cause::Unresolved),
            (
                "h:1: SSL handshake failed: Disconnected: connection reset by peer: connecting to a PLAINTEXT broker listener?",
                Cause::PlaintextListener,
            ),
            (
                "SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker certificate could not \
                 be verified, verify that ssl.ca.location is correctly configured",
                Cause::CertificateNotVerified,
            ),
            (
                "Receive failed: ssl/record: tlsv13 alert certificate required: SSL alert number 116",
                Cause::CertificateWanted,
            ),
            ("SASL authentication error: Authentication failed: Invalid username or password", Cause::WrongCredentials),
            (
                "SASL handshake failed: Broker: Unsupported SASL mechanism: broker's supported mechanisms: ",
                Cause::MechanismRefused { mechanism: String::new(), offered: Vec::new() },
            ),
            (
                "h:1: Disconnected: connection closed by peer (after 0ms in state APIVERSION_QUERY)",
                Cause::WrongProtocol,
            ),
            ("h:1: Connection setup timed out in state APIVERSION_QUERY (after 10001ms)", Cause::NoAnswer),
            (
                "Receive failed: Invalid response size 1213486160 (0..100000000): increase receive.message.max.bytes",
                Cause::WrongProtocol,
            ),
            ("h:1: Connection setup timed out in state CONNECT (after 10001ms in state CONNECT)", Cause::NoAnswer),
            ("h:1: Disconnected (after 12ms in state UP)", Cause::Disconnected),
        ];
        for (text, cause) in cases {
            assert_eq!(Cause::of(text), cause, "{text}");
        }
        assert_eq!(Cause::of("a new text"), Cause::Unnamed("a new text".to_owned()));
    }

    #[test]
    fn a_fault_says_what_to_do() {
        let unknown =
            Fault::UnknownTopic { topic: "cliks".into(), near: vec!["clicks".into()], bootstrap: "b:9092".into() };
        assert_eq!(
            unknown.to_string(),
            "topic `cliks` does not exist (there are `clicks`); create it with: kafka-topics --bootstrap-server b:9092 \
             --create --topic cliks --partitions 4"
        );
        let record = |switch, offsets| {
            Fault::CreateTimeRecord { topic: "t".into(), number: 1, offset: 7, switch, offsets }.to_string()
        };
        assert!(record(Some(9), vec![(0, 4), (1, 9)]).ends_with("with `start: {offsets: {0: 4, 1: 9}}`"));
        assert!(record(Some(9), vec![]).ends_with("with `start: {offsets: {1: 9}}`"));
        assert!(record(None, vec![]).contains("`timestamp: create_time`"));
    }
}
