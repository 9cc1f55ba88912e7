//! Through Azure's own crates against a stand-in: a proxy on the loopback that plays the managed-identity endpoint (VM
//! kind, plain HTTP to the fixed address) and, behind `CONNECT`, the key vault itself, over TLS and under its real name.
#![allow(clippy::disallowed_methods, reason = "deadlines are held against the clock")]

use std::time::Instant;

use stand_in::{Answer, Request, StandIn};

use super::*;

fn start(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> StandIn {
    StandIn::start(&["my-vault.vault.azure.net"], script)
}

fn through(stand_in: &StandIn) -> reqwest::ClientBuilder {
    reqwest::Client::builder().proxy(reqwest::Proxy::all(stand_in.address()).unwrap())
}

fn client(stand_in: &StandIn) -> Arc<dyn HttpClient> {
    let ca = reqwest::Certificate::from_pem(stand_in.ca().as_bytes()).unwrap();
    Arc::new(through(stand_in).add_root_certificate(ca).build().unwrap())
}

fn settings(identity: AzureIdentity) -> KeyVaultSettings {
    KeyVaultSettings { vault: "my-vault".into(), identity }
}

fn open(stand_in: &StandIn, identity: AzureIdentity) -> KeyVault {
    KeyVault::open_through(&settings(identity), Some(client(stand_in)), SECRET_WITHIN).unwrap()
}

fn refusal(answer: Answer) -> String {
    let stand_in = start(move |request| match request.secret() {
        Some(_) => answer.clone(),
        None => Answer::token(),
    });
    open(&stand_in, AzureIdentity::System).secret("kafka-ca").unwrap_err().to_string()
}

#[test]
fn a_secret_is_read_by_every_managed_identity() {
    for (identity, named) in [
        (AzureIdentity::System, "resource=https"),
        (AzureIdentity::ClientId("11111111-1111-1111-1111-111111111111".into()), "client_id=11111111"),
        (AzureIdentity::ObjectId("22222222-2222-2222-2222-222222222222".into()), "object_id=22222222"),
        (AzureIdentity::ResourceId("/subscriptions/a/b".into()), "msi_res_id="),
    ] {
        let stand_in = start(|request| match request.secret() {
            Some(_) => Answer::secret("-----BEGIN"),
            None => Answer::token(),
        });
        let vault = open(&stand_in, identity.clone());
        assert_eq!(vault.secret("kafka-ca").unwrap().expose(), b"-----BEGIN", "{identity:?}");
        let requests = stand_in.requests();
        assert!(requests[0].line.contains("/metadata/identity/oauth2/token?"), "{requests:?}");
        assert!(requests[0].line.contains(named), "{requests:?}");
        assert_eq!(requests[0].header("metadata"), Some("true"));
        let read = requests.last().unwrap();
        assert!(read.line.starts_with("GET /secrets/kafka-ca/"), "{requests:?}");
        assert_eq!(read.header("authorization"), Some("Bearer a-token"));
    }
}

#[test]
fn a_version_is_asked_for_by_name() {
    let stand_in = start(|request| match request.secret() {
        Some(_) => Answer::secret("x"),
        None => Answer::token(),
    });
    let vault = open(&stand_in, AzureIdentity::System);
    vault.secret("kafka-ca/0123abcd").unwrap();
    assert!(stand_in.requests().last().unwrap().line.starts_with("GET /secrets/kafka-ca/0123abcd?"));
    // The token is kept: one question for it, however many secrets.
    vault.secret("kafka-key").unwrap();
    let tokens = stand_in.requests().iter().filter(|request| request.line.contains("/oauth2/token")).count();
    assert_eq!(tokens, 1);
}

#[test]
fn refusals_say_what_to_change() {
    let error = |code: &str, inner: &str, message: &str| {
        format!(r#"{{"error":{{"code":"{code}","message":"{message}","innererror":{{"code":"{inner}"}}}}}}"#)
    };
    let caller = "Caller is not authorized. Caller: appid=aa-11;oid=bb-22;iss=https://sts.windows.net/cc/";
    for (answer, sentence) in [
        (
            Answer::status(403, &error("Forbidden", "ForbiddenByRbac", caller)),
            "key vault `my-vault` does not let the system-assigned managed identity (principal `bb-22`) read secrets (403): give \
             it the role `Key Vault Secrets User`, or an access policy with `Get` on secrets",
        ),
        (
            Answer::status(403, &error("Forbidden", "ForbiddenByFirewall", "Client address is not authorized")),
            "the firewall of key vault `my-vault` does not let this machine in (403): allow its network, or use a private \
             endpoint",
        ),
        (
            Answer::status(
                403,
                &error("Forbidden", "SecretDisabled", "Operation get is not allowed on a disabled secret."),
            ),
            "secret `kafka-ca` of key vault `my-vault` is disabled: enable it, or name another version",
        ),
        (
            Answer::status(404, &error("SecretNotFound", "", "A secret with (name/id) kafka-ca was not found")),
            "key vault `my-vault` has no secret `kafka-ca`; if it was deleted: az keyvault secret recover --vault-name my-vault \
             --name kafka-ca",
        ),
        (Answer::status(418, "{}"), "key vault `my-vault` answered 418 (418)"),
        (
            Answer::status(200, r#"{"value":"x","attributes":{"enabled":true,"exp":1577836800}}"#),
            "secret `kafka-ca` of key vault `my-vault` expired 2020-01-01: set a new one",
        ),
        (
            Answer::status(200, r#"{"value":"x","attributes":{"enabled":true,"nbf":4102444800}}"#),
            "secret `kafka-ca` of key vault `my-vault` is not to be used before 2100-01-01",
        ),
        (Answer::status(200, r#"{"value":""}"#), "secret `kafka-ca` of key vault `my-vault` is empty"),
    ] {
        assert_eq!(refusal(answer), sentence);
    }
    // The challenge of the vault comes again and again.
    let refused = refusal(Answer::challenge());
    assert_eq!(
        refused,
        "key vault `my-vault` does not accept the token of the system-assigned managed identity (401): is the vault in the \
         identity's tenant?"
    );
}

#[test]
fn a_throttling_vault_is_asked_again_when_it_says() {
    let stand_in = start(|request| match request.secret() {
        Some(0) => Answer::status(429, "{}").with("Retry-After", "1"),
        Some(_) => Answer::secret("x"),
        None => Answer::token(),
    });
    let start = Instant::now();
    assert_eq!(open(&stand_in, AzureIdentity::System).secret("kafka-ca").unwrap().expose(), b"x");
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_vault_that_wants_more_patience_than_there_is_is_named() {
    let stand_in = start(|request| match request.secret() {
        Some(_) => Answer::status(429, "{}").with("Retry-After", "3600"),
        None => Answer::token(),
    });
    let start = Instant::now();
    let error = open(&stand_in, AzureIdentity::System).secret("kafka-ca").unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(
        error.to_string(),
        "key vault `my-vault` is throttling (429) and wants to be asked again in 3600s: who else reads it? `refresh` says how \
         often this job does"
    );
}

#[test]
fn a_vault_that_says_nothing_is_given_up() {
    let stand_in = start(|request| if request.secret().is_some() { Answer::silence() } else { Answer::token() });
    let settings = settings(AzureIdentity::System);
    let vault = KeyVault::open_through(&settings, Some(client(&stand_in)), Duration::from_secs(1)).unwrap();
    let error = vault.secret("kafka-ca").unwrap_err();
    assert_eq!(error.to_string(), "key vault `my-vault` gave no answer within 1s");
}

#[test]
fn a_faltering_vault_is_asked_again_a_few_times() {
    let stand_in = start(|request| match request.secret() {
        Some(0) => Answer::status(503, "{}"),
        Some(_) => Answer::secret("x"),
        None => Answer::token(),
    });
    assert!(open(&stand_in, AzureIdentity::System).secret("kafka-ca").is_ok());
}

#[test]
fn an_identity_that_is_not_there_is_named_in_time() {
    let stand_in = start(|_| Answer::silence());
    let start = Instant::now();
    let error = open(&stand_in, AzureIdentity::System).secret("kafka-ca").unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(12));
    assert_eq!(
        error.to_string(),
        "no answer within 10s for the system-assigned managed identity: is this an Azure VM, App Service, Container App or AKS \
         node with its system-assigned identity on?"
    );
}

#[test]
fn an_identity_that_is_refused_is_not_the_vaults_fault() {
    let stand_in =
        start(|_| Answer::status(400, r#"{"error":"invalid_request","error_description":"Identity not found"}"#));
    let id = AzureIdentity::ClientId("11111111-1111-1111-1111-111111111111".into());
    let error = open(&stand_in, id).secret("kafka-ca").unwrap_err().to_string();
    assert!(
        error.starts_with("no token for the managed identity with client id `11111111-1111-1111-1111-111111111111`: "),
        "{error}"
    );
    assert!(error.ends_with("and is the identity assigned to it?"), "{error}");
}

#[test]
fn an_untrusted_vault_is_named_at_once() {
    let stand_in = start(|_| Answer::token());
    let settings = settings(AzureIdentity::System);
    let vault =
        KeyVault::open_through(&settings, Some(Arc::new(through(&stand_in).build().unwrap())), SECRET_WITHIN).unwrap();
    let start = Instant::now();
    let error = vault.secret("kafka-ca").unwrap_err().to_string();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(error.starts_with("the certificate of key vault `my-vault` is not trusted ("), "{error}");
}

#[test]
fn addresses_and_scopes_follow_the_cloud() {
    let named = settings(AzureIdentity::System);
    assert_eq!(named.address(), "https://my-vault.vault.azure.net/");
    assert_eq!(named.scope(), "https://vault.azure.net/.default");
    let china = KeyVaultSettings { vault: "https://v.vault.azure.cn".into(), ..named };
    assert_eq!(
        (china.address().as_str(), china.scope().as_str()),
        ("https://v.vault.azure.cn/", "https://vault.azure.cn/.default")
    );
}
