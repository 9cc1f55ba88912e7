//! What names mean: columns, aliases, sources, and paths into records.

use arrow::datatypes::DataType;
use datafusion_physical_expr::expressions::Column;
use sqlparser::{
    ast::{AccessExpr, Expr, Ident, ObjectNamePart},
    tokenizer::Span,
};

use super::Expressions;
use crate::{
    error::QueryError, functions::record::Row, graph::columns_of, operators::bit, scope::field, typed::Typed,
    windows::function_name,
};

impl Expressions<'_> {
    /// A column, an alias, or what a name means that is none.
    pub(super) fn name(&mut self, name: &Ident) -> Result<Typed, QueryError> {
        if let Some((_, item)) = self.aliases.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(&name.value)) {
            return Ok(item.clone());
        }
        match self.scope.find(&name.value, name.span)? {
            Some(_) => self.column(name, None),
            // A source, where no column has its name: the record of its columns.
            None if self.scope.relation(&name.value).is_some() => self.record_of(name),
            // `"text"` is text where it is no column.
            None if name.quote_style == Some('"') => Ok(Typed::text(name.value.clone(), name.span)),
            None if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("true") => Ok(bit(true, name.span)),
            None if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("false") => Ok(bit(false, name.span)),
            None => Err(self.scope.unknown(name)),
        }
    }

    /// The columns of a source as one record.
    fn record_of(&mut self, name: &Ident) -> Result<Typed, QueryError> {
        let record = Row::of(self.scope, self.scope.relation(&name.value), name.span)?;
        self.used.extend(columns_of(&record.expr).into_iter().map(|c| (c, name.span)));
        Ok(record)
    }

    pub(super) fn column_or_source(&mut self, name: &Ident) -> Result<Typed, QueryError> {
        match (self.scope.find(&name.value, name.span)?, self.scope.source_time(name)) {
            (None, Some(time)) => Ok(time),
            _ => self.name(name),
        }
    }

    fn column(&mut self, name: &Ident, relation: Option<usize>) -> Result<Typed, QueryError> {
        let column = self.scope.column(name, relation)?;
        self.used.extend(column.expr.downcast_ref::<Column>().map(|c| (c.index(), name.span)));
        Ok(column)
    }

    /// `[relation.]column[.field ...]`; a column wins over a relation of the same name unless it has no such field.
    pub(super) fn path(&mut self, path: &[Ident]) -> Result<Typed, QueryError> {
        let [first, rest @ ..] = path else { return Err(QueryError::at(Span::empty(), "empty name")) };
        if is_system(first) && rest.len() == 1 && rest[0].value.eq_ignore_ascii_case("timestamp") {
            return Ok(self.scope.time(first.span));
        }
        let column = self.scope.find(&first.value, first.span)?;
        let is_record = column.is_some_and(|c| matches!(c.data_type, DataType::Struct(_)));
        let (mut value, fields) = match (rest, self.scope.relation(&first.value)) {
            ([column, fields @ ..], Some(relation)) if !is_record => (self.column(column, Some(relation))?, fields),
            _ if column.is_none() => {
                let known: Vec<&str> = self.scope.relations.iter().flatten().map(String::as_str).collect();
                return Err(QueryError::unknown(first.span, "input or record", &first.value, &known));
            }
            _ => (self.name(first)?, rest),
        };
        for name in fields {
            value = field(value, name)?;
        }
        Ok(value)
    }

    /// `f(x).field`; `System.Window().Id`.
    pub(super) fn access(&mut self, root: &Expr, chain: &[AccessExpr]) -> Result<Typed, QueryError> {
        if let (
            Expr::Identifier(system),
            [AccessExpr::Dot(Expr::Function(window)), AccessExpr::Dot(Expr::Identifier(id))],
        ) = (root, chain)
            && is_system(system)
            && function_name(window) == "window"
            && id.value.eq_ignore_ascii_case("id")
        {
            return Ok(self.window_id(id.span));
        }
        let (mut value, chain) = match (root, chain) {
            // `udf.f(x).field`
            (Expr::Identifier(family), [AccessExpr::Dot(Expr::Function(call)), rest @ ..]) if is_user_code(family) => {
                let mut call = call.clone();
                call.name.0.insert(0, ObjectNamePart::Identifier(family.clone()));
                (self.function(&call)?, rest)
            }
            _ => (self.plan(root)?, chain),
        };
        for step in chain {
            match step {
                AccessExpr::Dot(Expr::Identifier(name)) => value = field(value, name)?,
                _ => {
                    return Err(QueryError::at(value.span, "the language has no subscripts")
                        .help("use GetArrayElement(array, position)"));
                }
            }
        }
        Ok(value)
    }

    /// `System.Window().Id`: NULL where no window has an id.
    pub(super) fn window_id(&self, span: Span) -> Typed {
        self.window_id.clone().unwrap_or_else(|| Typed::null(&DataType::Utf8, span))
    }
}

fn is_system(name: &Ident) -> bool {
    name.quote_style.is_none() && name.value.eq_ignore_ascii_case("system")
}

fn is_user_code(name: &Ident) -> bool {
    name.quote_style.is_none() && ["udf", "uda"].iter().any(|family| name.value.eq_ignore_ascii_case(family))
}
