//! librdkafka's callbacks: what its log and its errors say about the brokers, kept so that faults can name their cause.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rdkafka::{
    ClientContext,
    bindings::rd_kafka_t,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    config::KafkaConnection,
    fault::{Cause, Fault},
    token::{self, TokenSource},
    wire::Address,
};

/// What is known about the brokers of one input or output; its clients share it.
#[derive(Debug)]
pub(super) struct Brokers {
    /// "input `clicks`" or "output `alerts`".
    owner: String,
    /// The last telling failure of each broker, by `host:port`.
    failures: Mutex<BTreeMap<String, Cause>>,
    contacted: AtomicBool,
    /// No connection is open, which alone is no news: idle ones are closed.
    disconnected: AtomicBool,
    /// That no broker answers has been said.
    away: AtomicBool,
    /// Where tokens come from, if they are used.
    tokens: Option<Arc<dyn TokenSource>>,
}

impl Brokers {
    pub(super) fn new(owner: String, connection: &KafkaConnection) -> Arc<Self> {
        let [contacted, disconnected, away] = [false; 3].map(AtomicBool::new);
        let tokens = connection.security.tokens().cloned();
        Arc::new(Self { owner, failures: Mutex::default(), contacted, disconnected, away, tokens })
    }

    /// Gives a new client of ours its token, where tokens are used.
    pub(super) fn authenticate(&self, client: *mut rd_kafka_t) -> Result<(), Fault> {
        let Some(tokens) = &self.tokens else { return Ok(()) };
        let set = tokens.token().and_then(|token| token::set_token(client, &token));
        set.map_err(|error| Fault::NoToken { why: error.to_string() })
    }

    /// Another token, as librdkafka wants it.
    fn renewed_token(&self) -> Result<OAuthToken, Box<dyn Error>> {
        let tokens = self.tokens.as_ref().ok_or("no tokens are used")?;
        let token = tokens.token().inspect_err(|error| {
            tracing::warn!("{}: the token for Kafka was not renewed: {error}", self.owner);
        })?;
        let value = token.value.expose_str().ok_or("the token is not text")?.trim().to_owned();
        Ok(OAuthToken { token: value, principal_name: token.principal, lifetime_ms: token.expires_ms })
    }

    /// What each of `brokers` said last; those never heard of gave no answer.
    pub(super) fn answers(&self, brokers: &[String]) -> Vec<(String, Cause)> {
        let failures = self.failures();
        brokers.iter().map(|b| (b.clone(), failures.get(b).cloned().unwrap_or(Cause::NoAnswer))).collect()
    }

    /// A refusal that no retry can cure.
    pub(super) fn refusal(&self) -> Option<Fault> {
        let failures = self.failures();
        let (broker, cause) = failures.iter().find(|(_, cause)| cause.is_final())?;
        Some(Fault::Refused { broker: broker.clone(), cause: cause.clone() })
    }

    /// A first complete answer came: from now on an unreachable broker is waited for.
    pub(super) fn contacted(&self) {
        self.contacted.store(true, Ordering::Relaxed);
    }

    /// No broker can be reached; said once until they are back.
    pub(super) fn lost(&self, cause: &Cause) {
        if self.contacted.load(Ordering::Relaxed) && !self.away.swap(true, Ordering::Relaxed) {
            tracing::warn!("{}: Kafka does not answer ({cause}); trying again until it does", self.owner);
        }
    }

    /// A broker answered.
    pub(super) fn answered(&self) {
        self.disconnected.store(false, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) && self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("{}: Kafka answers again", self.owner);
        }
    }

    /// A connection of ours to a broker, or a question over it, failed.
    pub(super) fn failed(&self, broker: &Address, cause: &Cause) {
        tracing::debug!(%broker, %cause, "a connection failed");
        self.failures().insert(broker.to_string(), cause.clone());
    }

    /// A broker answered a question of ours.
    pub(super) fn succeeded(&self, broker: &Address) {
        self.failures().remove(&broker.to_string());
    }

    fn failures(&self) -> MutexGuard<'_, BTreeMap<String, Cause>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, text: &str) {
        let Some((broker, rest)) = broker_of(text) else { return };
        let cause = match Cause::of(rest) {
            Cause::WrongCredentials if self.tokens.is_some() => Cause::TokenRefused(String::new()),
            cause => cause,
        };
        if self.disconnected.load(Ordering::Relaxed) && cause != Cause::Disconnected {
            self.lost(&cause);
        }
        let mut failures = self.failures();
        // A closed connection says less than what was said before it.
        if cause != Cause::Disconnected || !failures.contains_key(broker) {
            failures.insert(broker.to_owned(), cause);
        }
    }
}

/// Splits `host:port/id: text`, as librdkafka begins what it says of one broker; its log puts the thread before it.
fn broker_of(text: &str) -> Option<(&str, &str)> {
    let text = match text.strip_prefix("[thrd:") {
        Some(rest) => rest.split_once("]: ")?.1,
        None => text,
    };
    let (name, rest) = text.split_once(": ")?;
    let (broker, _id) = name.rsplit_once('/')?;
    Some((broker.rsplit_once("//").map_or(broker, |(_protocol, broker)| broker), rest))
}

/// The context of every client.
#[derive(Debug)]
pub(super) struct Reporter(pub(super) Arc<Brokers>);

impl ClientContext for Reporter {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.0.renewed_token()
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(target: "librdkafka", ?level, facility, "{text}");
        self.0.note(text);
    }

    fn error(&self, error: KafkaError, text: &str) {
        tracing::debug!(target: "librdkafka", %error, "{text}");
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => self.0.disconnected.store(true, Ordering::Relaxed),
            _ => self.0.note(text),
        }
    }
}

impl ConsumerContext for Reporter {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broker_is_found_in_logs_and_errors() {
        let rest = "Connect to ipv4#127.0.0.1:1 failed: Connection refused";
        for text in [
            format!("127.0.0.1:1/bootstrap: {rest}"),
            format!("[thrd:127.0.0.1:1/bootstrap]: 127.0.0.1:1/bootstrap: {rest}"),
            format!("sasl_ssl://127.0.0.1:1/3: {rest}"),
        ] {
            assert_eq!(broker_of(&text), Some(("127.0.0.1:1", rest)), "{text}");
        }
        assert_eq!(broker_of("1/1 brokers are down"), None);
    }

    #[test]
    fn answers_name_every_broker_asked() {
        let brokers = Brokers::new("input `x`".into(), &KafkaConnection::default());
        brokers.note("a:1/bootstrap: Connect failed: Connection refused");
        let answers = brokers.answers(&["a:1".into(), "b:1".into()]);
        assert_eq!(answers, [("a:1".into(), Cause::Refused), ("b:1".into(), Cause::NoAnswer)]);
        assert_eq!(brokers.refusal(), None);
        brokers.note("b:1/bootstrap: SASL authentication error: Authentication failed");
        assert_eq!(brokers.refusal(), Some(Fault::Refused { broker: "b:1".into(), cause: Cause::WrongCredentials }));
    }
}
