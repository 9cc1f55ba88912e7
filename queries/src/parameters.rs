//! The values of `$names` in a question, as they are given on a command line.

use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan};

use crate::error::{QueryError, QueryErrors};

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Integer(i64),
    Float(f64),
    Truth(bool),
    Text(String),
}

impl Value {
    /// A number where it is one, a truth value, or a text; in quotes it is a text in any case.
    pub(crate) fn of(text: &str) -> Self {
        let quoted = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
        match (quoted, text.parse(), text.parse::<f64>(), text) {
            (Some(inner), ..) => Self::Text(inner.replace("''", "'")),
            (_, Ok(number), ..) => Self::Integer(number),
            (_, _, Ok(number), _) if number.is_finite() => Self::Float(number),
            (.., "true") => Self::Truth(true),
            (.., "false") => Self::Truth(false),
            _ => Self::Text(text.to_owned()),
        }
    }

    /// As a literal of the language.
    fn tokens(self) -> Vec<Token> {
        let number = |is_negative, digits: String| match is_negative {
            false => vec![Token::Number(digits, false)],
            true => vec![Token::LParen, Token::Minus, Token::Number(digits, false), Token::RParen],
        };
        match self {
            Self::Integer(value) => number(value < 0, value.unsigned_abs().to_string()),
            Self::Float(value) => number(value < 0.0, format!("{:?}", value.abs())),
            Self::Truth(value) => vec![Token::make_word(if value { "true" } else { "false" }, None)],
            Self::Text(text) => vec![Token::SingleQuotedString(text)],
        }
    }
}

/// Every parameter has a value, every value a parameter.
pub(crate) fn check(used: &[String], given: &[(String, String)]) -> Result<(), QueryErrors> {
    let used: Vec<&str> = used.iter().map(|name| name.trim_start_matches('$')).collect();
    let missing = used.iter().find(|name| given.iter().all(|(other, _)| other != *name));
    if let Some(name) = missing {
        let error = QueryError::at_location(Location::new(0, 0), format!("`${name}` has no value"));
        return Err(error.help(format!("give it one: --param {name}=VALUE")).into());
    }
    if let Some((name, _)) = given.iter().find(|(name, _)| !used.contains(&name.as_str())) {
        return Err(QueryError::unknown(Span::empty(), "parameter", name, &used).into());
    }
    Ok(())
}

/// Tokens with values in the place of `$names`; each literal stands where its name does.
pub(crate) fn with_values(
    tokens: Vec<TokenWithSpan>,
    parameters: &[(String, String)],
) -> Result<Vec<TokenWithSpan>, QueryErrors> {
    let name = |token: &TokenWithSpan| match &token.token {
        Token::Placeholder(name) if name.starts_with('$') => Some(name.clone()),
        _ => None,
    };
    let used: Vec<String> = tokens.iter().filter_map(name).collect();
    check(&used, parameters)?;
    let value = |token: TokenWithSpan| {
        let name = name(&token);
        let given = parameters.iter().find(|(given, _)| name.as_ref().is_some_and(|name| name[1..] == **given));
        match given {
            Some((_, text)) => {
                let literal = Value::of(text).tokens().into_iter();
                literal.map(|literal| TokenWithSpan { token: literal, span: token.span }).collect()
            }
            None => vec![token],
        }
    };
    Ok(tokens.into_iter().flat_map(value).collect())
}

#[cfg(test)]
mod tests {
    use crate::Script;

    fn given(parameters: &[(&str, &str)]) -> Vec<(String, String)> {
        parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn values_are_literals_in_the_place_of_names() {
        let text = "SELECT n + $less AS n, $half AS half, $name AS name, $is AS it FROM t\n\
                    WHERE n > $least GROUP BY TumblingWindow(second, $least)";
        let plain = "SELECT n + (-3) AS n, 0.5 AS half, 'it''s' AS name, true AS it FROM t\n\
                     WHERE n > 5 GROUP BY TumblingWindow(second, 5)";
        let values = [("less", "-3"), ("half", "0.5"), ("name", "it's"), ("is", "true"), ("least", "5")];
        let text_of = |script: &Script| {
            let statements = script.statements.iter().map(|statement| statement.body.to_string());
            statements.collect::<Vec<_>>()
        };
        let script = Script::parse_with(text, &given(&values)).unwrap();
        assert_eq!(text_of(&script), text_of(&Script::parse(plain).unwrap()));
        let quoted = Script::parse_with("SELECT $n AS n FROM t", &given(&[("n", "'5'")])).unwrap();
        assert_eq!(text_of(&quoted), text_of(&Script::parse("SELECT '5' AS n FROM t").unwrap()));
    }

    #[test]
    fn each_name_has_a_value_and_each_value_a_name() {
        let error = |text: &str, values: &[(&str, &str)]| {
            let errors = Script::parse_with(text, &given(values)).unwrap_err();
            let error = &errors.errors()[0];
            format!("{}; {}", error.message, error.help.clone().unwrap_or_default())
        };
        assert_eq!(error("SELECT $n FROM t", &[]), "`$n` has no value; give it one: --param n=VALUE");
        assert_eq!(
            error("SELECT $least FROM t", &[("least", "1"), ("lesst", "2")]),
            "unknown parameter `lesst`; available: least; did you mean `least`?"
        );
        // A mistake behind a value is where the text has it.
        let errors = Script::parse_with("SELECT $n FROM t WHERE (", &given(&[("n", "1234567")])).unwrap_err();
        let plain = Script::parse("SELECT  1 FROM t WHERE (").unwrap_err();
        assert_eq!(errors, plain);
    }
}
