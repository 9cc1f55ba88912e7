//! `ORDER BY _offset DESC LIMIT n`: of each partition only its end has to be read.

use std::sync::Arc;

use datafusion::{
    common::{Result, config::ConfigOptions},
    physical_expr::expressions::Column,
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions, coalesce_partitions::CoalescePartitionsExec,
        coop::CooperativeExec, projection::ProjectionExec, sorts::sort::SortExec,
    },
};

use super::scan::LogScan;

/// Replaces the scan below such a sort. The sort stays.
#[derive(Debug)]
pub(super) struct NewestFirst;

impl PhysicalOptimizerRule for NewestFirst {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        rewrite(plan)
    }

    fn name(&self) -> &'static str {
        "newest_first"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn rewrite(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let narrowed = plan.downcast_ref::<SortExec>().and_then(|sort| {
        let rows = sort.fetch()?;
        let first = sort.expr().first();
        let column = first.expr.downcast_ref::<Column>()?;
        if !first.options.descending {
            return None;
        }
        narrow(sort.input(), column.index(), rows)
    });
    let children = match narrowed {
        Some(child) => vec![child?],
        None => plan.children().into_iter().map(|child| rewrite(Arc::clone(child))).collect::<Result<Vec<_>>>()?,
    };
    if children.is_empty() { Ok(plan) } else { with_children(plan, children) }
}

/// The plan with the scan at its end narrowed; `None` when something in between may leave rows out, or the column is not the offset.
fn narrow(plan: &Arc<dyn ExecutionPlan>, column: usize, rows: usize) -> Option<Result<Arc<dyn ExecutionPlan>>> {
    if let Some(scan) = plan.downcast_ref::<LogScan>() {
        let is_offset = scan.schema().field(column).name() == "_offset";
        return (is_offset && scan.limit.is_none())
            .then(|| Ok(Arc::new(scan.of_newest(rows)) as Arc<dyn ExecutionPlan>));
    }
    let (child, column) = if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let below = projection.expr().get(column)?.expr.downcast_ref::<Column>()?.index();
        (projection.input(), below)
    } else if plan.downcast_ref::<CoalescePartitionsExec>().is_some()
        || plan.downcast_ref::<CooperativeExec>().is_some()
    {
        (*plan.children().first()?, column)
    } else {
        return None;
    };
    let child = narrow(child, column, rows)?;
    Some(child.and_then(|child| with_children(Arc::clone(plan), vec![child])))
}

fn with_children(
    plan: Arc<dyn ExecutionPlan>,
    children: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    plan.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}
