//! Ctrl-C and SIGTERM: the first asks the run to end, the second ends the process.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

/// Exit code of a second signal: what shells give for SIGINT.
const LEFT_AT_ONCE: i32 = 130;

/// From now on each Ctrl-C sets `stop`; SIGTERM ends the process. For a prompt, which outlives its questions.
///
/// # Errors
/// When the thread or its signal handlers cannot be set up.
pub(crate) fn set_on_each_interrupt(stop: Arc<AtomicBool>) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let mut interrupt = {
        let _entered = runtime.enter();
        signal(SignalKind::interrupt())?
    };
    let wait = async move {
        while interrupt.recv().await.is_some() {
            stop.store(true, Ordering::Relaxed);
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || runtime.block_on(wait))?;
    Ok(())
}

/// From now on signals set `stop`; the thread that waits for them lives as long as the process.
///
/// # Errors
/// When the thread or its signal handlers cannot be set up.
pub(crate) fn set_on_signal(stop: Arc<AtomicBool>) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let wait = async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        next().await;
        tracing::info!("stopping: finishing what is in hand; once more leaves at once");
        stop.store(true, Ordering::Relaxed);
        next().await;
        tracing::warn!("left at once");
        std::process::exit(LEFT_AT_ONCE);
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || runtime.block_on(wait))?;
    Ok(())
}
