//! The chain of our own certificate: put in order, checked.

use std::sync::Arc;

use rustls::{
    CertificateError, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
};

use super::{
    Identity,
    certificate::{CertificateFacts, subject},
    error::{MaterialError, Note, Part},
};

/// Puts the certificate of the key first and each issuer behind what it issued; others are left out.
///
/// # Errors
/// When the key is of no use, or belongs to none of the certificates.
pub(super) fn order(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    notes: &mut Vec<Note>,
) -> Result<Identity, MaterialError> {
    // From here on the key is overwritten whatever happens.
    let mut identity = Identity { chain: vec![], key };
    let Ok(signing) = aws_lc_rs::sign::any_supported_type(&identity.key) else {
        return Err(MaterialError::UnsupportedKey { part: Part::Key });
    };
    let belongs =
        |der: &CertificateDer<'static>| CertifiedKey::new(vec![der.clone()], Arc::clone(&signing)).keys_match().is_ok();
    let Some(leaf) = certificates.iter().position(belongs) else {
        return Err(MaterialError::KeyMismatch(certificates.iter().map(subject).collect()));
    };
    let facts = certificates.iter().map(|der| CertificateFacts::parse(Part::Certificate, der));
    let facts = facts.collect::<Result<Vec<_>, _>>()?;
    let mut ordered = vec![leaf];
    let mut last = leaf;
    while facts[last].issuer != facts[last].subject
        && let Some(issuer) = (0..facts.len()).find(|i| !ordered.contains(i) && facts[*i].subject == facts[last].issuer)
    {
        ordered.push(issuer);
        last = issuer;
    }
    if !ordered.is_sorted() {
        notes.push(Note::Reordered { subject: facts[leaf].subject.clone() });
    }
    for (i, facts) in facts.iter().enumerate().filter(|(i, _)| !ordered.contains(i)) {
        if !ordered.iter().any(|used| certificates[*used] == certificates[i]) {
            notes.push(Note::Unrelated { subject: facts.subject.clone() });
        }
    }
    identity.chain = ordered.into_iter().map(|i| certificates[i].clone()).collect();
    Ok(identity)
}

/// Dates, purpose, and whether the chain leads to an authority.
///
/// # Errors
/// For what brokers refuse in any case.
pub(super) fn check(
    identity: &Identity,
    ca: Option<&[CertificateDer<'static>]>,
    now: UnixTime,
    notes: &mut Vec<Note>,
) -> Result<(), MaterialError> {
    let part = Part::Certificate;
    for der in &identity.chain {
        let CertificateFacts { subject, not_before, not_after, .. } = CertificateFacts::parse(part, der)?;
        if now.as_secs() > not_after {
            return Err(MaterialError::Expired { part, subject, not_after });
        }
        if now.as_secs() < not_before {
            return Err(MaterialError::NotYetValid { part, subject, not_before });
        }
    }
    let leaf = CertificateFacts::parse(part, &identity.chain[0])?;
    if let Some(purposes) = &leaf.purposes
        && !purposes.iter().any(|purpose| purpose == "clientAuth" || purpose == "any")
    {
        let needed = "extended key usage `clientAuth`";
        return Err(MaterialError::WrongUsage { subject: leaf.subject, allowed: purposes.join(", "), needed });
    }
    if !leaf.signs {
        let (allowed, needed) = ("other uses of its key".to_owned(), "key usage `digitalSignature`");
        return Err(MaterialError::WrongUsage { subject: leaf.subject, allowed, needed });
    }
    if let Some(ca) = ca {
        notes.extend(leads_to(&identity.chain, leaf.subject, ca, now));
    }
    Ok(())
}

/// What is doubtful about the chain's way to `ca`.
fn leads_to(
    chain: &[CertificateDer<'static>],
    subject: String,
    ca: &[CertificateDer<'static>],
    now: UnixTime,
) -> Option<Note> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(ca.iter().cloned());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
    match verifier.verify_client_cert(&chain[0], &chain[1..], now) {
        Ok(_) => None,
        Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            let last = CertificateFacts::of(chain.last()?)?;
            Some(Note::IssuerNotInCa { subject: last.subject, issuer: last.issuer })
        }
        Err(error) => Some(Note::ChainNotVerified { subject, why: error.to_string() }),
    }
}
