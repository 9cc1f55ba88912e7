//! Clients of the schema registries that a spec names.

use std::{sync::Arc, time::Duration};

use tidemill_certs::SecretRef;
use tidemill_connectors::formats::registry::{Authentication, RegistryClient, RegistrySettings};

use super::{RunOptions, security::Secrets};
use crate::spec::Registry;

/// How long a registry that was there is asked again before the job ends; what it held back is read again by the next run.
const PATIENCE: Duration = Duration::from_secs(300);

/// A client, with the secrets that it needs.
///
/// # Errors
/// What is wrong with the settings, in words.
pub(super) fn client(
    registry: &Registry,
    secrets: &Secrets,
    options: &RunOptions,
) -> Result<Arc<RegistryClient>, String> {
    let resolve = |secret: &SecretRef| secrets.store.fetch(secret).map_err(|error| format!("schema registry: {error}"));
    let authentication = match (&registry.basic, &registry.token) {
        (Some((username, password)), _) => {
            Authentication::Basic { username: username.clone(), password: resolve(password)? }
        }
        (None, Some(token)) => Authentication::Bearer(resolve(token)?),
        (None, None) => Authentication::None,
    };
    let settings = RegistrySettings {
        url: registry.url.clone(),
        authentication,
        ca: registry.ca.as_ref().map(resolve).transpose()?,
        identity: registry.certificate.as_ref().map(resolve).transpose()?,
        first_patience: options.wait,
        patience: PATIENCE,
    };
    RegistryClient::new(settings, Arc::clone(&options.stop)).map(Arc::new).map_err(|error| error.to_string())
}
