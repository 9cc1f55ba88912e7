//! Rewrites the tokens of a script into what `sqlparser` can parse, before parsing. Every token keeps its place in the
//! text, so that errors found later point at what the user wrote.
//!
//! - `FROM x [AS a] TIMESTAMP BY e PARTITION BY k` becomes `FROM x AS a WITH (__timestamp_by(e), __partition_by(k))`: the
//!   clauses arrive in the syntax tree as table hints.
//! - `f(x) OVER (PARTITION BY k LIMIT DURATION(u, n) WHEN c)` becomes `f(x) OVER (PARTITION BY k, __limit(DURATION(u, n)),
//!   __when(c))`: what the parser does not know arrives among the keys.
//! - A comma before FROM is left out.
//! - Statements that follow one another without `;` get one.
//! - `!>` and `!<` become `<=` and `>=`; the type names `array` and `record`, and `interval` as a name, lose their meaning
//!   to the parser.
//! - The clauses of MATCH_RECOGNIZE come in the parser's order, LIMIT DURATION as one of its keys.
//! - What the parser would misunderstand or could not survive is refused here: extreme nesting and length.

use sqlparser::{
    keywords::Keyword,
    tokenizer::{Token, TokenWithSpan},
};

use crate::error::QueryError;

pub(crate) const TIMESTAMP_BY: &str = "__timestamp_by";
pub(crate) const PARTITION_BY: &str = "__partition_by";
/// Takes any row in a PATTERN, where the text says `.`.
pub(crate) const ANY_ROW: &str = "__any";
pub(crate) const LIMIT: &str = "__limit";
pub(crate) const WHEN: &str = "__when";

/// Parentheses deeper than this are refused: parser and planner recurse on them.
const MAX_NESTING: usize = 40;
/// Operators in one expression beyond this are refused: they become a tree of that depth.
const MAX_OPERATORS: usize = 1_000;
/// UNIONs of one script beyond this are refused, for the same reason.
const MAX_UNIONS: usize = 200;

/// Words that end the expression of a TIMESTAMP BY or PARTITION BY.
const CLAUSES: &[&str] = &[
    "AS",
    "CROSS",
    "FULL",
    "GROUP",
    "HAVING",
    "INNER",
    "INTO",
    "JOIN",
    "LEFT",
    "MATCH_RECOGNIZE",
    "ON",
    "ORDER",
    "OUTER",
    "OVER",
    "PARTITION",
    "RIGHT",
    "SELECT",
    "TIMESTAMP",
    "UNION",
    "WHERE",
    "WITH",
];

/// Words that begin a clause of MATCH_RECOGNIZE, in the order in which the parser knows them.
const MATCH_CLAUSES: &[&str] = &["PARTITION", "LIMIT", "ORDER", "MEASURES", "ONE", "ALL", "AFTER", "PATTERN", "DEFINE"];

/// Tokens without white space, comments and the end marker.
pub(crate) fn rewrite(tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>, QueryError> {
    let tokens: Vec<_> = tokens.into_iter().filter(|t| !matches!(t.token, Token::Whitespace(_) | Token::EOF)).collect();
    check_size(&tokens)?;
    let mut rewriter = Rewriter { input: &tokens, at: 0, output: Vec::with_capacity(tokens.len() + 16) };
    rewriter.run()?;
    Ok(rewriter.output)
}

fn is_word(token: &TokenWithSpan, word: &str) -> bool {
    matches!(&token.token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

fn is_any(token: &TokenWithSpan, words: &[&str]) -> bool {
    words.iter().any(|w| is_word(token, w))
}

/// The parser and the planner recurse on nesting and on chains of operators: both stay within what a small stack holds.
fn check_size(tokens: &[TokenWithSpan]) -> Result<(), QueryError> {
    let (mut nesting, mut operators, mut prefixes, mut unions) = (0usize, 0usize, 0usize, 0usize);
    for token in tokens {
        let is_prefix = is_any(token, &["NOT", "CASE", "INTERVAL"])
            || matches!(token.token, Token::Minus | Token::Plus | Token::Tilde);
        prefixes = if is_prefix { prefixes + 1 } else { 0 };
        unions += usize::from(is_word(token, "UNION"));
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                nesting += 1;
                operators = 0;
            }
            Token::RParen | Token::RBracket | Token::RBrace => nesting = nesting.saturating_sub(1),
            Token::Comma | Token::SemiColon => operators = 0,
            Token::Word(_) if is_any(token, &["CASE", "WHEN", "THEN", "ELSE", "END", "NULL"]) => {}
            Token::Word(word) => operators += usize::from(word.keyword != Keyword::NoKeyword),
            Token::Number(..) | Token::SingleQuotedString(_) => {}
            _ => operators += 1,
        }
        if nesting > MAX_NESTING || prefixes > MAX_NESTING {
            return Err(QueryError::at(token.span, format!("nested deeper than {MAX_NESTING} levels"))
                .help("split the query into steps of a WITH clause"));
        }
        if operators > MAX_OPERATORS {
            return Err(QueryError::at(token.span, format!("more than {MAX_OPERATORS} operators in one expression"))
                .help("use `IN (...)`, or split the expression over steps of a WITH clause"));
        }
        if unions > MAX_UNIONS {
            return Err(QueryError::at(token.span, format!("more than {MAX_UNIONS} UNIONs in one script")));
        }
    }
    Ok(())
}

struct Rewriter<'a> {
    input: &'a [TokenWithSpan],
    at: usize,
    output: Vec<TokenWithSpan>,
}

impl Rewriter<'_> {
    fn run(&mut self) -> Result<(), QueryError> {
        let mut depth = 0usize;
        // Depths at which a FROM clause is open: only there is PARTITION BY a clause of an input.
        let mut from = Vec::new();
        let mut in_with = false;
        while let Some(token) = self.input.get(self.at) {
            if is_word(token, "MATCH_RECOGNIZE") && self.next_is(&Token::LParen) {
                self.match_clause()?;
                depth += 1;
                continue;
            }
            let timestamp_by = self.is_pair(self.at, "TIMESTAMP", "BY");
            if timestamp_by || (from.last() == Some(&depth) && self.is_pair(self.at, "PARTITION", "BY")) {
                self.input_clauses()?;
                continue;
            }
            if is_word(token, "OVER") && self.next_is(&Token::LParen) {
                self.over_clause()?;
                depth += 1;
                continue;
            }
            match &token.token {
                Token::LParen => depth += 1,
                Token::RParen => {
                    if from.last() == Some(&depth) {
                        from.pop();
                    }
                    depth = depth.saturating_sub(1);
                }
                Token::SemiColon => from.clear(),
                // `SELECT a, b, FROM t`: as examples of the language have it.
                Token::Comma if self.next_matches(|t| matches!(t, Token::Word(w) if w.keyword == Keyword::FROM)) => {
                    self.at += 1;
                    continue;
                }
                Token::ExclamationMark if self.next_is(&Token::Gt) || self.next_is(&Token::Lt) => {
                    let flipped = if self.next_is(&Token::Gt) { Token::LtEq } else { Token::GtEq };
                    self.push(flipped, token);
                    self.at += 2;
                    continue;
                }
                _ => {}
            }
            if is_any(token, &["FROM", "JOIN"]) && from.last() != Some(&depth) {
                from.push(depth);
            } else if is_any(token, &["WHERE", "GROUP", "HAVING", "ON", "ORDER"]) && from.last() == Some(&depth) {
                from.pop();
            }
            if depth == 0 {
                self.separate_statements(token, &mut in_with);
            }
            let mut token = token.clone();
            let before_number = self.next_matches(|t| matches!(t, Token::SingleQuotedString(_) | Token::Number(..)));
            if let Token::Word(word) = &mut token.token
                && (word.keyword == Keyword::ARRAY || word.keyword == Keyword::INTERVAL && !before_number)
            {
                word.keyword = Keyword::NoKeyword;
            }
            self.output.push(token);
            self.at += 1;
        }
        Ok(())
    }

    fn is_pair(&self, at: usize, first: &str, second: &str) -> bool {
        matches!(self.input.get(at..at + 2), Some([a, b]) if is_word(a, first) && is_word(b, second))
    }

    fn next_is(&self, token: &Token) -> bool {
        self.next_matches(|next| next == token)
    }

    fn next_matches(&self, is: impl Fn(&Token) -> bool) -> bool {
        self.input.get(self.at + 1).is_some_and(|t| is(&t.token))
    }

    fn push(&mut self, token: Token, place: &TokenWithSpan) {
        self.output.push(TokenWithSpan { token, span: place.span });
    }

    fn push_word(&mut self, word: &str, place: &TokenWithSpan) {
        self.push(Token::make_word(word, None), place);
    }

    /// `MATCH_RECOGNIZE (...)` at `self.at`: its clauses in the order that the parser knows, LIMIT DURATION among the keys.
    fn match_clause(&mut self) -> Result<(), QueryError> {
        let start = self.at;
        let mut clauses: Vec<(&str, std::ops::Range<usize>)> = vec![];
        let (mut depth, mut at) = (0usize, start + 2);
        while let Some(token) = self.input.get(at) {
            match token.token {
                Token::LParen => depth += 1,
                Token::RParen if depth == 0 => break,
                Token::RParen => depth -= 1,
                _ if depth == 0 => {
                    let opens = |word: &&str| is_word(token, word) && self.opens_match_clause(at, word);
                    if let Some(word) = MATCH_CLAUSES.iter().find(|word| opens(word)) {
                        if clauses.iter().any(|(other, _)| other == word) {
                            let message = format!("`{}` is given twice in MATCH_RECOGNIZE", token.token);
                            return Err(QueryError::at(token.span, message));
                        }
                        clauses.push((*word, at..at));
                    }
                }
                _ => {}
            }
            at += 1;
            match clauses.last_mut() {
                Some((_, range)) => range.end = at,
                None => {
                    return Err(QueryError::at(
                        token.span,
                        "expected LIMIT DURATION, PARTITION BY, MEASURES, AFTER MATCH, PATTERN or DEFINE",
                    ));
                }
            }
        }
        let place = &self.input[start];
        self.output.extend_from_slice(&self.input[start..start + 2]);
        let range = |word: &str| clauses.iter().find(|(other, _)| *other == word).map(|(_, range)| range.clone());
        let (partition, limit) = (range("PARTITION"), range("LIMIT"));
        if partition.is_some() || limit.is_some() {
            self.push_word("PARTITION", place);
            self.push_word("BY", place);
        }
        if let Some(range) = &partition {
            self.output.extend_from_slice(&self.input[range.start + 2..range.end]);
        }
        if let Some(range) = limit {
            if partition.is_some() {
                self.push(Token::Comma, place);
            }
            self.push_word(LIMIT, place);
            self.push(Token::LParen, place);
            self.output.extend_from_slice(&self.input[range.start + 1..range.end]);
            self.push(Token::RParen, place);
        }
        for word in MATCH_CLAUSES.iter().filter(|word| !matches!(**word, "PARTITION" | "LIMIT")) {
            let Some(range) = range(word) else { continue };
            for token in &self.input[range] {
                match token.token {
                    // Any row.
                    Token::Period if *word == "PATTERN" => self.push_word(ANY_ROW, token),
                    _ => self.output.push(token.clone()),
                }
            }
        }
        self.at = at; // the closing parenthesis is pushed as any other
        Ok(())
    }

    /// Whether the word at `at` begins a clause: its second word follows.
    fn opens_match_clause(&self, at: usize, word: &str) -> bool {
        let Some(next) = self.input.get(at + 1) else { return false };
        match word {
            "PARTITION" | "ORDER" => is_word(next, "BY"),
            "LIMIT" => is_word(next, "DURATION"),
            "ONE" => is_word(next, "ROW"),
            "ALL" => is_word(next, "ROWS"),
            "AFTER" => is_word(next, "MATCH"),
            "PATTERN" => next.token == Token::LParen,
            _ => true,
        }
    }

    /// `OVER (...)` at `self.at`: its clauses in any order as one that the parser knows.
    fn over_clause(&mut self) -> Result<(), QueryError> {
        let over = &self.input[self.at];
        let (mut partition, mut order, mut added) = (None, None, vec![]);
        let mut at = self.at + 2;
        while let Some(token) = self.input.get(at) {
            if token.token == Token::RParen {
                break;
            }
            let (words, start) = if self.is_pair(at, "PARTITION", "BY") || self.is_pair(at, "ORDER", "BY") {
                (2, at + 2)
            } else if is_any(token, &["LIMIT", "WHEN"]) {
                (1, at + 1)
            } else {
                return Err(QueryError::at(
                    token.span,
                    "expected PARTITION BY, ORDER BY, LIMIT DURATION or WHEN in OVER",
                ));
            };
            at = self.over_clause_end(start)?;
            let again = match words {
                2 if is_word(token, "PARTITION") => partition.replace(start..at).is_some(),
                2 => order.replace(start..at).is_some(),
                _ => {
                    let name = if is_word(token, "LIMIT") { LIMIT } else { WHEN };
                    let again = added.iter().any(|(other, _, _)| *other == name);
                    added.push((name, token, start..at));
                    again
                }
            };
            if again {
                return Err(QueryError::at(token.span, format!("`{}` is given twice in OVER", token.token)));
            }
        }
        self.output.extend_from_slice(&self.input[self.at..self.at + 2]);
        if partition.is_some() || !added.is_empty() {
            self.push_word("PARTITION", over);
            self.push_word("BY", over);
        }
        let mut first = partition.is_none();
        self.output.extend_from_slice(&self.input[partition.unwrap_or(0..0)]);
        for (name, place, range) in added {
            if !std::mem::take(&mut first) {
                self.push(Token::Comma, place);
            }
            self.push_word(name, place);
            self.push(Token::LParen, place);
            self.output.extend_from_slice(&self.input[range]);
            self.push(Token::RParen, place);
        }
        if let Some(range) = order {
            self.push_word("ORDER", over);
            self.push_word("BY", over);
            self.output.extend_from_slice(&self.input[range]);
        }
        self.at = at; // the closing parenthesis is pushed as any other
        Ok(())
    }

    /// Where a clause inside OVER ends: before the next one, or before the closing parenthesis.
    fn over_clause_end(&self, mut at: usize) -> Result<usize, QueryError> {
        let (mut depth, mut cases) = (0usize, 0usize);
        while let Some(token) = self.input.get(at) {
            match token.token {
                Token::LParen => depth += 1,
                Token::RParen if depth == 0 => break,
                Token::RParen => depth -= 1,
                _ if is_word(token, "OVER") => {
                    return Err(QueryError::at(token.span, "a function with OVER cannot stand inside another OVER")
                        .help("compute it in a step of a WITH clause"));
                }
                _ if is_word(token, "CASE") => cases += 1,
                _ if is_word(token, "END") => cases = cases.saturating_sub(1),
                _ if depth > 0 || cases > 0 => {}
                _ if self.is_pair(at, "PARTITION", "BY") || self.is_pair(at, "ORDER", "BY") => break,
                _ if is_any(token, &["LIMIT", "WHEN"]) => break,
                _ => {}
            }
            at += 1;
        }
        Ok(at)
    }

    /// `TIMESTAMP BY e`, `PARTITION BY k`, in any order, at `self.at`.
    fn input_clauses(&mut self) -> Result<(), QueryError> {
        let place = &self.input[self.at];
        let mut hints = Vec::new();
        loop {
            let name = if self.is_pair(self.at, "TIMESTAMP", "BY") {
                TIMESTAMP_BY
            } else if self.is_pair(self.at, "PARTITION", "BY") {
                PARTITION_BY
            } else {
                break;
            };
            let start = self.at + 2;
            self.at = self.expression_end(start, name == PARTITION_BY);
            let mut arguments = Vec::new();
            arguments.push(start..self.at);
            if name == TIMESTAMP_BY && self.input.get(self.at).is_some_and(|t| is_word(t, "OVER")) {
                let keys = self.at + 1;
                self.at = self.expression_end(keys, true);
                arguments.push(keys..self.at);
            }
            hints.push((name, arguments));
            if let Some(next) = self.input.get(self.at) {
                let sharded = is_word(next, "INTO")
                    && self.input.get(self.at + 1).is_some_and(|t| matches!(t.token, Token::Number(..)));
                if sharded {
                    self.at += 2; // a hint for how many shards; results do not depend on it
                }
            }
        }
        // `FROM x TIMESTAMP BY e AS a`
        if self.input.get(self.at).is_some_and(|t| is_word(t, "AS")) {
            let end = (self.at + 2).min(self.input.len());
            self.output.extend_from_slice(&self.input[self.at..end]);
            self.at = end;
        }
        self.push_word("WITH", place);
        self.push(Token::LParen, place);
        for (i, (name, arguments)) in hints.into_iter().enumerate() {
            if i > 0 {
                self.push(Token::Comma, place);
            }
            self.push_word(name, place);
            self.push(Token::LParen, place);
            for (i, range) in arguments.into_iter().enumerate() {
                if i > 0 {
                    self.push(Token::Comma, place);
                }
                self.output.extend_from_slice(&self.input[range]);
            }
            self.push(Token::RParen, place);
        }
        self.push(Token::RParen, place);
        Ok(())
    }

    /// Whether the word at `at` is LEFT or RIGHT with an argument list.
    fn is_call(&self, at: usize) -> bool {
        let next = self.input.get(at + 1).map(|t| &t.token);
        is_any(&self.input[at], &["LEFT", "RIGHT"]) && next == Some(&Token::LParen)
    }

    /// Where the expression that starts at `at` ends: before a clause, a closing parenthesis, or (for one expression) a
    /// comma.
    fn expression_end(&self, mut at: usize, list: bool) -> usize {
        let mut depth = 0usize;
        while let Some(token) = self.input.get(at) {
            match token.token {
                Token::LParen => depth += 1,
                Token::RParen if depth == 0 => break,
                Token::RParen => depth -= 1,
                Token::SemiColon => break,
                Token::Comma if depth == 0 && !list => break,
                // LEFT(...) and RIGHT(...) are functions, LEFT JOIN is none.
                // A clause, and no field of that name.
                _ if depth == 0
                    && is_any(token, CLAUSES)
                    && !self.is_call(at)
                    && self.input[at - 1].token != Token::Period =>
                {
                    break;
                }
                _ => {}
            }
            at += 1;
        }
        at
    }

    /// Puts `;` before a statement that follows another one.
    fn separate_statements(&mut self, token: &TokenWithSpan, in_with: &mut bool) {
        let with = is_word(token, "WITH") && !self.next_is(&Token::LParen);
        let select = is_word(token, "SELECT");
        let create = is_word(token, "CREATE");
        if let Some(previous) = self.output.last() {
            let continues = previous.token == Token::SemiColon
                || is_any(previous, &["UNION", "ALL", "EXCEPT", "INTERSECT", "DISTINCT"]);
            if !continues && (with || create || (select && !*in_with)) {
                self.push(Token::SemiColon, token);
            }
        }
        if with {
            *in_with = true;
        } else if select {
            *in_with = false;
        }
    }
}
