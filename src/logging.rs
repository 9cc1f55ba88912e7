//! Log lines on stderr. The level is `info`; the variable `TIDEMILL_LOG` sets another (`debug`, `librdkafka=debug`).

use tracing_subscriber::filter::{EnvFilter, LevelFilter};

use crate::{
    cli::LogFormat,
    terminal::{self, OverStatus},
};

/// Begins logging; called once.
pub(crate) fn init(format: LogFormat) {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var("TIDEMILL_LOG")
        .from_env_lossy();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(|| OverStatus);
    match format {
        LogFormat::Text => log.with_ansi(terminal::is_watched()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
