//! A parsed script: declared tables, steps of the WITH clause, and statements.

use std::collections::{BTreeSet, HashSet};

use arrow::datatypes::DataType;
use sqlparser::{
    ast::{Cte, Query, Select, SetExpr, Spanned, Statement, TableFactor},
    parser::{Parser, ParserError},
    tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer},
};

use crate::{
    coercion::column_type,
    dialect::AsaDialect,
    error::{QueryError, QueryErrors, all},
    parameters::with_values,
    plan::first_place,
    rewrite::rewrite,
    tables::{relation_name, source_name},
};

/// Longest text of a query, in bytes; ASA's own limit.
pub(crate) const MAX_LENGTH: usize = 512_000;
/// Most dots of one name and those around it: of a column within records within a record a query has a few.
const MAX_DOTS: usize = 16;

/// The types of an input's columns as the query declares them by `CREATE TABLE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredTable {
    /// Name of the input.
    pub name: String,
    /// Columns in the order of the text. `None`: an array or a record, whose insides the language does not declare.
    pub columns: Vec<(String, Option<DataType>)>,
}

/// A script that is well-formed; names and types are not looked at yet.
#[derive(Clone, Debug)]
pub struct Script {
    pub(crate) tables: Vec<DeclaredTable>,
    pub(crate) steps: Vec<Cte>,
    pub(crate) statements: Vec<StatementInto>,
    /// Names with dots between them, as the text has them, each once: columns with their fields among other things.
    pub(crate) paths: BTreeSet<Vec<String>>,
}

/// One `SELECT ... [INTO output]`, also of UNIONs.
#[derive(Clone, Debug)]
pub(crate) struct StatementInto {
    pub(crate) body: Box<SetExpr>,
    pub(crate) into: Option<(String, Span)>,
    pub(crate) span: Span,
}

impl Script {
    /// Parses a script: `CREATE TABLE`s, one `WITH`, then one or more `SELECT`s, with or without `;` between them.
    ///
    /// # Errors
    /// On text that is not of the language, and on clauses that are not supported, with their places.
    pub fn parse(text: &str) -> Result<Self, QueryErrors> {
        Self::parse_given(text, None)
    }

    /// The same of a text with `$names`, whose values these are.
    ///
    /// # Errors
    /// As [`Script::parse`]; a name without a value, a value without a name.
    pub fn parse_with(text: &str, parameters: &[(String, String)]) -> Result<Self, QueryErrors> {
        Self::parse_given(text, Some(parameters))
    }

    fn parse_given(text: &str, parameters: Option<&[(String, String)]>) -> Result<Self, QueryErrors> {
        if text.len() > MAX_LENGTH {
            return Err(QueryError::at(Span::empty(), format!("query is longer than {MAX_LENGTH} bytes")).into());
        }
        let tokens = Tokenizer::new(&AsaDialect, text)
            .tokenize_with_location()
            .map_err(|e| QueryError::at_location(e.location, lower_first(&e.message)))?;
        let tokens = match parameters {
            Some(parameters) => with_values(tokens, parameters)?,
            None => tokens,
        };
        let tokens = rewrite(tokens)?;
        bound_paths(&tokens)?;
        let paths = paths(&tokens);
        let end = tokens.last().map_or(Location::new(1, 1), |t| t.span.end);
        let statements = Parser::new(&AsaDialect)
            .with_tokens_with_locations(tokens)
            .parse_statements()
            .map_err(|e| parse_error(&e, end))?;
        Self::from_statements(statements, paths)
    }

    fn from_statements(statements: Vec<Statement>, paths: BTreeSet<Vec<String>>) -> Result<Self, QueryErrors> {
        let mut script = Self { tables: vec![], steps: vec![], statements: vec![], paths };
        all(statements.into_iter().map(|s| script.add(s)))?;
        if script.statements.is_empty() {
            return Err(QueryError::at(Span::empty(), "the query has no SELECT").into());
        }
        Ok(script)
    }

    fn add(&mut self, statement: Statement) -> Result<(), QueryErrors> {
        match statement {
            Statement::CreateTable(table) => {
                let columns = all(table
                    .columns
                    .iter()
                    .map(|c| Ok::<_, QueryError>((c.name.value.clone(), column_type(&c.data_type, c.name.span)?))))?;
                self.tables.push(DeclaredTable { name: relation_name(&table.name)?.value.clone(), columns });
            }
            Statement::Query(query) => {
                check_query(&query)?;
                let Query { with, mut body, .. } = *query;
                if let Some(with) = with {
                    if !self.steps.is_empty() {
                        return Err(QueryError::at(with.with_token.0.span, "a script has one WITH clause").into());
                    }
                    self.steps = with.cte_tables;
                }
                let into = take_into(&mut body)?;
                self.statements.push(StatementInto { span: first_place(&body), body, into });
            }
            other => {
                return Err(QueryError::at(other.span(), "expected SELECT, WITH or CREATE TABLE").into());
            }
        }
        Ok(())
    }

    /// Names of the inputs that the script reads, each once, in the spelling and order of their first use.
    #[must_use]
    pub fn inputs(&self) -> Vec<String> {
        let mut names = Vec::<String>::new();
        // A step is visible to what follows it; before that its name means an input.
        let mut steps = HashSet::new();
        let mut add = |name: &str, steps: &HashSet<String>| {
            let known = |n: &String| n.eq_ignore_ascii_case(name);
            if !steps.contains(&name.to_lowercase()) && !names.iter().any(known) {
                names.push(name.to_owned());
            }
        };
        for step in &self.steps {
            relations(&step.query.body, &mut |name| add(name, &steps));
            steps.insert(step.alias.name.value.to_lowercase());
        }
        for statement in &self.statements {
            relations(&statement.body, &mut |name| add(name, &steps));
        }
        names
    }

    /// The INTO of each statement, in order; `None` where a statement has none.
    #[must_use]
    pub fn outputs(&self) -> Vec<Option<String>> {
        self.statements.iter().map(|s| s.into.as_ref().map(|(name, _)| name.clone())).collect()
    }

    /// What `CREATE TABLE` declares.
    #[must_use]
    pub fn declared_tables(&self) -> &[DeclaredTable] {
        &self.tables
    }
}

/// Refuses names of many dots: the parser tries what follows each in two ways, which takes twice as long with each. What stands in
/// parentheses behind a name, `udf.f(a.b)`, is tried as often as the name is.
fn bound_paths(tokens: &[TokenWithSpan]) -> Result<(), QueryError> {
    let (mut dots, mut dotted, mut around) = (0, false, vec![]);
    for token in tokens {
        match &token.token {
            Token::Period => (dots, dotted) = (dots + 1, true),
            Token::LParen | Token::LBracket => around.push(dots),
            Token::RParen | Token::RBracket => dots = around.pop().unwrap_or(0),
            Token::Word(_) if !std::mem::take(&mut dotted) => dots = around.last().copied().unwrap_or(0),
            _ => {}
        }
        if dots > MAX_DOTS {
            let message = format!("more than {MAX_DOTS} dots in one name and what it is called with");
            return Err(QueryError::at(token.span, message).help("take records apart in steps of a WITH clause"));
        }
    }
    Ok(())
}

/// The names between which dots stand.
fn paths(tokens: &[TokenWithSpan]) -> BTreeSet<Vec<String>> {
    let mut paths = BTreeSet::new();
    let mut path: Vec<String> = vec![];
    let mut dotted = false;
    for token in tokens {
        match &token.token {
            Token::Period => dotted = true,
            Token::Word(word) => {
                if !std::mem::take(&mut dotted) {
                    paths.insert(std::mem::take(&mut path));
                }
                path.push(word.value.clone());
            }
            _ => {
                dotted = false;
                paths.insert(std::mem::take(&mut path));
            }
        }
    }
    paths.insert(path);
    paths.retain(|path| path.len() > 1);
    paths
}

/// Names in FROM clauses, those inside table functions included.
fn relations(body: &SetExpr, found: &mut dyn FnMut(&str)) {
    match body {
        SetExpr::Select(select) => {
            for table in &select.from {
                for factor in std::iter::once(&table.relation).chain(table.joins.iter().map(|j| &j.relation)) {
                    factor_relations(factor, found);
                }
            }
        }
        SetExpr::Query(query) => relations(&query.body, found),
        SetExpr::SetOperation { left, right, .. } => {
            relations(left, found);
            relations(right, found);
        }
        _ => {}
    }
}

fn factor_relations(factor: &TableFactor, found: &mut dyn FnMut(&str)) {
    match factor {
        TableFactor::Derived { subquery, .. } => relations(&subquery.body, found),
        TableFactor::NestedJoin { table_with_joins, .. } => factor_relations(&table_with_joins.relation, found),
        other => {
            if let Some(name) = source_name(other) {
                found(&name.value);
            }
        }
    }
}

/// Refuses the clauses of a query around its SELECT that the language does not have.
pub(crate) fn check_query(query: &Query) -> Result<(), QueryError> {
    let refused = [
        (query.order_by.is_some(), "ORDER BY"),
        (query.limit_clause.is_some(), "LIMIT"),
        (query.fetch.is_some(), "FETCH"),
        (query.for_clause.is_some(), "FOR"),
        (!query.locks.is_empty(), "FOR UPDATE"),
        (query.settings.is_some(), "SETTINGS"),
        (query.format_clause.is_some(), "FORMAT"),
        (!query.pipe_operators.is_empty(), "the pipe operator"),
        (query.with.as_ref().is_some_and(|w| w.recursive), "WITH RECURSIVE"),
    ];
    let span = query.order_by.as_ref().map_or(Span::empty(), Spanned::span);
    refuse(&refused, span)
}

/// Refuses the clauses of a SELECT that the language does not have.
pub(crate) fn check_select(select: &Select) -> Result<(), QueryError> {
    let refused = [
        (select.into.is_some(), "INTO in a step, or behind UNION,"),
        (select.distinct.is_some(), "SELECT DISTINCT"),
        (select.top.is_some(), "TOP"),
        (select.exclude.is_some(), "EXCLUDE"),
        (!select.lateral_views.is_empty(), "LATERAL VIEW"),
        (select.prewhere.is_some(), "PREWHERE"),
        (!select.connect_by.is_empty(), "CONNECT BY"),
        (!select.cluster_by.is_empty(), "CLUSTER BY"),
        (!select.distribute_by.is_empty(), "DISTRIBUTE BY"),
        (!select.sort_by.is_empty(), "SORT BY"),
        (!select.named_window.is_empty(), "WINDOW"),
        (select.qualify.is_some(), "QUALIFY"),
        (select.value_table_mode.is_some(), "SELECT AS"),
    ];
    refuse(&refused, select.select_token.0.span)
}

fn refuse(clauses: &[(bool, &str)], span: Span) -> Result<(), QueryError> {
    match clauses.iter().find(|(found, _)| *found) {
        Some((_, name)) => Err(QueryError::at(span, format!("{name} is not supported in a streaming query"))),
        None => Ok(()),
    }
}

/// Takes the INTO out of the leftmost SELECT, where the parser leaves it.
fn take_into(body: &mut SetExpr) -> Result<Option<(String, Span)>, QueryError> {
    match body {
        SetExpr::Select(select) => match select.into.take() {
            Some(into) => {
                let name = relation_name(&into.name)?;
                Ok(Some((name.value.clone(), name.span)))
            }
            None => Ok(None),
        },
        SetExpr::SetOperation { left, .. } => take_into(left),
        SetExpr::Query(query) => take_into(&mut query.body),
        _ => Ok(None),
    }
}

/// sqlparser gives the place of a syntax error only inside its text: "... at Line: 1, Column: 8".
pub(crate) fn parse_error(error: &ParserError, end: Location) -> QueryError {
    let (ParserError::ParserError(message) | ParserError::TokenizerError(message)) = error else {
        return QueryError::at_location(end, "nested too deep").help("split the query into steps of a WITH clause");
    };
    let message = message.replace("found: EOF", "found the end of the query").replace(", found: ", ", found ");
    let message = message.replace("Expected: ", "expected ");
    let Some((text, place)) = message.rsplit_once(" at Line: ") else {
        return QueryError::at_location(end, lower_first(&message));
    };
    let mut numbers = place.split(", Column: ").map(|n| n.trim().parse().unwrap_or(0));
    let place = Location::new(numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    QueryError::at_location(place, lower_first(text))
}

pub(crate) fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |c| c.to_lowercase().chain(chars).collect())
}
