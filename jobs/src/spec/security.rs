//! `security` of inputs and outputs, and the job's `key_vault`: the part of [`super::validate`] about connections.

use std::time::Duration;

use tidemill_certs::{AzureIdentity, KeyVaultSettings, SecretRef};
use tidemill_connectors::kafka::{HAS_GSSAPI, SaslSettings, ScramHash, SecuritySettings, TlsSettings};

use super::{
    check::Check,
    problem::Path,
    raw::{Mechanism, Protocol, RawIdentity, RawJob, RawKeyVault, RawSecurity},
    syntax, tokens,
};

/// Mechanisms, as a spec writes them.
const MECHANISMS: &str = "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, AWS_MSK_IAM, GSSAPI";

/// How often secrets are fetched again.
const REFRESH: Duration = Duration::from_secs(3_600);

/// How the connections of the input or output at `parent` to `brokers` are secured.
pub(super) fn security(
    check: &mut Check<'_>,
    parent: &Path,
    raw: Option<&RawSecurity>,
    brokers: &[String],
    job: &RawJob,
) -> Option<SecuritySettings> {
    let Some(raw) = raw else { return Some(SecuritySettings::default()) };
    let path = parent.key("security");
    let protocol = match raw.protocol {
        Some(protocol) => protocol,
        None if check.given(&path.key("protocol")) => return None, // and reported
        None => Protocol::None,
    };
    without_effect(check, &path, protocol, raw);
    if matches!(raw.mechanism, Some(Mechanism::Gssapi)) && !HAS_GSSAPI {
        let text = "this build lacks GSSAPI (Kerberos); rebuild with `cargo build --features gssapi`";
        check.problem(&path.key("mechanism"), text);
    }
    for (field, reference) in references(raw) {
        if let SecretRef::KeyVault(name) = reference {
            let field = field.split('.').fold(path.clone(), |path, key| path.key(key));
            check.holds(&field, syntax::key_vault_secret(name));
            if job.key_vault.is_none() {
                check.problem(&field, "`key_vault` references need a vault: give the job `key_vault: {vault: NAME}`");
            }
        }
    }
    let tls = match protocol {
        Protocol::None | Protocol::SaslPlaintext => None,
        Protocol::SaslSsl | Protocol::Mtls => Some(TlsSettings {
            ca: raw.ca.as_ref().map(|ca| check.below(ca)),
            certificate: raw.certificate.as_ref().map(|certificate| check.below(certificate)),
            key: raw.key.as_ref().map(|key| check.below(key)),
            key_password: raw.key_password.as_ref().map(|password| check.below(password)),
        }),
    };
    if protocol == Protocol::Mtls || protocol == Protocol::SaslSsl && raw.key.is_some() {
        check.required(raw.certificate.as_ref(), &path, "certificate");
    }
    let sasl = match protocol {
        Protocol::None | Protocol::Mtls => None,
        Protocol::SaslPlaintext | Protocol::SaslSsl => Some(sasl(check, &path, raw, brokers)?),
    };
    if raw.refresh.is_some_and(|refresh| refresh.is_zero()) {
        check.problem(&path.key("refresh"), "expected a duration above zero");
    }
    let refresh = (tls.is_some() || sasl.is_some()).then(|| raw.refresh.map_or(REFRESH, |refresh| refresh.get()));
    Some(SecuritySettings { tls, sasl, refresh })
}

/// All that lead to secrets, with where they stand.
fn references(raw: &RawSecurity) -> Vec<(&'static str, &SecretRef)> {
    let (oidc, aws) = (raw.oidc.as_ref(), raw.aws.as_ref());
    let all = [
        ("password", raw.password.as_ref()),
        ("ca", raw.ca.as_ref()),
        ("certificate", raw.certificate.as_ref()),
        ("key", raw.key.as_ref()),
        ("key_password", raw.key_password.as_ref()),
        ("token", raw.token.as_ref()),
        ("oidc.client_secret", oidc.and_then(|oidc| oidc.client_secret.as_ref())),
        ("oidc.key", oidc.and_then(|oidc| oidc.key.as_ref())),
        ("oidc.key_password", oidc.and_then(|oidc| oidc.key_password.as_ref())),
        ("oidc.ca", oidc.and_then(|oidc| oidc.ca.as_ref())),
        ("aws.secret_access_key", aws.and_then(|aws| aws.secret_access_key.as_ref())),
        ("aws.session_token", aws.and_then(|aws| aws.session_token.as_ref())),
    ];
    all.into_iter().filter_map(|(field, reference)| Some((field, reference?))).collect()
}

/// What is written and means nothing beside the rest is a mistake: somebody relies on it.
fn without_effect(check: &mut Check<'_>, path: &Path, protocol: Protocol, raw: &RawSecurity) {
    const TLS: [&str; 4] = ["ca", "certificate", "key", "key_password"];
    const OF_MECHANISMS: [&str; 7] = ["username", "password", "token", "oidc", "azure", "aws", "kerberos"];
    let given = [
        ("mechanism", raw.mechanism.is_some()),
        ("username", raw.username.is_some()),
        ("kerberos", raw.kerberos.is_some()),
        ("refresh", raw.refresh.is_some()),
        ("password", raw.password.is_some()),
        ("ca", raw.ca.is_some()),
        ("certificate", raw.certificate.is_some()),
        ("key", raw.key.is_some()),
        ("key_password", raw.key_password.is_some()),
        ("token", raw.token.is_some()),
        ("oidc", raw.oidc.is_some()),
        ("azure", raw.azure.is_some()),
        ("aws", raw.aws.is_some()),
    ];
    let own: &[&str] = match raw.mechanism {
        Some(Mechanism::Plain | Mechanism::ScramSha256 | Mechanism::ScramSha512) => &["username", "password"],
        Some(Mechanism::OauthBearer) => &["token", "oidc", "azure"],
        Some(Mechanism::AwsMskIam) => &["aws"],
        Some(Mechanism::Gssapi) => &["kerberos"],
        None => &OF_MECHANISMS,
    };
    for (field, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
        let why = match protocol {
            Protocol::None => "without a security `protocol`",
            Protocol::SaslPlaintext if TLS.contains(&field) => {
                "with `sasl_plaintext`, which is not TLS; did you mean `sasl_ssl`?"
            }
            Protocol::Mtls if !TLS.contains(&field) && field != "refresh" => {
                "with `mtls`, where the certificate says who we are; did you mean `sasl_ssl`?"
            }
            Protocol::SaslPlaintext | Protocol::SaslSsl if OF_MECHANISMS.contains(&field) && !own.contains(&field) => {
                "with this `mechanism`"
            }
            _ => continue,
        };
        check.problem(&path.key(field), format!("`{field}` has no effect {why}"));
    }
}

fn sasl(check: &mut Check<'_>, path: &Path, raw: &RawSecurity, brokers: &[String]) -> Option<SaslSettings> {
    let Some(mechanism) = raw.mechanism else {
        if !check.given(&path.key("mechanism")) {
            check.problem(path, format!("`mechanism` is missing: one of {MECHANISMS}"));
        }
        return None;
    };
    match mechanism {
        Mechanism::Plain | Mechanism::ScramSha256 | Mechanism::ScramSha512 => {
            let username = check.required(raw.username.as_ref(), path, "username").cloned();
            let password = check.required(raw.password.as_ref(), path, "password");
            if username.as_deref() == Some("") {
                check.problem(&path.key("username"), "expected a user, found an empty text");
            }
            let password = password.map(|password| check.below(password));
            let (username, password) = (username?, password?);
            let scram = |hash, username, password| SaslSettings::Scram { hash, username, password };
            Some(match mechanism {
                Mechanism::ScramSha256 => scram(ScramHash::Sha256, username, password),
                Mechanism::ScramSha512 => scram(ScramHash::Sha512, username, password),
                _ => SaslSettings::Plain { username, password },
            })
        }
        Mechanism::OauthBearer => tokens::bearer(check, path, raw, brokers).map(SaslSettings::OauthBearer),
        Mechanism::AwsMskIam => tokens::aws(check, path, raw.aws.as_ref(), brokers).map(SaslSettings::OauthBearer),
        Mechanism::Gssapi => {
            let kerberos = raw.kerberos.as_ref();
            let keytab = kerberos.and_then(|kerberos| kerberos.keytab.as_deref());
            let keytab_path = path.key("kerberos").key("keytab");
            Some(SaslSettings::Gssapi {
                service: kerberos.map_or_else(|| "kafka".to_owned(), |kerberos| kerberos.service.clone()),
                principal: kerberos.and_then(|kerberos| kerberos.principal.clone()),
                keytab: match keytab {
                    Some(keytab) => Some(check.resolve(&keytab_path, keytab)?),
                    None => None,
                },
            })
        }
    }
}

/// The job's key vault; `Some(None)`: it names none.
pub(super) fn key_vault(
    check: &mut Check<'_>,
    root: &Path,
    raw: Option<&RawKeyVault>,
) -> Option<Option<KeyVaultSettings>> {
    let Some(raw) = raw else { return Some(None) };
    let path = root.key("key_vault");
    let vault = check.required(raw.vault.as_ref(), &path, "vault");
    if let Some(vault) = vault {
        check.holds(&path.key("vault"), syntax::key_vault(vault));
    }
    let identity = identity(check, &path.key("identity"), &raw.identity);
    Some(Some(KeyVaultSettings { vault: vault?.clone(), identity }))
}

/// Who we are to Azure.
pub(super) fn identity(check: &mut Check<'_>, path: &Path, raw: &RawIdentity) -> AzureIdentity {
    if let RawIdentity::ClientId(id) | RawIdentity::ObjectId(id) | RawIdentity::ResourceId(id) = raw
        && id.is_empty()
    {
        check.problem(path, "expected an id, found an empty text");
    }
    match raw {
        RawIdentity::System => AzureIdentity::System,
        RawIdentity::Workload => AzureIdentity::Workload,
        RawIdentity::AzureCli => AzureIdentity::AzureCli,
        RawIdentity::ClientId(id) => AzureIdentity::ClientId(id.clone()),
        RawIdentity::ObjectId(id) => AzureIdentity::ObjectId(id.clone()),
        RawIdentity::ResourceId(id) => AzureIdentity::ResourceId(id.clone()),
    }
}
