//! Secured connections, against real listeners: jobs run over each, and each fault is answered with its own sentence.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rdkafka::Message;
use stand_in::{Answer, Azure, Oidc, Refusal, StandIn, Way};
use xtask::{
    kafka::{Broker, Certificates, Listener, Operation, PASSWORD, Record, Resource, shared, unsigned_token},
    rotation,
};

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

    /// The certificates and the key, as secrets of a key vault.
    fn in_vault(&self, azure: &Azure) -> String {
        let Certificates { ca, certificate, key, .. } = self.broker.certificates();
        azure.put_files(&[("kafka-ca", &ca), ("kafka-cert", &certificate), ("kafka-key", &key)]);
        let reference = |field: &str, name: &str| format!("{field}: {{key_vault: {name}}}");
        [reference("ca", "kafka-ca"), reference("certificate", "kafka-cert"), reference("key", "kafka-key")].join(", ")
    }

    fn client(&self) -> String {
        let Certificates { certificate, key, .. } = self.broker.certificates();
        format!("certificate: {{file: {}}}, key: {{file: {}}}", certificate.display(), key.display())
    }

    /// A job that copies `topic` into `out` over the same connection, bounded.
    fn run(&self, topic: &str, out: &str, address: &str, security: &str, wait: &str) -> Output {
        let arguments = ["run", "--bounded", "--workers", "1", "--wait", wait];
        self.command(topic, out, address, security, &arguments).output().unwrap()
    }

    fn command(&self, topic: &str, out: &str, address: &str, security: &str, arguments: &[&str]) -> Command {
        self.command_with("", topic, out, address, security, arguments)
    }

    /// The same with further lines of the spec.
    fn command_with(
        &self,
        lines: &str,
        topic: &str,
        out: &str,
        address: &str,
        security: &str,
        arguments: &[&str],
    ) -> Command {
        let name = format!("{out}-job");
        let kafka = |topic: &str| format!("{{brokers: [\"{address}\"], topic: {topic}, security: {{{security}}}}}");
        let spec = format!(
            "name: {name}\ninputs: {{a: {{kafka: {}, schema: {{i: bigint}}}}}}\noutputs: {{b: {{kafka: {}}}}}\n\
             query: SELECT i INTO b FROM a\n{lines}",
            kafka(topic),
            kafka(out)
        );
        let job = self.folder.join(format!("{name}.yaml"));
        fs::write(&job, spec).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command
            .args(arguments)
            .arg(&job)
            .stdin(Stdio::null())
            .env("KAFKA_PASSWORD", PASSWORD)
            .env("WRONG_PASSWORD", "hunter2");
        command
    }
}

/// Each mechanism over each listener is `xtask::paths`'s concern; here whole jobs, in and out, by a certificate, a password, a token.
#[test]
fn a_job_runs_over_secured_listeners() {
    let broker = shared();
    let folder = tempfile::tempdir().unwrap();
    let secured = Secured { broker, folder: folder.path() };
    fs::write(folder.path().join("token.jwt"), unsigned_token("alice")).unwrap();
    broker.create_topic("secured", 2, &[]).unwrap();
    broker.produce("secured", (0..100).map(|i| Record::new(i % 2, format!(r#"{{"i":{i}}}"#)))).unwrap();

    let ca = secured.ca();
    let cases = [
        (Listener::Mtls, format!("protocol: mtls, {ca}, {}", secured.client())),
        (Listener::SaslPlaintext, format!("protocol: sasl_plaintext, {}", secured.user("alice", "SCRAM-SHA-512"))),
        (Listener::SaslTls, format!("protocol: sasl_ssl, {ca}, mechanism: OAUTHBEARER, token: {{file: token.jwt}}")),
    ];
    std::thread::scope(|scope| {
        for (number, (listener, security)) in cases.iter().enumerate() {
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

/// The program as it is shipped, Azure's own crates, a key vault under its own name, a listener that wants certificates.
#[test]
fn a_job_runs_over_mtls_from_a_key_vault_by_each_identity() {
    let broker = shared();
    broker.create_topic("vaulted", 2, &[]).unwrap();
    broker.produce("vaulted", (0..100).map(|i| Record::new(i % 2, format!(r#"{{"i":{i}}}"#)))).unwrap();
    let cases = [
        (Way::VirtualMachine, "system"),
        (Way::VirtualMachine, "{client_id: 11111111-1111-1111-1111-111111111111}"),
        (Way::AppService, "system"),
        (Way::Workload, "workload"),
    ];
    std::thread::scope(|scope| {
        for (number, (way, identity)) in cases.into_iter().enumerate() {
            scope.spawn(move || {
                let folder = tempfile::tempdir().unwrap();
                let secured = Secured { broker, folder: folder.path() };
                let azure = Azure::start();
                let security = format!("protocol: mtls, {}", secured.in_vault(&azure));
                let out = format!("vaulted-{number}");
                broker.create_topic(&out, 1, &[]).unwrap();
                let vault = format!("key_vault: {{vault: my-vault, identity: {identity}}}\n");
                let (address, arguments) = (broker.address(Listener::Mtls), ["run", "--bounded"]);
                let mut command = secured.command_with(&vault, "vaulted", &out, &address, &security, &arguments);
                let output = command.envs(azure.environment(way, folder.path())).output().unwrap();
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{way:?} {identity}: {stderr}");
                assert_eq!(broker.read(&out).unwrap().len(), 100, "{way:?} {identity}");
                let requests = azure.stand_in().requests();
                assert!(requests.iter().any(|request| request.line.contains("/secrets/kafka-key")), "{requests:?}");
            });
        }
    });
}

/// As with Event Hubs: the tokens are those of an Azure identity, for a scope.
#[test]
fn a_job_runs_on_tokens_of_an_azure_identity() {
    let broker = shared();
    let folder = tempfile::tempdir().unwrap();
    let secured = Secured { broker, folder: folder.path() };
    broker.create_topic("azured", 1, &[]).unwrap();
    broker.create_topic("azured-out", 1, &[]).unwrap();
    broker.produce("azured", (0..100).map(|i| Record::new(0, format!(r#"{{"i":{i}}}"#)))).unwrap();
    let azure = Azure::start();
    let tokens = "identity: workload, scope: \"https://my-namespace.servicebus.windows.net/.default\"";
    let security = format!("protocol: sasl_ssl, {}, mechanism: OAUTHBEARER, azure: {{{tokens}}}", secured.ca());
    let run = |way| {
        let (address, arguments) = (broker.address(Listener::SaslTls), ["run", "--bounded"]);
        let mut command = secured.command("azured", "azured-out", &address, &security, &arguments);
        let output = command.envs(azure.environment(way, folder.path())).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(Way::Workload);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(broker.read("azured-out").unwrap().len(), 100);
    let requests = azure.stand_in().requests();
    let scope = "scope=https%3A%2F%2Fmy-namespace.servicebus.windows.net%2F.default";
    assert!(requests.iter().any(|request| request.body.contains(scope)), "{requests:?}");
    let (code, said) = run(Way::VirtualMachine);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("input `a`: security `azure`: no token for the workload identity: "), "{said}");
}

#[test]
fn what_a_key_vault_refuses_is_named() {
    let broker = shared();
    let folder = tempfile::tempdir().unwrap();
    let secured = Secured { broker, folder: folder.path() };
    broker.create_topic("refused", 1, &[]).unwrap();
    let azure = Azure::start();
    let security = format!("protocol: mtls, {}", secured.in_vault(&azure));
    let sentence = |identity: &str, way, number: usize| {
        let vault = format!("key_vault: {{vault: my-vault, identity: {identity}}}\n");
        let (out, address) = (format!("refused-{number}"), broker.address(Listener::Mtls));
        let mut command = secured.command_with(&vault, "refused", &out, &address, &security, &["run", "--bounded"]);
        let output = command.envs(azure.environment(way, folder.path())).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let cases = [
        (
            Refusal::NoRole,
            "does not let the system-assigned managed identity (principal `bb-22`) read secrets (403): give it",
        ),
        (
            Refusal::Absent,
            "key vault `my-vault` has no secret `kafka-key`; if it was deleted: az keyvault secret recover",
        ),
        (Refusal::Disabled, "secret `kafka-key` of key vault `my-vault` is disabled: enable it"),
        (Refusal::Expired, "secret `kafka-key` of key vault `my-vault` expired 2020-01-01: set a new one"),
        (Refusal::Unknown, "does not accept the token of the system-assigned managed identity (401)"),
    ];
    for (number, (refusal, expected)) in cases.into_iter().enumerate() {
        azure.refuse("kafka-key", refusal);
        let said = sentence("system", Way::VirtualMachine, number);
        assert!(said.contains("input `a`: security `key`: `{key_vault: kafka-key}`: "), "{said}");
        assert!(said.contains(expected), "{refusal:?}: {said}");
    }
    let said = sentence("workload", Way::AppService, cases.len());
    assert!(said.contains("no token for the workload identity: "), "{said}");
    assert!(said.contains("are `AZURE_CLIENT_ID`, `AZURE_TENANT_ID` and `AZURE_FEDERATED_TOKEN_FILE` set"), "{said}");
}

/// Tokens from an identity provider, checked by Kafka's own validator; in by our own path, out by librdkafka.
#[test]
fn a_job_runs_on_tokens_of_an_identity_provider() {
    let broker = shared();
    let folder = tempfile::tempdir().unwrap();
    let secured = Secured { broker, folder: folder.path() };
    broker.create_topic("granted", 2, &[]).unwrap();
    broker.produce("granted", (0..100).map(|i| Record::new(i % 2, format!(r#"{{"i":{i}}}"#)))).unwrap();
    // Any key will do for the client; it has to be another one than the issuer's.
    let client = broker.certificates().key;
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let provider = Oidc::start(&read(&broker.certificates().issuer_key), &read(&client));
    fs::write(folder.path().join("secret"), Oidc::CLIENT_SECRET).unwrap();
    fs::write(folder.path().join("wrong"), "hunter2").unwrap();
    let security = |proof: &str| {
        let url = provider.token_url();
        let oidc = format!("token_url: \"{url}\", scope: kafka, {proof}");
        format!("protocol: sasl_ssl, {}, mechanism: OAUTHBEARER, oidc: {{{oidc}}}", secured.ca())
    };
    let by_secret = "client_id: tidemill, client_secret: {file: secret}";
    let by_key = format!("client_id: tidemill, key: {{file: {}}}, key_id: k1", client.display());
    let run = |out: &str, security: &str| secured.run("granted", out, &broker.address(Listener::Oidc), security, "10s");
    for (out, security) in [("granted-secret", security(by_secret)), ("granted-key", security(&by_key))] {
        broker.create_topic(out, 1, &[]).unwrap();
        let output = run(out, &security);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{out}: {stderr}");
        assert_eq!(broker.read(out).unwrap().len(), 100, "{out}");
    }
    for (proof, sentence) in [
        (
            "client_id: tidemill, client_secret: {file: wrong}".to_owned(),
            "gives no token to client `tidemill`: invalid_client: who are you?",
        ),
        (by_secret.replace("tidemill", "other-audience"), "it does not take our token (invalid_token): is it for this"),
        (by_secret.replace("secret}", "absent}"), "security `oidc.client_secret`: cannot read secret file"),
    ] {
        let started = Instant::now();
        let output = run("granted-secret", &security(&proof));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(sentence), "{stderr}");
        assert!(started.elapsed() < Duration::from_secs(8), "not retried for the whole wait: {stderr}");
    }
}

#[test]
fn each_fault_is_named() {
    let broker = shared();
    let folder = tempfile::tempdir().unwrap();
    let secured = Secured { broker, folder: folder.path() };
    broker.create_topic("faults", 1, &[]).unwrap();
    let files = broker.certificates();
    let file = |field: &str, path: &Path| format!("{field}: {{file: {}}}", path.display());
    let (ca, client, alice) = (secured.ca(), secured.client(), secured.user("alice", "PLAIN"));
    let strange_ca = file("ca", &files.strange_ca);
    let stranger = [file("certificate", &files.strange_certificate), file("key", &files.strange_key)].join(", ");
    let other_name = broker.address(Listener::SaslTls).replace("127.0.0.1", "localhost");
    let truncated = folder.path().join("truncated.pem");
    let certificate = fs::read_to_string(&files.certificate).unwrap();
    fs::write(&truncated, &certificate[..certificate.len() / 2]).unwrap();
    let wrong = "mechanism: PLAIN, username: alice, password: {env: WRONG_PASSWORD}";

    fs::write(folder.path().join("token.jwt"), unsigned_token("alice")).unwrap();
    let (untrusted, wanted) =
        ("its certificate was signed by nobody in `ca`", "it wants a client certificate that it trusts");
    let (tls_listener, no_sasl) = ("a TLS listener, but the job says plain text", "this listener does not take SASL");
    let sasl_wanted = "does this listener want SASL?";
    let strange_key = [file("certificate", &files.certificate), file("key", &files.strange_key)].join(", ");
    let cut_off = [file("certificate", &truncated), file("key", &files.key)].join(", ");
    let scram = wrong.replace("PLAIN", "SCRAM-SHA-512");
    let bob = secured.user("bob", "PLAIN");
    let token = "mechanism: OAUTHBEARER, token: {file: token.jwt}";
    let cases = [
        (Listener::SaslTls, format!("protocol: sasl_ssl, {strange_ca}, {alice}"), untrusted),
        (Listener::Expired, format!("protocol: sasl_ssl, {ca}, {alice}"), "its certificate has expired"),
        (Listener::Mtls, format!("protocol: mtls, {ca}, {stranger}"), wanted),
        (Listener::Mtls, format!("protocol: sasl_ssl, {ca}, {alice}"), wanted),
        (
            Listener::Plaintext,
            format!("protocol: sasl_ssl, {ca}, {alice}"),
            "a plain-text listener, but the job says TLS",
        ),
        (Listener::SaslTls, "protocol: none".to_owned(), tls_listener),
        (Listener::SaslTls, format!("protocol: sasl_plaintext, {alice}"), tls_listener),
        (
            Listener::Mtls,
            format!("protocol: mtls, {ca}, {cut_off}"),
            "`certificate` is cut off: block 1, `CERTIFICATE`, begins",
        ),
        (Listener::Mtls, format!("protocol: mtls, {ca}, {strange_key}"), "`key` does not belong to `certificate`"),
        (Listener::SaslTls, format!("protocol: sasl_ssl, {ca}, {wrong}"), "wrong user or password"),
        (Listener::SaslPlaintext, format!("protocol: sasl_plaintext, {scram}"), "wrong user or password"),
        (
            Listener::SaslPlaintext,
            format!("protocol: sasl_plaintext, {token}"),
            "it does not offer `OAUTHBEARER`, only",
        ),
        (Listener::SaslPlaintext, "protocol: none".to_owned(), sasl_wanted),
        (Listener::Plaintext, format!("protocol: sasl_plaintext, {alice}"), no_sasl),
        (Listener::Tls, format!("protocol: sasl_ssl, {ca}, {alice}"), no_sasl),
        (Listener::SaslTls, format!("protocol: mtls, {ca}, {client}"), sasl_wanted),
        (
            Listener::SaslTls,
            format!("protocol: sasl_ssl, {ca}, {bob}"),
            "`User:bob` is not allowed to use topic `faults`",
        ),
    ];
    let mut cases: Vec<_> = cases
        .into_iter()
        .map(|(listener, security, sentence)| (broker.address(listener), security, sentence))
        .collect();
    let other_host = "its certificate is for another host";
    cases.push((other_name, format!("protocol: sasl_ssl, {ca}, {alice}"), other_host));
    let silent = [tls_listener, sasl_wanted];
    let judge = |number: usize, (address, security, sentence): &(String, String, &str)| {
        let start = Instant::now();
        // Where a listener says nothing, the time is over before the cause is looked for.
        let wait = if silent.contains(sentence) { "4s" } else { "15s" };
        let output = secured.run("faults", &format!("faults-{number}"), address, security, wait);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!stderr.contains(PASSWORD) && !stderr.contains("hunter2"), "{stderr}");
        let is_named = output.status.code() == Some(1) && stderr.contains(sentence);
        let is_in_time = start.elapsed() < Duration::from_secs(20);
        (!is_named || !is_in_time).then(|| format!("{sentence}: {stderr}"))
    };
    // Some at a time: those that get no answer spend their time waiting.
    let mut wrong = vec![];
    let mut numbered: Vec<_> = cases.iter().enumerate().collect();
    numbered.sort_by_key(|(_, (.., sentence))| !silent.contains(sentence));
    for some in numbered.chunks(6) {
        std::thread::scope(|scope| {
            let judged: Vec<_> = some.iter().map(|(number, case)| scope.spawn(|| judge(*number, case))).collect();
            wrong.extend(judged.into_iter().filter_map(|judged| judged.join().unwrap()));
        });
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_missing_right_names_principal_and_resource() {
    let broker = shared();
    let folder = tempfile::tempdir().unwrap();
    let secured = Secured { broker, folder: folder.path() };
    let security = format!("protocol: sasl_ssl, {}, {}", secured.ca(), secured.user("bob", "SCRAM-SHA-256"));
    let address = broker.address(Listener::SaslTls);
    broker.create_topic("rights", 1, &[]).unwrap();
    broker.produce("rights", [Record::new(0, r#"{"i":1}"#)]).unwrap();
    let refused = |out: &str| {
        let output = secured.command("rights", out, &address, &security, &["run", "--workers", "1"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let command = |operation: &str, resource: &str| {
        format!(
            "kafka-acls --bootstrap-server {address} --add --allow-principal 'User:bob' --operation {operation} {resource}"
        )
    };
    let topic = refused("rights-out");
    assert!(topic.contains("input `a`: `User:bob` is not allowed to use topic `rights`"), "{topic}");
    assert!(topic.contains(&command("Read", "--topic rights")), "{topic}");

    broker.allow("bob", Operation::Read, Resource::Topic("rights")).unwrap();
    broker.create_topic("rights-out", 1, &[]).unwrap();
    let output = refused("rights-out");
    assert!(output.contains("output `b`: `User:bob` is not allowed to use topic `rights-out`"), "{output}");
    assert!(output.contains(&command("Write", "--topic rights-out")), "{output}");

    broker.allow("bob", Operation::Write, Resource::Topic("rights-out")).unwrap();
    let transaction = refused("rights-out");
    let id = "tidemill-rights-out-job";
    let sentence = format!("output `b`: `User:bob` is not allowed to use transactional id `{id}`");
    assert!(transaction.contains(&sentence), "{transaction}");
    assert!(transaction.contains(&command("Write", &format!("--transactional-id {id}"))), "{transaction}");

    let doctor = || {
        let output = secured.command("rights", "rights-out", &address, &security, &["doctor"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let looked = doctor();
    let id_refused = format!("`User:bob` is not allowed to use transactional id `{id}`");
    let found = |looked: &str, mark: char, step: &str, text: &str| {
        looked.lines().any(|line| line.trim().starts_with(&format!("{mark} {step} (")) && line.contains(text))
    };
    let id_step = format!("write as transactional id {id}");
    assert!(found(&looked, '\u{2717}', &id_step, &id_refused), "{looked}");
    assert!(found(&looked, '\u{2713}', "write to topic rights-out", "allowed"), "{looked}");
    let group_refused = "`User:bob` is not allowed to use group `rights-out-job`";
    assert!(found(&looked, '\u{2717}', "commit as group rights-out-job", group_refused), "{looked}");

    broker.allow("bob", Operation::Write, Resource::TransactionalId(id)).unwrap();
    assert!(found(&doctor(), '\u{2713}', &id_step, "allowed"), "{}", doctor());
    let group = refused("rights-out");
    assert!(group.contains("input `a`: `User:bob` is not allowed to use group `rights-out-job`"), "{group}");
    assert!(group.contains(&command("Read", "--group rights-out-job")), "{group}");
}

#[test]
fn the_doctor_shows_each_step_and_the_chain_as_it_was_sent() {
    let broker = shared();
    let folder = tempfile::tempdir().unwrap();
    let secured = Secured { broker, folder: folder.path() };
    broker.create_topic("looked-at", 2, &[]).unwrap();
    broker.create_topic("looked-at-out", 1, &[]).unwrap();
    broker.produce("looked-at", [Record::new(0, r#"{"i":1}"#)]).unwrap();
    let look = |listener, security: &str, format| {
        let address = broker.address(listener);
        let arguments = ["doctor", "--format", format];
        let output = secured.command("looked-at", "looked-at-out", &address, security, &arguments).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr, "");
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), address)
    };
    let (ca, client) = (secured.ca(), secured.client());
    let (code, stdout, _) = look(Listener::Mtls, &format!("protocol: mtls, {ca}, {client}"), "json");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["ok"]), (Some(0), &true.into()), "{stdout}");
    for text in [
        "asks for a client certificate",
        "`CN=broker` for 127.0.0.1, valid until 2100-01-01 00:00 UTC, issued by `CN=tidemill test CA`",
        "no SASL, as `User:CN=client`",
        "2 partitions; the group has positions in 0",
        "1 records, 1 columns",
    ] {
        assert!(stdout.contains(text), "{text}: {stdout}");
    }

    let alice = secured.user("alice", "PLAIN");
    let (code, stdout, address) = look(Listener::Expired, &format!("protocol: sasl_ssl, {ca}, {alice}"), "text");
    assert_eq!(code, Some(1), "{stdout}");
    let cause = "its certificate has expired; `CN=broker` for 127.0.0.1, valid until 2020-01-01 00:00 UTC";
    assert!(stdout.contains(cause), "{stdout}");
    assert!(stdout.starts_with("input `a`\n  \u{2713} security ("), "{stdout}");
    assert!(stdout.contains(&format!("\u{2717} {address}: TLS (")), "{stdout}");
    assert!(!stdout.contains("login"), "what follows a failure is not tried: {stdout}");
}

#[test]
fn the_doctor_looks_at_vault_registry_and_stores() {
    let broker = shared();
    let folder = tempfile::tempdir().unwrap();
    let secured = Secured { broker, folder: folder.path() };
    broker.create_topic("examined", 1, &[]).unwrap();
    broker.create_topic("examined-out", 1, &[]).unwrap();
    let azure = Azure::start();
    let security = format!("security: {{protocol: mtls, {}}}", secured.in_vault(&azure));
    let registry = StandIn::start(&[], |request| match request.line.as_str() {
        "GET /schemas/types HTTP/1.1" => Answer::status(200, r#"["AVRO"]"#),
        _ => Answer::status(403, r#"{"message":"not you"}"#),
    });
    let brokers = format!("brokers: [\"{}\"]", broker.address(Listener::Mtls));
    let job = folder.path().join("examined.yaml");
    let look = |registry: &str| {
        let spec = format!(
            "name: examined\nkey_vault: {{vault: my-vault}}\nstate: {{store: kept}}\n\
             inputs: {{a: {{kafka: {{{brokers}, topic: examined, {security}}}, schema: {{i: bigint}}}}}}\n\
             outputs: {{b: {{kafka: {{{brokers}, topic: examined-out, {security}}}, format: {{avro: {{registry: {{url: \"{registry}\"}}}}}}}}}}\n\
             query: SELECT i INTO b FROM a\n"
        );
        fs::write(&job, spec).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args(["doctor", "--format", "json", "--wait", "2s"]).arg(&job);
        let output = command.envs(azure.environment(Way::AppService, folder.path())).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let report: serde_json::Value =
            serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"));
        let texts = |finding: &serde_json::Value| {
            let text = |field: &str| finding[field].as_str().unwrap().to_owned();
            (finding["ok"].as_bool().unwrap(), format!("{} | {}: {}", text("subject"), text("step"), text("text")))
        };
        let findings: Vec<_> = report["findings"].as_array().unwrap().iter().map(texts).collect();
        (output.status.code(), findings)
    };
    let (code, findings) = look(registry.address());
    assert_eq!(code, Some(0), "{findings:#?}");
    for expected in [
        "key vault `my-vault` | secret kafka-key: read as the system-assigned managed identity".to_owned(),
        "input `a` | commit as group examined: allowed".to_owned(),
        format!("output `b` | registry {}: answers", registry.address()),
        "output `b` | write to topic examined-out: allowed".to_owned(),
        "output `b` | write as transactional id tidemill-examined: allowed".to_owned(),
        format!("state | {}: can be written", folder.path().join("kept").display()),
    ] {
        assert!(findings.contains(&(true, expected.clone())), "{expected}: {findings:#?}");
    }
    azure.refuse("kafka-key", Refusal::Disabled);
    let (code, findings) = look(&format!("{}/elsewhere", registry.address()));
    assert_eq!(code, Some(1));
    let wrong: Vec<_> = findings.into_iter().filter(|(ok, _)| !ok).map(|(_, text)| text).collect();
    let disabled = "secret `kafka-key` of key vault `my-vault` is disabled: enable it, or name another version";
    let reference = "`{key_vault: kafka-key}`";
    assert_eq!(wrong[0], format!("key vault `my-vault` | secret kafka-key: {reference}: {disabled}"));
    assert_eq!(wrong[1], format!("input `a` | security: security `key`: {reference}: {disabled}"));
    assert!(
        wrong[2].starts_with("output `b` | registry ") && wrong[2].ends_with("403 Forbidden: not you"),
        "{wrong:#?}"
    );
}

/// A job that runs on; killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn certificates_that_change_are_taken_up_while_the_job_runs() {
    let broker = shared();
    let folder = tempfile::tempdir().unwrap();
    let secured = Secured { broker, folder: folder.path() };
    for topic in ["rotating", "rotating-out"] {
        broker.create_topic(topic, 2, &[]).unwrap();
    }
    let files = broker.certificates();
    let put = |certificate: &Path, key: &Path| {
        fs::copy(key, folder.path().join("own.key")).unwrap();
        fs::copy(certificate, folder.path().join("own.pem")).unwrap();
    };
    put(&files.certificate, &files.key);
    let own = "certificate: {file: own.pem}, key: {file: own.key}";
    let security = format!("protocol: mtls, {}, {own}, refresh: 200ms", secured.ca());
    let address = broker.address(Listener::Mtls);
    let log = folder.path().join("log");
    let mut command = secured.command("rotating", "rotating-out", &address, &security, &["run"]);
    let mut running = Running(command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap());
    let said = |text: &str| fs::read_to_string(&log).unwrap().contains(text);

    let mut made = 0;
    let mut produce_until = |what: &str, is_so: &dyn Fn() -> bool| {
        let started = Instant::now();
        while !is_so() {
            let text = fs::read_to_string(&log).unwrap();
            assert!(started.elapsed() < Duration::from_secs(30), "waited in vain for {what}: {text}");
            broker
                .produce("rotating", (made..made + 50).map(|i| Record::new(i % 2, format!(r#"{{"i":{i}}}"#))))
                .unwrap();
            made += 50;
        }
    };
    produce_until("rows", &|| !broker.read("rotating-out").unwrap().is_empty());
    // A look takes nothing from the job that runs.
    let looked = secured.command("rotating", "rotating-out", &address, &security, &["doctor"]).output().unwrap();
    assert_eq!(looked.status.code(), Some(0), "{}", String::from_utf8_lossy(&looked.stdout));
    put(&files.strange_certificate, &files.strange_key);
    produce_until("a warning", &|| {
        said("new secrets cannot be used, the job runs on with those it has: input `a`: no broker")
    });
    put(&files.next_certificate, &files.next_key);
    produce_until("the rotation", &|| said("secrets have changed: connections were made anew within "));
    produce_until("more rows", &|| true);

    let rows = || {
        let messages = broker.read("rotating-out").unwrap();
        let number = |value: &[u8]| serde_json::from_slice::<serde_json::Value>(value).unwrap()["i"].as_i64().unwrap();
        let mut numbers: Vec<i64> = messages.iter().map(|message| number(message.payload().unwrap())).collect();
        numbers.sort_unstable();
        numbers
    };
    let started = Instant::now();
    while rows().len() < made as usize && started.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(rows(), (0..i64::from(made)).collect::<Vec<_>>());
    assert!(Command::new("kill").arg(running.0.id().to_string()).status().unwrap().success());
    assert_eq!(running.0.wait().unwrap().code(), Some(0), "{}", fs::read_to_string(&log).unwrap());
}

/// The short form of `cargo xtask rotation`.
#[test]
fn another_authority_is_taken_up_under_load() {
    let binary = Some(env!("CARGO_BIN_EXE_tidemill").into());
    let options = rotation::Options { rate: 5_000, run_for: Duration::from_secs(2), binary };
    let outcome = rotation::run(&options).unwrap();
    println!("{outcome}");
    assert!(outcome.ok(), "{outcome}");
}

/// Whatever a run leaves behind, shows, and says at the most talkative level, holds no secret.
#[test]
fn no_secret_shows_anywhere() {
    const AWS_SECRET: &str = "aws-secret-key-7731";
    let broker = shared();
    let folder = tempfile::tempdir().unwrap();
    let secured = Secured { broker, folder: folder.path() };
    broker.create_topic("marked", 1, &[]).unwrap();
    broker.produce("marked", [Record::new(0, r#"{"i":1}"#), Record::new(0, "{")]).unwrap();
    let token = unsigned_token("alice");
    let planted = [("token.jwt", token.as_str()), ("client.secret", Oidc::CLIENT_SECRET)];
    for (name, content) in planted {
        fs::write(folder.path().join(name), content).unwrap();
    }
    let Certificates { key, issuer_key, .. } = broker.certificates();
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let (azure, provider) = (Azure::start(), Oidc::start(&read(&issuer_key), &read(&key)));
    let vaulted = secured.in_vault(&azure);
    let environment = azure.environment(Way::VirtualMachine, folder.path());
    let begin = |text: &str| URL_SAFE_NO_PAD.encode(text)[..16].to_owned();
    let markers = [
        PASSWORD.to_owned(),
        STANDARD.encode(format!("\0alice\0{PASSWORD}")),
        token.clone(),
        read(&key).lines().nth(1).unwrap().to_owned(),
        "hunter2".to_owned(),
        Oidc::CLIENT_SECRET.to_owned(),
        STANDARD.encode(format!("tidemill:{}", Oidc::CLIENT_SECRET)),
        // How the identity provider's tokens begin, and those for AWS.
        begin(r#"{"alg":"ES256","kid":"#),
        begin("https://kafka.eu-west-1.amazonaws.com/"),
        AWS_SECRET.to_owned(),
        Azure::TOKEN.to_owned(),
    ];

    let (ca, client, alice) = (secured.ca(), secured.client(), secured.user("alice", "PLAIN"));
    let wrong = "mechanism: SCRAM-SHA-256, username: alice, password: {env: WRONG_PASSWORD}";
    let bearer = format!("protocol: sasl_ssl, {ca}, mechanism: OAUTHBEARER");
    let oidc =
        format!("token_url: \"{}\", client_id: tidemill, client_secret: {{file: client.secret}}", provider.token_url());
    let aws = "region: eu-west-1, access_key_id: AKID, secret_access_key: {env: AWS_SECRET}";
    let cases = [
        (Listener::SaslTls, format!("protocol: sasl_ssl, {ca}, {client}, {alice}")),
        (Listener::Mtls, format!("protocol: mtls, {vaulted}")),
        (Listener::SaslTls, format!("{bearer}, token: {{file: token.jwt}}")),
        (Listener::Oidc, format!("{bearer}, oidc: {{{oidc}}}")),
        (Listener::Oidc, format!("protocol: sasl_ssl, {ca}, mechanism: AWS_MSK_IAM, aws: {{{aws}}}")),
        (Listener::SaslTls, format!("protocol: sasl_ssl, {ca}, {wrong}")),
    ];
    let judge = |number: usize, listener: Listener, security: &str| {
        let out = format!("marked-out-{number}");
        broker.create_topic(&out, 1, &[]).unwrap();
        let address = broker.address(listener);
        let command = |arguments: &[&str]| {
            let vault = "key_vault: {vault: my-vault}\n";
            let mut command = secured.command_with(vault, "marked", &out, &address, security, arguments);
            let environment = environment.iter().map(|(name, value)| (name, value));
            command.envs(environment).env("AWS_SECRET", AWS_SECRET);
            command.env("TIDEMILL_LOG", "trace").env("RUST_BACKTRACE", "1");
            command
        };
        for arguments in [&["run", "--bounded", "--workers", "1"][..], &["validate"], &["explain"], &["doctor"]] {
            let output = command(arguments).output().unwrap();
            for text in [output.stdout, output.stderr] {
                assert_shows_none(&String::from_utf8_lossy(&text), &markers);
            }
        }
    };
    std::thread::scope(|scope| {
        for (number, (listener, security)) in cases.iter().enumerate() {
            let judge = &judge;
            scope.spawn(move || judge(number, *listener, security));
        }
    });
    // One that goes on keeps a state, and shows how it does.
    let address = broker.address(Listener::SaslTls);
    let log = folder.path().join("goes-on.log");
    let arguments = ["run", "--metrics", "127.0.0.1:0"];
    let mut command = secured.command("marked", "marked-out-0", &address, &cases[0].1, &arguments);
    let log_file = fs::File::create(&log).unwrap();
    let mut running = Running(command.env("TIDEMILL_LOG", "trace").stderr(log_file).spawn().unwrap());
    let shown = |path: &str| {
        let log = fs::read_to_string(&log).ok()?;
        let (_, rest) = log.split_once("metrics at http://")?;
        let mut socket = TcpStream::connect(rest.split_once('/')?.0).ok()?;
        socket.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
        let mut shown = String::new();
        socket.read_to_string(&mut shown).ok()?;
        Some(shown)
    };
    let started = Instant::now();
    let metrics = loop {
        match shown("/metrics") {
            Some(shown) if folder.path().join("state").exists() && shown.contains("tidemill_secret") => break shown,
            other => assert!(started.elapsed() < Duration::from_secs(30), "{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    for text in [metrics, shown("/healthz").unwrap()] {
        assert_shows_none(&text, &markers);
    }
    assert!(Command::new("kill").arg(running.0.id().to_string()).status().unwrap().success());
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
    let mut left = vec![folder.path().to_owned()];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if !planted.iter().any(|(name, _)| path.ends_with(name)) {
            assert_shows_none(&String::from_utf8_lossy(&fs::read(path).unwrap()), &markers);
        }
    }
}

fn assert_shows_none(text: &str, markers: &[String]) {
    for marker in markers {
        let at = text.find(marker.as_str());
        assert!(at.is_none(), "a secret shows behind: {}", &text[at.unwrap().saturating_sub(200)..at.unwrap()]);
    }
}
