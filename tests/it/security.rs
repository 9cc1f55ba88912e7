//! Secured connections, against real listeners: jobs run over each.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use xtask::kafka::{Broker, Certificates, Listener, PASSWORD, Record, shared, unsigned_token};

/// What `security:` of a job says, and where secrets are for it.
struct Secured<'a> {
    broker: &'a Broker,
    folder: &'a Path,
}

impl Secured<'_> {
    fn user(&self, name: &str, mechanism: &str) -> String {
        format!("mechanism: {mechanism}, username: {name}, password: {{env: KAFKA_PASSWORD}}")
    }

    fn ca(&self) -> String {
        format!("ca: {{file: {}}}", self.broker.certificates().ca.display())
    }

    fn client(&self) -> String {
        let Certificates { certificate, key, .. } = self.broker.certificates();
        format!("certificate: {{file: {}}}, key: {{file: {}}}", certificate.display(), key.display())
    }

    /// Copies `topic` into `out` over the same connection; `run --bounded` of it.
    fn run(&self, topic: &str, out: &str, address: &str, security: &str, wait: &str) -> Output {
        let name = format!("{out}-job");
        let kafka = |topic: &str| format!("{{brokers: [\"{address}\"], topic: {topic}, security: {{{security}}}}}");
        let spec = format!(
            "name: {name}\ninputs: {{a: {{kafka: {}, schema: {{i: bigint}}}}}}\noutputs: {{b: {{kafka: {}}}}}\n\
             query: SELECT i INTO b FROM a\n",
            kafka(topic),
            kafka(out)
        );
        let job = self.folder.join(format!("{name}.yaml"));
        fs::write(&job, spec).unwrap();
        Command::new(env!("CARGO_BIN_EXE_tidemill"))
            .args(["run", "--bounded", "--workers", "1", "--wait", wait])
            .arg(&job)
            .stdin(Stdio::null())
            .env("RUST_LOG", "warn")
            .env("KAFKA_PASSWORD", PASSWORD)
            .output()
            .unwrap()
    }
}

#[test]
fn a_job_runs_over_every_listener() {
    let broker = shared();
    let folder = tempfile::tempdir().unwrap();
    let secured = Secured { broker, folder: folder.path() };
    fs::write(folder.path().join("token.jwt"), unsigned_token("alice")).unwrap();
    broker.create_topic("secured", 2, &[]).unwrap();
    broker.produce("secured", (0..100).map(|i| Record::new(i % 2, format!(r#"{{"i":{i}}}"#)))).unwrap();

    let (ca, client) = (secured.ca(), secured.client());
    let mut cases = vec![(Listener::Mtls, format!("protocol: mtls, {ca}, {client}"))];
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let user = secured.user("alice", mechanism);
        cases.push((Listener::SaslPlaintext, format!("protocol: sasl_plaintext, {user}")));
        cases.push((Listener::SaslTls, format!("protocol: sasl_ssl, {ca}, {user}")));
    }
    let token = "mechanism: OAUTHBEARER, token: {file: token.jwt}";
    cases.push((Listener::SaslTls, format!("protocol: sasl_ssl, {ca}, {token}")));

    // Two at a time: each spends most of its time waiting for the broker.
    let numbered: Vec<_> = cases.iter().enumerate().collect();
    for pair in numbered.chunks(2) {
        std::thread::scope(|scope| {
            for (number, (listener, security)) in pair {
                let secured = &secured;
                scope.spawn(move || {
                    let out = format!("secured-{number}");
                    broker.create_topic(&out, 1, &[]).unwrap();
                    let output = secured.run("secured", &out, &broker.address(*listener), security, "15s");
                    let stderr = String::from_utf8_lossy(&output.stderr);
                    assert!(output.status.success(), "{listener:?} {security}: {stderr}");
                    assert_eq!(broker.read(&out).unwrap().len(), 100, "{listener:?} {security}");
                });
            }
        });
    }
}
