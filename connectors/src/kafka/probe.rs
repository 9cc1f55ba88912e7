//! A look at one broker, step by step: what `doctor` shows. By connections of our own, because rustls tells what exactly is
//! wrong with a certificate, and shows the chain as the broker sent it.

use std::{
    fmt,
    net::ToSocketAddrs,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};
use tidemill_certs::CertificateFacts;
use tidemill_engine::Clock;

use super::{
    fault::{Cause, Fault},
    security::Security,
    wire::{Address, Connection, Protection, Transport, roots, speaks_tls},
};

/// A step of the look.
#[derive(Clone, Debug)]
pub struct Step {
    /// What was tried: "name", "port", "TLS", "login".
    pub what: &'static str,
    /// What was found, or why it failed; later steps are then not tried.
    pub outcome: Result<String, String>,
    /// How long it took.
    pub took: Duration,
}

/// Looks at a broker, `host:port`; each step may take `within`.
///
/// # Errors
/// When the security description cannot be put into practice at all.
pub fn probe(broker: &str, security: &Security, clock: &Arc<dyn Clock>, within: Duration) -> Result<Vec<Step>, Fault> {
    let protection = Protection::of(security)?;
    let witness = security.tls.as_deref().map(roots).transpose()?.map(Witness::new).transpose()?.map(Arc::new);
    let address = Address::parse(broker);
    let mut steps = Steps { clock, taken: vec![] };
    steps.run(broker, &address, &protection, witness, security, within);
    Ok(steps.taken)
}

struct Steps<'a> {
    clock: &'a Arc<dyn Clock>,
    taken: Vec<Step>,
}

impl Steps<'_> {
    /// Each step, until one fails.
    fn run(
        &mut self,
        broker: &str,
        address: &Address,
        protection: &Protection,
        witness: Option<Arc<Witness>>,
        security: &Security,
        within: Duration,
    ) -> Option<()> {
        let target = (address.host.as_str(), address.port);
        self.take("name", || {
            let found: Vec<_> = target.to_socket_addrs().map_err(|_| Cause::Unresolved)?.collect();
            Ok(found.iter().map(|found| found.ip().to_string()).collect::<Vec<_>>().join(", "))
        })?;
        self.take("port", || {
            Transport::open(address, None, &|| within)?;
            Ok("answers".to_owned())
        })?;
        if let (Some(tls), Some(witness)) = (&protection.tls, witness) {
            let asked =
                Arc::new(Asked { inner: Arc::clone(&tls.client_auth_cert_resolver), asked: AtomicBool::new(false) });
            let mut config = ClientConfig::clone(tls);
            config.client_auth_cert_resolver = Arc::clone(&asked) as Arc<dyn ResolvesClientCert>;
            config.dangerous().set_certificate_verifier(Arc::clone(&witness) as Arc<dyn ServerCertVerifier>);
            self.take_with("TLS", || {
                let opened = Transport::open(address, Some(&Arc::new(config)), &|| within);
                let seen = witness.chain();
                opened.map_err(|cause| format!("{cause}{}", in_words(&seen)))?;
                let asked = if asked.asked.load(Ordering::Relaxed) { "; asks for a client certificate" } else { "" };
                Ok(format!("verified{}{asked}", in_words(&seen)))
            })?;
        }
        let clock = self.clock;
        self.take("login", || {
            Connection::open(address, protection, clock, within).map_err(|cause| match cause {
                Cause::WrongProtocol if security.tls.is_none() && speaks_tls(broker, within) => Cause::TlsListener,
                cause => cause,
            })?;
            let mechanism = security.sasl.as_ref().map_or("no SASL", |sasl| sasl.mechanism());
            Ok(format!("{mechanism}, as `{}`", security.principal()))
        })
    }

    fn take(&mut self, what: &'static str, step: impl FnOnce() -> Result<String, Cause>) -> Option<()> {
        self.take_with(what, || step().map_err(|cause| cause.to_string()))
    }

    fn take_with(&mut self, what: &'static str, step: impl FnOnce() -> Result<String, String>) -> Option<()> {
        let begun = self.clock.monotonic();
        let outcome = step();
        let took = u64::try_from(self.clock.monotonic().0 - begun.0).unwrap_or(0);
        let went_well = outcome.is_ok();
        self.taken.push(Step { what, outcome, took: Duration::from_micros(took) });
        went_well.then_some(())
    }
}

/// `; CN=broker for 127.0.0.1 until 2027-..., issued by CN=ca`, for each certificate of a chain.
fn in_words(chain: &[CertificateDer<'static>]) -> String {
    let facts = chain.iter().filter_map(CertificateFacts::of);
    facts
        .map(|facts| {
            let names = if facts.names.is_empty() { String::new() } else { format!(" for {}", facts.names.join(", ")) };
            format!("; `{}`{names}, valid until {}, issued by `{}`", facts.subject, facts.valid_until(), facts.issuer)
        })
        .collect()
}

/// Verifies as usual, and remembers what it saw.
struct Witness {
    inner: Arc<WebPkiServerVerifier>,
    seen: Mutex<Vec<CertificateDer<'static>>>,
}

impl Witness {
    fn new(roots: rustls::RootCertStore) -> Result<Self, Fault> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| Fault::Protection(format!("TLS: {error}")))?;
        Ok(Self { inner, seen: Mutex::default() })
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witness").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = std::iter::once(end_entity).chain(intermediates).map(|der| der.clone().into_owned()).collect();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = chain;
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Gives the client certificate as usual, and remembers whether it was asked for.
#[derive(Debug)]
struct Asked {
    inner: Arc<dyn ResolvesClientCert>,
    asked: AtomicBool,
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.inner.resolve(issuers, schemes)
    }

    fn has_certs(&self) -> bool {
        self.inner.has_certs()
    }
}
