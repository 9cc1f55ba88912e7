//! User code: functions of a job beside those of the language, called as `udf.name(x)` and `uda.name(x)`.
//!
//! A function is a JavaScript text, run by QuickJS, or a DataFusion function that an embedding program hands over. A text
//! declares one function at its top level, or one named `main`: as `udf` it is called for each row, as `uda` it is the
//! constructor of an aggregate with the methods `init`, `accumulate` and `computeResult`.
//!
//! Each thread has an engine of its own for each function ([`engine`]); a call may take [`TIME_LIMIT`] and an engine
//! [`MEMORY_LIMIT`] bytes. Results are values of type `any`: a script says only at run time what it returns.

mod aggregate;
mod engine;
mod scalar;
#[cfg(test)]
mod tests;
mod values;

use std::{
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use aggregate::Checked;
use datafusion_common::{DataFusionError, tree_node::TreeNode};
use datafusion_expr::{AggregateUDF, ScalarUDF};
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use scalar::Call;
use sqlparser::tokenizer::Span;
use tidemill_engine::user_code::CallFailed;

use crate::{error::QueryError, typed::Typed};

/// How long one call may take.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(1);
/// What one engine may hold, in bytes.
pub(crate) const MEMORY_LIMIT: usize = 64 << 20;

/// What becomes of a call that fails or takes too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnError {
    /// The row fails, and its record becomes a dead letter ([`tidemill_engine::user_code`]).
    #[default]
    DeadLetter,
    /// The evaluation fails, which stops a job, as CAST does.
    Fail,
    /// The result is NULL, and the failure is counted.
    GiveNull,
}

/// A function of a job.
#[derive(Clone, Debug)]
pub struct UserFunction {
    name: String,
    on_error: OnError,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    JavaScript(Arc<Script>),
    Native(Arc<ScalarUDF>),
}

/// A JavaScript text that declares a function.
#[derive(Debug)]
pub(crate) struct Script {
    /// As a query calls it.
    pub(crate) name: String,
    /// Name of the text in messages.
    pub(crate) file: String,
    pub(crate) source: String,
    /// The function in the text that is called.
    pub(crate) entry: String,
    /// Tells scripts apart, also two of one text.
    pub(crate) id: u64,
    /// Calls that failed and gave NULL.
    pub(crate) failures: AtomicU64,
}

impl PartialEq for Script {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Script {}

impl Hash for Script {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl Script {
    /// A call has failed.
    fn failed(&self, on_error: OnError, message: String) -> Result<(), DataFusionError> {
        match on_error {
            OnError::DeadLetter => Err(CallFailed(message).into()),
            OnError::Fail => Err(DataFusionError::Execution(message)),
            OnError::GiveNull => {
                self.failures.fetch_add(1, Relaxed);
                Ok(())
            }
        }
    }
}

/// Whether evaluating an expression may fail on single rows.
pub(crate) fn calls_user_code(expression: &Arc<dyn PhysicalExpr>) -> bool {
    let found = expression.exists(|e| {
        let function = e.downcast_ref::<ScalarFunctionExpr>().map(|call| call.fun().inner());
        Ok(function.is_some_and(|function| {
            function.downcast_ref::<Call>().is_some_and(|call| call.on_error == OnError::DeadLetter)
                || function.is::<Checked>()
        }))
    });
    found.unwrap_or_default() // the closure cannot fail
}

impl UserFunction {
    /// From a JavaScript text; `file` is its name in messages.
    ///
    /// # Errors
    /// A text that is no JavaScript, with its line, or that does not declare the one function to call.
    pub fn javascript(name: &str, file: &str, source: &str) -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut script = Script {
            name: name.to_owned(),
            file: file.to_owned(),
            source: source.to_owned(),
            entry: String::new(),
            id: NEXT.fetch_add(1, Relaxed),
            failures: AtomicU64::new(0),
        };
        script.entry = engine::entry(&script)?;
        Ok(Self { name: name.to_owned(), on_error: OnError::default(), body: Body::JavaScript(Arc::new(script)) })
    }

    /// From a DataFusion function, for programs that embed this crate; it is called as `udf.name`. Its errors stop a job.
    #[must_use]
    pub fn native(name: &str, function: Arc<ScalarUDF>) -> Self {
        Self { name: name.to_owned(), on_error: OnError::default(), body: Body::Native(function) }
    }

    /// With another rule for calls of its JavaScript that fail.
    #[must_use]
    pub fn on_error(self, on_error: OnError) -> Self {
        Self { on_error, ..self }
    }

    /// How many calls have failed and given NULL.
    #[must_use]
    pub fn failures(&self) -> u64 {
        match &self.body {
            Body::JavaScript(script) => script.failures.load(Relaxed),
            Body::Native(_) => 0,
        }
    }

    /// As a query calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A call of `udf.name`.
    pub(crate) fn call(&self, args: Vec<Typed>, span: Span) -> Result<Typed, QueryError> {
        match &self.body {
            Body::JavaScript(script) => scalar::call(script, self.on_error, args, span),
            Body::Native(function) => {
                let types: Vec<_> = args.iter().map(|a| a.data_type.clone()).collect();
                let data_type = function.return_type(&types).map_err(|e| QueryError::at(span, e.strip_backtrace()))?;
                Typed::call(function.as_ref().clone(), args, data_type, span)
            }
        }
    }

    /// What a query sees of a result of the aggregate that `uda.name` calls.
    pub(crate) fn result(&self, column: Typed) -> Result<Typed, QueryError> {
        if self.on_error == OnError::DeadLetter { aggregate::checked(column) } else { Ok(column) }
    }

    /// The aggregate that `uda.name` calls.
    pub(crate) fn aggregate(&self, span: Span) -> Result<Arc<AggregateUDF>, QueryError> {
        match &self.body {
            Body::JavaScript(script) => {
                engine::check_aggregate(script).map_err(|e| QueryError::at(span, e))?;
                Ok(aggregate::function(script, self.on_error))
            }
            Body::Native(_) => Err(QueryError::at(span, format!("`{}` is called as `udf.{0}`", self.name))),
        }
    }
}

/// The functions of a job, by name in any case.
#[derive(Clone, Debug, Default)]
pub struct UserFunctions(Arc<[UserFunction]>);

impl UserFunctions {
    /// These functions; of two with one name the first counts.
    #[must_use]
    pub fn new(functions: Vec<UserFunction>) -> Self {
        Self(functions.into())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &UserFunction> {
        self.0.iter()
    }

    pub(crate) fn find(&self, name: &str, span: Span) -> Result<&UserFunction, QueryError> {
        self.0.iter().find(|f| f.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let known: Vec<&str> = self.0.iter().map(|f| f.name.as_str()).collect();
            let error = QueryError::unknown(span, "user-defined function", name, &known);
            if known.is_empty() { error.help("declare it under `functions` in the spec") } else { error }
        })
    }
}
