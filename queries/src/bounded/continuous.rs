//! Which questions are about a log that goes on: those that speak of windows.

use sqlparser::tokenizer::{Token, Tokenizer};

use crate::dialect::AsaDialect;

/// What only the language of jobs calls.
const CALLS: [&str; 11] = [
    "tumblingwindow",
    "hoppingwindow",
    "slidingwindow",
    "sessionwindow",
    "snapshotwindow",
    "windows",
    "tumble",
    "hop",
    "cumulate",
    "session",
    "match_recognize",
];

/// Whether a question is a job's: it has a window of event time, `TIMESTAMP BY` or `System.Timestamp()`. Tells by the words alone, so
/// that a mistake elsewhere in it is found by who is meant to read it.
#[must_use]
pub fn is_continuous(text: &str) -> bool {
    let Ok(tokens) = Tokenizer::new(&AsaDialect, text).tokenize() else { return false };
    let tokens: Vec<Token> = tokens.into_iter().filter(|token| !matches!(token, Token::Whitespace(_))).collect();
    let word = |at: usize| match tokens.get(at) {
        Some(Token::Word(word)) if word.quote_style.is_none() => Some(word.value.to_lowercase()),
        _ => None,
    };
    (0..tokens.len()).any(|at| {
        let Some(name) = word(at) else { return false };
        match name.as_str() {
            "timestamp" => word(at + 1).as_deref() == Some("by"),
            "system" => tokens.get(at + 1) == Some(&Token::Period) && word(at + 2).as_deref() == Some("timestamp"),
            name => CALLS.contains(&name) && tokens.get(at + 1) == Some(&Token::LParen),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_tell() {
        for text in [
            "SELECT COUNT(*) FROM t GROUP BY TumblingWindow(minute, 1)",
            "SELECT a FROM t TIMESTAMP BY at",
            "SELECT System.Timestamp() AS at FROM t",
            "SELECT * FROM TUMBLE(TABLE t, DESCRIPTOR(at), INTERVAL '1' MINUTE)",
            "SELECT COUNT(*) FROM t GROUP BY hopping_window, HoppingWindow (second, 10, 5)",
        ] {
            assert!(is_continuous(text), "{text}");
        }
        for text in [
            "SELECT session, hop FROM t WHERE a = 'TumblingWindow(minute, 1)'",
            "SELECT SUM(n) OVER (ORDER BY _offset) FROM t WINDOW w AS (PARTITION BY a)",
            "SELECT timestamp, \"tumble\" FROM t -- TumblingWindow(minute, 1)",
            "SELECT 'open",
        ] {
            assert!(!is_continuous(text), "{text}");
        }
    }
}
