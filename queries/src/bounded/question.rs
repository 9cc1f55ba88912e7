//! A question's text, parsed.

use std::collections::HashMap;

use datafusion::sql::{parser::Statement as AnyStatement, resolve::resolve_table_references};
use sqlparser::{
    ast::{Spanned, Statement},
    dialect::GenericDialect,
    parser::Parser,
    tokenizer::{Location, Span, Token, Tokenizer},
};

use super::names;
use crate::{
    error::{QueryError, QueryErrors},
    script::{MAX_LENGTH, lower_first, parse_error},
};

/// One SELECT that is well-formed; tables, columns and types are not looked at yet.
#[derive(Clone, Debug)]
pub struct Question {
    pub(super) statement: Statement,
    /// Whether it asks what would be read, and not for rows.
    pub(super) explain: bool,
    tables: Vec<String>,
    places: HashMap<String, Span>,
}

impl Question {
    /// Parses a question: `SELECT`, `WITH`, `VALUES`, or one of them behind `EXPLAIN [ANALYZE]`.
    ///
    /// # Errors
    /// On text that is not SQL, and on statements that do not ask.
    pub fn parse(text: &str) -> Result<Self, QueryErrors> {
        if text.len() > MAX_LENGTH {
            return Err(QueryError::at(Span::empty(), format!("query is longer than {MAX_LENGTH} bytes")).into());
        }
        let tokens = Tokenizer::new(&GenericDialect {}, text)
            .tokenize_with_location()
            .map_err(|e| QueryError::at_location(e.location, lower_first(&e.message)))?;
        let dashed = dashed_name(&tokens.iter().map(|t| &t.token).collect::<Vec<_>>());
        let end = tokens.last().map_or(Location::new(1, 1), |t| t.span.end);
        let mut statements =
            Parser::new(&GenericDialect {}).with_tokens_with_locations(tokens).parse_statements().map_err(|e| {
                let error = parse_error(&e, end);
                match &dashed {
                    Some(name) => error.help(format!("a name with `-` in it goes in quotes: \"{name}\"")),
                    None => error,
                }
            })?;
        let mut statement = match (statements.pop(), statements.len()) {
            (Some(statement), 0) => statement,
            (Some(second), _) => {
                return Err(QueryError::at(second.span(), "there is a second question")
                    .help("ask one at a time")
                    .into());
            }
            (None, _) => return Err(QueryError::at(Span::empty(), "the question is empty").into()),
        };
        let explain = match statement {
            Statement::Explain { analyze: false, statement: explained, .. } => {
                statement = *explained;
                true
            }
            _ => false,
        };
        let asks = match &statement {
            Statement::Query(_) => true,
            Statement::Explain { statement, .. } => matches!(**statement, Statement::Query(_)),
            _ => false,
        };
        if !asks {
            return Err(QueryError::at(statement.span(), "expected SELECT, WITH or EXPLAIN").into());
        }
        names::join_parts(&mut statement);
        let tables = resolve_table_references(&AnyStatement::Statement(Box::new(statement.clone())), false)
            .map_err(|error| QueryError::at(Span::empty(), error.strip_backtrace()))?;
        let tables = tables.0.iter().map(|table| table.table().to_owned()).collect();
        let places = names::places(&statement);
        Ok(Self { statement, explain, tables, places })
    }

    /// Names of the tables that it reads, each once; names of its WITH are none.
    #[must_use]
    pub fn tables(&self) -> &[String] {
        &self.tables
    }

    /// Whether it asks what would be read, and not for rows.
    #[must_use]
    pub fn is_explain(&self) -> bool {
        self.explain
    }

    /// The mistake that there is no table of this name; `known` are those that there are.
    #[must_use]
    pub fn unknown_table(&self, name: &str, known: &[&str]) -> QueryErrors {
        let span = self.places.get(name).copied().unwrap_or(Span::empty());
        QueryError::unknown(span, "topic or input", name, known).into()
    }
}

/// A name with a dash behind FROM or JOIN, which SQL takes for a subtraction.
fn dashed_name(tokens: &[&Token]) -> Option<String> {
    let after = |at: usize| {
        let mut name = String::new();
        for token in tokens[at..].iter().skip_while(|token| matches!(token, Token::Whitespace(_))) {
            match token {
                Token::Word(word) if word.quote_style.is_none() => name.push_str(&word.value),
                Token::Minus | Token::Period | Token::Number(..) => name.push_str(&token.to_string()),
                _ => break,
            }
        }
        Some(name).filter(|name| name.contains('-'))
    };
    tokens.iter().enumerate().find_map(|(at, token)| match token {
        Token::Word(word) if ["from", "join"].contains(&word.value.to_lowercase().as_str()) => after(at + 1),
        _ => None,
    })
}
