//! A token is kept for most of its life: connections come and go more often than tokens, and who gives them may be away for a
//! while.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use chrono::{DateTime, SecondsFormat};
use tidemill_engine::Clock;

use super::{Token, TokenError, TokenSource};

/// The share of its life after which a token is got anew, in per cent.
const RENEW_AT_PERCENT: i64 = 80;
/// A token this near its end is of no use: authenticating takes time.
const TOO_LATE_MS: i64 = 5_000;

/// See the module.
pub(super) struct Kept {
    source: Box<dyn TokenSource>,
    clock: Arc<dyn Clock>,
    last: Mutex<Option<Held>>,
}

struct Held {
    token: Token,
    renew_at_ms: i64,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Kept {
    pub(super) fn new(source: Box<dyn TokenSource>, clock: Arc<dyn Clock>) -> Self {
        Self { source, clock, last: Mutex::default() }
    }

    /// A new one, on a thread of its own: whoever waits may be on one that serves a runtime, and sources have runtimes.
    fn get(&self) -> Result<Token, TokenError> {
        let panicked = |_| Err(TokenError::Machine("getting it panicked".to_owned()));
        let token = thread::scope(|scope| scope.spawn(|| self.source.token()).join().unwrap_or_else(panicked))?;
        if token.expires_ms <= self.now_ms() {
            let ended = DateTime::from_timestamp_millis(token.expires_ms);
            let ended = ended.map_or_else(String::new, |ended| ended.to_rfc3339_opts(SecondsFormat::Secs, true));
            return Err(TokenError::Expired { principal: token.principal, ended });
        }
        Ok(token)
    }

    fn now_ms(&self) -> i64 {
        self.clock.wall().0 / 1_000
    }
}

impl TokenSource for Kept {
    fn token(&self) -> Result<Token, TokenError> {
        // Held while asking, so that many connections ask for one token once.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = self.now_ms();
        if let Some(held) = last.as_ref().filter(|held| now_ms < held.renew_at_ms) {
            return Ok(held.token.clone());
        }
        match self.get() {
            Ok(token) => {
                let renew_at_ms = now_ms + (token.expires_ms - now_ms) / 100 * RENEW_AT_PERCENT;
                *last = Some(Held { token: token.clone(), renew_at_ms });
                Ok(token)
            }
            Err(error) => match last.as_ref().filter(|held| held.token.expires_ms - TOO_LATE_MS > now_ms) {
                Some(held) => {
                    tracing::warn!("the token for Kafka was not renewed, the one at hand still holds: {error}");
                    Ok(held.token.clone())
                }
                None => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

    use tidemill_certs::Secret;
    use tidemill_engine::{EventTime, Monotonic};

    use super::*;

    #[derive(Debug, Default)]
    struct Set(AtomicI64);

    impl Clock for Set {
        fn monotonic(&self) -> Monotonic {
            Monotonic(0)
        }

        fn wall(&self) -> EventTime {
            EventTime(self.0.load(SeqCst) * 1_000)
        }
    }

    /// Gives tokens that last 100 s, or none while the sign is negative.
    #[derive(Debug)]
    struct Source(Arc<Set>, Arc<AtomicI64>);

    impl TokenSource for Source {
        fn token(&self) -> Result<Token, TokenError> {
            let lasts_ms = self.1.load(SeqCst);
            if lasts_ms < 0 {
                return Err(TokenError::Unreachable { url: "https://idp".into(), why: "away".into() });
            }
            let now_ms = self.0.0.load(SeqCst);
            let value = Secret::new(now_ms.to_string().into_bytes());
            Ok(Token { value, principal: "alice".into(), expires_ms: now_ms + lasts_ms })
        }
    }

    #[test]
    fn a_token_is_kept_renewed_and_held_on_to() {
        let (clock, lasts_ms) = (Arc::new(Set::default()), Arc::new(AtomicI64::new(100_000)));
        let kept = Kept::new(Box::new(Source(Arc::clone(&clock), Arc::clone(&lasts_ms))), Arc::clone(&clock) as _);
        let at = |ms: i64| {
            clock.0.store(ms, SeqCst);
            kept.token().map(|token| token.value.expose_str().unwrap().to_owned()).map_err(|error| error.to_string())
        };
        assert_eq!(at(1_000).as_deref(), Ok("1000"));
        assert_eq!(at(80_000).as_deref(), Ok("1000"), "before 80 % of its life");
        assert_eq!(at(81_000).as_deref(), Ok("81000"), "behind");
        lasts_ms.store(-1, SeqCst);
        assert_eq!(at(175_000).as_deref(), Ok("81000"), "who gives them is away");
        assert_eq!(at(176_000).unwrap_err(), "`oidc`: identity provider `https://idp` cannot be asked: away");
        lasts_ms.store(0, SeqCst);
        let ended = "the token of `alice` ended 1970-01-01T00:02:56Z: whoever gives it has to renew it; is this machine's clock right?";
        assert_eq!(at(176_000).unwrap_err(), ended);
    }
}
