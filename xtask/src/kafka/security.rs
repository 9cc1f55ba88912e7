//! What a broker's secured listeners take: certificates, users, rights.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};

use super::listeners::Listener;

/// The password of `alice` and of `bob`.
pub const PASSWORD: &str = "open-sesame-7731";

/// The issuer's public keys, in the broker's directory.
const ISSUER_KEYS: &str = "issuer.json";

const USERS: [&str; 2] = ["alice", "bob"];

/// Files of a broker, all PEM. The server's certificate is for `127.0.0.1` alone: under any other name it does not fit.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority that signed the broker's certificate, and that the broker trusts.
    pub ca: PathBuf,
    /// A client's certificate, `CN=client`.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The same client's next certificate.
    pub next_certificate: PathBuf,
    /// Its key.
    pub next_key: PathBuf,
    /// An authority that the broker trusts once it is told to, [`Broker::trust`](super::Broker::trust).
    pub second_ca: PathBuf,
    /// The same client's certificate of that authority.
    pub second_certificate: PathBuf,
    /// Its key.
    pub second_key: PathBuf,
    /// The key that tokens for [`Listener::Oidc`] are signed with.
    pub issuer_key: PathBuf,
    /// An authority that nobody knows.
    pub strange_ca: PathBuf,
    /// A certificate of that authority, `CN=stranger`.
    pub strange_certificate: PathBuf,
    /// Its key.
    pub strange_key: PathBuf,
}

impl Certificates {
    pub(super) fn in_directory(dir: &Path) -> Self {
        let file = |name: &str| dir.join(name);
        Self {
            ca: file("ca.pem"),
            certificate: file("client.pem"),
            key: file("client.key"),
            next_certificate: file("client-next.pem"),
            next_key: file("client-next.key"),
            second_ca: file("second-ca.pem"),
            second_certificate: file("client-second.pem"),
            second_key: file("client-second.key"),
            issuer_key: file("issuer.key"),
            strange_ca: file("strange-ca.pem"),
            strange_certificate: file("stranger.pem"),
            strange_key: file("stranger.key"),
        }
    }
}

/// Makes an authority, the broker's certificates, a client's, and a stranger's.
pub(super) fn write_certificates(dir: &Path) -> Result<()> {
    let (ca, strange_ca) = (authority("tidemill test CA")?, authority("strange CA")?);
    let second_ca = authority("tidemill test CA 2")?;
    let files = Certificates::in_directory(dir);
    fs::write(&files.ca, ca.pem())?;
    fs::write(&files.second_ca, second_ca.pem())?;
    fs::write(&files.strange_ca, strange_ca.pem())?;
    for (certificate, key, issuer, name) in [
        (&files.certificate, &files.key, &ca, "client"),
        (&files.next_certificate, &files.next_key, &ca, "client"),
        (&files.second_certificate, &files.second_key, &second_ca, "client"),
        (&files.strange_certificate, &files.strange_key, &strange_ca, "stranger"),
    ] {
        let mut params = named(name, vec![])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let pair = KeyPair::generate()?;
        fs::write(certificate, params.signed_by(&pair, issuer)?.pem())?;
        fs::write(key, pair.serialize_pem())?;
    }
    let issuer = KeyPair::generate()?;
    fs::write(&files.issuer_key, issuer.serialize_pem())?;
    fs::write(dir.join(ISSUER_KEYS), stand_in::Oidc::public_keys(&issuer.serialize_pem()))?;
    for (file, until) in [("broker.pem", 2100), ("expired.pem", 2020)] {
        let mut params = named("broker", vec!["127.0.0.1".to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = date_time_ymd(until, 1, 1);
        let pair = KeyPair::generate()?;
        let certificate = params.signed_by(&pair, &ca)?.pem();
        fs::write(dir.join(file), format!("{}{certificate}{}", pair.serialize_pem(), ca.pem()))?;
    }
    Ok(())
}

fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = named(name, vec![])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

fn named(name: &str, hosts: Vec<String>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

/// Users for `StorageTool format --add-scram`.
pub(super) fn scram_users() -> Vec<String> {
    let user = |name: &str, hash: u32| format!("SCRAM-SHA-{hash}=[name={name},password={PASSWORD}]");
    USERS.iter().flat_map(|name| [user(name, 256), user(name, 512)]).collect()
}

/// The part of `server.properties` that says which listener speaks what.
pub(super) fn listener_properties() -> String {
    let protocols: Vec<_> =
        Listener::ALL.iter().map(|listener| format!("{}:{}", listener.name(), listener.protocol())).collect();
    format!("listener.security.protocol.map=CONTROLLER:PLAINTEXT,{}\n", protocols.join(","))
}

/// The part of `server.properties` about certificates, users and rights.
pub(super) fn properties(dir: &Path) -> String {
    let mut text = format!(
        "ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={truststore}
listener.name.mtls.ssl.client.auth=required
listener.name.expired.ssl.keystore.type=PEM
listener.name.expired.ssl.keystore.location={expired}
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.saslplaintext.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.expired.sasl.enabled.mechanisms=PLAIN
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:alice;User:CN=client
",
        keystore = dir.join("broker.pem").display(),
        truststore = dir.join("ca.pem").display(),
        expired = dir.join("expired.pem").display(),
    );
    const LOGIN: &str = "org.apache.kafka.common.security";
    let users: String = USERS.iter().map(|name| format!(" user_{name}=\"{PASSWORD}\"")).collect();
    for listener in [Listener::SaslPlaintext, Listener::SaslTls, Listener::Expired] {
        let mut mechanism = |name: &str, module: &str, options: &str| {
            let listener = listener.name().to_lowercase();
            // Writing to a String cannot fail.
            let _ =
                writeln!(text, "listener.name.{listener}.{name}.sasl.jaas.config={LOGIN}.{module} required{options};");
        };
        mechanism("plain", "plain.PlainLoginModule", &users);
        if listener != Listener::Expired {
            mechanism("scram-sha-256", "scram.ScramLoginModule", "");
            mechanism("scram-sha-512", "scram.ScramLoginModule", "");
        }
        if listener == Listener::SaslTls {
            let own_token = " unsecuredLoginStringClaim_sub=\"broker\"";
            mechanism("oauthbearer", "oauthbearer.OAuthBearerLoginModule", own_token);
        }
    }
    let oidc = format!("listener.name.{}", Listener::Oidc.name().to_lowercase());
    // Writing to a String cannot fail. Kafka 4.1 checks no signature without this validator, and does not read its name behind the mechanism.
    let _ = write!(
        text,
        "{oidc}.sasl.enabled.mechanisms=OAUTHBEARER
{oidc}.oauthbearer.sasl.jaas.config={LOGIN}.oauthbearer.OAuthBearerLoginModule required;
{oidc}.oauthbearer.sasl.server.callback.handler.class={LOGIN}.oauthbearer.OAuthBearerValidatorCallbackHandler
{oidc}.sasl.oauthbearer.jwt.validator.class={LOGIN}.oauthbearer.BrokerJwtValidator
{oidc}.oauthbearer.sasl.oauthbearer.jwks.endpoint.url={}
{oidc}.oauthbearer.sasl.oauthbearer.expected.audience={}
{oidc}.oauthbearer.sasl.oauthbearer.expected.issuer={}
",
        issuer_keys(dir),
        stand_in::Oidc::AUDIENCE,
        stand_in::Oidc::ISSUER,
    );
    text
}

/// Where the broker finds the issuer's keys; Kafka wants to be told beside its settings, too.
pub(super) fn issuer_keys(dir: &Path) -> String {
    format!("file://{}", dir.join(ISSUER_KEYS).display())
}

/// A token for `OAUTHBEARER`, as the broker takes it for a test: not signed.
pub fn unsigned_token(subject: &str) -> String {
    let part = |json: String| URL_SAFE_NO_PAD.encode(json);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let claims = format!(r#"{{"sub":"{subject}","iat":{now},"exp":{}}}"#, now + 3_600);
    format!("{}.{}.", part(r#"{"alg":"none"}"#.to_owned()), part(claims))
}
