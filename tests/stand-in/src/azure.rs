//! Azure, as far as a program sees it that reads secrets: who it is, and a key vault.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::json;

use crate::{Answer, Request, StandIn};

/// The vault's host; its name is `my-vault`.
const VAULT: &str = "my-vault.vault.azure.net";
/// Where workload identities get their tokens.
const AUTHORITY: &str = "login.microsoftonline.com";
/// What App Service expects of who asks its endpoint.
const IDENTITY_HEADER: &str = "identity-header-4711";
/// What a pod proves itself with.
const FEDERATED_TOKEN: &str = "federated-token-4711";

/// By which of Azure's ways a program gets to know who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The fixed address of virtual machines.
    VirtualMachine,
    /// The endpoint that App Service and Container Apps name in the environment.
    AppService,
    /// A pod's token in a file, exchanged at the authority.
    Workload,
}

/// How a vault refuses a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 403: no role.
    NoRole,
    /// 404.
    Absent,
    /// 403: switched off.
    Disabled,
    /// Beyond its own date.
    Expired,
    /// 401, whatever the token.
    Unknown,
    /// 429, again and again, to be asked again in a second.
    Throttled,
    /// Nothing.
    Silent,
}

enum Kept {
    Value(String),
    Refused(Refusal),
}

/// See the crate: Azure with one vault, `my-vault`.
pub struct Azure {
    stand_in: StandIn,
    secrets: Arc<Mutex<HashMap<String, Kept>>>,
}

impl Azure {
    /// The token that its endpoints give: not signed, of `alice`, until 2100.
    pub const TOKEN: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImlhdCI6MTYwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.";

    /// Starts it, with an empty vault.
    #[must_use]
    pub fn start() -> Self {
        let secrets = Arc::new(Mutex::new(HashMap::new()));
        let kept = Arc::clone(&secrets);
        let script = move |request: &Request| answer(request, &kept.lock().unwrap_or_else(PoisonError::into_inner));
        Self { stand_in: StandIn::start(&[VAULT, AUTHORITY], script), secrets }
    }

    /// Puts a secret into the vault, in the place of what has its name.
    pub fn put(&self, name: &str, value: impl Into<String>) {
        self.secrets().insert(name.to_owned(), Kept::Value(value.into()));
    }

    /// Puts the contents of files into the vault, at once.
    ///
    /// # Panics
    /// When one cannot be read.
    pub fn put_files(&self, files: &[(&str, &Path)]) {
        let read: Vec<_> = files.iter().map(|(name, file)| (*name, fs::read_to_string(file).unwrap())).collect();
        let mut secrets = self.secrets();
        for (name, value) in read {
            secrets.insert(name.to_owned(), Kept::Value(value));
        }
    }

    /// Refuses a secret from now on.
    pub fn refuse(&self, name: &str, refusal: Refusal) {
        self.secrets().insert(name.to_owned(), Kept::Refused(refusal));
    }

    /// The server.
    #[must_use]
    pub fn stand_in(&self) -> &StandIn {
        &self.stand_in
    }

    /// The variables by which a program comes here and gets to know who it is; files that they name are put into `folder`.
    ///
    /// # Panics
    /// When a file cannot be written.
    #[must_use]
    pub fn environment(&self, way: Way, folder: &Path) -> Vec<(&'static str, String)> {
        let path = |name: &str, content: &str| -> PathBuf {
            let path = folder.join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let proxy = self.stand_in.address().to_owned();
        let ca = path("stand-in-ca.pem", self.stand_in.ca()).display().to_string();
        let mut variables = vec![
            ("HTTP_PROXY", proxy.clone()),
            ("HTTPS_PROXY", proxy.clone()),
            ("http_proxy", proxy.clone()),
            ("https_proxy", proxy.clone()),
            ("SSL_CERT_FILE", ca),
            // Brokers and App Service's endpoint are on this machine, without a proxy between.
            ("NO_PROXY", "127.0.0.1".to_owned()),
            ("no_proxy", "127.0.0.1".to_owned()),
        ];
        match way {
            Way::VirtualMachine => {}
            Way::AppService => variables.extend([
                ("IDENTITY_ENDPOINT", format!("{proxy}/msi/token")),
                ("IDENTITY_HEADER", IDENTITY_HEADER.to_owned()),
            ]),
            Way::Workload => variables.extend([
                ("AZURE_CLIENT_ID", "client-4711".to_owned()),
                ("AZURE_TENANT_ID", "tenant-4711".to_owned()),
                ("AZURE_FEDERATED_TOKEN_FILE", path("federated.token", FEDERATED_TOKEN).display().to_string()),
            ]),
        }
        variables
    }

    fn secrets(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer(request: &Request, secrets: &HashMap<String, Kept>) -> Answer {
    let line = &request.line;
    if line.contains("/metadata/identity/oauth2/token?") {
        return if request.header("metadata") == Some("true") { token() } else { Answer::status(400, "{}") };
    }
    if line.contains("/msi/token?") {
        let knows = request.header("x-identity-header") == Some(IDENTITY_HEADER);
        return if knows { token() } else { Answer::status(401, "{}") };
    }
    if line.starts_with("POST /tenant-4711/oauth2/v2.0/token ") {
        let proves = request.body.contains(&format!("client_assertion={FEDERATED_TOKEN}"));
        let body = json!({"token_type": "Bearer", "expires_in": 3_599, "access_token": Azure::TOKEN});
        let refused =
            r#"{"error":"invalid_client","error_description":"AADSTS700213: no matching federated identity"}"#;
        return if proves { Answer::status(200, &body.to_string()) } else { Answer::status(401, refused) };
    }
    let name = line.strip_prefix("GET /secrets/").and_then(|rest| rest.split(['/', '?', ' ']).next());
    let Some(name) = name else { return Answer::status(404, "{}") };
    if request.header("authorization") != Some(&format!("Bearer {}", Azure::TOKEN)) {
        return Answer::challenge();
    }
    match secrets.get(name) {
        Some(Kept::Value(value)) => Answer::secret(value),
        Some(Kept::Refused(refusal)) => refused(*refusal),
        None => refused(Refusal::Absent),
    }
}

fn token() -> Answer {
    let body =
        json!({"access_token": Azure::TOKEN, "expires_on": "4102444800", "token_type": "Bearer", "resource": "r"});
    Answer::status(200, &body.to_string())
}

fn refused(refusal: Refusal) -> Answer {
    let error = |code: &str, inner: &str, message: &str| {
        json!({"error": {"code": code, "message": message, "innererror": {"code": inner}}}).to_string()
    };
    match refusal {
        Refusal::NoRole => {
            let caller = "Caller is not authorized. Caller: appid=aa-11;oid=bb-22;iss=https://sts.windows.net/cc/";
            Answer::status(403, &error("Forbidden", "ForbiddenByRbac", caller))
        }
        Refusal::Absent => Answer::status(404, &error("SecretNotFound", "", "A secret with this name was not found")),
        Refusal::Disabled => {
            let why = "Operation get is not allowed on a disabled secret.";
            Answer::status(403, &error("Forbidden", "SecretDisabled", why))
        }
        Refusal::Expired => Answer::status(200, r#"{"value":"x","attributes":{"enabled":true,"exp":1577836800}}"#),
        Refusal::Unknown => Answer::challenge(),
        Refusal::Throttled => Answer::status(429, "{}").with("Retry-After", "1"),
        Refusal::Silent => Answer::silence(),
    }
}
