//! Against a stand-in that answers as Confluent's API is documented.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value as Json, json};
use tidemill_certs::Secret;
use tidemill_engine::ErrorKind;

use super::*;

/// Answers by method and path; each request is kept.
struct StandIn {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
    /// Requests that are answered by 503 first.
    away: Arc<AtomicUsize>,
}

impl StandIn {
    fn new(answers: &[(&str, u16, Json)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/api/", listener.local_addr().unwrap());
        let answers: HashMap<String, (u16, String)> =
            answers.iter().map(|(path, status, body)| ((*path).to_owned(), (*status, body.to_string()))).collect();
        let (requests, away) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (seen, failing) = (Arc::clone(&requests), Arc::clone(&away));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut first, mut length, mut authorization) = (String::new(), 0, String::new());
                reader.read_line(&mut first).unwrap();
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    let lower = line.to_ascii_lowercase();
                    if let Some(value) = lower.strip_prefix("content-length: ") {
                        length = value.trim().parse().unwrap();
                    }
                    if lower.starts_with("authorization: ") {
                        authorization = line["authorization: ".len()..].trim().to_owned();
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let request = first.rsplit_once(' ').unwrap().0.replace("/api", "");
                let body = String::from_utf8(body).unwrap();
                seen.lock().unwrap().push(format!("{request} {authorization} {body}").trim().to_owned());
                let busy = failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
                let (status, answer) = match answers.get(&request) {
                    _ if busy => (503, "busy".to_owned()),
                    Some((status, answer)) => (*status, answer.clone()),
                    None => (404, json!({"error_code": 40403, "message": "Schema not found"}).to_string()),
                };
                let length = answer.len();
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                stream.write_all((head + &answer).as_bytes()).unwrap();
            }
        });
        Self { url, requests, away }
    }

    fn client(&self, authentication: Authentication) -> RegistryClient {
        let patience = Duration::from_secs(5);
        let settings = RegistrySettings {
            url: self.url.clone(),
            authentication,
            first_patience: patience,
            patience,
            ..RegistrySettings::default()
        };
        RegistryClient::new(settings, Arc::new(AtomicBool::new(false))).unwrap()
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

#[test]
fn schemas_come_with_their_references_and_are_asked_for_once() {
    let reference = |name: &str, subject: &str| json!([{"name": name, "subject": subject, "version": 2}]);
    let registry = StandIn::new(&[
        (
            "GET /schemas/ids/7",
            200,
            json!({"schema": "top", "schemaType": "PROTOBUF", "references": reference("b", "B")}),
        ),
        ("GET /subjects/B/versions/2", 200, json!({"schema": "middle", "references": reference("c", "C/x")})),
        ("GET /subjects/C%2Fx/versions/2", 200, json!({"schema": "bottom"})),
        ("GET /schemas/ids/8", 200, json!({"schema": "x", "schemaType": "XML"})),
    ]);
    let client = registry.client(Authentication::None);
    let references = vec![("c".to_owned(), "bottom".to_owned()), ("b".to_owned(), "middle".to_owned())];
    let expected = Registered { id: 7, kind: SchemaKind::Protobuf, text: "top".to_owned(), references };
    assert_eq!(client.by_id(7).unwrap(), Ok(expected.clone()));
    assert_eq!(registry.requests().len(), 3);
    assert_eq!(client.by_id(7).unwrap(), Ok(expected));
    assert_eq!(client.by_id(8).unwrap().unwrap_err(), "is of unknown type `XML`; available: AVRO, JSON, PROTOBUF");
    assert_eq!(client.by_id(9).unwrap().unwrap_err(), "404 Not Found: Schema not found");
    client.by_id(9).unwrap().unwrap_err();
    assert_eq!(registry.requests(), ["GET /schemas/ids/8", "GET /schemas/ids/9"]);
}

#[test]
fn a_registry_that_is_away_is_asked_again_and_one_that_refuses_is_not() {
    let registry = StandIn::new(&[
        ("GET /schemas/ids/1", 200, json!({"schema": "\"int\""})),
        ("GET /schemas/ids/2", 401, json!({"error_code": 40101, "message": "Unauthorized"})),
    ]);
    let client = registry.client(Authentication::None);
    registry.away.store(2, Ordering::SeqCst);
    assert_eq!(client.by_id(1).unwrap().unwrap().text, "\"int\"");
    assert_eq!(registry.requests().len(), 3);
    let refused = client.by_id(2).unwrap_err();
    assert_eq!(refused.class, BadClass::Unavailable, "no dead letter: the job ends and says why");
    assert!(refused.message.ends_with("401 Unauthorized: Unauthorized"), "{refused}");

    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = RegistrySettings { url: format!("http://{gone}"), ..RegistrySettings::default() };
    let client = RegistryClient::new(settings, Arc::new(AtomicBool::new(false))).unwrap();
    let error = client.latest("s").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[test]
fn credentials_go_along() {
    let registry = StandIn::new(&[("GET /subjects/s/versions/latest", 200, json!({"id": 3, "schema": "x"}))]);
    let secret = || Secret::new(b"hunter2".to_vec());
    let basic = Authentication::Basic { username: "alice".to_owned(), password: secret() };
    assert!(!format!("{basic:?}").contains("hunter2"));
    assert_eq!(registry.client(basic).latest("s").unwrap().id, 3);
    registry.client(Authentication::Bearer(secret())).latest("s").unwrap();
    let path = "GET /subjects/s/versions/latest";
    let expected = [format!("{path} Basic YWxpY2U6aHVudGVyMg=="), format!("{path} Bearer hunter2")];
    assert_eq!(registry.requests(), expected);
}

#[test]
fn schemas_are_registered_or_refused_with_the_reason() {
    let incompatible = json!({"error_code": 409, "message": "Schema being registered is incompatible: READER_FIELD_MISSING_DEFAULT_VALUE"});
    let registry = StandIn::new(&[
        ("POST /subjects/good/versions", 200, json!({"id": 12})),
        ("POST /subjects/bad/versions", 409, incompatible),
    ]);
    let client = Arc::new(registry.client(Authentication::None));
    let registrar = |subject: &str| SubjectRegistrar {
        client: Arc::clone(&client),
        subject: subject.to_owned(),
        output: "out".to_owned(),
    };
    assert_eq!(registrar("good").register(SchemaKind::Avro, "text").unwrap(), 12);
    assert_eq!(registry.requests(), [r#"POST /subjects/good/versions  {"schema":"text","schemaType":"AVRO"}"#]);
    let error = registrar("bad").register(SchemaKind::Avro, "text").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::User);
    assert!(
        error.to_string().contains("not registered under `bad`") && error.to_string().contains("READER_FIELD"),
        "{error}"
    );
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let new = |settings| RegistryClient::new(settings, Arc::new(AtomicBool::new(false))).unwrap_err().to_string();
    let of_url = |url: &str| new(RegistrySettings { url: url.to_owned(), ..RegistrySettings::default() });
    assert!(of_url("localhost:8081").ends_with("expected an address that begins with http:// or https://"));
    let ca = Some(Secret::new(b"nonsense".to_vec()));
    let error = new(RegistrySettings { url: "https://r".to_owned(), ca, ..RegistrySettings::default() });
    assert!(error.contains("PEM") || error.contains("certificate"), "{error}");
}
