use std::io::Write;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use tempfile::NamedTempFile;
use tidemill_engine::{EventTime, Monotonic};

use super::*;

/// A clock that stands.
struct Stopped;

impl Clock for Stopped {
    fn monotonic(&self) -> Monotonic {
        Monotonic(0)
    }

    fn wall(&self) -> EventTime {
        EventTime(1_811_808_000_000_000)
    }
}

fn file(content: &str) -> (NamedTempFile, SecretRef) {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    let reference = SecretRef::File(file.path().to_owned());
    (file, reference)
}

fn resolve(settings: &SecuritySettings) -> Result<Security, SecurityError> {
    let clock: Arc<dyn Clock> = Arc::new(Stopped);
    settings.resolve(&Arc::new(SecretStore::default()), &clock)
}

fn configured(settings: &SecuritySettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    resolve(settings).unwrap().configure(&mut config);
    config
}

#[test]
fn every_protocol_is_said_to_librdkafka() {
    let none = configured(&SecuritySettings::default());
    assert_eq!(none.get("security.protocol"), Some("plaintext"));

    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "client");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.self_signed(&key).unwrap().pem();
    let (_key, key) = file(&key.serialize_pem());
    let (_certificate, certificate) = file(&certificate.replace("\r\n", "\\n"));
    let tls = TlsSettings { certificate: Some(certificate), key: Some(key), ..TlsSettings::default() };
    let mtls = configured(&SecuritySettings { tls: Some(tls), sasl: None, refresh: None });
    assert_eq!(mtls.get("security.protocol"), Some("ssl"));
    assert!(mtls.get("ssl.certificate.pem").unwrap().starts_with("-----BEGIN CERTIFICATE-----\n"));
    assert!(mtls.get("ssl.key.pem").unwrap().starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert_eq!(mtls.get("ssl.ca.pem"), None);

    let (_password, password) = file("hunter2\n");
    let scram = SaslSettings::Scram { hash: ScramHash::Sha512, username: "alice".into(), password: password.clone() };
    let scram = configured(&SecuritySettings { tls: Some(TlsSettings::default()), sasl: Some(scram), refresh: None });
    for (name, value) in [
        ("security.protocol", "sasl_ssl"),
        ("sasl.mechanism", "SCRAM-SHA-512"),
        ("sasl.username", "alice"),
        ("sasl.password", "hunter2"),
    ] {
        assert_eq!(scram.get(name), Some(value), "{name}");
    }
    let plain = SaslSettings::Plain { username: "alice".into(), password };
    let plain = SecuritySettings { tls: None, sasl: Some(plain), refresh: None };
    assert_eq!(configured(&plain).get("security.protocol"), Some("sasl_plaintext"));
    assert!(!format!("{:?}", resolve(&plain).unwrap()).contains("hunter2"));
}

#[test]
fn what_leads_nowhere_is_named() {
    let password = SecretRef::Env("TIDEMILL_NO_SUCH_VARIABLE".into());
    let sasl = SaslSettings::Plain { username: "alice".into(), password };
    let error = resolve(&SecuritySettings { tls: None, sasl: Some(sasl), refresh: None }).unwrap_err();
    assert_eq!(error.to_string(), "security `password`");
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "environment variable `TIDEMILL_NO_SUCH_VARIABLE` is not set");

    let (_ca, ca) = file("hunter2!");
    let tls = TlsSettings { ca: Some(ca), ..TlsSettings::default() };
    let error = resolve(&SecuritySettings { tls: Some(tls), sasl: None, refresh: None }).unwrap_err();
    assert_eq!(error.to_string(), "security `ca` is not PEM: expected `-----BEGIN CERTIFICATE-----`, found other text");
}

/// What a panic says is what `Debug` shows.
fn panicked(body: impl FnOnce()) -> String {
    let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_err();
    said.downcast_ref::<String>().unwrap().clone()
}

#[test]
fn a_panic_shows_no_secret() {
    let (_password, password) = file("hunter2-password");
    let claims = "eyJzdWIiOiJhbGljZSIsImV4cCI6NDEwMjQ0NDgwMH0";
    let (_token, token) = file(&format!("e30.{claims}.hunter2-signature"));
    let (_key, key) = file(&KeyPair::generate().unwrap().serialize_pem());
    for sasl in [
        SaslSettings::Plain { username: "alice".into(), password: password.clone() },
        SaslSettings::Scram { hash: ScramHash::Sha256, username: "alice".into(), password },
        SaslSettings::OauthBearer(TokenSettings::Given(token)),
    ] {
        let settings = SecuritySettings { tls: Some(TlsSettings::default()), sasl: Some(sasl), refresh: None };
        let security = resolve(&settings).unwrap();
        let said = panicked(|| panic!("{:?}", (&settings, security)));
        assert!(said.contains("SecuritySettings") && !said.contains("hunter2") && !said.contains(claims), "{said}");
    }
    let tls = TlsSettings { certificate: Some(key), ..TlsSettings::default() };
    let refusal = resolve(&SecuritySettings { tls: Some(tls), ..SecuritySettings::default() });
    let said = panicked(|| drop(refusal.unwrap()));
    assert!(!said.contains("BEGIN PRIVATE"), "{said}");
}
