//! The dialect: what the tokenizer and the parser of `sqlparser` have to know about ASA's language. It behaves as
//! T-SQL (`[bracketed]` names, `alias = expression`, `SELECT ... INTO`) where not said otherwise.

use std::any::TypeId;

use sqlparser::{
    ast::{Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName},
    dialect::{Dialect, MsSqlDialect},
    keywords::Keyword,
    parser::{Parser, ParserError},
    tokenizer::Token,
};

/// Name of the pseudo function that stands for the argument `TABLE t` of a table function.
pub(crate) const TABLE_ARGUMENT: &str = "__table";

#[derive(Debug)]
pub(crate) struct AsaDialect;

impl Dialect for AsaDialect {
    fn dialect(&self) -> TypeId {
        TypeId::of::<MsSqlDialect>()
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '"' || ch == '['
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_' || ch == '#' || ch == '@'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || matches!(ch, '_' | '@' | '$' | '#')
    }

    fn supports_match_recognize(&self) -> bool {
        true
    }

    fn supports_eq_alias_assignment(&self) -> bool {
        true
    }

    fn supports_group_by_expr(&self) -> bool {
        true
    }

    fn supports_named_fn_args_with_rarrow_operator(&self) -> bool {
        true
    }

    /// `TABLE t [PARTITION BY k, ...]` as an argument becomes `__table(t, k, ...)`.
    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        let is_table =
            |t: &Token| matches!(t, Token::Word(w) if w.keyword == Keyword::TABLE && w.quote_style.is_none());
        if !is_table(&parser.peek_token_ref().token) || !matches!(parser.peek_nth_token_ref(1).token, Token::Word(_)) {
            return None;
        }
        let at = parser.next_token().span;
        Some(table_argument(parser).map(|args| {
            Expr::Function(Function {
                name: ObjectName::from(vec![Ident::with_span(at, TABLE_ARGUMENT)]),
                uses_odbc_syntax: false,
                parameters: FunctionArguments::None,
                args: FunctionArguments::List(FunctionArgumentList {
                    duplicate_treatment: None,
                    args: args.into_iter().map(|e| FunctionArg::Unnamed(FunctionArgExpr::Expr(e))).collect(),
                    clauses: vec![],
                }),
                filter: None,
                null_treatment: None,
                over: None,
                within_group: vec![],
            })
        }))
    }
}

fn table_argument(parser: &mut Parser) -> Result<Vec<Expr>, ParserError> {
    let mut args = vec![Expr::Identifier(parser.parse_identifier()?)];
    if parser.parse_keywords(&[Keyword::PARTITION, Keyword::BY]) {
        loop {
            args.push(Expr::Identifier(parser.parse_identifier()?));
            // The comma before DESCRIPTOR(...) or `TIMECOL => ` separates arguments, not keys.
            let next = parser.peek_nth_token_ref(1);
            let more = parser.peek_token_ref().token == Token::Comma
                && parser.peek_nth_token_ref(2).token != Token::RArrow
                && !matches!(&next.token, Token::Word(w) if w.value.eq_ignore_ascii_case("DESCRIPTOR"));
            if !more {
                break;
            }
            parser.next_token();
        }
    }
    Ok(args)
}
