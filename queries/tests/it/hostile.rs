//! Text that is no query, and queries that are too much: an error with a place, never a crash.

use proptest::prelude::*;
use tidemill_queries::{Script, Settings, plan};

use crate::run::{Input, query_rows};

fn try_all(text: &str) {
    let rows = r#"{"a": 1, "s": "x", "r": {"b": 2.5}}"#;
    let table = Input { sampled: true, ..Input::new("t", rows, &[]) }.as_table();
    let planned = Script::parse(text).and_then(|s| plan(&s, &[table], &["output".to_owned()], &Settings::default()));
    if let Err(errors) = planned {
        assert!(!errors.errors().is_empty(), "an error without text for {text:.200}");
        assert!(!errors.render(text, "query").is_empty());
    }
}

/// Steps of which each reads the one before.
fn steps(n: usize) -> String {
    let chain = (1..n).map(|i| format!("s{i} AS (SELECT a + 1 AS a FROM s{} WHERE a > {i})", i - 1));
    let chain: Vec<_> = std::iter::once("s0 AS (SELECT a FROM t)".to_owned()).chain(chain).collect();
    format!("WITH {} SELECT a FROM s{}", chain.join(", "), n - 1)
}

#[test]
fn a_thousand_steps_give_their_rows() {
    let rows = query_rows(&steps(1_000), Input::new("t", r#"{"a": 5000}"#, &[])).unwrap();
    assert_eq!(rows, [r#"{"a":5999}"#]);
}

#[test]
fn deep_and_long_queries_are_refused_or_planned() {
    let many = |unit: &str| unit.repeat(100_000);
    for text in [
        format!("SELECT {}1{} FROM t", many("("), many(")")),
        format!("SELECT {} FROM t", many("(")),
        format!("SELECT * FROM {}t", many("(")),
        format!("SELECT a FROM t WHERE {} a = 1", many("NOT ")),
        format!("SELECT {} a FROM t", many("- ")),
        format!("SELECT 1{} FROM t", many(" + 1")),
        format!("SELECT 1{} FROM t", " + 1".repeat(900)),
        format!("SELECT a FROM t WHERE a = 1{}", " OR a = 2".repeat(300)),
        format!("SELECT a FROM t WHERE a = 1{}", many(" OR a = 2")),
        format!("SELECT a FROM t WHERE a IN (1{})", ", 2".repeat(20_000)),
        format!("SELECT a FROM t{}", many(" UNION SELECT a FROM t")),
        format!("SELECT a FROM t{}", " UNION SELECT a FROM t".repeat(150)),
        format!("SELECT {} FROM t", many("CASE WHEN a = 1 THEN ")),
        format!("SELECT CAST(a AS {}) FROM t", many("ARRAY<")),
        format!("SELECT a{} FROM t", many(".b")),
        // The parser takes twice as long with each dot.
        format!("SELECT -a{}.. FROM t", ".b".repeat(60)),
        format!("SELECT -a{}.. FROM t", ".b".repeat(10)),
        format!("SELECT {}a{} FROM t", "udf.f(".repeat(60), ")".repeat(60)),
        format!("SELECT {}a{} FROM t", "r.x.y.z[".repeat(60), "]".repeat(60)),
        format!("SELECT {}a{}.. FROM t", "r.x.y.z(r.b, ".repeat(15), ")".repeat(15)),
        format!("SELECT INTERVAL {} FROM t", many("INTERVAL ")),
        format!("SELECT {}a{} FROM t", "ABS(".repeat(60), ")".repeat(60)),
        format!("SELECT a FROM t WHERE a {}", many("AT TIME ZONE 'x' ")),
        format!("SELECT a {}", many("x y ")),
        format!("SELECT '{}", many("x")),
        many("SELECT "),
        steps(1_000),
        format!("SELECT {}1{} FROM t", "(".repeat(10_000), ")".repeat(10_000)),
        format!("SELECT {} FROM t", (0..40_000).map(|i| format!("a AS c{i}")).collect::<Vec<_>>().join(", ")),
        many("\u{1f600}"),
        String::new(),
    ] {
        try_all(&text);
    }
}

const WORDS: &[&str] = &[
    "SELECT",
    "FROM",
    "t",
    "WHERE",
    "a",
    "s",
    "r",
    "r.b",
    ".",
    "*",
    "(",
    ")",
    ",",
    ";",
    "=",
    "<",
    "!>",
    "+",
    "-",
    "/",
    "~",
    "1",
    "2.5",
    "1e400",
    "'x'",
    "\"x\"",
    "[a]",
    "[",
    "]",
    "AS",
    "INTO",
    "output",
    "WITH",
    "GROUP",
    "BY",
    "HAVING",
    "COUNT(*)",
    "TumblingWindow(second, 5)",
    "HoppingWindow(second",
    "System.Timestamp()",
    "TIMESTAMP",
    "PARTITION",
    "OVER",
    "LIMIT",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "CAST(",
    "AS bigint)",
    "UNION",
    "ALL",
    "TABLE(TUMBLE(TABLE t,",
    "DESCRIPTOR(a)",
    "INTERVAL '1' SECOND",
    "NOT",
    "IN",
    "LIKE",
    "BETWEEN",
    "AND",
    "OR",
    "NULL",
    "IS",
    "DATEADD(day,",
    "--",
    "/*",
    "JOIN",
    "CROSS APPLY",
    "CREATE TABLE",
    "array",
    "LEFT(",
    "SUBSTRING(",
    "ROUND(",
    "EXISTS",
    "N'x'",
    "0x1F",
    "$1",
    "@v",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in "\\PC{0,60}") {
        try_all(&text);
    }

    #[test]
    fn any_words(words in prop::collection::vec(prop::sample::select(WORDS), 0..30)) {
        try_all(&words.join(" "));
        try_all(&format!("SELECT {} FROM t", words.join(" ")));
    }
}
