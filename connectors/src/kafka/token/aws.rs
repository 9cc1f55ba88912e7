//! Tokens for Amazon MSK's access control (IAM): the address of a request that nobody sends, signed with AWS' Signature Version 4
//! in its query; the broker asks AWS whom it is from. Source: AWS' documentation of Signature Version 4 ("Create a signed AWS API
//! request"), and of the MSK library for IAM, whose tokens these are.

use std::{fmt, sync::Arc};

use aws_lc_rs::{digest, hmac};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::DateTime;
use object_store::aws::{AmazonS3Builder, AwsCredentialProvider};
use tidemill_certs::{Secret, SecretRef, SecretStore};
use tidemill_engine::Clock;

use super::{Token, TokenError, TokenSource, percent_encoded};

/// How long a token lasts; MSK takes no longer ones.
const LIFE_S: i64 = 900;
const SERVICE: &str = "kafka-cluster";
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Who we are to AWS, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsSettings {
    /// The cluster's region, `eu-west-1`.
    pub region: String,
    /// Our keys; `None`: those of the environment, the machine or the pod.
    pub keys: Option<AwsKeys>,
}

/// Keys of a user or a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsKeys {
    /// Whose they are.
    pub access_key_id: String,
    /// The secret one.
    pub secret_access_key: SecretRef,
    /// The token of a session that was given for a time.
    pub session_token: Option<SecretRef>,
}

/// See the module.
pub(super) struct MskTokens {
    region: String,
    keys: Keys,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
enum Keys {
    Given(AwsKeys, Arc<SecretStore>),
    /// The environment's, a web identity's, a container's, the machine's, in this order; kept and renewed in there.
    Found(AwsCredentialProvider),
}

impl fmt::Debug for MskTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MskTokens").field("region", &self.region).finish_non_exhaustive()
    }
}

impl MskTokens {
    pub(super) fn new(
        settings: &AwsSettings,
        secrets: Arc<SecretStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TokenError> {
        let keys = match &settings.keys {
            Some(keys) => Keys::Given(keys.clone(), secrets),
            None => {
                // It is a store of objects that knows where credentials are; no bucket is ever asked.
                let store = AmazonS3Builder::from_env().with_region(&settings.region).with_bucket_name("none").build();
                let store = store.map_err(|error| TokenError::NoAwsKeys(error.to_string()))?;
                Keys::Found(Arc::clone(store.credentials()))
            }
        };
        Ok(Self { region: settings.region.clone(), keys, clock })
    }

    fn keys(&self) -> Result<Credentials, TokenError> {
        match &self.keys {
            Keys::Given(AwsKeys { access_key_id, secret_access_key, session_token }, secrets) => {
                let fetch = |field, reference: &SecretRef| {
                    secrets.fetch(reference).map_err(|source| TokenError::Secret { field, source })
                };
                let token = session_token.as_ref().map(|token| fetch("aws.session_token", token)).transpose()?;
                Ok(Credentials {
                    id: access_key_id.clone(),
                    secret: fetch("aws.secret_access_key", secret_access_key)?,
                    session: token,
                })
            }
            Keys::Found(provider) => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.map_err(|error| TokenError::Machine(error.to_string()))?;
                let found = runtime.block_on(provider.get_credential());
                let found = found.map_err(|error| TokenError::NoAwsKeys(error.to_string()))?;
                Ok(Credentials {
                    id: found.key_id.clone(),
                    secret: Secret::new(found.secret_key.clone().into_bytes()),
                    session: found.token.clone().map(|token| Secret::new(token.into_bytes())),
                })
            }
        }
    }
}

impl TokenSource for MskTokens {
    fn token(&self) -> Result<Token, TokenError> {
        let keys = self.keys()?;
        let now_s = self.clock.wall().0 / 1_000_000;
        let host = format!("kafka.{}.amazonaws.com", self.region);
        let request = Presigned {
            host: &host,
            path: "/",
            query: &[("Action", "kafka-cluster:Connect")],
            payload_hash: &hex(digest::digest(&digest::SHA256, b"").as_ref()),
            region: &self.region,
            service: SERVICE,
            lasts_s: LIFE_S,
        };
        let query = request.signed(&keys, now_s)?;
        let agent = percent_encoded(concat!("tidemill/", env!("CARGO_PKG_VERSION")));
        let url = format!("https://{host}/?{query}&User-Agent={agent}");
        let value = Secret::new(URL_SAFE_NO_PAD.encode(url).into_bytes());
        Ok(Token { value, principal: keys.id, expires_ms: (now_s + LIFE_S) * 1_000 })
    }
}

/// What signs.
struct Credentials {
    id: String,
    secret: Secret,
    session: Option<Secret>,
}

/// A GET that is signed in its query.
struct Presigned<'a> {
    host: &'a str,
    path: &'a str,
    query: &'a [(&'a str, &'a str)],
    payload_hash: &'a str,
    region: &'a str,
    service: &'a str,
    lasts_s: i64,
}

impl Presigned<'_> {
    /// The query with the signature as its last part.
    fn signed(&self, keys: &Credentials, now_s: i64) -> Result<String, TokenError> {
        let now = DateTime::from_timestamp(now_s, 0);
        let now = now.ok_or_else(|| TokenError::Machine("its clock shows no date".to_owned()))?;
        let (day, time) = (now.format("%Y%m%d").to_string(), now.format("%Y%m%dT%H%M%SZ").to_string());
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let mut query: Vec<(&str, String)> =
            self.query.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        query.push(("X-Amz-Algorithm", ALGORITHM.to_owned()));
        query.push(("X-Amz-Credential", format!("{}/{scope}", keys.id)));
        query.push(("X-Amz-Date", time.clone()));
        query.push(("X-Amz-Expires", self.lasts_s.to_string()));
        if let Some(session) = &keys.session {
            query.push(("X-Amz-Security-Token", String::from_utf8_lossy(session.expose()).into_owned()));
        }
        query.push(("X-Amz-SignedHeaders", "host".to_owned()));
        query.sort();
        let query: Vec<_> =
            query.iter().map(|(name, value)| format!("{}={}", percent_encoded(name), percent_encoded(value))).collect();
        let query = query.join("&");
        let Self { host, path, payload_hash, .. } = self;
        let canonical = format!("GET\n{path}\n{query}\nhost:{host}\n\nhost\n{payload_hash}");
        let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
        let to_sign = format!("{ALGORITHM}\n{time}\n{scope}\n{hash}");
        let key = signing_key(&keys.secret, &day, self.region, self.service);
        let signature = hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.expose()), to_sign.as_bytes()).as_ref());
        Ok(format!("{query}&X-Amz-Signature={signature}"))
    }
}

/// The key of a day, a region and a service.
fn signing_key(secret: &Secret, day: &str, region: &str, service: &str) -> Secret {
    let first = Secret::new([b"AWS4", secret.expose()].concat());
    [day, region, service, "aws4_request"].into_iter().fold(first, |key, part| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
        Secret::new(hmac::sign(&key, part.as_bytes()).as_ref().to_vec())
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use tidemill_engine::{EventTime, Monotonic};

    use super::*;

    const EXAMPLE_SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    /// AWS' documentation, "Deriving a signing key".
    #[test]
    fn the_key_of_a_day_is_the_documented_one() {
        let secret = Secret::new(EXAMPLE_SECRET.as_bytes().to_vec());
        let key = signing_key(&secret, "20150830", "us-east-1", "iam");
        assert_eq!(hex(key.expose()), "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9");
    }

    /// AWS' documentation of S3, "Authenticating Requests: Using Query Parameters", its example of a presigned address.
    #[test]
    fn a_request_is_signed_as_in_the_documented_example() {
        let keys = Credentials {
            id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret: Secret::new(b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_vec()),
            session: None,
        };
        let request = Presigned {
            host: "examplebucket.s3.amazonaws.com",
            path: "/test.txt",
            query: &[],
            payload_hash: "UNSIGNED-PAYLOAD",
            region: "us-east-1",
            service: "s3",
            lasts_s: 86_400,
        };
        let friday_2013_05_24 = 1_369_353_600;
        assert_eq!(
            request.signed(&keys, friday_2013_05_24).unwrap(),
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2F\
             aws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=\
             aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
    }

    #[derive(Debug)]
    struct Stopped;

    impl Clock for Stopped {
        fn monotonic(&self) -> Monotonic {
            Monotonic(0)
        }

        fn wall(&self) -> EventTime {
            EventTime(1_369_353_600_000_000)
        }
    }

    #[test]
    fn a_token_is_the_address_of_a_request_to_connect() {
        let file = |content: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), content).unwrap();
            (SecretRef::File(file.path().to_owned()), file)
        };
        let ((secret_access_key, _secret), (session, _session)) = (file("hunter2"), file("a/session"));
        let keys = AwsKeys { access_key_id: "AKID".into(), secret_access_key, session_token: Some(session) };
        let settings = AwsSettings { region: "eu-west-1".into(), keys: Some(keys) };
        let tokens = MskTokens::new(&settings, Arc::default(), Arc::new(Stopped)).unwrap();
        let token = tokens.token().unwrap();
        assert_eq!((token.principal.as_str(), token.expires_ms), ("AKID", 1_369_354_500_000));
        let url = String::from_utf8(URL_SAFE_NO_PAD.decode(token.value.expose()).unwrap()).unwrap();
        assert!(
            url.starts_with(
                "https://kafka.eu-west-1.amazonaws.com/?Action=kafka-cluster%3AConnect&X-Amz-Algorithm=AWS4-HMAC-SHA256&\
                 X-Amz-Credential=AKID%2F20130524%2Feu-west-1%2Fkafka-cluster%2Faws4_request&X-Amz-Date=20130524T000000Z&\
                 X-Amz-Expires=900&X-Amz-Security-Token=a%2Fsession&X-Amz-SignedHeaders=host&X-Amz-Signature="
            ),
            "{url}"
        );
        assert!(url.ends_with(concat!("&User-Agent=tidemill%2F", env!("CARGO_PKG_VERSION"))), "{url}");
        assert!(!url.contains("hunter2") && !format!("{tokens:?}{token:?}").contains("hunter2"), "{url}");
    }
}
