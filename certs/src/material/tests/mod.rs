//! Made with rcgen where that can make it; the files beside this are OpenSSL's: `ec.*` hold one identity in many forms.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use super::*;

/// 2027-06-01.
const NOW: u64 = 1_811_808_000;

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW))
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    CertifiedIssuer::self_signed(authority_params(name), KeyPair::generate().unwrap()).unwrap()
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// A certificate of `authority` and its key, as PEM.
fn issued(params: CertificateParams, authority: &CertifiedIssuer<'static, KeyPair>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

fn client() -> CertificateParams {
    let mut params = params("client");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn secret(bytes: impl AsRef<[u8]>) -> Option<Secret> {
    Some(Secret::new(bytes.as_ref().to_vec()))
}

fn identity(certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> MaterialSecrets {
    MaterialSecrets { certificate: secret(certificate), key: secret(key), ..MaterialSecrets::default() }
}

fn ca(ca: impl AsRef<[u8]>) -> MaterialSecrets {
    MaterialSecrets { ca: secret(ca), ..MaterialSecrets::default() }
}

fn read(secrets: &MaterialSecrets) -> TlsMaterial {
    TlsMaterial::read(secrets, now()).unwrap_or_else(|error| panic!("{error}"))
}

fn error(secrets: &MaterialSecrets) -> String {
    TlsMaterial::read(secrets, now()).unwrap_err().to_string()
}

fn notes(material: &TlsMaterial) -> Vec<String> {
    material.notes().iter().map(ToString::to_string).collect()
}

#[test]
fn good_material_comes_out_as_it_went_in() {
    let root = authority("root");
    let (certificate, key) = issued(client(), &root);
    let material = read(&MaterialSecrets { ca: secret(root.pem()), ..identity(&certificate, &key) });
    assert_eq!(notes(&material), [""; 0]);
    assert_eq!(material.ca().unwrap(), [root.der().clone()]);
    let identity = material.identity().unwrap();
    let lines = |text: &str| text.replace("\r\n", "\n");
    assert_eq!(identity.chain_pem(), lines(&certificate));
    assert_eq!(identity.key_pem().expose_str().unwrap(), lines(&key));
    assert_eq!(material.ca_pem().unwrap(), lines(&root.pem()));
    assert!(
        material.is_same_as(&read(&MaterialSecrets { ca: secret(root.pem()), ..self::identity(&certificate, &key) }))
    );
    assert!(!material.is_same_as(&read(&ca(root.pem()))));
    assert!(!format!("{material:?}").contains("PRIVATE"));
}

#[test]
fn lost_line_breaks_are_repaired_and_told() {
    let root = authority("root");
    let plain = root.pem().replace('\r', "");
    for (given, note) in [
        (plain.replace('\n', "\\n"), "`ca` had literal `\\n` for line breaks; repaired"),
        (plain.replace('\n', "\\r\\n"), "`ca` had literal `\\n` for line breaks; repaired"),
        (plain.replace('\n', " "), "`ca` had its line breaks missing; repaired"),
        (plain.replace('\n', "\r\n"), "`ca` had Windows line ends; repaired"),
    ] {
        let material = read(&ca(given));
        assert_eq!(material.ca().unwrap(), [root.der().clone()]);
        assert_eq!(notes(&material), [note]);
        assert!(material.notes()[0].is_repair());
    }
    // What stands around blocks is for people.
    assert_eq!(notes(&read(&ca(format!("\u{feff}subject=CN=root\n\"{plain}\"\n")))), [""; 0]);
}

#[test]
fn der_and_bare_base64_are_converted() {
    let root = authority("root");
    for given in [root.der().to_vec(), STANDARD.encode(root.der()).into_bytes()] {
        let material = read(&ca(given));
        assert_eq!(material.ca().unwrap(), [root.der().clone()]);
        assert_eq!(notes(&material), ["`ca` is DER; converted"]);
    }
}

#[test]
fn a_chain_in_any_order_is_put_right() {
    let root = authority("root");
    let middle = CertifiedIssuer::signed_by(authority_params("middle"), KeyPair::generate().unwrap(), &root).unwrap();
    let other = authority("other");
    let (certificate, key) = issued(client(), &middle);
    let given = [other.pem(), root.pem(), middle.pem(), certificate.clone()].concat();
    let material = read(&MaterialSecrets { ca: secret(root.pem()), ..identity(given, &key) });
    let subjects: Vec<_> = material.identity().unwrap().chain().iter().map(certificate::subject).collect();
    assert_eq!(subjects, ["CN=client", "CN=middle", "CN=root"]);
    assert_eq!(
        notes(&material),
        [
            "`certificate` was not in order; now `CN=client` first, each before its issuer",
            "`certificate` also holds `CN=other`, which did not issue it; left out",
        ]
    );

    // One secret with key and chain, as key vaults keep certificates.
    let both = [key, certificate.clone(), middle.pem()].concat();
    let together = MaterialSecrets { certificate: secret(both), ca: secret(root.pem()), ..MaterialSecrets::default() };
    assert_eq!(notes(&read(&together)), [""; 0]);
}

#[test]
fn a_chain_that_does_not_reach_the_authorities_is_doubted() {
    let (root, other) = (authority("root"), authority("other"));
    let (certificate, key) = issued(client(), &root);
    let material = read(&MaterialSecrets { ca: secret(other.pem()), ..identity(certificate, key) });
    assert_eq!(
        notes(&material),
        [
            "`certificate` ends with `CN=client`, issued by `CN=root`, which is neither in it nor in `ca`: brokers have to \
          know it"
        ]
    );

    // An authority of the same name and another key did not sign it.
    let namesake = authority("root");
    let (certificate, key) = issued(client(), &root);
    let material = read(&MaterialSecrets { ca: secret(namesake.pem()), ..identity(certificate, key) });
    assert_eq!(material.notes().len(), 1);
    assert!(!material.notes()[0].is_repair());
}

#[test]
fn keys_of_every_form_open() {
    let ec = include_str!("ec.crt");
    let sec1 = read(&identity(ec, include_str!("ec.sec1.key")));
    assert!(sec1.identity().unwrap().key_pem().expose_str().unwrap().starts_with("-----BEGIN EC PRIVATE KEY-----\n"));
    assert_eq!(sec1.identity().unwrap().distinguished_name(), "CN=ec,O=tidemill tests");
    read(&identity(include_str!("rsa.crt"), include_str!("rsa.pkcs1.key")));

    let password = secret("changeit");
    for key in [include_str!("ec.pbes2.key"), include_str!("ec.des3.key")] {
        let with = |key_password| MaterialSecrets { key_password, ..identity(ec, key) };
        let material = read(&with(password.clone()));
        assert!(!material.identity().unwrap().key_pem().expose_str().unwrap().contains("ENCRYPTED"));
        assert_eq!(error(&with(None)), "`key` is encrypted: give its password as `key_password`");
        assert_eq!(error(&with(secret("no"))), "`key_password` does not open `key`");
    }
    for key in [include_str!("ec.pbes1.key"), include_str!("ec.openssl.key")] {
        let refused = error(&MaterialSecrets { key_password: password.clone(), ..identity(ec, key) });
        assert!(
            refused.ends_with("convert it with: openssl pkcs8 -topk8 -v2 aes-256-cbc -in KEY -out NEW"),
            "{refused}"
        );
    }
}

#[test]
fn pkcs12_is_converted() {
    let reference = read(&identity(include_str!("ec.crt"), include_str!("ec.sec1.key")));
    let (new, old) = (include_bytes!("ec.p12").to_vec(), include_bytes!("ec-legacy.p12").to_vec());
    let open = include_bytes!("ec-open.p12").to_vec();
    let encoded = STANDARD.encode(&open).into_bytes();
    for (store, key_password) in
        [(new.clone(), secret("changeit")), (old, secret("changeit")), (open, None), (encoded, None)]
    {
        let material =
            read(&MaterialSecrets { certificate: secret(store), key_password, ..MaterialSecrets::default() });
        assert_eq!(material.identity().unwrap().chain(), reference.identity().unwrap().chain());
        assert_eq!(notes(&material), ["`certificate` is PKCS#12; converted"]);
    }
    let with = |key_password| MaterialSecrets { certificate: secret(&new), key_password, ..MaterialSecrets::default() };
    assert_eq!(error(&with(None)), "`certificate` is encrypted: give its password as `key_password`");
    assert_eq!(error(&with(secret("no"))), "`key_password` does not open `certificate`");
}

#[test]
fn what_no_broker_would_take_is_refused() {
    let root = authority("root");
    let (certificate, key) = issued(client(), &root);
    let (_, other_key) = issued(params("other"), &root);
    assert_eq!(
        error(&identity(&certificate, &other_key)),
        "`key` does not belong to `certificate`: none of `CN=client` has its public key"
    );
    let mut old = client();
    old.not_after = date_time_ymd(2027, 5, 31);
    let (expired, expired_key) = issued(old, &root);
    assert_eq!(
        error(&identity(expired, expired_key)),
        "`certificate` has expired: `CN=client` was valid until 2027-05-31 00:00 UTC"
    );
    let mut early = client();
    early.not_before = date_time_ymd(2027, 6, 2);
    let (early, early_key) = issued(early, &root);
    assert_eq!(
        error(&identity(early, early_key)),
        "`certificate` is not valid yet: `CN=client` begins 2027-06-02 00:00 UTC; is this machine's clock right?"
    );
    let mut server = params("server");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let (server, server_key) = issued(server, &root);
    assert_eq!(
        error(&identity(server, server_key)),
        "`certificate` is not for clients: `CN=server` allows serverAuth only; have it issued with extended key usage \
         `clientAuth`"
    );
    let mut other_use = client();
    other_use.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    let (other_use, other_use_key) = issued(other_use, &root);
    assert!(error(&identity(other_use, other_use_key)).ends_with("key usage `digitalSignature`"));
    assert_eq!(
        error(&MaterialSecrets { certificate: secret(&certificate), ..MaterialSecrets::default() }),
        "a `certificate` without its key: give `key`, or a `certificate` that holds both"
    );
    assert_eq!(
        error(&MaterialSecrets { key: secret(&key), ..MaterialSecrets::default() }),
        "a `key` without its `certificate`"
    );
    assert_eq!(error(&identity(&certificate, &certificate)), "`key` holds no private key, only `CERTIFICATE`");
    assert_eq!(error(&identity(&key, &key)), "`certificate` holds no certificate, only `PRIVATE KEY`");
    assert_eq!(
        error(&identity(&certificate, format!("{key}{other_key}"))),
        "`key` holds 2 private keys; leave the one that belongs to the certificate"
    );
}

#[test]
fn what_is_no_material_is_named() {
    let root = authority("root").pem().replace('\r', "");
    let cut = &root[..root.len() / 2];
    assert_eq!(
        error(&ca(cut)),
        "`ca` is cut off: block 1, `CERTIFICATE`, begins and has no `-----END CERTIFICATE-----`"
    );
    assert_eq!(
        error(&ca(format!("{root}{cut}{root}"))),
        "`ca` is cut off: block 2, `CERTIFICATE`, begins and has no `-----END CERTIFICATE-----`"
    );
    let lines: Vec<_> = root.lines().collect();
    let damaged = [&lines[..2], &lines[4..]].concat().join("\n");
    assert_eq!(error(&ca(damaged)), "`ca` is damaged: block 1, `CERTIFICATE`, is not a certificate");
    assert_eq!(error(&ca(root.replace("MII", "M%I"))), "`ca` is damaged: block 1, `CERTIFICATE`, is not base64");
    let not_pem = |found: &str| format!("`ca` is not PEM: expected `-----BEGIN CERTIFICATE-----`, found {found}");
    assert_eq!(error(&ca("hunter2!")), not_pem("other text"));
    assert_eq!(error(&ca("ssh-ed25519 AAAA me@here")), not_pem("an SSH key"));
    assert_eq!(error(&ca([0xff, 0xfe, 0x2d, 0])), not_pem("UTF-16: save it as UTF-8"));
    assert_eq!(error(&ca([0x80, 1, 2])), not_pem("other bytes"));
    assert!(!error(&identity("hunter2!", "hunter2!")).contains("hunter2"));
}

#[test]
fn authorities_that_expired_count_only_together() {
    let mut old = authority_params("old");
    old.not_after = date_time_ymd(2020, 1, 1);
    let old = CertifiedIssuer::self_signed(old, KeyPair::generate().unwrap()).unwrap();
    assert_eq!(error(&ca(old.pem())), "`ca` has expired: `CN=old` was valid until 2020-01-01 00:00 UTC");
    let leaf = params("broker").self_signed(&KeyPair::generate().unwrap()).unwrap();
    let material = read(&ca([old.pem(), authority("new").pem(), leaf.pem()].concat()));
    assert_eq!(
        notes(&material),
        [
            "`ca` holds `CN=old`, which expired 2020-01-01 00:00 UTC",
            "`ca` holds `CN=broker`, which may not sign certificates: is it a broker's own?",
        ]
    );
}

#[test]
fn an_end_is_warned_about_at_30_7_and_1_days() {
    let day = 86_400;
    let expiry = Expiry { part: Part::Certificate, subject: "CN=client".into(), not_after: NOW };
    let at = |before: u64| expiry.warning(UnixTime::since_unix_epoch(Duration::from_secs(NOW - before)));
    assert_eq!(at(31 * day), None);
    let text = |left: &str| format!("`certificate` expires in {left}: `CN=client`, 2027-06-01 00:00 UTC");
    assert_eq!(at(30 * day), Some((1, text("30 days"))));
    assert_eq!(at(7 * day), Some((2, text("7 days"))));
    assert_eq!(at(day), Some((3, text("24 hours"))));
    assert_eq!(at(90), Some((3, text("1 minutes"))));
    let after = UnixTime::since_unix_epoch(Duration::from_secs(NOW + 1));
    assert_eq!(expiry.warning(after).unwrap().0, 4);
    assert_eq!(expiry.seconds_left(after), -1);
}

#[test]
fn expiries_are_those_of_all_certificates() {
    let root = authority("root");
    let (certificate, key) = issued(client(), &root);
    let material = read(&MaterialSecrets { ca: secret(root.pem()), ..identity(certificate, key) });
    let parts: Vec<_> = material.expiries().into_iter().map(|expiry| (expiry.part, expiry.subject)).collect();
    assert_eq!(parts, [(Part::Certificate, "CN=client".to_owned()), (Part::Ca, "CN=root".to_owned())]);
}
