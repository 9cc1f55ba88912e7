//! One SELECT: filter, windowed aggregation, HAVING, projection.

use std::{collections::HashMap, sync::Arc};

use arrow::datatypes::DataType;
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion_physical_expr::{PhysicalExpr, expressions::Column};
use sqlparser::{
    ast::{AccessExpr, Expr, GroupByExpr, Ident, ObjectName, Select, SelectItem, SelectItemQualifiedWildcardKind},
    tokenizer::Span,
};
use tidemill_engine::{EVENT_TIME, ORDER, dataflow::order::order_type, datetime_type};

use crate::{
    analytic,
    coercion::coerce,
    error::{QueryError, QueryErrors, all, both, reason},
    expression::{Expressions, place},
    graph::{ORDER_COLUMN, Step},
    plan::Planner,
    rank,
    scope::{Scope, ScopeColumn, field, schema_of},
    script::check_select,
    tables::{Relation, TableWindow, WINDOW_COLUMNS, add_window_columns},
    typed::Typed,
    windows::{AsaWindow, asa_window, asa_windows, is_system_timestamp, name_span, snapshot},
};

const NO_WINDOW: &str =
    "a window must be specified: aggregates need GROUP BY with a window, e.g. TumblingWindow(second, 10)";

/// A GROUP BY, taken apart.
struct Grouping<'a> {
    /// One, or what `Windows(...)` lists.
    windows: Vec<AsaWindow<'a>>,
    /// `System.Timestamp()` among the elements.
    timestamp: Option<Span>,
    keys: Vec<&'a Expr>,
}

impl<'a> Grouping<'a> {
    fn of(group_by: &'a GroupByExpr, select: Span) -> Result<Option<Self>, QueryErrors> {
        let GroupByExpr::Expressions(elements, modifiers) = group_by else {
            return Err(QueryError::unsupported(select, "GROUP BY ALL").into());
        };
        if !modifiers.is_empty() {
            return Err(QueryError::unsupported(select, "GROUP BY with a modifier").into());
        }
        if elements.is_empty() {
            return Ok(None);
        }
        let mut grouping = Self { windows: vec![], timestamp: None, keys: vec![] };
        for element in elements {
            if let Some((kind, function)) = asa_window(element) {
                if !grouping.windows.is_empty() {
                    return Err(QueryError::at(name_span(function), "a GROUP BY has one window")
                        .help("Windows(...) takes several")
                        .into());
                }
                grouping.windows = asa_windows(kind, function)?;
            } else if is_system_timestamp(element) {
                grouping.timestamp = Some(place(element));
            } else {
                grouping.keys.push(element);
            }
        }
        Ok(Some(grouping))
    }
}

/// Which of the window's columns an expression names.
fn window_column(expr: &Expr) -> Option<usize> {
    let name = match expr {
        Expr::Identifier(name) => name,
        Expr::CompoundIdentifier(path) => path.last()?,
        _ => return None,
    };
    WINDOW_COLUMNS.iter().position(|w| w.eq_ignore_ascii_case(&name.value))
}

impl Planner<'_> {
    pub(crate) fn select(&mut self, select: &Select) -> Result<Relation, QueryErrors> {
        check_select(select)?;
        let span = select.select_token.0.span;
        let relation = self.from(&select.from, analytic::calls(select), span)?;
        match Grouping::of(&select.group_by, span)? {
            None => self.plain(select, relation),
            Some(grouping) => self.grouped(select, relation, &grouping, span),
        }
    }

    /// Without GROUP BY; HAVING is a second WHERE that sees the aliases.
    fn plain(&mut self, select: &Select, relation: Relation) -> Result<Relation, QueryErrors> {
        let mut relation = self.assigned(relation);
        let calls = rank::calls(select);
        let numbered = !calls.is_empty();
        if numbered {
            if let Some(condition) = &select.selection {
                let condition = Expressions::plain(&relation.scope, NO_WINDOW).condition(condition)?;
                relation.node = self.graph.filter(relation.node, condition.expr);
            }
            relation = self.ranked(relation, calls)?;
        }
        let Relation { node, scope, .. } = relation;
        let mut expressions = Expressions::plain(&scope, NO_WINDOW);
        let filter = select.selection.as_ref().filter(|_| !numbered);
        let filter = filter.map(|c| expressions.condition(c)).transpose();
        let items = items(select, &mut expressions, Some(&scope));
        let (filter, items) = both(filter, items)?;
        expressions.with_aliases(items.clone());
        let having = select.having.as_ref().map(|c| expressions.condition(c)).transpose()?;
        let mut node = node;
        for condition in [filter, having].into_iter().flatten() {
            node = self.graph.filter(node, condition.expr);
        }
        self.project(node, items, scope.time(Span::empty()), &scope.columns)
    }

    fn grouped(
        &mut self,
        select: &Select,
        mut relation: Relation,
        grouping: &Grouping<'_>,
        span: Span,
    ) -> Result<Relation, QueryErrors> {
        if !grouping.windows.is_empty() || grouping.timestamp.is_some() {
            relation = self.assigned(relation);
        }
        let by_window = |e: &&&Expr| relation.window.is_some() && window_column(e).is_some();
        let rows = &relation.scope;
        let mut plain = Expressions::plain(rows, "aggregates cannot be used in WHERE or GROUP BY; use HAVING");
        // Each window with the keys of its sessions, and its id.
        let mut windows = vec![];
        match (&grouping.windows[..], grouping.timestamp, &relation.window) {
            ([], None, Some(TableWindow { windows: shape, partition }))
                if grouping.keys.iter().any(|e| by_window(&e)) =>
            {
                windows.push((*shape, partition.clone(), None));
            }
            ([], None, standard) => {
                let help = match standard {
                    Some(_) => "add window_start and window_end to GROUP BY",
                    None => "add a window to GROUP BY, e.g. TumblingWindow(second, 10)",
                };
                return Err(QueryError::at(
                    grouping.keys.first().map_or(span, |k| place(k)),
                    "a window must be specified",
                )
                .help(help)
                .into());
            }
            ([], Some(_), _) => windows.push((snapshot(), vec![], None)),
            (several, ..) => {
                for window in several {
                    let partition = all(window.partition.iter().map(|k| plain.plan(k)))?;
                    windows.push((window.windows, partition, window.id.clone()));
                }
            }
        }
        let filter = select.selection.as_ref().map(|c| plain.condition(c)).transpose();
        let keys = all(grouping.keys.iter().filter(|e| !by_window(e)).map(|e| plain.plan(e)));
        // With another window, System.Timestamp() is one more key: the time of the rows.
        let keys = keys.map(|mut keys| {
            keys.extend(grouping.timestamp.filter(|_| !grouping.windows.is_empty()).map(|span| rows.time(span)));
            keys
        });

        // SELECT and HAVING are planned over the columns of the rows, followed by what the aggregation adds.
        let added = Added { first: self.graph.schema(relation.node).fields().len() };
        let mut scope = rows.clone();
        scope.time = added.time();
        if relation.window.is_some() {
            add_window_columns(&mut scope, added.first);
        }
        let mut expressions = Expressions::grouped(&scope, rows, added.first_aggregate());
        expressions.order =
            self.graph.can_order(relation.node).then(|| Typed::column(ORDER, ORDER_COLUMN, order_type(), span));
        let has_ids = windows.iter().any(|(.., id)| id.is_some());
        if has_ids {
            expressions.window_id = Some(Typed::column("window_id", added.id(), DataType::Utf8, span));
        }
        let items = items(select, &mut expressions, None);
        let ((filter, keys), items) = both(both(filter, keys), items)?;
        expressions.with_aliases(items.clone());
        let having = select.having.as_ref().map(|c| expressions.condition(c)).transpose()?;
        let Expressions { aggregates, used, .. } = expressions;

        // Keys of sessions that the rows are not grouped by are keys that nothing shows.
        let shown = keys.len();
        let mut keys = keys;
        let mut partitions = vec![];
        for (_, partition, _) in &windows {
            let places =
                partition.iter().map(|k| match keys.iter().position(|known| known.expr.as_ref() == k.expr.as_ref()) {
                    Some(at) => at,
                    None => {
                        keys.push(k.clone());
                        keys.len() - 1
                    }
                });
            partitions.push(places.collect::<Vec<_>>());
        }
        let output = GroupedColumns { added, keys: &keys, shown, aggregates: aggregates.len(), has_ids, used: &used };
        let items = all(items.into_iter().map(|(name, item)| Ok::<_, QueryError>((name, output.of(item)?))));
        let having = having.map(|h| output.of(h)).transpose();
        let (items, having) = both(items, having)?;
        let time = Typed::column(EVENT_TIME, output.time(), datetime_type(), Span::empty());

        let names = keys.iter().enumerate().map(|(i, k)| (format!("key_{i}"), k.data_type.clone()));
        let window = WINDOW_COLUMNS[..2].iter().map(|w| ((*w).to_owned(), datetime_type()));
        let calls = aggregates.iter().enumerate().map(|(i, a)| (format!("{}_{i}", a.name), a.data_type.clone()));
        let columns: Vec<(String, DataType)> = names.chain(window).chain(calls).collect();
        let schema = schema_of(columns.iter().cloned());
        let id = has_ids.then(|| ("window_id".to_owned(), DataType::Utf8));
        let united = schema_of(columns.into_iter().chain(id));
        let mut node = relation.node;
        if let Some(condition) = filter {
            node = self.graph.filter(node, condition.expr);
        }
        let first = keys.len();
        let keys: Vec<Arc<dyn PhysicalExpr>> = keys.into_iter().map(|k| k.expr).collect();
        let several = windows.len() > 1;
        let mut parts = vec![];
        for ((windows, _, id), partition) in windows.into_iter().zip(partitions) {
            let step = Step::Aggregate { windows, keys: keys.clone(), partition, calls: aggregates.clone() };
            let mut part = self.graph.add(step, vec![node], Arc::clone(&schema));
            if several || has_ids {
                let mut list: Vec<_> = (0..).zip(schema.fields()).map(|(i, f)| column(f.name(), i)).collect();
                list.splice(list.len() - 1..list.len() - 1, id.map(|id| Typed::text(id, span).expr));
                part = self.graph.add(Step::Project(list), vec![part], Arc::clone(&united));
            }
            parts.push(part);
        }
        node = match parts.as_slice() {
            [one] => *one,
            _ => self.graph.add(Step::Union, parts, united),
        };
        if let Some(condition) = having {
            node = self.graph.filter(node, condition.expr);
        }
        // The columns that show the windows of a table function lie behind the keys.
        let size = relation.window.as_ref().and_then(TableWindow::size);
        let mut windows = Scope::of(&self.graph.schema(node), vec![]).columns;
        windows.retain(|c| c.index == first || c.index == first + 1);
        windows.iter_mut().for_each(|c| c.window = size);
        self.project(node, items, time, &windows)
    }

    /// `known` are columns of `node` of which more is known than their types: that stays true of them.
    fn project(
        &mut self,
        node: usize,
        items: Vec<(String, Typed)>,
        time: Typed,
        known: &[ScopeColumn],
    ) -> Result<Relation, QueryErrors> {
        let items = items
            .into_iter()
            .map(|(name, item)| match item.data_type {
                // NULL without a type prints as any null does.
                DataType::Null => Ok((name, coerce(item, &DataType::Utf8)?)),
                _ => Ok((name, item)),
            })
            .collect::<Result<Vec<_>, QueryError>>()?;
        let schema = schema_of(items.iter().map(|(name, item)| (name.clone(), item.data_type.clone())));
        let mut scope = self.scope_of(&schema, vec![]);
        for (column, (_, item)) in scope.columns.iter_mut().zip(&items) {
            let place = column_place(item);
            column.is_time = place.is_some() && place == column_place(&time);
            if let Some(known) = known.iter().find(|c| place == Some(c.index)) {
                (column.window, column.is_time_text) = (known.window, known.is_time_text);
            }
        }
        let list = items.into_iter().map(|(_, item)| item.expr).chain([time.expr]).collect();
        Ok(Relation { node: self.graph.add(Step::Project(list), vec![node], schema), scope, window: None })
    }
}

/// Places of what an aggregation adds, after the columns of the rows: window start, window end, event time, the window's id,
/// aggregates.
#[derive(Clone, Copy)]
struct Added {
    first: usize,
}

impl Added {
    fn time(self) -> usize {
        self.first + 2
    }

    fn id(self) -> usize {
        self.first + 3
    }

    fn first_aggregate(self) -> usize {
        self.first + 4
    }
}

/// The columns of an aggregation: keys, window start and end, aggregates, ids if windows have some, event time.
struct GroupedColumns<'a> {
    added: Added,
    keys: &'a [Typed],
    /// How many of the keys the rows are grouped by.
    shown: usize,
    aggregates: usize,
    has_ids: bool,
    /// Columns of rows as the text names them, to point at one that is no key.
    used: &'a [(usize, Span)],
}

impl GroupedColumns<'_> {
    fn time(&self) -> usize {
        self.id() + usize::from(self.has_ids)
    }

    fn id(&self) -> usize {
        self.keys.len() + 2 + self.aggregates
    }

    /// An expression over rows and what is added to them, as one over the aggregation's columns: whatever equals a key
    /// becomes that key; a column of the rows that is left is a mistake.
    fn of(&self, item: Typed) -> Result<Typed, QueryError> {
        let mut stray = None;
        let moved = Arc::clone(&item.expr).transform_down(|e| {
            if let Some(key) = self.keys[..self.shown].iter().position(|k| k.expr.as_ref() == e.as_ref()) {
                return Ok(Transformed::new(column("key", key), true, TreeNodeRecursion::Jump));
            }
            let Some(found) = e.downcast_ref::<Column>() else { return Ok(Transformed::no(e)) };
            let Some(at) = found.index().checked_sub(self.added.first) else {
                stray = Some(found.clone());
                return Ok(Transformed::new(e, false, TreeNodeRecursion::Stop));
            };
            let place = match at {
                0 | 1 => self.keys.len() + at,
                2 => self.time(),
                3 => self.id(),
                at => self.keys.len() + at - 2,
            };
            Ok(Transformed::new(column(found.name(), place), true, TreeNodeRecursion::Jump))
        });
        if let Some(stray) = stray {
            let span = self.used.iter().find(|(index, _)| *index == stray.index()).map_or(item.span, |(_, span)| *span);
            return Err(QueryError::at(
                span,
                format!("`{}` is neither in GROUP BY nor inside an aggregate", stray.name()),
            )
            .help(format!("add it to GROUP BY, or write e.g. MAX({})", stray.name())));
        }
        let expr = moved.data().map_err(|e| QueryError::at(item.span, reason(&e)))?;
        Ok(Typed { expr, ..item })
    }
}

/// Place of the column that an expression is.
fn column_place(item: &Typed) -> Option<usize> {
    item.expr.downcast_ref::<Column>().map(Column::index)
}

fn column(name: &str, place: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(name, place))
}

/// The SELECT list with its names. `all` is what `*` gives; none under GROUP BY.
pub(crate) fn items(
    select: &Select,
    expressions: &mut Expressions<'_>,
    all_columns: Option<&Scope>,
) -> Result<Vec<(String, Typed)>, QueryErrors> {
    let mut items = Items::default();
    let select_span = select.select_token.0.span;
    all(select.projection.iter().enumerate().map(|(i, item)| match item {
        SelectItem::UnnamedExpr(expr) => {
            let value = expressions.plan(expr)?;
            match own_name(expr) {
                Some(name) => items.add(name, value, place(expr)),
                None => {
                    items.add_unnamed(&default_name(expr).unwrap_or(format!("column{}", i + 1)), value);
                    Ok(())
                }
            }
        }
        SelectItem::ExprWithAlias { expr, alias } => {
            let value = expressions.plan(expr)?;
            items.add(&alias.value, value, alias.span)
        }
        SelectItem::Wildcard(options) => match all_columns {
            Some(scope) if scope.sources.len() > 1 => {
                let names: Vec<&str> = scope.relations.iter().filter_map(|r| Some(r.first()?.as_str())).collect();
                Err(QueryError::at(options.wildcard_token.0.span, "`*` cannot be used in a JOIN of streams")
                    .help(format!("write `{}.*`", names.join(".*`, `"))))
            }
            Some(scope) => {
                items.add_all(scope, None);
                Ok(())
            }
            None => Err(QueryError::at(options.wildcard_token.0.span, "`*` cannot be used with GROUP BY")
                .help("name the keys and aggregates")),
        },
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(path), _) => {
            items.add_qualified(path, expressions, all_columns)
        }
        other => Err(QueryError::at(select_span, format!("`{other}` is not supported in a SELECT list"))),
    }))?;
    if items.list.is_empty() {
        return Err(QueryError::at(select_span, "the SELECT list gives no column").into());
    }
    Ok(items.list)
}

#[derive(Default)]
struct Items {
    list: Vec<(String, Typed)>,
    /// Where a name stands, which is in lower case here.
    places: HashMap<String, usize>,
}

impl Items {
    fn find(&self, name: &str) -> Option<&Typed> {
        self.places.get(&name.to_ascii_lowercase()).map(|at| &self.list[*at].1)
    }

    fn push(&mut self, name: String, value: Typed) {
        self.places.insert(name.to_ascii_lowercase(), self.list.len());
        self.list.push((name, value));
    }

    /// A column that the query names.
    fn add(&mut self, name: &str, value: Typed, span: Span) -> Result<(), QueryError> {
        match self.find(name) {
            None => self.push(name.to_owned(), value),
            Some(same) if same.expr.as_ref() == value.expr.as_ref() => {}
            Some(_) => {
                return Err(QueryError::at(span, format!("two columns are named `{name}`"))
                    .help("give one of them another name with AS"));
            }
        }
        Ok(())
    }

    fn add_unnamed(&mut self, name: &str, value: Typed) {
        let mut free = name.to_owned();
        let mut n = 2;
        while self.find(&free).is_some() {
            free = format!("{name}_{n}");
            n += 1;
        }
        self.push(free, value);
    }

    /// `*`, of all relations or of one: columns that clash with an earlier one are left out.
    fn add_all(&mut self, scope: &Scope, relation: Option<usize>) {
        for c in scope.columns.iter().filter(|c| c.visible && relation.is_none_or(|r| c.relation == r)) {
            if self.find(&c.name).is_none() {
                let value = Typed::column(&c.name, c.index, c.data_type.clone(), Span::empty());
                self.push(c.name.clone(), value);
            }
        }
    }

    /// `alias.*` or `record.*`.
    fn add_qualified(
        &mut self,
        path: &ObjectName,
        expressions: &mut Expressions<'_>,
        all_columns: Option<&Scope>,
    ) -> Result<(), QueryError> {
        let path: Vec<Ident> = path.0.iter().filter_map(|p| p.as_ident().cloned()).collect();
        let [first, ..] = path.as_slice() else {
            return Err(QueryError::at(Span::empty(), "expected a name before `.*`"));
        };
        if let (Some(scope), [name]) = (all_columns, path.as_slice())
            && let Some(relation) = scope.relation(&name.value)
        {
            self.add_all(scope, Some(relation));
            return Ok(());
        }
        let record = match path.as_slice() {
            [name] => expressions.plan(&Expr::Identifier(name.clone()))?,
            _ => expressions.plan(&Expr::CompoundIdentifier(path.clone()))?,
        };
        let DataType::Struct(fields) = record.data_type.clone() else {
            return Err(QueryError::at(first.span, format!("`{}` is neither an input nor a record", first.value)));
        };
        for f in &fields {
            if self.find(f.name()).is_none() {
                let value = field(record.clone(), &Ident::with_span(first.span, f.name()))?;
                self.push(f.name().clone(), value);
            }
        }
        Ok(())
    }
}

/// The name that a column brings along, in the query's spelling.
fn own_name(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Identifier(name) if name.quote_style != Some('"') => Some(&name.value),
        Expr::CompoundIdentifier(path) if !is_system_timestamp(expr) => path.last().map(|i| i.value.as_str()),
        Expr::CompoundFieldAccess { access_chain, .. } => match access_chain.last()? {
            AccessExpr::Dot(Expr::Identifier(name)) => Some(&name.value),
            _ => None,
        },
        Expr::Nested(inner) => own_name(inner),
        _ => None,
    }
}

/// For what has no name of its own: the function's.
fn default_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(name) => Some(name.value.clone()),
        Expr::Nested(inner) => default_name(inner),
        Expr::Function(f) => f.name.0.last().and_then(|p| p.as_ident()).map(|i| i.value.to_ascii_lowercase()),
        Expr::CompoundIdentifier(_) => Some("timestamp".to_owned()),
        Expr::Cast { .. } => Some("cast".to_owned()),
        Expr::Case { .. } => Some("case".to_owned()),
        Expr::Substring { .. } => Some("substring".to_owned()),
        Expr::Trim { .. } => Some("trim".to_owned()),
        Expr::Ceil { .. } => Some("ceiling".to_owned()),
        Expr::Floor { .. } => Some("floor".to_owned()),
        _ => None,
    }
}
