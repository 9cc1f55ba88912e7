//! Why a run ended early.

use tidemill_engine::{EngineError, ErrorKind};
use tidemill_queries::QueryErrors;

use crate::spec::Query;

/// An error of a run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The query does not fit the inputs and outputs.
    #[error("{}", errors.render(&query.text, &query.file))]
    Query {
        /// The query, for its text.
        query: Box<Query>,
        /// Its mistakes.
        errors: QueryErrors,
    },
    /// A source, an operator or a sink cannot go on.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The state directory cannot be used.
    #[error("state `{path}`: {message}")]
    State {
        /// The file or directory.
        path: String,
        /// What happened and what to do.
        message: String,
    },
    /// A thread ended by a fault of ours.
    #[error("{thread} panicked: {message}; please report this as a bug")]
    Panicked {
        /// Which thread.
        thread: String,
        /// The panic's message.
        message: String,
    },
}

impl RunError {
    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Query { .. } | Self::State { .. } => ErrorKind::User,
            Self::Engine(error) => error.kind(),
            Self::Panicked { .. } => ErrorKind::Bug,
        }
    }
}
