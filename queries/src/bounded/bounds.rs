//! From the conditions of a question to the records that can fulfil them.
//!
//! Pure: conditions in, intervals out. A condition that is not understood here widens nothing and narrows nothing; it is
//! applied to the rows.

use datafusion::{
    common::ScalarValue,
    logical_expr::{BinaryExpr, Expr, Operator, expr::InList},
};
use tidemill_engine::datetime_type;

/// Integers of which both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The smallest.
    pub from: i64,
    /// The largest.
    pub to: i64,
}

impl Interval {
    /// Every integer.
    pub const ALL: Self = Self { from: i64::MIN, to: i64::MAX };

    /// What lies in both.
    #[must_use]
    pub fn meet(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), to: self.to.min(other.to) }
    }

    /// Whether nothing lies in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.from > self.to
    }

    /// The integers that compare so with `value`; `None` for what is no interval.
    fn of(operator: Operator, value: i64) -> Option<Self> {
        let none = Self { from: i64::MAX, to: i64::MIN };
        Some(match operator {
            Operator::Eq => Self { from: value, to: value },
            Operator::Lt => value.checked_sub(1).map_or(none, |to| Self { to, ..Self::ALL }),
            Operator::LtEq => Self { to: value, ..Self::ALL },
            Operator::Gt => value.checked_add(1).map_or(none, |from| Self { from, ..Self::ALL }),
            Operator::GtEq => Self { from: value, ..Self::ALL },
            _ => return None,
        })
    }
}

/// What one condition says of where its records lie.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Condition {
    /// It is about the partition alone: it can be asked for each of them, whatever it says.
    Partition,
    /// Offsets, exactly.
    Offsets(Interval),
    /// Timestamps; logs are not sorted by them, so that it has to be asked of each record too.
    Times(Interval),
    /// The key; which partition has it depends on who wrote the log.
    Key(String),
    /// Nothing.
    Other,
}

impl Condition {
    pub(super) fn of(filter: &Expr) -> Self {
        let columns = filter.column_refs();
        if !columns.is_empty() && columns.iter().all(|column| matches!(column.name(), "_partition" | "_topic")) {
            return if filter.is_volatile() { Self::Other } else { Self::Partition };
        }
        match filter {
            Expr::Between(between) if !between.negated => {
                let lower = comparison(&between.expr, Operator::GtEq, &between.low);
                let upper = comparison(&between.expr, Operator::LtEq, &between.high);
                match (lower, upper) {
                    (Self::Offsets(a), Self::Offsets(b)) => Self::Offsets(a.meet(b)),
                    (Self::Times(a), Self::Times(b)) => Self::Times(a.meet(b)),
                    _ => Self::Other,
                }
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
                Operator::And => match (Self::of(left), Self::of(right)) {
                    (Self::Offsets(a), Self::Offsets(b)) => Self::Offsets(a.meet(b)),
                    (Self::Times(a), Self::Times(b)) => Self::Times(a.meet(b)),
                    _ => Self::Other,
                },
                _ => match comparison(left, *op, right) {
                    Self::Other => op.swap().map_or(Self::Other, |op| comparison(right, op, left)),
                    condition => condition,
                },
            },
            Expr::InList(InList { expr, list, negated: false }) => hull(expr, list),
            _ => Self::Other,
        }
    }
}

/// A column compared with a value.
fn comparison(column: &Expr, operator: Operator, value: &Expr) -> Condition {
    let (Expr::Column(column), Expr::Literal(value, _)) = (column, value) else { return Condition::Other };
    let found = match column.name() {
        "_offset" => {
            let value = value.cast_to(&arrow::datatypes::DataType::Int64).ok();
            let Some(ScalarValue::Int64(Some(value))) = value else { return Condition::Other };
            Interval::of(operator, value).map(Condition::Offsets)
        }
        "_timestamp" => {
            let Ok(ScalarValue::TimestampMicrosecond(Some(value), _)) = value.cast_to(&datetime_type()) else {
                return Condition::Other;
            };
            Interval::of(operator, value).map(Condition::Times)
        }
        "_key" if operator == Operator::Eq => value.try_as_str().flatten().map(|key| Condition::Key(key.to_owned())),
        _ => None,
    };
    found.unwrap_or(Condition::Other)
}

/// The smallest interval around the values of a list: not exact.
fn hull(column: &Expr, list: &[Expr]) -> Condition {
    let each = list.iter().map(|value| comparison(column, Operator::Eq, value));
    let joined = each.reduce(|a, b| match (a, b) {
        (Condition::Times(a), Condition::Times(b)) => {
            Condition::Times(Interval { from: a.from.min(b.from), to: a.to.max(b.to) })
        }
        _ => Condition::Other,
    });
    match joined {
        Some(Condition::Times(interval)) => Condition::Times(interval),
        _ => Condition::Other,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{col, lit};

    use super::*;

    fn times(from: i64, to: i64) -> Condition {
        Condition::Times(Interval { from, to })
    }

    fn stamp(micros: i64) -> Expr {
        Expr::Literal(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())), None)
    }

    #[test]
    fn conditions_become_intervals() {
        let offsets = |from, to| Condition::Offsets(Interval { from, to });
        let (o, t) = (|| col("_offset"), || col("_timestamp"));
        for (filter, expected) in [
            (o().gt(lit(5i64)), offsets(6, i64::MAX)),
            (lit(5i64).gt(o()), offsets(i64::MIN, 4)),
            (o().lt(lit(i64::MIN)), offsets(i64::MAX, i64::MIN)),
            (o().between(lit(3), lit(9)), offsets(3, 9)),
            (o().gt_eq(lit(3i64)).and(o().lt(lit(9i64))), offsets(3, 8)),
            (o().not_eq(lit(3i64)), Condition::Other),
            (o().gt(lit(3i64)).or(o().lt(lit(1i64))), Condition::Other),
            (o().gt(col("n")), Condition::Other),
            (t().gt_eq(stamp(10)), times(10, i64::MAX)),
            (t().eq(stamp(10)), times(10, 10)),
            (t().in_list(vec![stamp(30), stamp(10)], false), times(10, 30)),
            (t().in_list(vec![stamp(30)], true), Condition::Other),
            (o().in_list(vec![lit(3i64)], false), Condition::Other),
            (col("_partition").not_eq(lit(3i64)), Condition::Partition),
            ((col("_partition") % lit(2i64)).eq(lit(0i64)), Condition::Partition),
            (col("_partition").eq(o()), Condition::Other),
            (col("_key").eq(lit("ann")), Condition::Key("ann".to_owned())),
            (col("n").eq(lit(1i64)), Condition::Other),
        ] {
            assert_eq!(Condition::of(&filter), expected, "{filter}");
        }
    }

    #[test]
    fn an_interval_without_integers_is_empty() {
        let a = Interval { from: 0, to: 4 };
        assert!(!a.meet(Interval { from: 4, to: 9 }).is_empty());
        assert!(a.meet(Interval { from: 5, to: 9 }).is_empty());
    }
}
