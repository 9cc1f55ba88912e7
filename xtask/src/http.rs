//! What the servers of tests and benches are asked by HTTP: JSON there, JSON back.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Far longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(90);

/// Asks a server on this machine.
///
/// # Errors
/// When it does not answer, or by another status than 200.
pub(crate) fn ask(port: u16, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
    // In chunks or whole: the JSON is what lies between the outermost brackets.
    let is_bracket = |of: [char; 2]| move |c: char| of.contains(&c);
    let json = body.find(is_bracket(['{', '['])).zip(body.rfind(is_bracket(['}', ']'])));
    let (first, last) = json.with_context(|| format!("no JSON: {body}"))?;
    Ok(serde_json::from_str(&body[first..=last])?)
}
