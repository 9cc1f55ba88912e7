//! The client: few requests, each of which the caller waits for, and a cache of what never changes.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use reqwest::{Certificate, Client, Identity, Method, StatusCode, Url};
use serde_json::{Value, json};
use tidemill_certs::Secret;
use tidemill_engine::{ErrorKind, decoder::BadClass};

use super::{Registered, SchemaKind, Schemas};
use crate::formats::json::reader::{Fault, fault};

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses between attempts begin and end with these.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// References that a schema may need, each fetched once.
const MAX_REFERENCES: usize = 256;
/// Bytes of an answer.
const MAX_ANSWER: usize = 16 << 20;
const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// Who we are to a registry.
#[derive(Clone, Debug, Default)]
pub enum Authentication {
    /// Nobody.
    #[default]
    None,
    /// A name and a password.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A token.
    Bearer(Secret),
}

/// How a registry is reached.
#[derive(Clone, Debug, Default)]
pub struct RegistrySettings {
    /// The address, up to and without `/subjects`.
    pub url: String,
    /// Who we are.
    pub authentication: Authentication,
    /// The authorities that its certificate is checked against, as PEM; without them the system's.
    pub ca: Option<Secret>,
    /// Our certificate and its key, as PEM one behind the other.
    pub identity: Option<Secret>,
    /// How long a registry that never answered is asked again.
    pub first_patience: Duration,
    /// How long one that did is.
    pub patience: Duration,
}

/// Why a registry gave no schema.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It does not answer, or says that it cannot now.
    #[error("schema registry `{url}` is not available: {cause}")]
    Unavailable {
        /// Its address.
        url: String,
        /// Why, in words.
        cause: String,
    },
    /// It has no such thing.
    #[error("schema registry `{url}`: {cause}")]
    Absent {
        /// Its address.
        url: String,
        /// Its own words.
        cause: String,
    },
    /// It refused the request.
    #[error("schema registry `{url}`: {cause}")]
    Refused {
        /// Its address.
        url: String,
        /// Its own words.
        cause: String,
    },
    /// The settings are wrong.
    #[error("schema registry `{url}`: {cause}")]
    Settings {
        /// The address as it was given.
        url: String,
        /// What is wrong.
        cause: String,
    },
}

impl RegistryError {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Absent { .. } | Self::Refused { .. } | Self::Settings { .. } => ErrorKind::User,
        }
    }
}

/// A client of one registry.
pub struct RegistryClient {
    url: String,
    base: Url,
    client: Client,
    authentication: Authentication,
    first_patience: Duration,
    patience: Duration,
    /// Whether it has answered.
    answered: AtomicBool,
    /// Ends a wait for an unreachable registry.
    stop: Arc<AtomicBool>,
    /// By id, what was answered for good.
    known: Mutex<HashMap<u64, Result<Registered, String>>>,
}

impl fmt::Debug for RegistryClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryClient").field("url", &self.url).finish_non_exhaustive()
    }
}

impl RegistryClient {
    /// Prepares a client; nothing is asked yet. `stop`, once set, ends waits.
    ///
    /// # Errors
    /// [`RegistryError::Settings`].
    pub fn new(settings: RegistrySettings, stop: Arc<AtomicBool>) -> Result<Self, RegistryError> {
        let RegistrySettings { url, authentication, ca, identity, first_patience, patience } = settings;
        let wrong = |cause: String| RegistryError::Settings { url: url.clone(), cause };
        let base = Url::parse(url.trim_end_matches('/')).map_err(|error| wrong(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(wrong("expected an address that begins with http:// or https://".to_owned()));
        }
        let mut builder = Client::builder().timeout(REQUEST_TIMEOUT).no_proxy();
        if let Some(ca) = &ca {
            let certificates = Certificate::from_pem_bundle(ca.expose())
                .map_err(|error| wrong(format!("`ca` is no PEM certificate: {error}")))?;
            if certificates.is_empty() {
                return Err(wrong("`ca` holds no PEM certificate".to_owned()));
            }
            builder = builder.tls_certs_only(certificates);
        }
        if let Some(identity) = &identity {
            let identity = Identity::from_pem(identity.expose())
                .map_err(|error| wrong(format!("`certificate` and `key` are no PEM: {error}")))?;
            builder = builder.identity(identity);
        }
        let client = builder.build().map_err(|error| wrong(chain(&error)))?;
        Ok(Self {
            base,
            client,
            authentication,
            first_patience,
            patience,
            answered: AtomicBool::new(false),
            stop,
            known: Mutex::default(),
            url: url.clone(),
        })
    }

    /// The schema of an id; `Ok(Err)` why there is none.
    ///
    /// # Errors
    /// When that cannot be known.
    pub fn schema(&self, id: u64) -> Result<Result<Registered, String>, RegistryError> {
        // Held while asking, so that two workers do not ask for the same.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&id) {
            return Ok(known.clone());
        }
        let path = ["schemas", "ids", &id.to_string()].map(str::to_owned);
        let found = match self.ask(Method::GET, &path, None) {
            Ok(answer) => self.registered(&answer, Some(id))?,
            Err(RegistryError::Absent { cause, .. }) => Err(cause),
            Err(other) => return Err(other),
        };
        known.insert(id, found.clone());
        Ok(found)
    }

    /// Whether it answers and lets us in.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self) -> Result<(), RegistryError> {
        match self.ask(Method::GET, &["schemas", "types"].map(str::to_owned), None) {
            // An old one does not know the question, but it answers.
            Ok(_) | Err(RegistryError::Absent { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The latest schema of a subject.
    ///
    /// # Errors
    /// When there is none.
    pub fn latest(&self, subject: &str) -> Result<Registered, RegistryError> {
        let answer = self.ask(Method::GET, &["subjects", subject, "versions", "latest"].map(str::to_owned), None)?;
        let registered = self.registered(&answer, None)?;
        registered.map_err(|cause| self.refused(format!("the latest schema of `{subject}`: {cause}")))
    }

    /// Registers a schema under a subject, unless it is there; says its id.
    ///
    /// # Errors
    /// Among others when it is not compatible with those before it, in the registry's words.
    pub fn register(&self, subject: &str, kind: SchemaKind, text: &str) -> Result<u64, RegistryError> {
        let body = json!({"schema": text, "schemaType": kind.name()});
        let answer = self.ask(Method::POST, &["subjects", subject, "versions"].map(str::to_owned), Some(&body))?;
        answer["id"].as_u64().ok_or_else(|| self.refused("its answer has no `id`".to_owned()))
    }

    fn refused(&self, cause: String) -> RegistryError {
        RegistryError::Refused { url: self.url.clone(), cause }
    }

    /// An answer as a schema, with those that it refers to.
    fn registered(&self, answer: &Value, id: Option<u64>) -> Result<Result<Registered, String>, RegistryError> {
        let id =
            id.or_else(|| answer["id"].as_u64()).ok_or_else(|| self.refused("its answer has no `id`".to_owned()))?;
        let text = answer["schema"].as_str().ok_or_else(|| self.refused("its answer has no `schema`".to_owned()))?;
        let kind = match answer["schemaType"].as_str() {
            None | Some("AVRO") => SchemaKind::Avro,
            Some("JSON") => SchemaKind::Json,
            Some("PROTOBUF") => SchemaKind::Protobuf,
            Some(other) => return Ok(Err(format!("is of unknown type `{other}`; available: AVRO, JSON, PROTOBUF"))),
        };
        let mut references = Vec::new();
        if let Err(error) = self.references(answer, &mut references, 0) {
            return match error {
                RegistryError::Absent { cause, .. } => Ok(Err(cause)),
                other => Err(other),
            };
        }
        Ok(Ok(Registered { id, kind, text: text.to_owned(), references }))
    }

    /// Collects what an answer refers to, each behind its own references.
    fn references(&self, answer: &Value, found: &mut Vec<(String, String)>, depth: usize) -> Result<(), RegistryError> {
        for reference in answer["references"].as_array().into_iter().flatten() {
            let (name, subject) = (reference["name"].as_str(), reference["subject"].as_str());
            let (Some(name), Some(subject), Some(version)) = (name, subject, reference["version"].as_i64()) else {
                return Err(self.refused("a reference lacks its name, subject or version".to_owned()));
            };
            if found.iter().any(|(known, _)| known == name) {
                continue;
            }
            if found.len() >= MAX_REFERENCES || depth >= MAX_REFERENCES / 4 {
                return Err(self.refused(format!("a schema needs more than {MAX_REFERENCES} others")));
            }
            let version = version.to_string();
            let path = ["subjects", subject, "versions", &version].map(str::to_owned);
            let answer = self.ask(Method::GET, &path, None)?;
            self.references(&answer, found, depth + 1)?;
            let text = answer["schema"].as_str().unwrap_or_default().to_owned();
            found.push((name.to_owned(), text));
        }
        Ok(())
    }

    /// One request, repeated while the registry is away and there is patience.
    fn ask(&self, method: Method, path: &[String], body: Option<&Value>) -> Result<Value, RegistryError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let (mut waited, mut pause) = (Duration::ZERO, FIRST_PAUSE);
        loop {
            let attempt = thread::scope(|scope| {
                let attempt = || self.attempt(method.clone(), url.clone(), body);
                scope.spawn(attempt).join().unwrap_or_else(|_| Err(Attempt::Again("its client panicked".to_owned())))
            });
            match attempt {
                Ok(answer) => {
                    self.answered.store(true, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(Attempt::Absent(cause)) => return Err(RegistryError::Absent { url: self.url.clone(), cause }),
                Err(Attempt::Refused(cause)) => return Err(self.refused(cause)),
                Err(Attempt::Again(cause)) => {
                    let answered = self.answered.load(Ordering::Relaxed);
                    let patience = if answered { self.patience } else { self.first_patience };
                    if waited >= patience || self.stop.load(Ordering::Relaxed) {
                        return Err(RegistryError::Unavailable { url: self.url.clone(), cause });
                    }
                    if waited.is_zero() {
                        tracing::warn!("schema registry `{}` is not available: {cause}; asking again", self.url);
                    }
                    thread::sleep(pause);
                    waited += pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// On a thread of its own: whoever waits may be on one that serves a runtime.
    fn attempt(&self, method: Method, url: Url, body: Option<&Value>) -> Result<Value, Attempt> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Attempt::Again(format!("cannot start a runtime: {error}")))?;
        runtime.block_on(async {
            let mut request = self.client.request(method, url).header("accept", CONTENT_TYPE);
            request = match &self.authentication {
                Authentication::None => request,
                Authentication::Basic { username, password } => {
                    request.basic_auth(username, Some(String::from_utf8_lossy(password.expose())))
                }
                Authentication::Bearer(token) => request.bearer_auth(String::from_utf8_lossy(token.expose())),
            };
            if let Some(body) = body {
                request = request.header("content-type", CONTENT_TYPE).body(body.to_string());
            }
            let mut response = request.send().await.map_err(|error| Attempt::Again(chain(&error)))?;
            let status = response.status();
            let mut answer = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| Attempt::Again(chain(&error)))? {
                answer.extend_from_slice(&chunk);
                if answer.len() > MAX_ANSWER {
                    return Err(Attempt::Refused(format!("its answer has more than {MAX_ANSWER} bytes")));
                }
            }
            judge(status, &answer)
        })
    }
}

/// How one attempt failed.
enum Attempt {
    Again(String),
    Absent(String),
    Refused(String),
}

fn judge(status: StatusCode, answer: &[u8]) -> Result<Value, Attempt> {
    let parsed: Option<Value> = serde_json::from_slice(answer).ok();
    if status.is_success() {
        return parsed.ok_or_else(|| Attempt::Refused("its answer is not JSON; is this a schema registry?".to_owned()));
    }
    let said = parsed.as_ref().and_then(|answer| answer["message"].as_str()).map(|said| format!(": {said}"));
    let cause = format!("{status}{}", said.unwrap_or_default());
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        Err(Attempt::Again(cause))
    } else if status == StatusCode::NOT_FOUND {
        Err(Attempt::Absent(cause))
    } else {
        Err(Attempt::Refused(cause))
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    causes.collect::<Vec<_>>().join(": ")
}

impl Schemas for RegistryClient {
    fn by_id(&self, id: u64) -> Result<Result<Registered, String>, Fault> {
        self.schema(id).map_err(|error| fault(BadClass::Unavailable, error.to_string()))
    }
}
