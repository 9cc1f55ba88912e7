//! Against a stand-in for an identity provider.

use std::{io::Write, sync::Mutex};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use rcgen::{KeyPair, PublicKeyData};
use stand_in::{Answer, StandIn};
use tempfile::NamedTempFile;
use tidemill_engine::{EventTime, Monotonic};

use super::*;

const NOW_S: i64 = 1_811_808_000;

struct Stopped;

impl Clock for Stopped {
    fn monotonic(&self) -> Monotonic {
        Monotonic(0)
    }

    fn wall(&self) -> EventTime {
        EventTime(NOW_S * 1_000_000)
    }
}

fn file(content: &str) -> (SecretRef, NamedTempFile) {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    (SecretRef::File(file.path().to_owned()), file)
}

fn ask(provider: &StandIn, proof: ClientProof) -> Result<Token, TokenError> {
    let settings = OidcSettings {
        token_url: format!("{}/token", provider.address()),
        client_id: "tide mill".into(),
        proof,
        scope: Some("kafka.read kafka.write".into()),
        audience: None,
        ca: None,
    };
    OidcTokens::new(&settings, Arc::default(), Arc::new(Stopped))?.token()
}

fn jwt(subject: &str, expires_s: i64) -> String {
    format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(format!(r#"{{"sub":"{subject}","exp":{expires_s}}}"#)))
}

#[test]
fn a_client_with_a_secret_is_given_a_token() {
    let answer = format!(r#"{{"access_token":"{}","expires_in":600,"token_type":"Bearer"}}"#, jwt("alice", 1));
    let provider = StandIn::start(&[], move |_| Answer::status(200, &answer));
    let (secret, _file) = file("hunter2/=\n");
    let token = ask(&provider, ClientProof::Secret(secret)).unwrap();
    assert_eq!((token.principal.as_str(), token.expires_ms), ("alice", (NOW_S + 600) * 1_000));
    let request = &provider.requests()[0];
    assert_eq!(request.line, "POST /token HTTP/1.1");
    assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(request.body, "grant_type=client_credentials&scope=kafka.read%20kafka.write");
    let basic = base64::engine::general_purpose::STANDARD.encode("tide%20mill:hunter2%2F%3D");
    assert_eq!(request.header("authorization"), Some(&*format!("Basic {basic}")));
}

#[test]
fn a_client_with_a_key_signs_a_statement() {
    let answer = format!(r#"{{"access_token":"{}"}}"#, jwt("bob", NOW_S + 60));
    let provider = StandIn::start(&[], move |_| Answer::status(200, &answer));
    let pair = KeyPair::generate().unwrap();
    let (key, _file) = file(&pair.serialize_pem());
    let token = ask(&provider, ClientProof::Key { key, password: None, id: Some("key-1".into()) }).unwrap();
    assert_eq!((token.principal.as_str(), token.expires_ms), ("bob", (NOW_S + 60) * 1_000));
    let request = &provider.requests()[0];
    assert_eq!(request.header("authorization"), None);
    let start = "grant_type=client_credentials&client_id=tide%20mill&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3A\
                 client-assertion-type%3Ajwt-bearer&client_assertion=";
    let rest = request.body.strip_prefix(start).unwrap_or_else(|| panic!("{}", request.body));
    let (statement, signature) = rest.split('&').next().unwrap().rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.der_bytes())
        .verify(statement.as_bytes(), &signature)
        .unwrap();
    let (header, claims) = statement.split_once('.').unwrap();
    let part = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    assert_eq!(part(header), json!({"alg": "ES256", "typ": "JWT", "kid": "key-1"}));
    let claims = part(claims);
    assert_eq!((&claims["iss"], &claims["sub"]), (&"tide mill".into(), &"tide mill".into()));
    assert_eq!(claims["aud"], format!("{}/token", provider.address()));
    assert_eq!(claims["exp"].as_i64(), Some(NOW_S + 300));
}

#[test]
fn refusals_are_named() {
    let answers = Arc::new(Mutex::new(Answer::status(500, "")));
    let said = Arc::clone(&answers);
    let provider = StandIn::start(&[], move |_| said.lock().unwrap().clone());
    let (secret, _file) = file("hunter2");
    let refusal = |answer: Answer| {
        *answers.lock().unwrap() = answer;
        let error = ask(&provider, ClientProof::Secret(secret.clone())).unwrap_err();
        (error.to_string().replace(provider.address(), "ADDRESS"), error.may_pass())
    };
    let no_grant = "`oidc`: identity provider `ADDRESS/token` gives no token to client `tide mill`: ";
    for (answer, words) in [
        (
            Answer::status(401, r#"{"error":"invalid_client","error_description":"bad secret"}"#),
            "invalid_client: bad secret",
        ),
        (Answer::status(400, r#"{"error":"invalid_scope"}"#), "invalid_scope"),
        (Answer::status(404, "nothing here"), "404 Not Found"),
        (Answer::status(200, "<html>"), "its answer is not JSON: is this a token endpoint?"),
        (Answer::status(200, "{}"), "its answer has no `access_token`"),
        (
            Answer::status(200, r#"{"access_token":"opaque"}"#),
            "its answer does not say when the token ends (`expires_in`)",
        ),
    ] {
        assert_eq!(refusal(answer), (format!("{no_grant}{words}"), false));
    }
    let away = "`oidc`: identity provider `ADDRESS/token` cannot be asked: 503 Service Unavailable";
    assert_eq!(refusal(Answer::status(503, "")), (away.to_owned(), true));
}
