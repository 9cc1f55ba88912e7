//! What a question will read, for a reader.

use std::fmt::Write as _;

use datafusion::physical_plan::displayable;

use super::executor::{Plan, Reading};

/// Partitions of a table that are listed.
const LISTED: usize = 20;

/// Lines: what is read of each table, and the plan.
pub(super) fn lines(plan: &Plan) -> Vec<String> {
    let mut out = String::new();
    for reading in plan.readings() {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "read `{}`: {}", reading.table, summary(reading));
        for stretch in reading.stretches.iter().take(LISTED) {
            let partition = &reading.partitions[stretch.partition];
            let _ = match stretch.records {
                Some(_) => {
                    let (first, end) = stretch.whole;
                    let (from, last) = (stretch.from, stretch.to - 1);
                    let whole = format!("{first} to {}", end - 1);
                    writeln!(
                        out,
                        "  {} partition {}: offsets {from} to {last} of {whole}",
                        partition.topic, partition.number
                    )
                }
                None => writeln!(out, "  {}", partition.topic),
            };
        }
        if reading.stretches.len() > LISTED {
            let _ = writeln!(out, "  and {} more", reading.stretches.len() - LISTED);
        }
        for note in &reading.notes {
            let _ = writeln!(out, "  {note}");
        }
    }
    let _ = write!(out, "{}", displayable(plan.physical().as_ref()).indent(false));
    out.lines().map(str::to_owned).collect()
}

/// `2 of 3 partitions, at most 1234 records, about 5678 bytes`.
fn summary(reading: &Reading) -> String {
    let (some, all) = (reading.stretches.len(), reading.partitions.len());
    let mut out = format!("{some} of {all} partitions");
    if let Some(records) = reading.records {
        let _ = write!(out, ", at most {records} records");
    }
    let _ = write!(out, ", about {} bytes", reading.bytes);
    if reading.counts {
        out.push_str(" (records are counted in the headers of their batches, payloads are not looked at)");
    }
    if let Some(rows) = reading.newest {
        let _ = write!(out, " (from the end of each partition, {rows} rows)");
    }
    out
}
