//! Where references lead: the environment, files, and one key vault.

use std::sync::OnceLock;

use crate::{KeyVault, KeyVaultSettings, Secret, SecretError, SecretRef, reference};

/// Leads references to secrets. The vault is contacted by the first reference to it, and its identity's token is kept.
#[derive(Debug, Default)]
pub struct SecretStore {
    settings: Option<KeyVaultSettings>,
    vault: OnceLock<KeyVault>,
}

impl SecretStore {
    /// A store with a key vault, if the job names one.
    #[must_use]
    pub fn new(key_vault: Option<KeyVaultSettings>) -> Self {
        Self { settings: key_vault, vault: OnceLock::new() }
    }

    /// Fetches a secret, anew each time.
    ///
    /// # Errors
    /// When it is absent, empty or cannot be read; of a key vault, see [`crate::VaultError`].
    pub fn fetch(&self, reference: &SecretRef) -> Result<Secret, SecretError> {
        match reference {
            SecretRef::Env(name) => reference::from_environment(name),
            SecretRef::File(path) => reference::from_file(path),
            SecretRef::KeyVault(name) => {
                let vault = self.vault(name)?;
                vault.secret(name).map_err(|source| SecretError::Vault { name: name.clone(), source })
            }
        }
    }

    fn vault(&self, name: &str) -> Result<&KeyVault, SecretError> {
        if let Some(vault) = self.vault.get() {
            return Ok(vault);
        }
        let settings = self.settings.as_ref().ok_or_else(|| SecretError::NoVault(name.to_owned()))?;
        let opened = KeyVault::open(settings).map_err(|source| SecretError::Vault { name: name.to_owned(), source })?;
        Ok(self.vault.get_or_init(|| opened))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vault_that_the_job_does_not_name_is_asked_for() {
        let store = SecretStore::default();
        let error = store.fetch(&SecretRef::KeyVault("kafka-ca".into())).unwrap_err();
        assert_eq!(error.to_string(), "`{key_vault: kafka-ca}` needs a vault: give the job `key_vault: {vault: NAME}`");
        assert!(store.fetch(&SecretRef::Env("PATH".into())).is_ok());
    }
}
