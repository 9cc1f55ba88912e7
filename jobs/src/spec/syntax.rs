//! The syntax of names and addresses. Each check answers with what is wrong.

/// Most characters of a topic's name (Kafka's own limit).
const MAX_TOPIC: usize = 249;

/// A topic's name, by Kafka's rules.
///
/// # Errors
/// What is wrong with it.
pub(super) fn topic(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("expected a topic, found an empty text".to_owned());
    }
    if name == "." || name == ".." || name.len() > MAX_TOPIC || !name.chars().all(is_word) {
        return Err(format!("`{name}` is no topic: expected 1 to {MAX_TOPIC} letters, digits, `.`, `_`, `-`"));
    }
    Ok(())
}

/// A job's name; it becomes a consumer group and part of file names.
///
/// # Errors
/// What is wrong with it.
pub(super) fn job_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("expected a name, found an empty text".to_owned());
    }
    if name.len() > 200 || name.starts_with('.') || !name.chars().all(is_word) {
        return Err(format!(
            "`{name}` is no job name: expected 1 to 200 letters, digits, `.`, `_`, `-`, and no `.` at the beginning"
        ));
    }
    Ok(())
}

/// A key vault: its name, or its address.
///
/// # Errors
/// What is wrong with it.
pub(super) fn key_vault(vault: &str) -> Result<(), String> {
    if let Some((scheme, rest)) = vault.split_once("://") {
        let host = rest.trim_end_matches('/');
        let is_host = host.contains('.') && host.chars().all(|c| is_word(c) || c == ':');
        return match (scheme, is_host) {
            ("https", true) => Ok(()),
            ("https", false) => Err(format!("`{vault}` is no key vault: expected `https://NAME.vault.azure.net`")),
            _ => Err(format!("`{vault}` is no key vault: expected `https`, found `{scheme}`")),
        };
    }
    let is_name = (3..=24).contains(&vault.len()) && vault.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if is_name {
        Ok(())
    } else {
        Err(format!(
            "`{vault}` is no key vault: expected its name, 3 to 24 letters, digits and `-`, or `https://NAME.vault.azure.net`"
        ))
    }
}

/// A secret of a key vault: its name, and a version behind `/`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn key_vault_secret(secret: &str) -> Result<(), String> {
    let (name, version) = secret.split_once('/').map_or((secret, None), |(name, version)| (name, Some(version)));
    let is_name =
        |name: &str| (1..=127).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if is_name(name) && version.is_none_or(is_name) {
        Ok(())
    } else {
        Err(format!("`{secret}` is no secret of a key vault: expected letters, digits and `-`, or NAME/VERSION"))
    }
}

/// The address of a token endpoint: what goes there is secret.
///
/// # Errors
/// What is wrong with it.
pub(super) fn token_url(url: &str) -> Result<(), String> {
    let is_address = |rest: &str| rest.chars().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '[');
    let here = ["127.0.0.1", "localhost", "[::1]"];
    let is_here =
        |rest: &str| here.iter().any(|host| rest.strip_prefix(host).is_some_and(|rest| rest.starts_with([':', '/'])));
    match url.split_once("://") {
        Some(("https", rest)) if is_address(rest) => Ok(()),
        Some(("http", rest)) if is_here(rest) => Ok(()),
        _ => Err(format!("`{url}` is no token endpoint: expected an address that begins with `https://`")),
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// A broker's address, `host:port`, `[::1]:port`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn broker(address: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("`{address}` is no broker: {why}; expected `host:port`"));
    if address.contains("://") {
        return wrong("it has a scheme");
    }
    if address.contains(',') {
        return wrong("write one address a list element");
    }
    let Some((host, port)) = address.rsplit_once(':') else { return wrong("its port is missing") };
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return wrong("its port is no number from 1 to 65535");
    }
    let is_v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).is_some_and(|host| {
        host.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '.' | '%')) && host.contains(':')
    });
    if is_v6 || !host.is_empty() && host.chars().all(is_word) { Ok(()) } else { wrong("its host is no host name") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics() {
        for name in ["clicks", "a.b_c-1", &"x".repeat(249)] {
            assert_eq!(topic(name), Ok(()));
        }
        for name in ["", ".", "..", "a b", "a/b", "ä", &"x".repeat(250)] {
            assert!(topic(name).is_err(), "{name}");
        }
    }

    #[test]
    fn token_endpoints() {
        for url in ["https://idp.example/oauth2/token", "http://127.0.0.1:8080/token", "http://localhost/token"] {
            assert_eq!(token_url(url), Ok(()));
        }
        for url in ["", "idp.example/token", "https://", "http://idp.example/token", "http://localhost.example/token"] {
            assert!(token_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn brokers() {
        for address in ["localhost:9092", "broker-1.example.org:1", "10.0.0.1:65535", "[::1]:9092"] {
            assert_eq!(broker(address), Ok(()));
        }
        assert_eq!(
            broker("localhost").unwrap_err(),
            "`localhost` is no broker: its port is missing; expected `host:port`"
        );
        for address in ["", ":1", "h:", "h:0", "h:65536", "http://h:1", "a:1,b:2", "::1:9092", "a b:1", "[]:1"] {
            assert!(broker(address).is_err(), "{address}");
        }
    }
}
