//! A token that something else puts where a reference leads, such as a sidecar into a file.

use std::sync::Arc;

use tidemill_certs::{SecretRef, SecretStore};

use super::{Token, TokenError, TokenSource, claims};

/// See the module.
#[derive(Debug)]
pub(super) struct GivenToken {
    secrets: Arc<SecretStore>,
    reference: SecretRef,
}

impl GivenToken {
    pub(super) fn new(secrets: Arc<SecretStore>, reference: SecretRef) -> Self {
        Self { secrets, reference }
    }
}

impl TokenSource for GivenToken {
    fn token(&self) -> Result<Token, TokenError> {
        let value = self.secrets.fetch(&self.reference);
        let value = value.map_err(|source| TokenError::Secret { field: "token", source })?;
        let claims = claims(&value).map_err(|why| TokenError::NotAToken { reference: self.reference.clone(), why })?;
        Ok(Token { value, principal: claims.subject, expires_ms: claims.expires_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_or_holds_no_token_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let source = GivenToken::new(Arc::default(), SecretRef::File(file.clone()));
        let error = || source.token().err().unwrap().to_string();
        assert!(error().starts_with("`token`: ") && error().contains(&file.display().to_string()), "{}", error());
        std::fs::write(&file, "hunter2").unwrap();
        assert!(error().contains("it does not have three parts") && !error().contains("hunter2"), "{}", error());
    }
}
