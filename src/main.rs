//! `tidemill`: windowed SQL over Kafka in one binary.
//!
//! Everything that belongs to a process and not to a job is here: the command line ([`cli`], [`commands`]), the clock, the
//! signals, what is logged and shown ([`logging`], [`report`]), and how it ends ([`failure`]). The work is done in
//! `tidemill-jobs`.

mod cli;
mod clock;
mod commands;
mod failure;
mod logging;
mod report;
mod signals;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    keep_freed_memory();
    failure::hush_panics();
    match commands::execute(cli::Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Memory that was freed stays for what comes next. glibc gives it back as soon as 128 KiB at the end of a heap are free, and the
/// next batch takes its pages anew, each with a page fault.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_freed_memory() {
    const KEPT_BYTES: libc::c_int = 64 << 20;
    // It grows by itself only as long as nothing is set; below it are the columns of a batch.
    const LEAST_MAPPED_BYTES: libc::c_int = 4 << 20;
    // SAFETY: they set numbers of the allocator, and no other thread runs yet.
    #[allow(unsafe_code, reason = "the C library has no other way to be told")]
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LEAST_MAPPED_BYTES);
    }
}
