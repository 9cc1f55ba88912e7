//! APPLY: each row once for each element of an array, or for each field of a record.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion_physical_expr::{PhysicalExpr, expressions::Column};
use sqlparser::{
    ast::{Ident, TableFactor},
    tokenizer::Span,
};
use tidemill_engine::dataflow::plan::NodeId;

use super::{Relation, table_functions::table_function};
use crate::{
    coercion::{CastTarget, mismatch},
    error::{QueryError, QueryErrors},
    expression::Expressions,
    functions::{
        conversion::Failure,
        record::{PROPERTY, properties},
    },
    graph::Step,
    operators::cast,
    plan::Planner,
    scope::{ScopeColumn, field, schema_of},
    typed::Typed,
};

const ARRAY_INDEX: &str = "ArrayIndex";
const ARRAY_VALUE: &str = "ArrayValue";
/// The functions that stand behind APPLY.
const APPLY_FUNCTIONS: [&str; 2] = ["GetArrayElements", "GetRecordProperties"];

/// A node, and the columns that it has behind those of its input, before the event time.
type Added = (NodeId, Vec<(String, DataType)>);

impl Planner<'_> {
    /// `APPLY GetArrayElements(array) AS e`: each row once for each element, which is `e.ArrayValue` at `e.ArrayIndex`;
    /// `APPLY GetRecordProperties(record) AS e`: once for each field, `e.PropertyName` with `e.PropertyValue`.
    pub(super) fn apply(
        &mut self,
        relation: Relation,
        factor: &TableFactor,
        outer: bool,
        select: Span,
    ) -> Result<Relation, QueryErrors> {
        let Some((name, args, span)) = table_function(factor) else {
            return Err(QueryError::at(select, "expected a function behind APPLY").into());
        };
        let mut relation = self.assigned(relation);
        let args = args?;
        let [argument] = args.as_slice() else {
            return Err(QueryError::at(span, format!("`{name}` takes one argument")).into());
        };
        let argument = Expressions::plain(&relation.scope, "aggregates cannot be used in APPLY").plan(argument)?;
        let (node, added) = match name.as_str() {
            "getarrayelements" => self.elements(relation.node, argument, outer)?,
            "getrecordproperties" => self.properties(relation.node, argument, outer)?,
            _ => return Err(QueryError::unknown(span, "function behind APPLY", &name, &APPLY_FUNCTIONS).into()),
        };
        relation.node = node;
        let scope = &mut relation.scope;
        let alias = match factor {
            TableFactor::Table { alias: Some(alias), .. } => vec![alias.name.value.clone()],
            _ => vec![],
        };
        scope.relations.push(alias);
        let first = self.graph.schema(node).fields().len() - 1 - added.len();
        scope.time = first + added.len();
        scope.columns.extend(added.into_iter().zip(first..).map(|((name, data_type), index)| ScopeColumn {
            name,
            data_type,
            index,
            relation: scope.relations.len() - 1,
            visible: true,
            is_time: false,
            is_time_text: false,
            window: None,
        }));
        Ok(relation)
    }

    /// The rows of `node`, each once for each element of `array`, and the two columns that this adds.
    fn elements(&mut self, node: NodeId, array: Typed, outer: bool) -> Result<Added, QueryErrors> {
        let array = match array.data_type {
            // Elements of values that have types of their own have them too.
            DataType::LargeUtf8 => cast(array, &CastTarget::Array, Failure::Null)?,
            _ => array,
        };
        let DataType::List(element) = array.data_type.clone() else {
            return Err(mismatch(&array, "array").into());
        };
        let before = self.graph.schema(node);
        let width = before.fields().len() - 1;
        let mut list = columns(&before);
        list.insert(width, array.expr);
        let value = |data_type| [(ARRAY_VALUE.to_owned(), data_type)];
        let with_array = self.graph.add(Step::Project(list), vec![node], widened(&before, value(array.data_type)));
        let added =
            vec![(ARRAY_INDEX.to_owned(), DataType::Int64), (ARRAY_VALUE.to_owned(), element.data_type().clone())];
        let after = widened(&before, added.clone());
        Ok((self.graph.add(Step::Unnest { outer }, vec![with_array], after), added))
    }

    /// The rows of `node`, each once for each field of `record`, and the two columns that this adds: names and values.
    fn properties(&mut self, node: NodeId, record: Typed, outer: bool) -> Result<Added, QueryErrors> {
        let before = self.graph.schema(node);
        let width = before.fields().len() - 1;
        let span = record.span;
        let (elements, _) = self.elements(node, properties(record)?, outer)?;
        let unnested = self.graph.schema(elements);
        let property = unnested.field(width + 1);
        let property = Typed::column(ARRAY_VALUE, width + 1, property.data_type().clone(), span);
        let parts = PROPERTY.iter().map(|name| field(property.clone(), &Ident::with_span(span, *name)));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        let added: Vec<_> =
            PROPERTY.iter().zip(&parts).map(|(name, part)| ((*name).to_owned(), part.data_type.clone())).collect();
        let mut list = columns(&unnested);
        list.splice(width..width + 2, parts.into_iter().map(|part| part.expr));
        Ok((self.graph.add(Step::Project(list), vec![elements], widened(&before, added.clone())), added))
    }
}

/// All columns of these rows, as they are.
fn columns(schema: &Schema) -> Vec<Arc<dyn PhysicalExpr>> {
    let column = |(i, f): (usize, &FieldRef)| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new(f.name(), i)) };
    schema.fields().iter().enumerate().map(column).collect()
}

/// A schema with more columns before the event time.
fn widened(schema: &Schema, added: impl IntoIterator<Item = (String, DataType)>) -> SchemaRef {
    let width = schema.fields().len() - 1;
    let before = schema.fields()[..width].iter().map(|f| (f.name().clone(), f.data_type().clone()));
    schema_of(before.chain(added))
}
