//! The engine's error type.

use arrow::error::ArrowError;
use datafusion_common::DataFusionError;

/// Result of the engine's calls.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// What a caller can do about an error; callers act on this, never on the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The job or its surroundings must be changed.
    User,
    /// These rows cannot be processed; others can.
    Data,
    /// Something is away that may come back: retry with backoff.
    Unavailable,
    /// A fault of ours.
    Bug,
}

/// An error of the dataflow, its sources or its sinks.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// An expression failed on the rows at hand, e.g. a CAST of a value that does not fit.
    #[error("cannot evaluate `{expression}`")]
    Evaluate {
        /// The expression as text.
        expression: String,
        /// DataFusion's reason.
        #[source]
        source: DataFusionError,
    },
    /// DataFusion refused something outside an expression.
    #[error("dataflow")]
    DataFusion(#[from] DataFusionError),
    /// Arrow refused something.
    #[error("columns")]
    Arrow(#[from] ArrowError),
    /// A source cannot go on.
    #[error("input `{input}`: {message}")]
    Source {
        /// Name of the input in the spec.
        input: String,
        /// What the caller can do.
        kind: ErrorKind,
        /// What happened and what to do, one sentence each.
        message: String,
    },
    /// A sink did not take rows.
    #[error("output `{output}`: {message}")]
    Sink {
        /// Name of the output in the spec.
        output: String,
        /// What the caller can do.
        kind: ErrorKind,
        /// What happened and what to do, one sentence each.
        message: String,
    },
    /// What was written since the last epoch is void, and this run cannot write any more; a run that begins at that epoch can.
    #[error("output `{output}`: {message}")]
    Interrupted {
        /// Name of the output in the spec.
        output: String,
        /// What happened.
        message: String,
    },
    /// Another run seems to have taken this one's place at the output.
    #[error("output `{output}`: {message}")]
    TakenOver {
        /// Name of the output in the spec.
        output: String,
        /// What happened.
        message: String,
    },
    /// Nobody reads this output any more (a closed pipe): the job ends as if it had been asked to.
    #[error("output `{output}`: its reader is gone")]
    ReaderGone {
        /// Name of the output in the spec.
        output: String,
    },
    /// What operators keep has reached its bound: no watermark has let it go.
    #[error(
        "{step} keeps so much that the state of the job is {} MiB, of {} MiB that it may take: raise `memory`, or let it keep less, \
         by shorter windows or fewer keys", mib(.held_bytes), mib(.limit_bytes)
    )]
    OutOfMemory {
        /// The step that took more, in words.
        step: String,
        /// What is kept, or would be.
        held_bytes: u64,
        /// What may be kept.
        limit_bytes: u64,
    },
    /// A snapshot does not belong to this operator.
    #[error("state does not fit operator `{operator}`: {message}")]
    State {
        /// The operator that was to be restored.
        operator: String,
        /// What was found and what was expected.
        message: String,
    },
}

/// Rounded up.
fn mib(bytes: &u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

impl EngineError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Evaluate { .. } => ErrorKind::Data,
            Self::DataFusion(_) | Self::Arrow(_) => ErrorKind::Bug,
            Self::Source { kind, .. } | Self::Sink { kind, .. } => *kind,
            Self::Interrupted { .. } => ErrorKind::Unavailable,
            Self::TakenOver { .. } | Self::ReaderGone { .. } | Self::State { .. } | Self::OutOfMemory { .. } => {
                ErrorKind::User
            }
        }
    }
}
