//! Functions in JavaScript that fail: their rows are dead letters, and the job goes on.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

fn tidemill(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidemill")).args(arguments).current_dir(directory).output().unwrap()
}

/// Runs a job over `in.jsonl` to its end; its exit code and what it said.
fn run(directory: &Path, spec: &str) -> (Option<i32>, String) {
    fs::write(directory.join("job.yaml"), spec).unwrap();
    let output = tidemill(directory, &["run", "--bounded", "job.yaml"]);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn rows(folder: &Path) -> Vec<Value> {
    let files = fs::read_dir(folder).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    files.flat_map(|text| text.lines().map(|row| serde_json::from_str(row).unwrap()).collect::<Vec<_>>()).collect()
}

/// The letters of a job, by offset.
fn letters(directory: &Path, job: &str) -> Vec<Value> {
    let files = fs::read_dir(directory.join("dead-letters")).unwrap().map(|entry| entry.unwrap().path());
    let own = files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(&format!("{job}.")));
    let lines = own.map(|path| fs::read_to_string(path).unwrap());
    let mut letters: Vec<Value> =
        lines.flat_map(|text| text.lines().map(|l| serde_json::from_str(l).unwrap()).collect::<Vec<_>>()).collect();
    letters.sort_by_key(|letter| letter["offset"].as_i64());
    letters
}

/// A number that is not fit, a loop without end, and more memory than there is.
const SCRIPT: &str = "function main(n) {
  if (n % 100 === 7) throw new RangeError('seven');
  while (n === 500) {}
  var all = [];
  while (n === 600) all.push(new Array(1000).fill(n));
  return n;
}
";

fn spec(name: &str, function: &str, policy: &str, query: &str) -> String {
    format!(
        "name: {name}\ninputs: {{a: {{file: {{path: in.jsonl}}, schema: {{n: int}}{policy}}}}}\n\
         outputs: {{o: {{file: {{path: {name}/}}}}}}\nfunctions: {{check: {{javascript: {{file: {function}}}}}}}\n\
         query: {query}\n"
    )
}

#[test]
fn a_row_whose_function_fails_is_a_dead_letter_and_comes_back_when_it_is_mended() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let lines: Vec<String> = (0..3_000).map(|n| format!("{{\"n\": {n}, \"other\": \"{n}\"}}")).collect();
    fs::write(directory.join("in.jsonl"), lines.join("\n")).unwrap();
    fs::write(directory.join("check.js"), SCRIPT).unwrap();
    fs::write(directory.join("mended.js"), "function main(n) { return n; }").unwrap();

    let query = "SELECT n, udf.check(n) AS x FROM a";
    let (code, said) = run(directory, &spec("plain", "check.js", "", query));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("3,000 records") && said.contains("bad records: function 32"), "{said}");
    assert_eq!(rows(&directory.join("plain")).len(), 2_968);
    let kept = letters(directory, "plain");
    assert_eq!(kept.len(), 32);
    for letter in &kept {
        let n = letter["offset"].as_i64().unwrap();
        let expected = match n {
            500 => "`check` did not end within 1 s and was stopped".to_owned(),
            600 => "out of memory".to_owned(),
            _ => "`check` failed at check.js:2: RangeError: seven".to_owned(),
        };
        assert!(letter["error"].as_str().unwrap().contains(&expected), "{letter}");
        assert_eq!((&letter["class"], &letter["value"]), (&json!("function"), &json!(lines[n as usize])));
    }
    let shown = String::from_utf8(tidemill(directory, &["dead-letters", "job.yaml"]).stdout).unwrap();
    assert!(shown.starts_with("plain: 32 dead letters\nfunction: 32, from "), "{shown}");

    fs::write(directory.join("job.yaml"), spec("plain", "mended.js", "", query)).unwrap();
    let replayed = tidemill(directory, &["replay", "job.yaml", "--class", "function"]);
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    let mut back: Vec<i64> = rows(&directory.join("plain")).iter().map(|row| row["n"].as_i64().unwrap()).collect();
    back.sort_unstable();
    assert_eq!(back, (0..3_000).collect::<Vec<_>>());
}

#[test]
fn the_policy_of_the_input_decides() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let lines: Vec<String> = (0..2_000).map(|n| format!("{{\"n\": {n}}}")).collect();
    fs::write(directory.join("in.jsonl"), lines.join("\n")).unwrap();
    fs::write(directory.join("check.js"), "function main(n) {\n  if (n % 100 === 7) throw 'seven';\n  return n;\n}")
        .unwrap();
    let query = "SELECT n FROM a WHERE udf.check(n) >= 0";

    let (code, said) = run(directory, &spec("drop", "check.js", ", on_bad_record: drop", query));
    assert_eq!((code, rows(&directory.join("drop")).len()), (Some(0), 1_980), "{said}");
    assert!(!directory.join("dead-letters").read_dir().unwrap().any(|_| true));
    let (code, said) = run(directory, &spec("fail", "check.js", ", on_bad_record: fail", query));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("partition 0 offset 7: `check` threw seven"), "{said}");
    let (code, said) = run(directory, &spec("many", "check.js", ", max_bad: 0.5%", query));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("of 2000 records are bad, more than `max_bad` allows (0.5 %)"), "{said}");

    let with = |name: &str, on_error: &str| {
        spec(name, "check.js", "", query).replace("check.js}", &format!("check.js, on_error: {on_error}}}"))
    };
    let (code, said) = run(directory, &with("stops", "fail"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("`check` threw seven"), "{said}");
    let (code, said) = run(directory, &with("nulls", "give_null"));
    assert_eq!((code, rows(&directory.join("nulls")).len()), (Some(0), 1_980), "{said}");
}

#[test]
fn behind_a_window_the_dead_letter_holds_the_row() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let lines: Vec<String> = (0..100).map(|n| format!("{{\"n\": {n}}}")).collect();
    fs::write(directory.join("in.jsonl"), lines.join("\n")).unwrap();
    fs::write(directory.join("check.js"), "function main(n) {\n  if (n === 34) throw 'all';\n  return n;\n}").unwrap();
    let query = "WITH c AS (SELECT n % 3 AS k, COUNT(*) AS n FROM a GROUP BY n % 3, TumblingWindow(day, 1)) \
                 SELECT k, udf.check(n) AS n FROM c";
    let (code, said) = run(directory, &spec("window", "check.js", "", query));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(rows(&directory.join("window")), [json!({"k": 1, "n": 33}), json!({"k": 2, "n": 33})]);
    let [letter] = &letters(directory, "window")[..] else { panic!("one row fails") };
    assert_eq!((&letter["topic"], &letter["partition"], &letter["offset"]), (&json!(""), &json!(-1), &json!(-1)));
    assert_eq!((&letter["input"], &letter["value"]), (&json!("a"), &json!("{\"k\":0,\"n\":34}")));
    let replayed = tidemill(directory, &["replay", "job.yaml"]);
    assert_eq!(String::from_utf8(replayed.stdout).unwrap(), "window: nothing to replay\n");
}
