//! Why a run ended early.

use tidemill_engine::{EngineError, ErrorKind};
use tidemill_queries::QueryErrors;

use crate::{
    epoch::{decide::Stop, store::StoreError},
    spec::Query,
};

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
    /// Going on would lose or repeat something.
    #[error(transparent)]
    Stopped(Stop),
    /// Of a scheduled range a part was run, while the schedule was another.
    #[error(
        "{range} overlaps {ran}, which was run when the schedule was another: its records would be written twice; backfill the time around it"
    )]
    Overlap {
        /// From instant to instant.
        range: String,
        /// The range that was run.
        ran: String,
    },
    /// Another run of the job has taken over.
    #[error("{0}")]
    Replaced(String),
    /// A thread ended by a fault of ours.
    #[error("{thread} panicked: {message}; please report this as a bug")]
    Panicked {
        /// Which thread.
        thread: String,
        /// The panic's message.
        message: String,
    },
}

impl From<StoreError> for RunError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Failed { place, message } => Self::State { path: place, message },
            replaced @ StoreError::Replaced { .. } => Self::Replaced(replaced.to_string()),
        }
    }
}

impl RunError {
    /// Whether it is an input that cannot be read.
    pub(super) fn is_of_an_input(&self) -> bool {
        matches!(self, Self::Engine(EngineError::Source { .. }))
    }

    /// Whether a run that begins at the last epoch can go on where this one could not.
    #[must_use]
    pub fn is_interruption(&self) -> bool {
        matches!(self, Self::Engine(EngineError::Interrupted { .. }))
    }

    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Query { .. } | Self::Stopped(_) | Self::Overlap { .. } | Self::Replaced(_) => ErrorKind::User,
            Self::State { .. } => ErrorKind::Unavailable,
            Self::Engine(error) => error.kind(),
            Self::Panicked { .. } => ErrorKind::Bug,
        }
    }
}
