//! The query front end: any text gives a dataflow or a list of mistakes, each with its place in the text.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use tidemill_engine::datetime_type;
use tidemill_queries::{InputTable, Script, Settings};

use super::Target;

pub(crate) struct Query {
    tables: Vec<InputTable>,
}

impl Query {
    pub(crate) fn new() -> Self {
        let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
        let place = DataType::Struct(vec![field("lat", DataType::Float64), field("name", DataType::Utf8)].into());
        let schema = Schema::new(vec![
            field("device", DataType::Utf8),
            field("temp", DataType::Float64),
            field("n", DataType::Int64),
            field("ok", DataType::Boolean),
            field("ts", datetime_type()),
            field("place", place),
            field("tags", DataType::new_list(DataType::Utf8, true)),
        ]);
        let table = |name: &str| InputTable::declared(name, Arc::new(schema.clone()));
        Self { tables: vec![table("events"), table("other")] }
    }
}

impl Target for Query {
    fn name(&self) -> &'static str {
        "query"
    }

    fn tokens(&self) -> &'static [&'static str] {
        &[
            "SELECT ",
            " FROM events ",
            " INTO out ",
            " WHERE ",
            " GROUP BY ",
            " HAVING ",
            "TumblingWindow(second, 10)",
            "HoppingWindow(Duration(minute, 5), Hop(second, 7), Offset(millisecond, -1))",
            "System.Timestamp()",
            " TIMESTAMP BY ts ",
            "WITH a AS (",
            ")",
            "(",
            ",",
            " UNION ALL ",
            "TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '10' MINUTES))",
            "CAST(n AS nvarchar(max))",
            "TRY_CAST(device AS bigint)",
            "DATEADD(day, 9999999999, ts)",
            "COUNT(DISTINCT device)",
            "SUM(n)",
            "AVG(temp)",
            "CASE WHEN ok = 1 THEN 1 ELSE 2 END",
            " LIKE '%a_[b]'",
            " IS NOT NULL",
            " BETWEEN 1 AND 2",
            "place.name",
            "[device]",
            "\"device\"",
            "'text'",
            " AS ",
            "*",
            "-",
            "/",
            "9223372036854775807",
            "1e308",
            "0",
            "NULL",
            ";",
            "--",
            "/*",
            " JOIN other ON ",
            " OVER (LIMIT DURATION(hour, 1) WHEN n > 1)",
            " CROSS APPLY GetArrayElements(tags) AS t",
            "LAG(n)",
            "REPLICATE(device, 1000000000)",
            "SUBSTRING(device, -1, 5)",
            "ROUND(temp, 400)",
            "udf.f(n)",
            "\n",
        ]
    }

    fn check(&mut self, input: &[u8]) -> Result<(), String> {
        let Ok(text) = std::str::from_utf8(input) else { return Ok(()) };
        let planned = Script::parse(text).and_then(|script| {
            tidemill_queries::plan(&script, &self.tables, &["out".to_owned()], &Settings::default())
        });
        match planned {
            Ok(dataflow) if dataflow.nodes.is_empty() => Err("a dataflow without nodes".to_owned()),
            Ok(_) => Ok(()),
            Err(errors) if errors.render(text, "query").trim().is_empty() => {
                Err("refused without a mistake".to_owned())
            }
            Err(_) => Ok(()),
        }
    }
}
