//! Stands in for services of the web in tests: a proxy on the loopback that answers plain requests itself and, behind
//! `CONNECT`, speaks TLS under the names of the hosts that it plays.
//!
//! [`StandIn`] is the server, one port, a thread a connection, HTTP by hand, and answers by a script. [`Azure`] is a script:
//! managed-identity endpoints of both kinds, the authority of workload identities, and a key vault whose secrets can be
//! changed while programs read them. [`Oidc`] is another: an identity provider. Programs come to Azure by the environment that [`Azure::environment`] gives them.
//!
//! Nothing here is part of the product.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a stand-in that does not stand is a failed test")]

mod azure;
mod oidc;
mod server;

pub use azure::{Azure, Refusal, Way};
pub use oidc::Oidc;
pub use server::{Answer, Request, StandIn};
