//! Replay equals live: results depend on the records alone, not on batches, workers or the order in which partitions are
//! read. Records in memory through the ordinary decoder, planner and engine; bounds of windows at the microsecond.

use std::{collections::BTreeMap, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema};
use tidemill_engine::decoder::BadClass;
use tidemill_queries::{InputTable, Script, Settings};
use xtask::memory::{Cut, Outcome, Partition, run};

/// 2026-11-23T10:00:00Z.
const T0: i64 = 1_795_428_000_000;

fn outcome(query: &str, partitions: &[Partition], cut: Cut) -> Outcome {
    let field = |name, data_type| Field::new(name, data_type, true);
    let schema =
        Schema::new(vec![field("k", DataType::Utf8), field("x", DataType::Float64), field("n", DataType::Int64)]);
    let table = InputTable::declared("events", Arc::new(schema));
    let script = Script::parse(query).unwrap();
    let dataflow = tidemill_queries::plan(&script, &[table], &["out".to_owned()], &Settings::default()).unwrap();
    let inputs = BTreeMap::from([("events".to_owned(), partitions.to_vec())]);
    let mut outcome = run(&dataflow, &inputs, cut).unwrap();
    outcome.rows[0].sort_by_cached_key(|row| serde_json::to_string(row).unwrap());
    outcome
}

/// A small generator of its own: what is tested is not the generator of the product.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Four partitions with stamps that never go back inside one; amounts whose float sums depend on their order when summed
/// naively; one record in fifty is bad in some way.
fn partitions() -> Vec<Partition> {
    let mut random = Lcg(42);
    (0..4)
        .map(|_| {
            let mut at = T0;
            (0..1_000)
                .map(|i| {
                    at += random.below(4) as i64;
                    let (k, n) = (random.below(20), random.below(1_000));
                    let x = (random.below(1 << 30) as f64) * 10f64.powi(random.below(12) as i32 - 9);
                    let payload = match i % 50 {
                        7 => r#"{"k":"a","x":1"#.to_owned(),
                        23 => r#"{"k":"a","x":{}}"#.to_owned(),
                        _ => format!(r#"{{"k":"k{k}","x":{x},"other":[1,{{"k":"no"}}],"n":{n}}}"#),
                    };
                    (at, payload.into_bytes())
                })
                .collect()
        })
        .collect()
}

const QUERIES: [&str; 15] = [
    "SELECT k, x * 2 AS x2, n INTO out FROM events WHERE n % 3 = 1",
    "SELECT k, COUNT(*) AS c, SUM(x) AS s, AVG(x) AS a, MIN(x) AS lo, MAX(x) AS hi, STDEV(x) AS sd, VARP(x) AS v,
        COUNT(DISTINCT n) AS d, SUM(n) AS ns, System.Timestamp() AS t INTO out
     FROM events GROUP BY k, TumblingWindow(millisecond, 500)",
    "SELECT k, SUM(x) AS s, System.Timestamp() AS t INTO out FROM events GROUP BY k, HoppingWindow(millisecond, 700, 300)",
    "WITH small AS (SELECT k, AVG(x) AS a FROM events GROUP BY k, TumblingWindow(millisecond, 250))
     SELECT COUNT(*) AS c, SUM(a) AS s, System.Timestamp() AS t INTO out FROM small GROUP BY TumblingWindow(second, 1)",
    "SELECT window_start, window_end, SUM(x) AS s INTO out
     FROM TABLE(HOP(TABLE events, DESCRIPTOR(_timestamp), INTERVAL '100' MILLISECOND, INTERVAL '400' MILLISECOND))
     GROUP BY window_start, window_end",
    "SELECT k, n % 2 AS odd, COUNT(*) AS c, SUM(x) AS s, MAX(n) AS hi, System.Timestamp() AS t, System.Window().Id AS w INTO out
     FROM events GROUP BY k, n % 2, Windows(Window('session', SessionWindow(millisecond, 60, 400) OVER (PARTITION BY k)),
        Window('all', SessionWindow(millisecond, 2, 100)), Window('now', System.Timestamp()))",
    "SELECT k, COUNT(*) AS c, SUM(x) AS s, STDEV(x) AS d, MIN(n) AS lo, MAX(x) AS hi, LAST_VALUE(n) AS last,
        System.Timestamp() AS t INTO out FROM events WHERE n % 3 = 1 GROUP BY k, SlidingWindow(millisecond, 50)",
    "SELECT k, TopOne(n) OVER (ORDER BY n % 10) AS top, CollectTop(3) OVER (ORDER BY n % 100 DESC, x) AS best, Collect(n) AS every,
        Percentile_Cont(0.4) OVER (ORDER BY x) AS p, Percentile_Disc(0.9) OVER (ORDER BY n DESC) AS q, FIRST_VALUE(x) AS f INTO out
     FROM events GROUP BY k, HoppingWindow(millisecond, 300, 100)",
    "SELECT k, x, n, place, window_end INTO out FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end, k ORDER BY n % 5) AS place
        FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(_timestamp), INTERVAL '400' MILLISECOND))) WHERE place <= 3",
    "SELECT k, window_start, window_end, COUNT(*) AS c, SUM(x) AS s INTO out
     FROM TABLE(SESSION(TABLE events PARTITION BY k, DESCRIPTOR(_timestamp), INTERVAL '30' MILLISECOND))
     GROUP BY k, window_start, window_end",
    "SELECT k, x, n, window_start, window_end INTO out
     FROM TABLE(SESSION(TABLE events PARTITION BY k, DESCRIPTOR(_timestamp), INTERVAL '30' MILLISECOND)) WHERE n % 3 = 1",
    "SELECT k, n, LAG(n, 2, -1) OVER (PARTITION BY k LIMIT DURATION(millisecond, 300)) AS before,
        LAST(x) OVER (LIMIT DURATION(second, 1) WHEN n % 2 = 0) AS even, LAG(*) OVER (LIMIT DURATION(second, 1)) AS whole,
        ISFIRST(millisecond, 500) OVER (PARTITION BY k) AS first,
        SUM(x) OVER (PARTITION BY k LIMIT DURATION(second, 1)) AS s, AVG(n) OVER (LIMIT DURATION(millisecond, 70)) AS a,
        MAX(n) OVER (LIMIT DURATION(millisecond, 70)) AS hi, System.Timestamp() AS t INTO out FROM events WHERE n % 3 = 1",
    "WITH small AS (SELECT k, n % 2 AS odd, SUM(x) AS s FROM events GROUP BY k, n % 2, TumblingWindow(millisecond, 250))
     SELECT k, LAG(s) OVER (PARTITION BY odd LIMIT DURATION(second, 1)) AS before INTO out FROM small",
    "SELECT a.k, a.n, b.n AS m, b.x, System.Timestamp() AS t INTO out FROM events a
     LEFT JOIN events b ON a.k = b.k AND DATEDIFF(millisecond, a, b) BETWEEN 5 AND 20 AND b.n > a.n WHERE a.n % 7 = 0",
    "WITH pairs AS (SELECT a.k, a.n, b.n AS m, b.x FROM events a
        JOIN events b ON a.k = b.k AND DATEDIFF(millisecond, a, b) BETWEEN -3 AND 3 AND a.n < b.n AND a.n % 3 = 0)
     SELECT k, n, m, x, LAG(m) OVER (PARTITION BY k LIMIT DURATION(second, 1)) AS before, System.Timestamp() AS t
     INTO out FROM pairs",
];

#[test]
fn results_do_not_depend_on_batches_workers_or_the_order_of_reading() {
    let partitions = partitions();
    for query in QUERIES {
        let expected = outcome(query, &partitions, Cut::default());
        assert!(expected.rows[0].len() > 1, "{query}");
        assert_eq!(expected.dead_letters.len(), 2 * 4 * 1_000 / 50, "each bad record is a dead letter, once: {query}");
        let classes = |class| expected.dead_letters.iter().filter(|letter| letter.3 == class).count();
        assert_eq!((classes(BadClass::Malformed), classes(BadClass::Type)), (80, 80));
        for (workers, batch_rows, run_records) in
            [(1, 1, 1), (1, 4_096, 100), (2, 4_096, 1), (2, 3, 1_000), (4, 4_096, 4_096), (4, 1, 7)]
        {
            let cut = Cut { workers, batch_rows, run_records };
            assert!(outcome(query, &partitions, cut) == expected, "{query}\nwith {cut:?}");
        }
    }
}

#[test]
fn a_batch_whose_stamps_all_equal_a_window_end_gives_the_same_rows_whole_and_row_by_row() {
    let record = |at: i64| (at, br#"{"k":"a","x":1.5,"n":1}"#.to_vec());
    let partition: Partition = (0..10).map(|_| record(T0 + 2_000)).chain([record(T0 + 2_001)]).collect();
    for (query, expected) in [
        // (start, end]: all ten belong to the window that ends at their stamp.
        ("SELECT COUNT(*) AS c, System.Timestamp() AS t INTO out FROM events GROUP BY TumblingWindow(second, 2)",
         r#"[{"c":1,"t":"2026-11-23T10:00:04.0000000Z"},{"c":10,"t":"2026-11-23T10:00:02.0000000Z"}]"#),
        // [start, end): all eleven belong to the window that starts there.
        ("SELECT COUNT(*) AS c, window_end AS t INTO out
          FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(_timestamp), INTERVAL '2' SECOND)) GROUP BY window_start, window_end",
         r#"[{"c":11,"t":"2026-11-23T10:00:04.0000000Z"}]"#),
    ] {
        for (batch_rows, run_records) in [(4_096, usize::MAX), (1, 1), (3, 4)] {
            let got = outcome(query, std::slice::from_ref(&partition), Cut { workers: 1, batch_rows, run_records });
            assert_eq!(serde_json::to_string(&got.rows[0]).unwrap(), expected, "{query} {batch_rows} {run_records}");
        }
    }
}

#[test]
fn sums_are_the_exact_ones() {
    // Naive sums give 0 or 2 here, depending on the order.
    let values = ["1e100", "1.0", "-1e100", "1.0"];
    let records: Vec<_> = values.iter().map(|x| (T0, format!(r#"{{"k":"a","x":{x}}}"#).into_bytes())).collect();
    let query = "SELECT SUM(x) AS s, AVG(x) AS a INTO out FROM events GROUP BY TumblingWindow(second, 1)";
    let got = outcome(query, &[records], Cut::default());
    assert_eq!(serde_json::to_string(&got.rows[0]).unwrap(), r#"[{"s":2.0,"a":0.5}]"#);
}

#[test]
fn a_timestamp_by_that_cannot_be_computed_costs_its_record_alone() {
    let record = |n: i64| (T0, format!(r#"{{"k":"a","x":1.0,"n":{n}}}"#).into_bytes());
    let records: Partition = [T0, i64::MAX, T0 + 1].map(record).to_vec();
    let query = "SELECT n, System.Timestamp() AS t INTO out
        FROM events TIMESTAMP BY DATEADD(millisecond, n, '1970-01-01T00:00:00Z')";
    for batch_rows in [1, 4_096] {
        let got = outcome(query, std::slice::from_ref(&records), Cut { batch_rows, ..Cut::default() });
        let times: Vec<_> = got.rows[0].iter().map(|row| row["t"].as_str().unwrap()).collect();
        assert_eq!(times, ["2026-11-23T10:00:00.0000000Z", "2026-11-23T10:00:00.0010000Z"]);
        assert_eq!(got.dead_letters, [("events".to_owned(), 0, 1, BadClass::EventTime)]);
    }
}
