//! Log lines on stderr. The level is `info`; the variable `TIDEMILL_LOG` sets another (`debug`, `librdkafka=debug`).

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    cli::LogFormat,
    terminal::{self, OverStatus},
};

/// Begins logging; called once.
pub(crate) fn init(format: LogFormat) {
    #[expect(clippy::disallowed_methods, reason = "a developer's switch, not a setting of a job")]
    let wanted = std::env::var("TIDEMILL_LOG").ok();
    let levels = wanted.and_then(|text| text.parse::<Targets>().ok());
    let levels = levels.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer().with_target(false).with_writer(|| OverStatus);
    let log = tracing_subscriber::registry().with(levels);
    match format {
        LogFormat::Text => log.with(lines.with_ansi(terminal::is_watched())).init(),
        LogFormat::Json => log.with(lines.json().flatten_event(true)).init(),
    }
}
