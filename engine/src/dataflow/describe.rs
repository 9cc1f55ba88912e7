//! A dataflow in words, step by step: what `tidemill explain` shows. Called by the runner; nothing is decided here.

use std::{fmt::Display, sync::Arc};

use datafusion_physical_expr::PhysicalExpr;

use super::{
    plan::{
        AggregatePlan, AnalyticCall, AnalyticFunction, Dataflow, JoinPlan, LateAction, Node, NodeId, OperatorPlan,
        TimeBounds, TimePolicy,
    },
    stage::{Half, halves},
};
use crate::{
    EVENT_TIME, ORDER,
    window::shape::{Closed, SessionShape, WindowShape, Windows},
};

type Expr = Arc<dyn PhysicalExpr>;

/// One step of a dataflow, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepDescription {
    /// Its number.
    pub id: NodeId,
    /// The steps whose rows it takes.
    pub inputs: Vec<NodeId>,
    /// What it is, in a word or two: `input`, `filter`, `aggregate`.
    pub kind: &'static str,
    /// What it does.
    pub what: String,
    /// What its rows are grouped, matched or partitioned by.
    pub keys: Vec<String>,
    /// Where it runs.
    pub runs: Runs,
    /// The columns of its rows, without the event time.
    pub columns: Vec<String>,
    /// What it keeps between batches; none for a step that looks at one row at a time.
    pub state: Option<StateDescription>,
}

/// Which threads run a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// Each worker, over the rows of its partitions.
    Workers,
    /// The merge thread, over all rows.
    Merge,
    /// Each worker makes partial states, and the merge thread puts them together.
    WorkersThenMerge,
}

impl Runs {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workers => "workers",
            Self::Merge => "merge thread",
            Self::WorkersThenMerge => "workers, then merge thread",
        }
    }
}

/// What a step keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDescription {
    /// What is kept.
    pub holds: String,
    /// When it goes.
    pub until: String,
}

impl Dataflow {
    /// Its steps in words, in the order in which rows go through them.
    #[must_use]
    pub fn describe(&self) -> Vec<StepDescription> {
        let halves = halves(self);
        let steps = self.nodes.iter().enumerate().map(|(id, node)| {
            let (kind, what, keys, state) = self.step(node);
            let partial = matches!(&node.operator, OperatorPlan::Aggregate(plan) if !plan.is_sliding())
                && node.inputs.iter().all(|i| halves[*i] == Half::Worker);
            let runs = match halves[id] {
                Half::Worker => Runs::Workers,
                Half::Merge if partial => Runs::WorkersThenMerge,
                Half::Merge => Runs::Merge,
            };
            let columns = node.schema.fields().iter().map(|f| f.name().clone());
            let columns = columns.filter(|name| name != EVENT_TIME && name != ORDER).collect();
            StepDescription { id, inputs: node.inputs.clone(), kind, what, keys, runs, columns, state }
        });
        steps.collect()
    }

    fn step(&self, node: &Node) -> (&'static str, String, Vec<String>, Option<StateDescription>) {
        let nothing = vec![];
        match &node.operator {
            OperatorPlan::Input(plan) => {
                let (time, keys, state) = time(&plan.time);
                ("input", format!("`{}`, event time: {time}", self.inputs[plan.input].name), keys, state)
            }
            OperatorPlan::Filter(predicate) => ("filter", text(predicate), nothing, None),
            OperatorPlan::Project(list) => {
                let named = node.schema.fields().iter().zip(list).filter(|(field, _)| field.name() != EVENT_TIME);
                let named = named.filter(|(field, _)| field.name() != ORDER).map(|(field, e)| match text(e) {
                    same if same == *field.name() => same,
                    other => format!("{} = {other}", field.name()),
                });
                ("project", named.collect::<Vec<_>>().join(", "), nothing, None)
            }
            OperatorPlan::Assign(windows) => ("assign windows", windows_in_words(windows), nothing, None),
            OperatorPlan::AssignSessions { shape, partition } => {
                let windows = Windows::Session(*shape);
                let state = state("the rows of open sessions", until_closed(&windows));
                ("assign windows", windows_in_words(&windows), texts(partition), state)
            }
            OperatorPlan::Unnest { outer } => {
                let kept = if *outer { "; a row without elements stays" } else { "" };
                ("apply", format!("each row once for each element of an array{kept}"), nothing, None)
            }
            OperatorPlan::Aggregate(plan) => aggregate(plan),
            OperatorPlan::Rank(plan) => {
                let state = state("rows above the watermark", "the watermark has passed them".to_owned());
                let order: Vec<_> = plan.order.iter().map(|(e, _)| text(e)).collect();
                ("number rows", format!("ROW_NUMBER by {}", order.join(", ")), texts(&plan.partition), state)
            }
            OperatorPlan::Analytic(calls) => analytic(calls),
            OperatorPlan::Recognize(plan) => {
                let within = span(plan.within_us);
                let state = state("rows of matches under way", format!("{within} after a match's first row"));
                let names: Vec<_> = plan.variables.iter().map(|v| v.name.as_str()).collect();
                let what = format!("runs of {} within {within}", names.join(", "));
                ("match pattern", what, texts(&plan.partition), state)
            }
            OperatorPlan::Join(plan) => join(plan),
            OperatorPlan::Lookup(plan) => {
                let table = &self.tables[plan.table].columns.name;
                let kind = if plan.outer { "left lookup" } else { "lookup" };
                let rest = plan.condition.as_ref().map_or(String::new(), |c| format!(" where {}", text(c)));
                let holds = match plan.keys.is_empty() {
                    true => format!("all rows of `{table}`, each looked at for each row"),
                    false => format!("all rows of `{table}`, found by key"),
                };
                let state = state(&holds, "no row that is still awaited needs that version of the table".to_owned());
                (kind, format!("of reference data `{table}`{rest}"), pairs(&plan.keys), state)
            }
            OperatorPlan::Union => ("union", "all rows of its inputs".to_owned(), nothing, None),
            OperatorPlan::Difference(_) => {
                let state = state("rows above the watermark", "the watermark has passed them".to_owned());
                ("difference", "rows of its second input that are not in its first".to_owned(), nothing, state)
            }
            OperatorPlan::Output(output) => ("output", format!("`{}`", self.outputs[*output]), nothing, None),
        }
    }
}

impl AggregatePlan {
    fn is_sliding(&self) -> bool {
        matches!(self.windows, Windows::Sliding { .. })
    }
}

fn state(holds: &str, until: String) -> Option<StateDescription> {
    Some(StateDescription { holds: holds.to_owned(), until })
}

fn time(policy: &TimePolicy) -> (String, Vec<String>, Option<StateDescription>) {
    match policy {
        TimePolicy::Arrival => ("arrival".to_owned(), vec![], None),
        TimePolicy::Column { expression, bounds, substream } => {
            let bounds = bounds.as_ref().map_or(String::new(), bounds_in_words);
            let keys = texts(substream);
            let kept = (!keys.is_empty()).then(|| StateDescription {
                holds: "the time of each key".to_owned(),
                until: "no row within the tolerances can be compared with it".to_owned(),
            });
            (format!("{}{bounds}", text(expression)), keys, kept)
        }
    }
}

fn bounds_in_words(bounds: &TimeBounds) -> String {
    let late = bounds.late_arrival.map_or("never late".to_owned(), |us| format!("late after {}", span(us)));
    let order = format!("out of order up to {}", span(bounds.out_of_order));
    let action = match bounds.action {
        LateAction::Adjust => "beyond that moved up",
        LateAction::Drop => "beyond that a dead letter",
        LateAction::Keep => "beyond that kept for windows that are open",
    };
    format!(", {late}, {order}, {action}")
}

fn aggregate(plan: &AggregatePlan) -> (&'static str, String, Vec<String>, Option<StateDescription>) {
    let calls = plan.aggregates.iter().map(|a| {
        let of: Vec<_> = a.aggregate.expressions().iter().map(text).collect();
        let distinct = if a.aggregate.is_distinct() { "distinct " } else { "" };
        format!("{}({distinct}{})", a.aggregate.fun().name(), of.join(", "))
    });
    let calls = calls.collect::<Vec<_>>().join(", ");
    let calls = if calls.is_empty() { String::new() } else { format!(": {calls}") };
    let holds = match plan.windows {
        Windows::Sliding { .. } => "the rows of the window, by key",
        Windows::Session(_) => "the states of open sessions, by key",
        Windows::Aligned(WindowShape { size: 1, .. }) => "the states of one instant, by key",
        Windows::Aligned(_) | Windows::Cumulating(_) => "a state for each key and slice of an open window",
    };
    let state = state(holds, until_closed(&plan.windows));
    ("aggregate", format!("{}{calls}", windows_in_words(&plan.windows)), texts(&plan.keys), state)
}

fn windows_in_words(windows: &Windows) -> String {
    let closed = |closed: Closed| match closed {
        Closed::Start => "[start, end)",
        Closed::End => "(start, end]",
    };
    match windows {
        Windows::Aligned(WindowShape { size: 1, hop: 1, .. }) => "rows of one instant".to_owned(),
        Windows::Aligned(shape) => {
            let hop = if shape.hop == shape.size { String::new() } else { format!(" every {}", span(shape.hop)) };
            let offset = if shape.offset == 0 { String::new() } else { format!(", offset {}", span(shape.offset)) };
            let kind = if shape.hop == shape.size { "tumbling" } else { "hopping" };
            format!("{kind} window of {}{hop}{offset} {}", span(shape.size), closed(shape.closed))
        }
        Windows::Cumulating(shape) => {
            format!("cumulating window up to {} by {} {}", span(shape.size), span(shape.hop), closed(shape.closed))
        }
        Windows::Session(SessionShape { gap, max, closed: end }) => {
            let max = max.map_or(String::new(), |max| format!(", at most {}", span(max)));
            format!("session with a gap of {}{max} {}", span(*gap), closed(*end))
        }
        Windows::Sliding { size } => format!("sliding window of {} (start, end]", span(*size)),
    }
}

fn until_closed(windows: &Windows) -> String {
    match windows {
        Windows::Aligned(WindowShape { closed, .. }) | Windows::Cumulating(WindowShape { closed, .. }) => {
            match closed {
                Closed::Start => "the watermark reaches the end of the window".to_owned(),
                Closed::End => "the watermark passes the end of the window".to_owned(),
            }
        }
        Windows::Session(SessionShape { gap, max, .. }) => {
            let cut = max.map_or(String::new(), |max| format!(", or its cut after {} at most", span(2 * max)));
            format!("the watermark passes the last row by {}{cut}", span(*gap))
        }
        Windows::Sliding { size } => format!("{} after the row", span(*size)),
    }
}

fn analytic(calls: &[AnalyticCall]) -> (&'static str, String, Vec<String>, Option<StateDescription>) {
    let mut keys: Vec<String> = vec![];
    let words = calls.iter().map(|call| {
        for key in texts(&call.partition) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let of = text(&call.argument);
        let when = call.when.as_ref().map_or(String::new(), |when| format!(" when {}", text(when)));
        let function = match &call.function {
            AnalyticFunction::Lag { offset: 0, .. } => format!("LAST({of})"),
            AnalyticFunction::Lag { offset, .. } => format!("LAG({of}, {offset})"),
            AnalyticFunction::First(_) => "ISFIRST".to_owned(),
            AnalyticFunction::Anomaly(plan) => format!("{:?} anomalies of {of}", plan.anomaly),
            AnalyticFunction::Gathered { aggregate, .. } => format!("{}({of})", aggregate.fun().name().to_uppercase()),
            AnalyticFunction::Rolling { aggregate, .. } => format!("{aggregate:?}({of})").to_uppercase(),
        };
        format!("{function} within {}{when}", span(call.function.reach_back()))
    });
    let words = words.collect::<Vec<_>>().join(", ");
    let longest = calls.iter().map(|call| call.function.reach_back()).max().unwrap_or(0);
    let state = state("of each key what later rows can ask for", format!("{} after the row", span(longest)));
    ("rows before", words, keys, state)
}

fn join(plan: &JoinPlan) -> (&'static str, String, Vec<String>, Option<StateDescription>) {
    let bounds = plan.bounds.iter().map(|bound| {
        let (min, max) = (bound.min.map(|n| n.to_string()), bound.max.map(|n| n.to_string()));
        format!(
            "{} to {} times {}",
            min.as_deref().unwrap_or("any"),
            max.as_deref().unwrap_or("any"),
            span(bound.unit_us)
        )
    });
    let bounds = bounds.collect::<Vec<_>>().join(" and ");
    let rest = plan.condition.as_ref().map_or(String::new(), |c| format!(" where {}", text(c)));
    let kind = if plan.outer { "left join" } else { "join" };
    let state = state("the rows of both sides, by key", format!("{} after the row", span(plan.reach_back())));
    (kind, format!("the right row {bounds} after the left{rest}"), pairs(&plan.keys), state)
}

fn pairs(keys: &[(Expr, Expr)]) -> Vec<String> {
    keys.iter().map(|(left, right)| format!("{} = {}", text(left), text(right))).collect()
}

fn texts(expressions: &[Expr]) -> Vec<String> {
    expressions.iter().map(text).collect()
}

/// An expression without the places of its columns: `a@0 > 1` is `a > 1`.
fn text(expression: &Expr) -> String {
    without_places(&expression.to_string()).replace(EVENT_TIME, "event time")
}

fn without_places(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('@') {
        let (before, behind) = rest.split_at(at);
        let digits = behind[1..].bytes().take_while(u8::is_ascii_digit).count();
        out.push_str(before);
        if digits == 0 {
            out.push('@');
        }
        rest = &behind[1 + digits..];
    }
    out.push_str(rest);
    out
}

/// A length of time in microseconds, in the largest unit that it is a whole number of.
#[must_use]
pub fn span(us: i64) -> String {
    const UNITS: [(i64, &str); 6] =
        [(86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "min"), (1_000_000, "s"), (1_000, "ms"), (1, "us")];
    let written = |n: i64, unit: &dyn Display| format!("{n} {unit}");
    match us {
        0 => "0 s".to_owned(),
        i64::MAX => "no bound".to_owned(),
        _ => UNITS
            .iter()
            .find(|(size, _)| us % size == 0)
            .map_or(written(us, &"us"), |(size, unit)| written(us / size, unit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_told_in_their_own_unit() {
        for (us, expected) in [(0, "0 s"), (1, "1 us"), (-1_000, "-1 ms"), (90_000_000, "90 s"), (7_200_000_000, "2 h")]
        {
            assert_eq!(span(us), expected);
        }
        assert_eq!(span(i64::MAX), "no bound");
    }

    #[test]
    fn places_of_columns_are_no_news() {
        assert_eq!(without_places("a@0 > 1 AND mail = x@y AND b@12"), "a > 1 AND mail = x@y AND b");
    }
}
