//! Looks at everything that a job connects to, step by step, without running it.

use std::{collections::BTreeSet, error::Error, fs, path::Path, sync::Arc, time::Duration};

use tidemill_certs::SecretRef;
use tidemill_connectors::{
    formats::encode::JsonEncoder,
    kafka::{KafkaConnection, KafkaSink, OnRejected, Right, Security, SecuritySettings, SinkSettings, probe},
};

use super::{
    RunOptions,
    inputs::ConnectedInput,
    outputs::transactional_id,
    registry,
    security::{Secrets, in_a_line},
};
use crate::{
    epoch::store::Store,
    spec::{Delivery, Input, InputTransport, Job, KafkaOutput, Output, OutputTransport, Registry, StateStore},
};

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Whose it is: "input `clicks`", "state".
    pub subject: String,
    /// What was tried.
    pub step: String,
    /// What was found, or why it failed.
    pub outcome: Result<String, String>,
    /// How long it took.
    pub took: Duration,
}

/// Looks at a job's secrets, brokers, topics, group, outputs and directories. `each` gets a finding as soon as it is there.
/// What follows from a step that failed is not tried. Returns whether all is well.
pub fn doctor(job: &Job, options: &RunOptions, each: &mut dyn FnMut(Finding)) -> bool {
    let secrets = Arc::new(Secrets::new(job.key_vault.clone()));
    let mut doctor = Doctor { job, options, secrets, each, is_well: true };
    doctor.key_vault();
    for input in &job.inputs {
        doctor.input(input);
    }
    for output in job.destinations() {
        doctor.output(output);
    }
    match &job.state.store {
        StateStore::Directory(path) => doctor.directory("state", path),
        bucket @ StateStore::Url(_) => doctor.bucket("state", bucket),
    }
    doctor.is_well
}

struct Doctor<'a> {
    job: &'a Job,
    options: &'a RunOptions,
    secrets: Arc<Secrets>,
    each: &'a mut dyn FnMut(Finding),
    is_well: bool,
}

impl Doctor<'_> {
    /// Each secret of the job that is in the key vault.
    fn key_vault(&mut self) {
        let Some(vault) = &self.job.key_vault else { return };
        let of_inputs = self.job.inputs.iter().filter_map(|input| match &input.transport {
            InputTransport::Kafka(kafka) => Some(&kafka.security),
            InputTransport::File(_) => None,
        });
        let of_outputs = self.job.destinations().filter_map(|output| match &output.transport {
            OutputTransport::Kafka(kafka) => Some(&kafka.security),
            _ => None,
        });
        let of_registries = self.job.inputs.iter().filter_map(|input| input.format.registry());
        let of_registries = of_registries.chain(self.job.destinations().filter_map(|output| output.format.registry()));
        let references = of_inputs.chain(of_outputs).flat_map(|security| security.references());
        let names: BTreeSet<&String> = references
            .chain(of_registries.flat_map(Registry::references))
            .filter_map(|reference| if let SecretRef::KeyVault(name) = reference { Some(name) } else { None })
            .collect();
        let (subject, secrets) = (format!("key vault `{}`", vault.vault), Arc::clone(&self.secrets));
        for name in names {
            self.step(&subject, format!("secret {name}"), || {
                secrets.store.fetch(&SecretRef::KeyVault(name.clone()))?;
                Ok(((), format!("read as {}", vault.identity)))
            });
        }
    }

    /// Whether a registry answers.
    fn registry(&mut self, subject: &str, registry: &Registry) -> Option<()> {
        let (secrets, options) = (Arc::clone(&self.secrets), self.options);
        self.step(subject, format!("registry {}", registry.url), || {
            registry::client(registry, &secrets, options)?.check()?;
            Ok(((), "answers".to_owned()))
        })
    }

    /// Whether the cluster lets us do something.
    fn right(&mut self, subject: &str, what: String, right: Right<'_>, connection: &KafkaConnection) {
        let options = self.options;
        self.step(subject, what, || {
            let given = right.is_given(connection, &options.clock, options.wait)?;
            Ok(((), given.map_or("the cluster does not tell", |()| "allowed").to_owned()))
        });
    }

    fn input(&mut self, input: &Input) {
        let subject = format!("input `{}`", input.name);
        if let InputTransport::Kafka(kafka) = &input.transport {
            let Some(security) = self.cluster(&subject, &kafka.brokers, &kafka.security) else { return };
            let connection = KafkaConnection { brokers: kafka.brokers.clone(), security };
            if input.reference.is_none() {
                self.right(
                    &subject,
                    format!("commit as group {}", kafka.group),
                    Right::Group(&kafka.group),
                    &connection,
                );
            }
        }
        if let Some(registry) = input.format.registry()
            && self.registry(&subject, registry).is_none()
        {
            return;
        }
        let what = match &input.transport {
            InputTransport::Kafka(kafka) => format!("topic {}, group {}", kafka.topics.join(", "), kafka.group),
            InputTransport::File(file) => file.path.display().to_string(),
        };
        let (job, options, secrets) = (self.job, self.options, Arc::clone(&self.secrets));
        let connected = self.step(&subject, what, || {
            let connected = ConnectedInput::connect(job, input, &secrets, options)?;
            let found = connected.describe()?;
            Ok((connected, found))
        });
        let Some(connected) = connected else { return };
        self.step(&subject, "sample".to_owned(), || {
            let found = match connected.infer()? {
                Some((schema, Some(records))) => format!("{records} records, {} columns", schema.fields().len()),
                Some((schema, None)) => format!("{} columns by its schema", schema.fields().len()),
                None => "no records yet".to_owned(),
            };
            Ok(((), found))
        });
    }

    fn output(&mut self, output: &Output) {
        let subject = format!("output `{}`", output.name);
        if let Some(registry) = output.format.registry() {
            self.registry(&subject, registry);
        }
        match &output.transport {
            OutputTransport::Kafka(kafka) => self.kafka_output(&subject, &output.name, kafka),
            OutputTransport::File(file) => self.directory(&subject, &file.path),
            OutputTransport::Stdout | OutputTransport::Discard => {}
        }
    }

    fn kafka_output(&mut self, subject: &str, name: &str, kafka: &KafkaOutput) {
        let Some(security) = self.cluster(subject, &kafka.brokers, &kafka.security) else { return };
        let settings = SinkSettings {
            output: name.to_owned(),
            connection: KafkaConnection { brokers: kafka.brokers.clone(), security },
            topic: kafka.topic.clone(),
            key: kafka.key.clone(),
            queue_kib: 64,
        };
        let (options, connection) = (self.options, settings.connection.clone());
        let found = self.step(subject, format!("topic {}", kafka.topic), || {
            let clock = options.clock.as_ref();
            KafkaSink::connect(settings, Box::new(JsonEncoder), OnRejected::Stop, clock, options.wait)?;
            Ok(((), "exists".to_owned()))
        });
        if found.is_none() {
            return;
        }
        self.right(subject, format!("write to topic {}", kafka.topic), Right::Topic(&kafka.topic), &connection);
        if kafka.delivery == Delivery::ExactlyOnce {
            let id = transactional_id(self.job);
            self.right(subject, format!("write as transactional id {id}"), Right::TransactionalId(&id), &connection);
        }
    }

    /// The secrets, then each broker; the security when one of them lets us in.
    fn cluster(&mut self, subject: &str, brokers: &[String], settings: &SecuritySettings) -> Option<Security> {
        let (secrets, options) = (Arc::clone(&self.secrets), self.options);
        let security = self.step(subject, "security".to_owned(), || {
            let security = settings.resolve(&secrets.store, &options.clock)?;
            let mut found = security.protocol().to_owned();
            if let Some(tls) = &security.tls {
                for expiry in tls.expiries() {
                    found += &format!("; {expiry}");
                }
                for note in tls.notes() {
                    found += &format!("; {note}");
                }
            }
            Ok((security, found))
        })?;
        let mut lets_us_in = false;
        for broker in brokers {
            match probe(broker, &security, &self.options.clock, self.options.wait) {
                Ok(steps) => {
                    lets_us_in |= steps.last().is_some_and(|step| step.what == "login" && step.outcome.is_ok());
                    for step in steps {
                        let what = format!("{broker}: {}", step.what);
                        self.tell(subject, what, step.outcome, step.took);
                    }
                }
                Err(fault) => self.tell(subject, broker.clone(), Err(fault.to_string()), Duration::ZERO),
            }
        }
        lets_us_in.then_some(security)
    }

    /// Whether a file can be made there; none is left behind.
    fn directory(&mut self, subject: &str, path: &Path) {
        self.step(subject, path.display().to_string(), || {
            let probe = path.join(format!(".doctor-{}", std::process::id()));
            fs::create_dir_all(path)?;
            fs::write(&probe, b"")?;
            fs::remove_file(&probe)?;
            Ok(((), "can be written".to_owned()))
        });
    }

    /// Whether a bucket can be read and written.
    fn bucket(&mut self, subject: &str, bucket: &StateStore) {
        let job = self.job;
        self.step(subject, bucket.to_string(), || {
            let store = Store::open(bucket, &job.name)?;
            let snapshots = store.snapshots(false)?;
            store.check_writable()?;
            Ok(((), format!("can be read and written; {} snapshots", snapshots.len())))
        });
    }

    fn step<T>(
        &mut self,
        subject: &str,
        step: String,
        look: impl FnOnce() -> Result<(T, String), Box<dyn Error>>,
    ) -> Option<T> {
        let clock = self.options.clock.as_ref();
        let begun = clock.monotonic();
        let looked = look();
        let took = Duration::from_micros(u64::try_from(clock.monotonic().0 - begun.0).unwrap_or(0));
        let (value, outcome) = match looked {
            Ok((value, found)) => (Some(value), Ok(found)),
            Err(error) => (None, Err(in_a_line(error.as_ref()))),
        };
        self.tell(subject, step, outcome, took);
        value
    }

    fn tell(&mut self, subject: &str, step: String, outcome: Result<String, String>, took: Duration) {
        self.is_well &= outcome.is_ok();
        (self.each)(Finding { subject: subject.to_owned(), step, outcome, took });
    }
}
