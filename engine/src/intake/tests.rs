//! The intake under what records and answers may do to it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use arrow::{
    array::{AsArray, Int64Array, RecordBatch},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType},
};

use super::*;
use crate::{
    Monotonic,
    dataflow::plan::{InputPlan, Node, TimePolicy},
    dead_letter::DeadLetter,
    epoch::{ReaderTime, TimeMark},
    source::TimestampKind,
};

/// Decodes a payload of one decimal number; `x` is bad, `!` makes it panic after it has written half a row.
#[derive(Default)]
struct Numbers(Vec<i64>);

impl Decoder for Numbers {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]))
    }

    fn push(&mut self, payload: &[u8]) -> Result<usize, BadRecord> {
        match payload {
            b"!" => {
                self.0.push(-1);
                panic!("as the payload says");
            }
            b"x" => Err(BadRecord { class: BadClass::Malformed, message: "not a number".to_owned() }),
            number => {
                self.0.push(std::str::from_utf8(number).unwrap().parse().unwrap());
                Ok(1)
            }
        }
    }

    fn truncate(&mut self, rows: usize) {
        self.0.truncate(rows);
    }

    fn flush(&mut self) -> crate::Result<RecordBatch> {
        let column = Arc::new(Int64Array::from(std::mem::take(&mut self.0)));
        Ok(RecordBatch::try_new(self.schema(), vec![column])?)
    }
}

/// What a poll reports: records as (offset, seconds, payload), or an end.
enum Poll {
    Records(Vec<(i64, i64, &'static str)>),
    /// The log ends at this offset, asked at this second of our clock.
    End(i64, i64),
}

/// One partition; each poll reports a list.
struct Script(Vec<Vec<Poll>>);

impl Source for Script {
    fn poll(&mut self, _wait: Duration, visit: &mut crate::source::Visit<'_>) -> crate::Result<()> {
        let partition = PartitionId(0);
        for poll in self.0.remove(0) {
            match poll {
                Poll::Records(records) => {
                    let records: Vec<_> = records
                        .iter()
                        .map(|&(offset, second, payload)| Record {
                            offset,
                            timestamp_ms: second * 1_000,
                            timestamp_kind: TimestampKind::LogAppend,
                            key: None,
                            value: (payload != "tombstone").then_some(payload.as_bytes()),
                            headers: &[],
                            unread_headers: None,
                        })
                        .collect();
                    visit(SourceEvent::Records {
                        partition,
                        records: &records,
                        received: Monotonic(0),
                        live_from: None,
                    })?;
                }
                Poll::End(end_offset, asked) => {
                    visit(SourceEvent::End { partition, leader: 1, asked: Monotonic(asked * 1_000_000), end_offset })?;
                }
            }
        }
        Ok(())
    }

    fn finished(&self) -> bool {
        self.0.is_empty()
    }
}

/// Announces the partition, then plays the script.
struct Joined(bool, Script);

impl Source for Joined {
    fn poll(&mut self, wait: Duration, visit: &mut crate::source::Visit<'_>) -> crate::Result<()> {
        if !std::mem::replace(&mut self.0, true) {
            visit(SourceEvent::Joined { partition: PartitionId(0), topic: "t", number: 3, start_offset: 0 })?;
        }
        self.1.poll(wait, visit)
    }

    fn finished(&self) -> bool {
        self.1.finished()
    }
}

type Letters = Mutex<Vec<(i64, Option<String>, BadClass)>>;

struct Keep(Arc<Letters>);

impl DeadLetters for Keep {
    fn put(&mut self, letter: &DeadLetter<'_>) -> crate::Result<()> {
        assert_eq!((letter.topic, letter.partition), ("t", 3));
        if letter.covering > 0 {
            return Ok(()); // an earlier run has kept it
        }
        let value = letter.value.map(|v| String::from_utf8(v.to_vec()).unwrap());
        self.0.lock().unwrap().push((letter.offset, value, letter.class));
        Ok(())
    }
}

/// Both clocks show the same.
struct At(i64);

impl Clock for At {
    fn monotonic(&self) -> Monotonic {
        Monotonic(self.0 * 1_000_000)
    }

    fn wall(&self) -> EventTime {
        EventTime(self.0 * 1_000_000)
    }
}

/// (n, second of the event time, replayed) of each row, and watermarks in seconds between them.
#[derive(Debug, PartialEq)]
enum Seen {
    Row(i64, i64, bool),
    Watermark(i64),
    End,
}

struct Outcome {
    seen: Vec<Seen>,
    letters: Vec<(i64, Option<String>, BadClass)>,
    intake: Intake,
}

fn run(polls: Vec<Vec<Poll>>, replay_below: i64) -> Outcome {
    resumed(polls, Resume { covered: vec![replay_below], readers: vec![] })
}

fn resumed(polls: Vec<Vec<Poll>>, resume: Resume) -> Outcome {
    let schema = |fields: Vec<Field>| Arc::new(Schema::new(fields));
    let number = Field::new("n", DataType::Int64, true);
    let dataflow = Dataflow {
        nodes: vec![Node {
            operator: OperatorPlan::Input(InputPlan { input: 0, time: TimePolicy::Arrival }),
            inputs: vec![],
            schema: schema(vec![number.clone(), Field::new(EVENT_TIME, datetime_type(), false)]),
        }],
        inputs: vec![InputColumns {
            name: "in".into(),
            payload: schema(vec![number]),
            metadata: vec![],
            ordered: false,
            may_fail: false,
            exact: false,
        }],
        tables: vec![],
        outputs: vec![],
    };
    let letters: Arc<Letters> = Arc::default();
    let options = IntakeOptions {
        arrival: TimeRule::LogAppend,
        judge_arrival: true,
        idle_margin_us: 2_000_000,
        clocks: Arc::new(Mutex::new(BrokerClocks::new(5_000_000))),
        growing: false,
        on_bad_record: OnBadRecord::DeadLetter,
        max_bad_ppm: None,
        dead_letters: Arc::new(Mutex::new(Keep(Arc::clone(&letters)))),
        counters: Arc::default(),
        clock: Arc::new(At(1_000)),
        resume: BTreeMap::from([(PartitionId(0), resume)]),
        batch_rows: BATCH_ROWS,
    };
    let count = polls.len();
    let decoders: DecoderFactory = Arc::new(|| Box::new(Numbers::default()));
    let mut intake = Intake::new(&dataflow, 0, Box::new(Joined(false, Script(polls))), &decoders, options);
    let mut seen = vec![];
    for _ in 0..count {
        intake
            .poll(Duration::ZERO, &mut |node, signal, covering| {
                assert_eq!(node, 0);
                match signal {
                    Signal::Watermark(EventTime::MAX) => seen.push(Seen::End),
                    Signal::Watermark(t) => seen.push(Seen::Watermark(t.0 / 1_000_000)),
                    Signal::Batch(batch) => {
                        let numbers = batch.column(0).as_primitive::<Int64Type>().values();
                        let times = batch.column(1).as_primitive::<TimestampMicrosecondType>().values();
                        let rows = numbers.iter().zip(times).map(|(n, t)| Seen::Row(*n, t / 1_000_000, covering > 0));
                        seen.extend(rows);
                    }
                }
                Ok(vec![])
            })
            .unwrap();
    }
    let letters = letters.lock().unwrap().clone();
    Outcome { seen, letters, intake }
}

#[test]
fn a_record_that_makes_the_decoder_panic_is_a_dead_letter_alone() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let records =
        vec![(0, 10, "1"), (1, 10, "!"), (2, 11, "x"), (3, 12, "tombstone"), (4, 12, "2"), (5, 12, "!"), (6, 12, "3")];
    let outcome = run(vec![vec![Poll::Records(records)]], 0);
    std::panic::set_hook(hook);
    let rows = [Seen::Row(1, 10, false), Seen::Row(2, 12, false), Seen::Row(3, 12, false), Seen::End];
    assert_eq!(outcome.seen, rows);
    let letter = |offset, value: &str, class| (offset, Some(value.to_owned()), class);
    assert_eq!(
        outcome.letters,
        [letter(1, "!", BadClass::Bug), letter(2, "x", BadClass::Malformed), letter(5, "!", BadClass::Bug)]
    );
}

#[test]
fn an_old_backlog_and_its_end_in_one_poll_lose_nothing() {
    let polls =
        vec![vec![Poll::Records(vec![(0, 10, "1"), (1, 11, "2")]), Poll::End(2, 999), Poll::Records(vec![])], vec![]];
    let outcome = run(polls, 0);
    // No live record told the broker's time: wall clock less uncertainty less idle margin.
    let expected = [Seen::Row(1, 10, false), Seen::Row(2, 11, false), Seen::Watermark(999 - 5 - 2), Seen::End];
    assert_eq!(outcome.seen, expected);
    assert_eq!(outcome.letters, []);
}

#[test]
fn an_end_that_is_not_reached_moves_nothing_and_a_row_behind_an_advance_is_a_dead_letter_with_its_bytes() {
    let polls = vec![
        vec![Poll::Records(vec![(0, 10, "1")]), Poll::End(2, 999)],
        vec![Poll::Records(vec![(1, 11, "2")]), Poll::End(2, 999)],
        vec![Poll::Records(vec![(2, 900, "3"), (3, 993, "4")])],
    ];
    let outcome = run(polls, 0);
    let expected = [
        Seen::Row(1, 10, false),
        Seen::Watermark(10),
        Seen::Row(2, 11, false),
        Seen::Watermark(992),
        Seen::Row(4, 993, false),
        Seen::End,
    ];
    assert_eq!(outcome.seen, expected);
    assert_eq!(outcome.letters, [(2, Some("3".to_owned()), BadClass::Late)]);
}

#[test]
fn each_record_behind_an_advance_is_a_dead_letter_also_where_their_stamps_are_the_same() {
    let polls = vec![
        vec![Poll::Records(vec![(0, 10, "1")]), Poll::End(1, 999)],
        vec![Poll::Records(vec![(1, 900, "2"), (2, 900, "3"), (3, 901, "4"), (4, 993, "5")])],
    ];
    let outcome = run(polls, 0);
    let expected = [Seen::Row(1, 10, false), Seen::Watermark(992), Seen::Row(5, 993, false), Seen::End];
    assert_eq!(outcome.seen, expected);
    let letter = |offset, value: &str| (offset, Some(value.to_owned()), BadClass::Late);
    assert_eq!(outcome.letters, [letter(1, "2"), letter(2, "3"), letter(3, "4")]);
    assert_eq!(outcome.intake.rows.options.counters.bad_records(), BTreeMap::from([(BadClass::Late, 3)]));
}

#[test]
fn a_stamp_that_steps_back_takes_the_largest_as_event_time() {
    let outcome = run(vec![vec![Poll::Records(vec![(0, 10, "1"), (1, 8, "2"), (2, 11, "3")])]], 0);
    assert_eq!(outcome.seen[..3], [Seen::Row(1, 10, false), Seen::Row(2, 10, false), Seen::Row(3, 11, false)]);
}

#[test]
fn records_of_an_earlier_run_are_marked_as_replayed_and_their_bad_ones_are_not_kept_again() {
    let records = vec![(5, 10, "1"), (6, 11, "x"), (7, 12, "2"), (8, 13, "x")];
    let outcome = run(vec![vec![Poll::Records(records)]], 7);
    assert_eq!(outcome.seen[..2], [Seen::Row(1, 10, true), Seen::Row(2, 12, false)]);
    assert_eq!(outcome.letters, [(8, Some("x".to_owned()), BadClass::Malformed)]);
}

#[test]
fn a_replay_begins_at_the_first_record_that_an_open_window_needs() {
    let mut outcome = run(vec![vec![Poll::Records(vec![(0, 10, "1"), (1, 20, "2"), (2, 30, "3")])]], 0);
    let mut positions = |horizon: Option<i64>| {
        let horizon = horizon.map(|second| EventTime(second * 1_000_000));
        let position = outcome.intake.positions(0, horizon).remove(0);
        (position.partition, position.next_offset, position.replay_offset)
    };
    // Pieces are cut at epochs: the first piece holds all three.
    assert_eq!(positions(Some(25)), (PartitionId(0), 3, 0));
    assert_eq!(positions(Some(31)), (PartitionId(0), 3, 3));
    assert_eq!(positions(None), (PartitionId(0), 3, 3));
}

#[test]
fn advances_that_a_row_depends_on_are_part_of_the_epoch_and_repeated_where_they_stood() {
    let records = |records: &[(i64, i64, &'static str)]| Poll::Records(records.to_vec());
    let seconds = |second: i64| EventTime(second * 1_000_000);
    let polls = vec![
        vec![records(&[(0, 10, "1")]), Poll::End(1, 500)],
        // Above the advance: nothing depends on it.
        vec![records(&[(1, 600, "2")]), Poll::End(2, 900), Poll::End(2, 999)],
        // Behind it.
        vec![records(&[(2, 700, "3"), (3, 995, "4")]), Poll::End(4, 999)],
    ];
    let mut live = run(polls, 0);
    assert_eq!(live.letters, [(2, Some("3".to_owned()), BadClass::Late)]);
    let position = live.intake.positions(0, Some(EventTime::MIN)).remove(0);
    let advance = Advance { offset: 2, watermark: seconds(992) };
    let now = TimeMark { largest: seconds(995), watermark: seconds(995) };
    assert_eq!(position.readers, [ReaderTime { base: TimeMark::START, advances: vec![advance], now }]);

    // The same records in one piece, and no answers of a leader.
    let again = vec![vec![records(&[(0, 10, "1"), (1, 600, "2"), (2, 700, "3"), (3, 995, "4")])]];
    let replay = resumed(again, Resume { covered: vec![4, 1], readers: vec![(TimeMark::START, vec![advance])] });
    let rows = |seen: &[Seen]| {
        seen.iter().filter_map(|s| if let Seen::Row(n, t, _) = s { Some((*n, *t)) } else { None }).collect::<Vec<_>>()
    };
    assert_eq!(rows(&replay.seen), rows(&live.seen));
    assert_eq!(replay.letters, [], "the run that took it first kept it");
    let mut replay = replay.intake;
    assert_eq!(replay.positions(0, Some(EventTime::MIN)), [position], "and the next epoch says the same");
}

#[test]
fn records_tell_of_how_many_epochs_they_are_part() {
    let resume = Resume { covered: vec![7, 5], readers: vec![] };
    assert_eq!([4, 5, 6, 7].map(|offset| resume.covering(offset)), [2, 1, 1, 0]);
}
