//! An identity provider that gives tokens for a client's credentials.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};

use crate::{Answer, Request, StandIn};

/// The name of the issuer's only key.
const KEY_ID: &str = "issuer-key";

/// See the module. It gives tokens of `alice`, and to the client `other-audience` tokens that are for somebody else.
pub struct Oidc {
    stand_in: StandIn,
}

impl Oidc {
    /// Who it is.
    pub const ISSUER: &str = "https://issuer.example";
    /// For whom its tokens are.
    pub const AUDIENCE: &str = "kafka";
    /// The secret of its clients.
    pub const CLIENT_SECRET: &str = "client-secret-4711";

    /// Starts it. `key` signs its tokens (P-256, PKCS#8 in PEM); `client` is the key by which a client without a secret proves itself.
    ///
    /// # Panics
    /// When a key is none.
    #[must_use]
    pub fn start(key: &str, client: &str) -> Self {
        let issuer = KeyPair::from_pem(key).unwrap().serialize_der();
        let client = KeyPair::from_pem(client).unwrap().der_bytes().to_vec();
        Self { stand_in: StandIn::start(&[], move |request| answer(request, &issuer, &client)) }
    }

    /// The public half of the key that signs its tokens, as a JSON Web Key Set.
    ///
    /// # Panics
    /// When the key is none.
    #[must_use]
    pub fn public_keys(key: &str) -> String {
        let pair = KeyPair::from_pem(key).unwrap();
        // 0x04, then both coordinates.
        let (x, y) = pair.der_bytes()[1..].split_at(32);
        let [x, y] = [x, y].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
        let key = json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": KEY_ID, "x": x, "y": y});
        json!({"keys": [key]}).to_string()
    }

    /// Its token endpoint.
    #[must_use]
    pub fn token_url(&self) -> String {
        format!("{}/token", self.stand_in.address())
    }

    /// The server.
    #[must_use]
    pub fn stand_in(&self) -> &StandIn {
        &self.stand_in
    }
}

fn answer(request: &Request, issuer: &[u8], client: &[u8]) -> Answer {
    let by_secret = request.header("authorization").and_then(|header| {
        let pair = STANDARD.decode(header.strip_prefix("Basic ")?).ok()?;
        let pair = String::from_utf8(pair).ok()?;
        let (name, secret) = pair.split_once(':')?;
        (secret == Oidc::CLIENT_SECRET).then(|| name.to_owned())
    });
    let by_key = || {
        let (_, rest) = request.body.split_once("client_assertion=")?;
        let (statement, signature) = rest.split('&').next()?.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, client).verify(statement.as_bytes(), &signature).ok()?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(statement.split_once('.')?.1).ok()?).ok()?;
        claims["sub"].as_str().map(str::to_owned)
    };
    let Some(name) = by_secret.or_else(by_key) else {
        return Answer::status(401, r#"{"error":"invalid_client","error_description":"who are you?"}"#);
    };
    let audience = if name == "other-audience" { "somebody else" } else { Oidc::AUDIENCE };
    let body = json!({"access_token": token(issuer, audience), "token_type": "Bearer", "expires_in": 3_600});
    Answer::status(200, &body.to_string())
}

fn token(issuer: &[u8], audience: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let header = part(json!({"alg": "ES256", "typ": "JWT", "kid": KEY_ID}));
    let claims = part(json!({
        "iss": Oidc::ISSUER, "aud": audience, "sub": "alice", "scope": "kafka", "iat": now, "exp": now + 3_600,
    }));
    let signed = format!("{header}.{claims}");
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, issuer).unwrap();
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}
