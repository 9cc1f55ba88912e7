//! `token`, `oidc`, `azure` and `aws` of a `security`: where the tokens of `OAUTHBEARER` and `AWS_MSK_IAM` come from. Part of
//! [`super::security`].

use tidemill_connectors::kafka::{AwsKeys, AwsSettings, ClientProof, OidcSettings, TokenSettings};

use super::{
    check::Check,
    problem::Path,
    raw::{RawAws, RawAzure, RawOidc, RawSecurity},
    security, syntax,
};

/// Of `OAUTHBEARER`: exactly one of the three. `brokers` tell what an Azure token is for.
pub(super) fn bearer(
    check: &mut Check<'_>,
    path: &Path,
    raw: &RawSecurity,
    brokers: &[String],
) -> Option<TokenSettings> {
    let given = [("token", raw.token.is_some()), ("oidc", raw.oidc.is_some()), ("azure", raw.azure.is_some())];
    check.exactly_one(path, &given);
    match (&raw.token, &raw.oidc, &raw.azure) {
        (Some(token), None, None) => Some(TokenSettings::Given(check.below(token))),
        (None, Some(oidc), None) => self::oidc(check, &path.key("oidc"), oidc),
        (None, None, Some(azure)) => self::azure(check, &path.key("azure"), azure, brokers),
        _ => None,
    }
}

fn oidc(check: &mut Check<'_>, path: &Path, raw: &RawOidc) -> Option<TokenSettings> {
    let token_url = check.required(raw.token_url.as_ref(), path, "token_url");
    if let Some(url) = token_url {
        check.holds(&path.key("token_url"), syntax::token_url(url));
    }
    let client_id = check.required(raw.client_id.as_ref(), path, "client_id");
    check.exactly_one(path, &[("client_secret", raw.client_secret.is_some()), ("key", raw.key.is_some())]);
    let proof = match (&raw.client_secret, &raw.key) {
        (Some(secret), None) => {
            for (field, is_given) in [("key_password", raw.key_password.is_some()), ("key_id", raw.key_id.is_some())] {
                if is_given {
                    check.problem(&path.key(field), format!("`{field}` has no effect without `key`"));
                }
            }
            Some(ClientProof::Secret(check.below(secret)))
        }
        (None, Some(key)) => Some(ClientProof::Key {
            key: check.below(key),
            password: raw.key_password.as_ref().map(|password| check.below(password)),
            id: raw.key_id.clone(),
        }),
        _ => None,
    };
    Some(TokenSettings::Oidc(Box::new(OidcSettings {
        token_url: token_url?.clone(),
        client_id: client_id?.clone(),
        proof: proof?,
        scope: raw.scope.clone(),
        audience: raw.audience.clone(),
        ca: raw.ca.as_ref().map(|ca| check.below(ca)),
    })))
}

fn azure(check: &mut Check<'_>, path: &Path, raw: &RawAzure, brokers: &[String]) -> Option<TokenSettings> {
    let identity = security::identity(check, &path.key("identity"), &raw.identity);
    let scope = raw.scope.clone().or_else(|| {
        let host = brokers.first()?.rsplit_once(':')?.0;
        host.contains(".servicebus.").then(|| format!("https://{host}/.default"))
    });
    if scope.is_none() {
        check.problem(
            path,
            "`scope` is missing: what the token is for, `https://NAMESPACE.servicebus.windows.net/.default`; it is known for \
             brokers of Event Hubs alone",
        );
    }
    Some(TokenSettings::Azure { identity, scope: scope? })
}

/// Of `AWS_MSK_IAM`. `brokers` tell the region.
pub(super) fn aws(
    check: &mut Check<'_>,
    path: &Path,
    raw: Option<&RawAws>,
    brokers: &[String],
) -> Option<TokenSettings> {
    let path = path.key("aws");
    let region = raw.and_then(|aws| aws.region.clone()).or_else(|| region_of(brokers.first()?));
    if region.is_none() {
        check.problem(
            &path,
            "`region` is missing, such as `eu-west-1`; it is known for brokers of MSK by their names alone",
        );
    }
    let mut keys = None;
    if let Some(aws) = raw
        && (aws.access_key_id.is_some() || aws.secret_access_key.is_some() || aws.session_token.is_some())
    {
        let id = check.required(aws.access_key_id.as_ref(), &path, "access_key_id");
        let secret = check.required(aws.secret_access_key.as_ref(), &path, "secret_access_key");
        let session_token = aws.session_token.as_ref().map(|token| check.below(token));
        keys = Some(AwsKeys { access_key_id: id?.clone(), secret_access_key: check.below(secret?), session_token });
    }
    Some(TokenSettings::Aws(Box::new(AwsSettings { region: region?, keys })))
}

/// `b-1.name.abc123.c2.kafka.eu-west-1.amazonaws.com:9098`, `boot-x.c1.kafka-serverless.eu-west-1.amazonaws.com:9098`.
fn region_of(broker: &str) -> Option<String> {
    let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host);
    let rest = host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
    let (rest, region) = rest.rsplit_once('.')?;
    matches!(rest.rsplit('.').next(), Some("kafka" | "kafka-serverless")).then(|| region.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brokers_name_tells_the_region() {
        let region = |broker| region_of(broker);
        assert_eq!(region("b-1.clicks.abc123.c2.kafka.eu-west-1.amazonaws.com:9098").as_deref(), Some("eu-west-1"));
        assert_eq!(region("boot-x.c1.kafka-serverless.us-east-2.amazonaws.com:9098").as_deref(), Some("us-east-2"));
        assert_eq!(
            region("b-1.clicks.abc123.c2.kafka.cn-north-1.amazonaws.com.cn:9098").as_deref(),
            Some("cn-north-1")
        );
        assert_eq!(region("my-vault.s3.eu-west-1.amazonaws.com:443"), None);
        assert_eq!(region("localhost:9092"), None);
    }
}
