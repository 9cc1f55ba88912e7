//! Why a session could not answer.

use tidemill_engine::{EngineError, ErrorKind};
use tidemill_queries::{QueryErrors, bounded::AnswerError};

use crate::{run::RunError, spec::SpecErrors};

/// An error of a session.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The question has mistakes, as far as they show without a connection.
    #[error("{0}")]
    Question(QueryErrors),
    /// The question has mistakes, or its rows cannot be computed or read.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// A topic or a file cannot be read or written.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A continuous question ended early.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The options do not make an input.
    #[error(transparent)]
    Spec(#[from] SpecErrors),
}

impl SqlError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Question(_) | Self::Spec(_) => ErrorKind::User,
            Self::Answer(error) => error.kind(),
            Self::Engine(error) => error.kind(),
            Self::Run(error) => error.kind(),
        }
    }

    /// The mistakes of the question, if it has some.
    #[must_use]
    pub fn mistakes(&self) -> Option<&QueryErrors> {
        match self {
            Self::Question(errors) | Self::Answer(AnswerError::Question(errors)) => Some(errors),
            Self::Run(RunError::Query { errors, .. }) => Some(errors),
            _ => None,
        }
    }
}
