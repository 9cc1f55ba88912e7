//! `FROM t MATCH_RECOGNIZE (LIMIT DURATION(..) [PARTITION BY k] MEASURES .. AFTER MATCH SKIP TO NEXT ROW PATTERN (..) DEFINE ..)`.
//!
//! Conditions and measures read the columns of the row at hand, and behind them one column for each [`Reference`]: what
//! FIRST, LAST, MIN, MAX or CLASSIFIER is over the rows that a match has so far. The text names them by the variables of
//! the pattern: `A.x` is x of the row at hand inside the condition of A, else of the last row that A has.

use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use sqlparser::{
    ast::{
        AfterMatchSkip, Expr, Function, Ident, MatchRecognizePattern, MatchRecognizeSymbol, Measure,
        RepetitionQuantifier, RowsPerMatch, Spanned, SymbolDefinition, TableFactor, VisitMut, VisitorMut,
    },
    tokenizer::Span,
};
use tidemill_engine::{
    dataflow::plan::{MatchPlan, Reference, ReferenceKind, Variable},
    recognize::pattern::{MAX_STEPS, Pattern},
};

use crate::{
    analytic::limit,
    coercion::{coerce, mismatch},
    error::{QueryError, QueryErrors},
    expression::Expressions,
    graph::Step,
    plan::Planner,
    rewrite::{ANY_ROW, LIMIT},
    scope::{Scope, ScopeColumn, schema_of},
    tables::Relation,
    typed::Typed,
    windows::{arguments, function_name, name_span},
};

const NO_AGGREGATES: &str = "aggregates here are FIRST, LAST, MIN and MAX of a variable's field, and CLASSIFIER()";
/// In the scope, the columns of references are named so, with a number.
const REFERENCE: &str = "__reference_";
/// A pattern has no more variables.
const MAX_VARIABLES: usize = 1_000;

impl Planner<'_> {
    /// The rows that MATCH_RECOGNIZE gives: its measures, at the time of each match's last row.
    pub(crate) fn recognize(&mut self, factor: &TableFactor, select: Span) -> Result<Relation, QueryErrors> {
        let TableFactor::MatchRecognize {
            table,
            partition_by,
            order_by,
            measures,
            rows_per_match,
            after_match_skip,
            pattern,
            symbols,
            ..
        } = factor
        else {
            return Err(QueryError::at(select, "expected MATCH_RECOGNIZE").into());
        };
        if let Some(order) = order_by.first() {
            return Err(QueryError::at(order.expr.span(), "MATCH_RECOGNIZE takes its rows by time: no ORDER BY").into());
        }
        if let Some(RowsPerMatch::AllRows(_)) = rows_per_match {
            return Err(QueryError::unsupported(select, "ALL ROWS PER MATCH").into());
        }
        if !matches!(after_match_skip, None | Some(AfterMatchSkip::ToNextRow)) {
            let error = QueryError::unsupported(select, "AFTER MATCH SKIP to another place than the next row");
            return Err(error.help("write AFTER MATCH SKIP TO NEXT ROW").into());
        }
        if measures.is_empty() {
            return Err(
                QueryError::at(select, "MATCH_RECOGNIZE needs MEASURES: they are the columns of its rows").into()
            );
        }
        let relation = self.relation(table, select)?;
        let relation = self.assigned(relation);
        let mut matching = Matching::new(&relation.scope, self.graph.schema(relation.node).fields().len());
        let (mut partition, mut within) = (vec![], None);
        for key in partition_by {
            match key {
                Expr::Function(f) if function_name(f) == LIMIT => within = Some(limit(f)?),
                key => partition.push(Expressions::plain(&relation.scope, NO_AGGREGATES).plan(key)?.expr),
            }
        }
        let within_us = within.ok_or_else(|| {
            QueryError::at(select, "MATCH_RECOGNIZE needs a LIMIT DURATION").help("write LIMIT DURATION(minute, 5)")
        })?;
        for symbol in symbols {
            matching.variable(&symbol.symbol.value);
        }
        let pattern = matching.pattern(pattern, select)?;
        let variables = matching.conditions(symbols)?;
        let measures = matching.measures(measures)?;
        let references = matching.references;
        let schema = schema_of(measures.iter().map(|(name, m)| (name.clone(), m.data_type.clone())));
        let plan = MatchPlan {
            partition,
            within_us,
            pattern,
            variables,
            references,
            measures: measures.into_iter().map(|(_, m)| m.expr).collect(),
        };
        let node = self.graph.add(Step::Recognize(plan), vec![relation.node], schema.clone());
        Ok(Relation { node, scope: self.scope_of(&schema, vec![]), window: None })
    }
}

/// The variables of a pattern, and what is asked of their rows.
struct Matching {
    /// The rows, then a column for each reference.
    scope: Scope,
    rows: Scope,
    width: usize,
    /// Names, as they are first met.
    names: Vec<String>,
    references: Vec<Reference>,
}

impl Matching {
    fn new(rows: &Scope, width: usize) -> Self {
        Self { scope: rows.clone(), rows: rows.clone(), width, names: vec![], references: vec![] }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| n.eq_ignore_ascii_case(name))
    }

    fn variable(&mut self, name: &str) -> usize {
        self.find(name).unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        })
    }

    fn pattern(&mut self, pattern: &MatchRecognizePattern, span: Span) -> Result<Pattern, QueryError> {
        let pattern = self.part(pattern, span)?;
        if pattern.steps() > MAX_STEPS || self.names.len() > MAX_VARIABLES {
            return Err(QueryError::at(span, format!("the pattern has more than {MAX_STEPS} steps")));
        }
        Ok(pattern)
    }

    fn part(&mut self, pattern: &MatchRecognizePattern, span: Span) -> Result<Pattern, QueryError> {
        Ok(match pattern {
            MatchRecognizePattern::Symbol(MatchRecognizeSymbol::Named(name)) => {
                Pattern::Variable(self.variable(&name.value))
            }
            MatchRecognizePattern::Group(inner) => self.part(inner, span)?,
            MatchRecognizePattern::Concat(all) => Pattern::Sequence(self.parts(all, span)?),
            MatchRecognizePattern::Alternation(all) => Pattern::Alternatives(self.parts(all, span)?),
            MatchRecognizePattern::Repetition(inner, quantifier) => {
                let (least, most) = match *quantifier {
                    RepetitionQuantifier::ZeroOrMore => (0, None),
                    RepetitionQuantifier::OneOrMore => (1, None),
                    RepetitionQuantifier::AtMostOne => (0, Some(1)),
                    RepetitionQuantifier::Exactly(n) => (n, Some(n)),
                    RepetitionQuantifier::AtLeast(n) => (n, None),
                    RepetitionQuantifier::AtMost(n) => (0, Some(n)),
                    RepetitionQuantifier::Range(n, m) => (n, Some(m)),
                };
                if most.is_some_and(|most| most < least || most == 0) {
                    return Err(QueryError::at(span, format!("`{pattern}` can match nothing")));
                }
                Pattern::Repeat { pattern: Box::new(self.part(inner, span)?), least, most }
            }
            other => return Err(QueryError::unsupported(span, format!("`{other}` in a PATTERN"))),
        })
    }

    fn parts(&mut self, parts: &[MatchRecognizePattern], span: Span) -> Result<Vec<Pattern>, QueryError> {
        parts.iter().map(|part| self.part(part, span)).collect()
    }

    /// The conditions of all variables; one without a definition takes every row.
    fn conditions(&mut self, symbols: &[SymbolDefinition]) -> Result<Vec<Variable>, QueryErrors> {
        let mut variables: Vec<Variable> = self
            .names
            .iter()
            .map(|name| {
                let name = if name == ANY_ROW { "." } else { name };
                Variable { name: name.to_owned(), condition: None, reads: vec![] }
            })
            .collect();
        for (at, symbol) in symbols.iter().enumerate() {
            let own = self.variable(&symbol.symbol.value);
            let later: Vec<usize> = symbols[at + 1..].iter().map(|s| self.variable(&s.symbol.value)).collect();
            let planned = self.plan(&symbol.definition, Some(own), &later)?;
            let mut expressions = Expressions::plain(&self.scope, NO_AGGREGATES);
            let condition = expressions.condition(&planned)?;
            let read = crate::graph::columns_of(&condition.expr);
            variables[own].reads = read.into_iter().filter_map(|c| c.checked_sub(self.width)).collect();
            variables[own].condition = Some(condition.expr);
        }
        Ok(variables)
    }

    fn measures(&mut self, measures: &[Measure]) -> Result<Vec<(String, Typed)>, QueryErrors> {
        let mut planned: Vec<(String, Typed)> = vec![];
        for measure in measures {
            let name = &measure.alias.value;
            if planned.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                return Err(QueryError::at(measure.alias.span, format!("two measures are named `{name}`")).into());
            }
            let expr = self.plan(&measure.expr, None, &[])?;
            let value = Expressions::plain(&self.scope, NO_AGGREGATES).plan(&expr)?;
            // NULL without a type prints as any null does.
            let value = if value.data_type == DataType::Null { coerce(value, &DataType::Utf8)? } else { value };
            planned.push((name.clone(), value));
        }
        Ok(planned)
    }

    /// The expression with its references as columns of the scope. `own` is the variable whose condition it is; variables
    /// that are defined `later` cannot be used there.
    fn plan(&mut self, expr: &Expr, own: Option<usize>, later: &[usize]) -> Result<Expr, QueryError> {
        let mut expr = expr.clone();
        let mut referring = Referring { matching: self, own, later };
        match expr.visit(&mut referring) {
            ControlFlow::Continue(()) => Ok(expr),
            ControlFlow::Break(error) => Err(error),
        }
    }

    /// The column of a reference, which is added where it is new.
    fn reference(
        &mut self,
        kind: ReferenceKind,
        variable: Option<usize>,
        argument: Option<&Expr>,
        span: Span,
    ) -> Result<Expr, QueryError> {
        let argument = match argument {
            Some(expr) => Expressions::plain(&self.rows, NO_AGGREGATES).plan(expr)?,
            None => crate::operators::bit(true, span),
        };
        let argument = match (kind, &argument.data_type) {
            (ReferenceKind::Min | ReferenceKind::Max, DataType::Utf8 | DataType::LargeUtf8) => {
                coerce(argument, &DataType::Float64)?
            }
            (ReferenceKind::Min | ReferenceKind::Max, DataType::Struct(_) | DataType::List(_)) => {
                return Err(mismatch(&argument, "a number or a datetime"));
            }
            _ => argument,
        };
        let data_type = match kind {
            ReferenceKind::Classifier => DataType::new_list(DataType::Utf8, true),
            _ => argument.data_type.clone(),
        };
        let reference = Reference { kind, variable, argument: argument.expr, data_type };
        let at = self.references.iter().position(|r| same(r, &reference)).unwrap_or_else(|| {
            self.scope.columns.push(ScopeColumn {
                name: format!("{REFERENCE}{}", self.references.len()),
                data_type: reference.data_type.clone(),
                index: self.width + self.references.len(),
                relation: 0,
                visible: false,
                is_time: false,
                is_time_text: false,
                window: None,
            });
            self.references.push(reference);
            self.references.len() - 1
        });
        Ok(Expr::Identifier(Ident::with_span(span, format!("{REFERENCE}{at}"))))
    }
}

/// Puts references in their places, from the outside in.
struct Referring<'a> {
    matching: &'a mut Matching,
    own: Option<usize>,
    later: &'a [usize],
}

impl VisitorMut for Referring<'_> {
    type Break = QueryError;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<QueryError> {
        let replaced = match &*expr {
            Expr::Function(function) => self.call(function),
            Expr::CompoundIdentifier(path) => self.field(path),
            _ => Ok(None),
        };
        match replaced {
            Ok(None) => ControlFlow::Continue(()),
            Ok(Some(replaced)) => {
                *expr = replaced;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl Referring<'_> {
    fn call(&mut self, function: &Function) -> Result<Option<Expr>, QueryError> {
        let (name, span) = (function_name(function), name_span(function));
        let kind = match name.as_str() {
            "first" => ReferenceKind::First,
            "last" => ReferenceKind::Last,
            "min" => ReferenceKind::Min,
            "max" => ReferenceKind::Max,
            "classifier" => ReferenceKind::Classifier,
            _ => return Ok(None),
        };
        let args = arguments(function)?;
        let (variable, field) = match (kind, args.as_slice()) {
            (ReferenceKind::Classifier, []) => (None, None),
            (ReferenceKind::Classifier, _) => {
                return Err(QueryError::at(span, "CLASSIFIER() takes no argument"));
            }
            (_, [Expr::CompoundIdentifier(path)]) => match self.matching.find(&path[0].value) {
                Some(variable) => (Some(variable), Some(rest(path))),
                None => (None, Some(args[0].clone())),
            },
            (_, [field @ Expr::Identifier(_)]) => (None, Some((*field).clone())),
            _ => {
                return Err(QueryError::at(span, format!("`{name}` takes one field of a variable, e.g. {name}(A.x)")));
            }
        };
        self.known(variable, span)?;
        self.matching.reference(kind, variable, field.as_ref(), span).map(Some)
    }

    /// `A.x`.
    fn field(&mut self, path: &[Ident]) -> Result<Option<Expr>, QueryError> {
        let Some(variable) = path.first().and_then(|name| self.matching.find(&name.value)) else { return Ok(None) };
        let (field, span) = (rest(path), path[0].span);
        if self.own == Some(variable) {
            return Ok(Some(field));
        }
        self.known(Some(variable), span)?;
        self.matching.reference(ReferenceKind::Last, Some(variable), Some(&field), span).map(Some)
    }

    fn known(&self, variable: Option<usize>, span: Span) -> Result<(), QueryError> {
        match variable.filter(|v| self.later.contains(v)) {
            Some(later) => {
                let name = &self.matching.names[later];
                Err(QueryError::at(span, format!("`{name}` is defined later"))
                    .help("a condition can use its own variable and those defined before it"))
            }
            None => Ok(()),
        }
    }
}

fn same(a: &Reference, b: &Reference) -> bool {
    a.kind == b.kind && a.variable == b.variable && a.argument.as_ref() == b.argument.as_ref()
}

/// The field of `A.field`.
fn rest(path: &[Ident]) -> Expr {
    match &path[1..] {
        [field] => Expr::Identifier(field.clone()),
        fields => Expr::CompoundIdentifier(fields.to_vec()),
    }
}
