//! Names as people write them, and as DataFusion looks them up: letter by letter.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
};

use arrow::datatypes::{DataType, Fields};
use sqlparser::{
    ast::{
        Expr, Ident, ObjectName, ObjectNamePart, Query, SelectItem, SetExpr, Statement, TableAlias, TableFactor, Visit,
        Visitor, visit_expressions_mut, visit_relations, visit_relations_mut,
    },
    tokenizer::Span,
};

/// A topic's name may have dots in it, which are no parts of a name then.
pub(super) fn join_parts(statement: &mut Statement) {
    let _ = visit_relations_mut(statement, |name: &mut ObjectName| {
        if let [first, _, ..] = name.0.as_slice() {
            let span = first.as_ident().map_or(Span::empty(), |ident| ident.span);
            let parts: Vec<&str> = name.0.iter().filter_map(|part| Some(part.as_ident()?.value.as_str())).collect();
            let ident = Ident { value: parts.join("."), quote_style: Some('"'), span };
            name.0 = vec![ObjectNamePart::Identifier(ident)];
        }
        ControlFlow::<()>::Continue(())
    });
}

/// Where each name stands first behind FROM or JOIN.
pub(super) fn places(statement: &Statement) -> HashMap<String, Span> {
    let mut places = HashMap::new();
    let _ = visit_relations(statement, |name: &ObjectName| {
        if let [ObjectNamePart::Identifier(ident)] = name.0.as_slice() {
            places.entry(ident.value.clone()).or_insert(ident.span);
        }
        ControlFlow::<()>::Continue(())
    });
    places
}

/// Unquoted names in expressions that are none letter by letter, but one of `known` or of the statement's own in another case, become it.
pub(super) fn spell(statement: &mut Statement, known: impl IntoIterator<Item = String>) {
    let mut own = Own(known.into_iter().collect());
    let _ = statement.visit(&mut own);
    let mut by_lower: HashMap<String, Vec<&str>> = HashMap::new();
    for name in &own.0 {
        by_lower.entry(name.to_lowercase()).or_default().push(name);
    }
    let spell_one = |ident: &mut Ident| {
        if ident.quote_style.is_some() || own.0.contains(&ident.value) {
            return;
        }
        if let Some([only]) = by_lower.get(&ident.value.to_lowercase()).map(Vec::as_slice) {
            ident.value = (*only).to_owned();
        }
    };
    let _ = visit_expressions_mut(statement, |expression: &mut Expr| {
        match expression {
            Expr::Identifier(ident) => spell_one(ident),
            Expr::CompoundIdentifier(parts) => parts.iter_mut().for_each(spell_one),
            _ => {}
        }
        ControlFlow::<()>::Continue(())
    });
}

/// The names of columns and of what lies in them.
pub(super) fn column_names(fields: &Fields, into: &mut Vec<String>) {
    for field in fields {
        into.push(field.name().clone());
        let mut inner = field.data_type();
        while let DataType::List(item) = inner {
            inner = item.data_type();
        }
        if let DataType::Struct(members) = inner {
            column_names(members, into);
        }
    }
}

/// The names that a statement gives, and those of its tables.
struct Own(HashSet<String>);

impl Own {
    fn alias(&mut self, alias: &TableAlias) {
        self.0.insert(alias.name.value.clone());
        self.0.extend(alias.columns.iter().map(|column| column.name.value.clone()));
    }
}

impl Visitor for Own {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.alias(&cte.alias);
        }
        self.selected(&query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<()> {
        self.0.extend(name.0.iter().filter_map(|part| Some(part.as_ident()?.value.clone())));
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { alias: Some(alias), .. }
        | TableFactor::Derived { alias: Some(alias), .. }
        | TableFactor::UNNEST { alias: Some(alias), .. } = factor
        {
            self.alias(alias);
        }
        ControlFlow::Continue(())
    }
}

impl Own {
    fn selected(&mut self, body: &SetExpr) {
        match body {
            SetExpr::Select(select) => {
                for item in &select.projection {
                    if let SelectItem::ExprWithAlias { alias, .. } = item {
                        self.0.insert(alias.value.clone());
                    }
                }
                self.0.extend(select.named_window.iter().map(|window| window.0.value.clone()));
            }
            SetExpr::SetOperation { left, right, .. } => {
                self.selected(left);
                self.selected(right);
            }
            _ => {}
        }
    }
}
