//! Apache Flink on this machine: a JobManager, a TaskManager and the gateway that takes SQL, each a process of its own.
//!
//! Configured at its best for what is measured: object reuse, state on the heap, no checkpoints, the parallel collector, 4 GiB for
//! the TaskManager, divided as Flink's own scripts divide it. Its files come through pip and maven, once, into the user's cache.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::process::{self, Usage};
use crate::cache::{cached, maven_copy};
use crate::http::ask;
use crate::keeper::{Kept, free_ports};

pub(super) const VERSION: &str = "2.2.1";
pub(super) const CONNECTOR_VERSION: &str = "5.0.0-2.2";

/// What Flink is not shipped with: the gateway; the format Avro and what that needs.
const JARS: [&str; 6] = [
    "org.apache.flink:flink-sql-gateway:VERSION",
    "org.apache.flink:flink-avro:VERSION",
    "org.apache.avro:avro:1.11.4",
    "com.fasterxml.jackson.core:jackson-annotations:2.18.2",
    "com.fasterxml.jackson.core:jackson-core:2.18.2",
    "com.fasterxml.jackson.core:jackson-databind:2.18.2",
];

/// Far longer than a start or a job takes.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(10);

/// The processes: each has a folder of its own, with its log in it.
const JOB_MANAGER: &str = "job-manager";
const TASK_MANAGER: &str = "task-manager";
const GATEWAY: &str = "gateway";
const LOG: &str = "log";
/// What a row begins with that the table `print` writes to the TaskManager's stdout.
const PRINTED: &str = "+I[";
/// That stands among the first so many bytes of the log.
const LOG_HEAD_BYTES: u64 = 1 << 16;

/// Packages of Java itself that Flink looks into, as in the configuration that it is shipped with.
const OPENED: [&str; 11] = [
    "lang",
    "lang.reflect",
    "io",
    "net",
    "nio",
    "text",
    "time",
    "util",
    "util.concurrent",
    "util.concurrent.atomic",
    "util.concurrent.locks",
];

/// A running cluster; stopped and removed when dropped.
#[derive(Debug)]
pub(super) struct Flink {
    rest_port: u16,
    gateway_port: u16,
    job_manager: Kept,
    task_manager: Kept,
    gateway: Kept,
    // After the processes: fields are dropped in this order.
    dir: TempDir,
}

/// A statement that makes a job, and those before it.
pub(super) struct Job {
    pub(super) before: Vec<String>,
    pub(super) statement: String,
}

/// The directory of Flink's jars, fetched when it is not there.
///
/// # Errors
/// When pip or maven are missing or fail, or the cache cannot be written.
pub(super) fn files() -> Result<PathBuf> {
    cached(&format!("flink-{VERSION}-avro"), |download| {
        fetch(download).with_context(|| format!("cannot fetch Apache Flink {VERSION}"))
    })
}

/// Has pip install Flink's own jars, which are not in Maven's repository, and maven copy the others.
fn fetch(download: &Path) -> Result<PathBuf> {
    eprintln!("fetching Apache Flink {VERSION} through pip and maven, once (some 330 MB) ...");
    let python = download.join("python");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]).arg(&python);
    let output = run(pip.arg(format!("apache-flink-libraries=={VERSION}")), "python3-pip")?;
    ensure!(output.status.success(), "`pip` failed:\n{}", String::from_utf8_lossy(&output.stderr));
    let (installed, files) = (python.join("pyflink"), download.join("flink"));
    fs::create_dir(&files)?;
    fs::rename(installed.join("lib"), files.join("lib"))?;
    fs::rename(installed.join("bin/bash-java-utils.jar"), files.join("bash-java-utils.jar"))?;
    JARS.iter().try_for_each(|jar| maven_copy(&jar.replace("VERSION", VERSION), &files.join("lib")))?;
    maven_copy(&format!("org.apache.flink:flink-sql-connector-kafka:{CONNECTOR_VERSION}"), &files.join("lib"))?;
    Ok(files)
}

impl Flink {
    /// Starts a cluster and waits until it takes jobs.
    ///
    /// # Errors
    /// When its files cannot be had, a process ends, or not all of them answer in time; with the ends of their logs.
    pub(super) fn start() -> Result<Self> {
        let files = files()?;
        let dir = tempfile::Builder::new().prefix("tidemill-flink-").tempdir()?;
        let [rpc_port, rest_port, gateway_port] = free_ports()?;
        let conf = dir.path().join("conf"); // where the gateway looks of itself: beside its own folder
        fs::create_dir(&conf)?;
        fs::write(conf.join("config.yaml"), configuration(rpc_port, rest_port, gateway_port))?;

        let start = |name: &str, class: &str, jvm: &[String], arguments: &[String]| {
            let folder = dir.path().join(name);
            fs::create_dir(&folder)?;
            let mut java = Command::new("java");
            java.args(jvm).args(OPENED.map(|package| format!("--add-opens=java.base/java.{package}=ALL-UNNAMED")));
            java.args(["--add-opens=java.base/sun.nio.ch=ALL-UNNAMED", "-cp"]).arg(files.join("lib/*"));
            java.arg(format!("org.apache.flink.{class}")).args(arguments);
            Kept::start(&folder, &java, LOG)
        };
        let configured = ["--configDir".to_owned(), conf.display().to_string()];
        let session = "runtime.entrypoint.StandaloneSessionClusterEntrypoint";
        let job_manager = start(JOB_MANAGER, session, &["-Xmx768m".to_owned()], &configured)?;
        let gateway = start(GATEWAY, "table.gateway.SqlGateway", &["-Xmx512m".to_owned()], &[])?;
        let [mut jvm, memory] = task_manager_memory(&files, &configured)?;
        jvm.push("-XX:+UseParallelGC".to_owned());
        let arguments = [&configured[..], &memory].concat();
        let task_manager = start(TASK_MANAGER, "runtime.taskexecutor.TaskManagerRunner", &jvm, &arguments)?;

        let mut flink = Self { rest_port, gateway_port, job_manager, task_manager, gateway, dir };
        flink.wait_until_ready()?;
        Ok(flink)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            let overview = ask(self.rest_port, "GET", "/overview", None);
            let has_workers = overview.is_ok_and(|overview| overview["taskmanagers"] == 1);
            if has_workers && ask(self.gateway_port, "GET", "/v3/info", None).is_ok() {
                return Ok(());
            }
            for keeper in [&mut self.task_manager.keeper, &mut self.job_manager.keeper, &mut self.gateway.keeper] {
                let has_ended = keeper.try_wait()?.is_some();
                ensure!(!has_ended, "a process of Flink has ended:\n{}", logs(self.dir.path()));
            }
            ensure!(started.elapsed() < PATIENCE, "Flink does not answer:\n{}", logs(self.dir.path()));
            thread::sleep(LOOK);
        }
    }

    /// Runs a job to its end: the wall time in which it runs, as the JobManager says; CPU time and memory of the TaskManager alone.
    ///
    /// # Errors
    /// When a statement is refused or the job fails.
    pub(super) fn run(&self, job: &Job) -> Result<Usage> {
        let task_manager = self.task_manager.server;
        process::forget_peak(task_manager)?;
        let (_, before) = process::cpu(task_manager)?;
        let id = self.submit(job)?;
        let started = Instant::now();
        let path = format!("/jobs/{id}");
        loop {
            let status = ask(self.rest_port, "GET", &path, None)?;
            match status["state"].as_str() {
                Some("FINISHED") => {
                    let time = |state: &str| status["timestamps"][state].as_u64().context("the job has no times");
                    let wall = Duration::from_millis(time("FINISHED")? - time("RUNNING")?);
                    let cpu = process::cpu(task_manager)?.1 - before;
                    return Ok(Usage { wall, cpu, peak_bytes: process::peak_bytes(task_manager)? });
                }
                Some("FAILED" | "CANCELED") => {
                    let why = ask(self.rest_port, "GET", &format!("{path}/exceptions"), None)?;
                    bail!("Flink's job failed: {why}");
                }
                _ => ensure!(started.elapsed() < PATIENCE, "Flink's job does not end"),
            }
            thread::sleep(LOOK);
        }
    }

    /// Starts a job whose table is `print`, and waits for its first row.
    ///
    /// # Errors
    /// When a statement is refused or no row comes.
    pub(super) fn first_row(&self, job: &Job) -> Result<()> {
        self.submit(job)?;
        let started = Instant::now();
        loop {
            let mut head = vec![];
            File::open(self.dir.path().join(TASK_MANAGER).join(LOG))?.take(LOG_HEAD_BYTES).read_to_end(&mut head)?;
            if String::from_utf8_lossy(&head).contains(PRINTED) {
                return Ok(());
            }
            ensure!(started.elapsed() < PATIENCE, "Flink prints no row:\n{}", logs(self.dir.path()));
            thread::sleep(LOOK);
        }
    }

    /// Starts a job; gives its id. Each has a session of its own, and so tables of its own.
    fn submit(&self, job: &Job) -> Result<String> {
        let session = ask(self.gateway_port, "POST", "/v3/sessions", Some(&json!({})))?;
        let session = format!("/v3/sessions/{}", session["sessionHandle"].as_str().context("no session")?);
        for statement in &job.before {
            self.execute(&session, statement)?;
        }
        let result = self.execute(&session, &job.statement)?;
        Ok(result["jobID"].as_str().with_context(|| format!("`{}` made no job: {result}", job.statement))?.to_owned())
    }

    fn execute(&self, session: &str, statement: &str) -> Result<Value> {
        let refused = || format!("Flink does not take `{statement}`");
        let body = json!({"statement": statement});
        let operation = ask(self.gateway_port, "POST", &format!("{session}/statements"), Some(&body))?;
        let operation = operation["operationHandle"].as_str().with_context(refused)?;
        let operation = format!("{session}/operations/{operation}");
        let started = Instant::now();
        loop {
            let status = ask(self.gateway_port, "GET", &format!("{operation}/status"), None)?;
            if matches!(status["status"].as_str(), Some("FINISHED" | "ERROR")) {
                return ask(self.gateway_port, "GET", &format!("{operation}/result/0"), None).with_context(refused);
            }
            ensure!(started.elapsed() < PATIENCE, "Flink does not answer to `{statement}`");
            thread::sleep(LOOK);
        }
    }
}

/// The ends of the logs of all processes.
fn logs(dir: &Path) -> String {
    let end = |name: &str| {
        let log = fs::read_to_string(dir.join(name).join(LOG)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("{name}:\n{}\n", lines[lines.len().saturating_sub(20)..].join("\n"))
    };
    [JOB_MANAGER, TASK_MANAGER, GATEWAY].map(end).concat()
}

fn configuration(rpc_port: u16, rest_port: u16, gateway_port: u16) -> String {
    format!(
        "jobmanager.rpc.address: 127.0.0.1
jobmanager.rpc.port: {rpc_port}
rest.address: 127.0.0.1
rest.port: {rest_port}
sql-gateway.endpoint.rest.address: 127.0.0.1
sql-gateway.endpoint.rest.port: {gateway_port}
execution.target: remote
taskmanager.host: 127.0.0.1
taskmanager.memory.process.size: 4096m
taskmanager.numberOfTaskSlots: 2
pipeline.object-reuse: true
state.backend.type: hashmap
restart-strategy.type: disable
web.refresh-interval: 100
"
    )
}

/// How the TaskManager divides its memory: arguments of its JVM, and its own.
fn task_manager_memory(files: &Path, configured: &[String]) -> Result<[Vec<String>; 2]> {
    let mut java = Command::new("java");
    java.arg("-cp").arg(format!("{}:{}", files.join("bash-java-utils.jar").display(), files.join("lib/*").display()));
    java.args(["org.apache.flink.runtime.util.bash.BashJavaUtils", "GET_TM_RESOURCE_PARAMS"]).args(configured);
    let output = run(&mut java, "default-jre-headless")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let results = text.lines().filter_map(|line| line.strip_prefix("BASH_JAVA_UTILS_EXEC_RESULT:"));
    let arguments: Vec<Vec<String>> =
        results.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
    let Ok(arguments) = <[_; 2]>::try_from(arguments) else {
        bail!("Flink does not divide the memory:\n{text}{}", String::from_utf8_lossy(&output.stderr));
    };
    Ok(arguments)
}

/// Runs a program that a package of Debian has.
fn run(command: &mut Command, package: &str) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{program}` (Debian package `{package}`)"))
}
