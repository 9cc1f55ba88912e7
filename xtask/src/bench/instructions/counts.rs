//! What is recorded of the loops, and what it says of new counts: decisions alone, no input and no output.
//!
//! Counts are only held against each other where the same compiler made the program and the same code paths of the libraries were
//! chosen. A count that rises is recorded with its reason, which stays beside it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A count may be above the recorded one by this part.
const TOLERATED: f64 = 0.05;
/// Two runs of the same program differ by less than this part: such a count is the recorded one.
const REPEATED: f64 = 0.001;

/// What counts depend on beside our code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Machine {
    pub(super) rustc: String,
    pub(super) profile: String,
    /// As the program sees them under valgrind.
    pub(super) cpu_features: Vec<String>,
    pub(super) libc: String,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}), {}, {}", self.rustc, self.profile, self.cpu_features.join(" "), self.libc)
    }
}

/// New counts.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    pub(super) machine: Machine,
    /// Instructions a record, by loop.
    pub(super) instructions: Vec<(String, f64)>,
}

/// What is recorded: the file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counts {
    machine: Machine,
    loops: BTreeMap<String, Recorded>,
}

/// What is recorded of a loop.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    instructions_a_record: f64,
    /// In the order in which it rose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    raised: Vec<Raised>,
}

/// Why a count was let rise.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Raised {
    from: f64,
    to: f64,
    reason: String,
}

/// What a new count is worth.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Not above what is tolerated.
    Holds { name: String, recorded: f64, counted: f64 },
    /// Above it.
    Above { name: String, recorded: f64, counted: f64 },
    /// Nothing is recorded of the loop.
    Unknown { name: String, counted: f64 },
    /// What is recorded is of another compiler, processor or C library.
    NotCompared { name: String, recorded: Option<f64>, counted: f64, machines: Box<(Machine, Machine)> },
}

impl Verdict {
    /// Whether the check passes.
    pub(super) fn ok(&self) -> bool {
        !matches!(self, Self::Above { .. } | Self::Unknown { .. })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let change = |recorded: f64, counted: f64| (counted / recorded - 1.0) * 100.0;
        match self {
            Self::Holds { name, recorded, counted } => {
                let change = change(*recorded, *counted);
                write!(f, "{name}: {counted} instructions a record, {recorded} recorded ({change:+.1} %)")?;
                if change < -TOLERATED * 100.0 {
                    write!(f, "; record it, so that it stays: cargo xtask bench instructions --record")?;
                }
                Ok(())
            }
            Self::Above { name, recorded, counted } => write!(
                f,
                "{name}: {counted} instructions a record, {recorded} recorded ({:+.1} %, at most {:+.0} %); if it has to be: cargo \
                 xtask bench instructions --record --reason TEXT",
                change(*recorded, *counted),
                TOLERATED * 100.0,
            ),
            Self::Unknown { name, counted } => write!(
                f,
                "{name}: {counted} instructions a record, none recorded; to record them: cargo xtask bench instructions --record"
            ),
            Self::NotCompared { name, recorded, counted, machines } => {
                let (then, now) = machines.as_ref();
                write!(f, "{name}: not compared: {counted} instructions a record by {now}; ")?;
                match recorded {
                    Some(recorded) => write!(f, "recorded are {recorded} by {then}"),
                    None => write!(f, "none recorded"),
                }
            }
        }
    }
}

impl Counts {
    /// A verdict on each loop.
    pub(super) fn judge(&self, counted: &Counted) -> Vec<Verdict> {
        counted.instructions.iter().map(|(name, count)| self.judge_one(name, *count, &counted.machine)).collect()
    }

    fn judge_one(&self, name: &str, counted: f64, machine: &Machine) -> Verdict {
        let name = name.to_owned();
        let recorded = self.loops.get(&name).map(|recorded| recorded.instructions_a_record);
        if !self.loops.is_empty() && self.machine != *machine {
            let machines = Box::new((self.machine.clone(), machine.clone()));
            return Verdict::NotCompared { name, recorded, counted, machines };
        }
        match recorded {
            None => Verdict::Unknown { name, counted },
            Some(recorded) if counted > recorded * (1.0 + TOLERATED) => Verdict::Above { name, recorded, counted },
            Some(recorded) => Verdict::Holds { name, recorded, counted },
        }
    }

    /// With the new counts in the place of the old ones, whatever those were of.
    ///
    /// # Errors
    /// When a count rises and there is no reason.
    pub(super) fn record(mut self, counted: &Counted, reason: Option<&str>) -> Result<Self, String> {
        let mut loops = BTreeMap::new();
        for (name, to) in &counted.instructions {
            let recorded = match self.loops.remove(name) {
                None => Recorded { instructions_a_record: *to, raised: vec![] },
                Some(old) => old.replaced(name, *to, reason)?,
            };
            loops.insert(name.clone(), recorded);
        }
        Ok(Self { machine: counted.machine.clone(), loops })
    }
}

impl Recorded {
    fn replaced(mut self, name: &str, to: f64, reason: Option<&str>) -> Result<Self, String> {
        let from = self.instructions_a_record;
        if (to - from).abs() <= from * REPEATED {
            return Ok(self);
        }
        if to > from {
            let reason = reason.ok_or_else(|| {
                format!("{name} rises from {from} to {to} instructions a record: say why by `--reason TEXT`; nothing is recorded")
            })?;
            self.raised.push(Raised { from, to, reason: reason.to_owned() });
        }
        self.instructions_a_record = to;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(rustc: &str) -> Machine {
        Machine {
            rustc: rustc.into(),
            profile: "release".into(),
            cpu_features: vec!["avx2".into(), "sse4.2".into()],
            libc: "glibc 2.36".into(),
        }
    }

    fn counted(walk: f64, decode: f64) -> Counted {
        Counted { machine: machine("1.95"), instructions: vec![("walk".into(), walk), ("decode".into(), decode)] }
    }

    fn recorded() -> Counts {
        Counts::default().record(&counted(100.0, 400.0), None).unwrap()
    }

    #[test]
    fn five_percent_more_are_tolerated_and_no_more() {
        let verdicts = recorded().judge(&counted(105.0, 420.5));
        assert!(verdicts[0].ok(), "{}", verdicts[0]);
        assert!(!verdicts[1].ok(), "{}", verdicts[1]);
        let text = verdicts[1].to_string();
        for part in ["decode: 420.5 instructions", "400 recorded", "--record --reason TEXT"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn what_fell_is_to_be_recorded() {
        let verdicts = recorded().judge(&counted(94.0, 399.0));
        assert!(verdicts.iter().all(Verdict::ok));
        assert!(verdicts[0].to_string().ends_with("--record"), "{}", verdicts[0]);
        assert!(verdicts[1].to_string().ends_with("(-0.2 %)"), "{}", verdicts[1]);
    }

    #[test]
    fn another_compiler_processor_or_library_is_not_compared() {
        let changes: [fn(&mut Machine); 4] = [
            |machine| machine.rustc = "1.96".into(),
            |machine| machine.cpu_features = vec!["sse4.2".into()],
            |machine| machine.libc = "glibc 2.41".into(),
            |machine| machine.profile = "debug".into(),
        ];
        for change in changes {
            let mut other = counted(900.0, 900.0);
            change(&mut other.machine);
            for verdict in recorded().judge(&other) {
                assert!(verdict.ok(), "{verdict}");
                let text = verdict.to_string();
                let both = [other.machine.to_string(), machine("1.95").to_string()];
                assert!(text.contains("not compared") && both.iter().all(|of| text.contains(of)), "{text}");
            }
        }
    }

    #[test]
    fn a_loop_of_which_nothing_is_recorded_fails() {
        let verdicts = Counts::default().judge(&counted(1.0, 1.0));
        assert!(verdicts.iter().all(|verdict| !verdict.ok() && verdict.to_string().contains("none recorded")));
        let mut new = counted(100.0, 400.0);
        new.instructions.push(("tumble".into(), 7.0));
        assert!(!recorded().judge(&new)[2].ok());
    }

    #[test]
    fn a_count_that_rises_needs_a_reason_which_is_kept() {
        let refused = recorded().record(&counted(100.0, 404.0), None).unwrap_err();
        assert!(refused.contains("decode rises from 400 to 404"), "{refused}");
        let once = recorded().record(&counted(100.0, 404.0), Some("checks surrogates")).unwrap();
        let twice = once.record(&counted(90.0, 410.0), Some("checks more")).unwrap();
        let reasons: Vec<_> = twice.loops["decode"].raised.iter().map(|raised| raised.reason.as_str()).collect();
        assert_eq!(reasons, ["checks surrogates", "checks more"]);
        assert_eq!(twice.loops["walk"], Recorded { instructions_a_record: 90.0, raised: vec![] });
        let text = serde_json::to_string(&twice).unwrap();
        assert_eq!(serde_json::from_str::<Counts>(&text).unwrap(), twice);
    }

    #[test]
    fn a_run_again_changes_nothing() {
        assert_eq!(recorded().record(&counted(100.05, 399.9), None).unwrap(), recorded());
    }

    #[test]
    fn a_new_compiler_takes_its_place_by_the_same_rule() {
        let mut other = counted(90.0, 450.0);
        other.machine = machine("1.96");
        assert!(recorded().record(&other, None).is_err());
        let replaced = recorded().record(&other, Some("rustc 1.96")).unwrap();
        assert!(replaced.judge(&other).iter().all(|verdict| matches!(verdict, Verdict::Holds { .. })));
    }
}
