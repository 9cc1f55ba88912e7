//! What can go wrong with a question, and DataFusion's errors with their places.

use datafusion::common::{Column, DataFusionError, Diagnostic, SchemaError};
use sqlparser::tokenizer::{Location, Span};
use tidemill_engine::{EngineError, ErrorKind};

use crate::error::{QueryError, QueryErrors, reason};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The question has mistakes.
    #[error("{0}")]
    Question(#[from] QueryErrors),
    /// What it reads cannot be read.
    #[error("{message}")]
    Log {
        /// What a caller can do about it.
        kind: ErrorKind,
        /// What happened.
        message: String,
    },
    /// A value at hand cannot be computed with: a division by zero, a CAST of what does not fit.
    #[error("cannot compute an answer: {message}")]
    Compute {
        /// What happened.
        message: String,
    },
    /// It takes more memory than there is for it, and cannot be put on disk.
    #[error("the question takes more memory than it may: {message}")]
    Memory {
        /// Who holds it.
        message: String,
    },
    /// It was asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The machine has no threads or no directory for it.
    #[error("cannot run a question: {message}")]
    Machine {
        /// What happened.
        message: String,
    },
}

impl AnswerError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Question(_) | Self::Memory { .. } | Self::Interrupted | Self::Machine { .. } => ErrorKind::User,
            Self::Log { kind, .. } => *kind,
            Self::Compute { .. } => ErrorKind::Data,
        }
    }

    /// An error while rows are computed.
    pub(super) fn of_rows(error: DataFusionError) -> Self {
        if let Some(engine) = engine_error(&error) {
            return Self::of_log(engine);
        }
        let message = tidy(&error);
        match error.find_root() {
            DataFusionError::ResourcesExhausted(_) => Self::Memory { message },
            _ => Self::Compute { message },
        }
    }

    /// An error while a question is planned.
    pub(super) fn of_plan(error: &DataFusionError) -> Self {
        match engine_error(error) {
            Some(engine) => Self::of_log(engine),
            None => Self::Question(query_error(error).into()),
        }
    }

    fn of_log(error: &EngineError) -> Self {
        Self::Log { kind: error.kind(), message: error.to_string() }
    }
}

/// The engine's error within one of DataFusion's.
fn engine_error(error: &DataFusionError) -> Option<&EngineError> {
    match error.find_root() {
        DataFusionError::External(inner) => inner.downcast_ref(),
        _ => None,
    }
}

/// A mistake with its place, and what exists where a name does not.
fn query_error(error: &DataFusionError) -> QueryError {
    let place = error.diagnostic().and_then(|diagnostic: &Diagnostic| diagnostic.span);
    let start = place.map_or(Location::new(0, 0), |span| Location::new(span.start.line, span.start.column));
    if let DataFusionError::SchemaError(schema, _) = error.find_root()
        && let SchemaError::FieldNotFound { field, valid_fields } = &**schema
    {
        let known: Vec<&str> = valid_fields.iter().map(Column::name).collect();
        return QueryError::unknown(Span::new(start, start), "column", field.name(), &known);
    }
    QueryError::at_location(start, tidy(error))
}

/// DataFusion's text without its prefixes, in our style.
fn tidy(error: &DataFusionError) -> String {
    const PREFIXES: [&str; 9] = [
        "Error during planning: ",
        "Schema error: ",
        "Invalid or Unsupported Configuration: ",
        "This feature is not implemented: ",
        "Optimizer rule ",
        "SQL error: ",
        "Execution error: ",
        "Arrow error: ",
        "External error: ",
    ];
    let mut text = reason(error);
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = rest.to_owned();
    }
    let text = text.trim_end_matches('.').trim();
    let mut letters = text.chars();
    let first = letters.next().map(|first| match letters.clone().next() {
        Some(second) if second.is_uppercase() => first.to_string(), // an abbreviation
        _ => first.to_lowercase().collect(),
    });
    first.unwrap_or_default() + letters.as_str()
}
