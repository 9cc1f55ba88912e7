//! Which implementation reads an input, and why: asked for by `explain`, metrics and the log.

use std::fmt;

use super::{config::Fetch, fault::Cause};

/// The way by which records come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadPath {
    /// Our own fetch requests.
    Own(Chosen),
    /// librdkafka's consumer.
    Librdkafka(Chosen),
}

/// Why it is this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// It is the default.
    Default,
    /// `fetch` says so.
    Asked,
    /// The other one cannot do Kerberos.
    Kerberos,
    /// The other one needs a newer broker.
    OldBroker(Cause),
}

impl ReadPath {
    /// The one that a first contact begins with: what can be said without a connection.
    #[must_use]
    pub fn planned(fetch: Fetch, kerberos: bool) -> Self {
        match fetch {
            Fetch::Own => Self::Own(Chosen::Asked),
            Fetch::Librdkafka => Self::Librdkafka(Chosen::Asked),
            Fetch::Auto if kerberos => Self::Librdkafka(Chosen::Kerberos),
            Fetch::Auto => Self::Own(Chosen::Default),
        }
    }

    /// Whether it is our own.
    #[must_use]
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// Why it is this one.
    #[must_use]
    pub fn chosen(&self) -> &Chosen {
        match self {
            Self::Own(chosen) | Self::Librdkafka(chosen) => chosen,
        }
    }

    /// As `fetch` names it: `own` or `rdkafka`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        if self.is_own() { "own" } else { "rdkafka" }
    }

    /// In words, before a connection: the default gives way to librdkafka at the first contact with an old broker.
    #[must_use]
    pub fn before_contact(&self) -> String {
        match self.chosen() {
            Chosen::Default => {
                format!("{self} (`fetch: auto`); librdkafka where a broker turns out to be too old for them")
            }
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for ReadPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_own() { "our own fetch requests" } else { "librdkafka" })?;
        match self.chosen() {
            Chosen::Default => Ok(()),
            Chosen::Asked => write!(f, ", as `fetch: {}` asks", self.name()),
            Chosen::Kerberos => f.write_str(", the only one of the two that does Kerberos (GSSAPI)"),
            Chosen::OldBroker(cause) => write!(f, ", because of the broker: {cause}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_why() {
        let planned = |fetch, kerberos| ReadPath::planned(fetch, kerberos).to_string();
        assert_eq!(planned(Fetch::Auto, false), "our own fetch requests");
        assert_eq!(planned(Fetch::Own, false), "our own fetch requests, as `fetch: own` asks");
        assert_eq!(planned(Fetch::Librdkafka, true), "librdkafka, as `fetch: rdkafka` asks");
        assert_eq!(planned(Fetch::Auto, true), "librdkafka, the only one of the two that does Kerberos (GSSAPI)");
        let cause = Cause::Answered(kafka_protocol::error::ResponseError::UnsupportedVersion);
        let old = ReadPath::Librdkafka(Chosen::OldBroker(cause)).to_string();
        assert_eq!(old, "librdkafka, because of the broker: UnsupportedVersion");
        let before = |fetch, kerberos| ReadPath::planned(fetch, kerberos).before_contact();
        assert_eq!(before(Fetch::Own, false), planned(Fetch::Own, false));
        assert_eq!(
            before(Fetch::Auto, false),
            "our own fetch requests (`fetch: auto`); librdkafka where a broker turns out to be too old for them"
        );
    }
}
