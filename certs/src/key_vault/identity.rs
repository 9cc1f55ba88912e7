//! Who we are to Azure.

use std::{fmt, sync::Arc};

use azure_core::{
    credentials::TokenCredential,
    http::{ClientOptions, Transport},
};
use azure_identity::{
    AzureCliCredential, ClientAssertionCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions,
    UserAssignedId, WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};

use super::VaultError;

/// An Azure identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AzureIdentity {
    /// The machine's own managed identity.
    #[default]
    System,
    /// The workload identity of a pod in AKS.
    Workload,
    /// Whoever is logged in with `az login`.
    AzureCli,
    /// The user-assigned managed identity of this client.
    ClientId(String),
    /// The user-assigned managed identity of this object.
    ObjectId(String),
    /// The user-assigned managed identity of this resource.
    ResourceId(String),
}

impl AzureIdentity {
    /// What gets its tokens.
    pub(super) fn credential(&self, transport: Option<Transport>) -> Result<Arc<dyn TokenCredential>, VaultError> {
        let client_options = ClientOptions { transport, ..ClientOptions::default() };
        let managed = |user_assigned_id| {
            let options = ManagedIdentityCredentialOptions { user_assigned_id, client_options: client_options.clone() };
            let credential = ManagedIdentityCredential::new(Some(options));
            credential.map(|credential| credential as Arc<dyn TokenCredential>)
        };
        let made = match self {
            Self::System => managed(None),
            Self::ClientId(id) => managed(Some(UserAssignedId::ClientId(id.clone()))),
            Self::ObjectId(id) => managed(Some(UserAssignedId::ObjectId(id.clone()))),
            Self::ResourceId(id) => managed(Some(UserAssignedId::ResourceId(id.clone()))),
            Self::Workload => {
                let options = WorkloadIdentityCredentialOptions {
                    credential_options: ClientAssertionCredentialOptions { client_options },
                    ..WorkloadIdentityCredentialOptions::default()
                };
                WorkloadIdentityCredential::new(Some(options)).map(|credential| credential as Arc<dyn TokenCredential>)
            }
            Self::AzureCli => AzureCliCredential::new(None).map(|credential| credential as Arc<dyn TokenCredential>),
        };
        made.map_err(|error| VaultError::of_identity(self, &error))
    }

    /// Where to look when it gives no token.
    pub(super) fn check(&self) -> &'static str {
        match self {
            Self::System => {
                "is this an Azure VM, App Service, Container App or AKS node with its system-assigned identity on?"
            }
            Self::ClientId(_) | Self::ObjectId(_) | Self::ResourceId(_) => {
                "is this an Azure VM, App Service, Container App or AKS node, and is the identity assigned to it?"
            }
            Self::Workload => {
                "are `AZURE_CLIENT_ID`, `AZURE_TENANT_ID` and `AZURE_FEDERATED_TOKEN_FILE` set, and the service account \
                 federated with the identity?"
            }
            Self::AzureCli => "is `az` installed and `az login` done?",
        }
    }
}

impl fmt::Display for AzureIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("the system-assigned managed identity"),
            Self::Workload => f.write_str("the workload identity"),
            Self::AzureCli => f.write_str("the Azure CLI's login"),
            Self::ClientId(id) => write!(f, "the managed identity with client id `{id}`"),
            Self::ObjectId(id) => write!(f, "the managed identity with object id `{id}`"),
            Self::ResourceId(id) => write!(f, "the managed identity `{id}`"),
        }
    }
}
