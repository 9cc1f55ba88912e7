//! Where a broker listens.

use std::fmt;

/// Kafka's usual port, for an address that names none.
const DEFAULT_PORT: u16 = 9092;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::kafka) struct Address {
    pub(in crate::kafka) host: String,
    pub(in crate::kafka) port: u16,
}

impl Address {
    /// Of `host:port`; an IPv6 address stands in brackets.
    pub(in crate::kafka) fn parse(text: &str) -> Self {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Self { host: host.to_owned(), port: port.parse().unwrap_or(DEFAULT_PORT) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back() {
        for text in ["broker-1:9093", "127.0.0.1:1", "[::1]:9092"] {
            assert_eq!(Address::parse(text).to_string(), text);
        }
    }
}
