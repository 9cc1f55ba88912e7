//! Every case of a start, with the text that the user reads.

use super::*;
use crate::epoch::{record::ReaderRecord, store::Damage};

const T: i64 = 1_700_000_000_000_000;

fn key(number: i32) -> PartitionKey {
    ("clicks".into(), "t".into(), number)
}

fn partition(number: i32, replay: i64, next: i64) -> PartitionRecord {
    let readers = vec![ReaderRecord { base: (T + replay, T + replay), advances: vec![] }];
    PartitionRecord { input: "clicks".into(), topic: "t".into(), number, topic_id: None, next, replay, readers }
}

/// One partition at `epoch * 100`, which replays the last 50 records; windows below `T + epoch` are written.
fn epoch(epoch: u64) -> EpochRecord {
    let next = epoch as i64 * 100;
    EpochRecord {
        generation: 1,
        epoch,
        after: epoch.saturating_sub(1),
        plan: "plan".into(),
        snapshot: None,
        written_below: vec![T + epoch as i64],
        partitions: vec![partition(0, (next - 50).max(0), next)],
    }
}

/// The same, which has to begin at a snapshot.
fn on_snapshot(snapshot: u64, at: u64) -> EpochRecord {
    let mut record = epoch(at);
    record.snapshot = Some(snapshot);
    record.partitions[0].replay = snapshot as i64 * 100;
    record
}

fn manifest(at: u64) -> Found {
    let mut standing = epoch(at);
    standing.partitions[0].replay = standing.partitions[0].next;
    let (job, datafusion) = ("job".to_owned(), DATAFUSION.to_owned());
    (at, Ok(Manifest { format: FORMAT, job, datafusion, epoch: epoch(at), standing, operators: vec![] }))
}

/// A snapshot whose states are damaged.
fn damaged(at: u64) -> Found {
    (at, Err(Damage { why: "its checksum is wrong".into(), epoch: Some(epoch(at)) }))
}

fn log(number: i32, earliest: i64, end: i64) -> PartitionFacts {
    PartitionFacts { topic: "t".into(), number, topic_id: None, earliest, end }
}

/// A job of one input with one partition, and outputs of one statement each.
fn facts(outputs: Vec<Keeps>) -> Facts {
    let outputs = outputs.into_iter().enumerate();
    let outputs: Vec<_> = outputs.map(|(i, keeps)| OutputFacts { name: format!("out{i}"), keeps }).collect();
    Facts {
        plan: "plan".into(),
        statements: (0..outputs.len()).collect(),
        inputs: vec![InputFacts { name: "clicks".into(), partitions: vec![log(0, 0, 10_000)], files: false }],
        outputs,
        ..Facts::default()
    }
}

fn go_on(facts: &Facts) -> GoOn {
    match decide(facts) {
        Decision::GoOn(go_on) => go_on,
        other => panic!("{other:?}"),
    }
}

fn stop(facts: &Facts) -> String {
    match decide(facts) {
        Decision::Stop(stop) => stop.to_string(),
        other => panic!("{other:?}"),
    }
}

fn notes(go_on: &GoOn) -> Vec<String> {
    go_on.notes.iter().map(ToString::to_string).collect()
}

fn written(below: i64, covering: u8) -> Written {
    Written { below: EventTime(below), covering }
}

#[test]
fn no_state_begins_at_the_start() {
    for keeps in [Keeps::WithOffsets, Keeps::InTopic(None), Keeps::InLog, Keeps::Nowhere] {
        assert_eq!(decide(&facts(vec![keeps])), Decision::Begin);
    }
    let mut again = facts(vec![Keeps::WithOffsets]);
    (again.group, again.from_start) = (Some(epoch(3)), true);
    assert_eq!(decide(&again), Decision::Begin, "--from-start");
}

#[test]
fn a_job_that_was_begun_anew_does_not_go_back_to_what_was_before() {
    let mut facts = facts(vec![Keeps::WithOffsets, Keeps::InTopic(Some(on_snapshot(400, 500)))]);
    (facts.group, facts.snapshots) = (Some(on_snapshot(400, 500)), vec![manifest(400)]);
    assert_eq!(facts.last_epoch(), Some(500));
    let mut began = epoch(0);
    (began.epoch, began.after) = (501, 501);
    facts.begun = Some(Begun { record: began.clone(), outputs: vec!["out0".into(), "out1".into()] });
    facts.log = Some(began);
    let go_on = go_on(&facts);
    assert_eq!((go_on.epoch, go_on.snapshot, go_on.partitions[&key(0)].0), (501, None, 0));
    assert_eq!(go_on.notes, []);
}

#[test]
fn it_goes_on_where_the_offsets_and_the_rows_were_committed_together() {
    let mut facts = facts(vec![Keeps::WithOffsets]);
    facts.group = Some(epoch(3));
    let go_on = go_on(&facts);
    assert_eq!((go_on.epoch, go_on.snapshot, &go_on.notes[..]), (3, None, &[][..]));
    let mark = TimeMark { largest: EventTime(T + 250), watermark: EventTime(T + 250) };
    let resume = Resume { covered: vec![300], readers: vec![(mark, vec![])] };
    assert_eq!(go_on.partitions, BTreeMap::from([(key(0), (250, resume))]));
    assert_eq!(go_on.written, [written(T + 3, 0)]);
}

#[test]
fn a_run_that_died_between_two_commits_spares_each_output_what_it_has() {
    let mut facts = facts(vec![Keeps::WithOffsets, Keeps::InTopic(Some(epoch(3))), Keeps::InLog]);
    facts.group = Some(EpochRecord { written_below: vec![T + 4, T + 4, T + 4], ..epoch(4) });
    facts.log = Some(EpochRecord { written_below: vec![T + 4, T + 4, T + 4], ..epoch(4) });
    let go_on = go_on(&facts);
    assert_eq!(go_on.epoch, 4);
    let (start, resume) = &go_on.partitions[&key(0)];
    assert_eq!((*start, &resume.covered[..]), (250, &[400, 300][..]), "from where the one behind stands");
    assert_eq!(go_on.written, [written(T + 4, 0), written(T + 3, 1), written(T + 4, 0)]);
}

#[test]
fn advances_that_any_record_tells_of_are_repeated() {
    let mut facts = facts(vec![Keeps::WithOffsets, Keeps::InTopic(Some(epoch(3)))]);
    let advanced = |mut record: EpochRecord, advances: &[(i64, i64)]| {
        record.partitions[0].readers[0].advances = advances.to_vec();
        Some(record)
    };
    facts.group = advanced(epoch(4), &[(355, T + 360), (400, T + 410)]);
    facts.outputs[1].keeps = Keeps::InTopic(advanced(epoch(3), &[(260, T + 270), (300, T + 305)]));
    let advances = |facts: &Facts| -> Vec<(i64, i64)> {
        let (_, resume) = &go_on(facts).partitions[&key(0)];
        resume.readers[0].1.iter().map(|a| (a.offset, a.watermark.0 - T)).collect()
    };
    assert_eq!(advances(&facts), [(260, 270), (300, 305), (355, 360), (400, 410)]);
    // One offset, two advances: the later one holds.
    facts.group = advanced(epoch(4), &[(300, T + 308)]);
    assert_eq!(advances(&facts), [(260, 270), (300, 308)]);
}

#[test]
fn at_least_once_goes_on_at_the_most_advanced_epoch() {
    let mut facts = facts(vec![Keeps::Nowhere, Keeps::InTopic(Some(epoch(5)))]);
    facts.group = Some(epoch(4));
    assert_eq!(go_on(&facts).written, [written(T + 5, 0), written(T + 5, 0)]);
}

#[test]
fn a_job_that_died_before_its_first_epoch_was_committed_everywhere_goes_on_at_its_beginning() {
    let mut facts = facts(vec![Keeps::WithOffsets, Keeps::InTopic(None)]);
    let mut began = epoch(0);
    began.partitions = vec![partition(0, 40, 40)];
    facts.begun = Some(Begun { record: began.clone(), outputs: vec!["out0".into(), "out1".into()] });
    facts.log = Some(began);
    let nowhere = go_on(&facts);
    assert_eq!((nowhere.epoch, nowhere.partitions[&key(0)].0, nowhere.notes.len()), (0, 40, 0));
    facts.group = Some(epoch(1));
    let one = go_on(&facts);
    assert_eq!((one.epoch, one.partitions[&key(0)].0), (1, 40));
    assert_eq!(one.partitions[&key(0)].1.covered, [100, 40]);
    assert_eq!(one.written, [written(T + 1, 0), written(T, 1)]);
    // Died again in its first commit: the number is another, what it comes after is not.
    facts.group = Some(EpochRecord { after: 0, ..epoch(4) });
    assert_eq!(go_on(&facts).written, [written(T + 4, 0), written(T, 1)]);
}

#[test]
fn files_that_were_first_do_not_make_offsets_seem_expired() {
    let mut facts = facts(vec![Keeps::WithOffsets, Keeps::InLog]);
    let mut began = epoch(0);
    began.partitions = vec![partition(0, 40, 40)];
    facts.begun = Some(Begun { record: began, outputs: vec!["out0".into(), "out1".into()] });
    facts.log = Some(EpochRecord { after: 0, ..epoch(5) });
    let go_on = go_on(&facts);
    assert_eq!(go_on.written, [written(T, 1), written(T + 5, 0)]);
    assert_eq!((go_on.after, go_on.notes), (0, vec![]));
}

#[test]
fn dead_letters_in_files_have_every_epoch_that_the_log_does_not_tell_of() {
    let mut facts = facts(vec![Keeps::WithOffsets, Keeps::InLogWithRows]);
    (facts.statements, facts.letters) = (vec![0], Some(1));
    // Epochs behind that of the log had no letters.
    (facts.group, facts.log) = (Some(epoch(7)), Some(epoch(4)));
    let ahead = go_on(&facts);
    assert_eq!((ahead.epoch, ahead.after, ahead.letters), (7, 7, 0));
    assert_eq!(ahead.partitions[&key(0)].1.covered, [700]);
    // The run died with letters that are published, and rows that are not committed.
    (facts.group, facts.log) = (Some(epoch(7)), Some(epoch(8)));
    let behind = go_on(&facts);
    assert_eq!((behind.epoch, behind.after, behind.letters), (8, 7, 0));
    assert_eq!(behind.partitions[&key(0)].1.covered, [800, 700]);
    assert_eq!(behind.written, [written(T + 7, 1)]);
    // The same in the first epoch of all.
    let mut began = epoch(0);
    began.partitions = vec![partition(0, 40, 40)];
    facts.begun = Some(Begun { record: began, outputs: vec!["out0".into(), "out1".into()] });
    (facts.group, facts.log) = (None, Some(EpochRecord { after: 0, ..epoch(1) }));
    let first = go_on(&facts);
    assert_eq!((first.after, first.letters, &first.written[..]), (0, 0, &[written(T, 1)][..]));
    assert_eq!(first.notes, []);
}

#[test]
fn dead_letters_in_a_topic_go_on_where_their_cluster_stands() {
    let mut facts = facts(vec![Keeps::WithOffsets, Keeps::InTopic(Some(epoch(6)))]);
    (facts.statements, facts.letters) = (vec![0], Some(1));
    facts.group = Some(epoch(7));
    let go_on = go_on(&facts);
    assert_eq!((go_on.letters, &go_on.partitions[&key(0)].1.covered[..]), (1, &[700, 600][..]));
}

#[test]
fn an_output_that_is_new_gets_rows_from_now_on() {
    let mut facts = facts(vec![Keeps::WithOffsets, Keeps::InTopic(None)]);
    facts.begun = Some(Begun { record: epoch(0), outputs: vec!["out0".into()] });
    facts.group = Some(epoch(7));
    let go_on = go_on(&facts);
    assert_eq!(notes(&go_on), ["output `out1` is new: it gets rows from epoch 7 on"]);
    assert_eq!(go_on.written, [written(T + 7, 0), written(T + 7, 0)]);
}

#[test]
fn a_snapshot_older_than_the_outputs_is_replayed_up_to_them() {
    let mut facts = facts(vec![Keeps::WithOffsets]);
    facts.group = Some(on_snapshot(4, 6));
    facts.snapshots = vec![manifest(4), manifest(2)];
    let go_on = go_on(&facts);
    assert_eq!((go_on.epoch, go_on.snapshot, &go_on.notes[..]), (6, Some(4), &[][..]));
    let (start, resume) = &go_on.partitions[&key(0)];
    assert_eq!((*start, &resume.covered[..]), (400, &[600][..]));
}

#[test]
fn an_output_older_than_the_newest_snapshot_begins_at_the_one_before() {
    let mut facts = facts(vec![Keeps::WithOffsets, Keeps::InTopic(Some(on_snapshot(3, 5)))]);
    facts.group = Some(on_snapshot(6, 6));
    facts.snapshots = vec![manifest(6), manifest(3)];
    let go_on = go_on(&facts);
    assert_eq!((go_on.snapshot, go_on.partitions[&key(0)].0), (Some(3), 300));
    assert_eq!(go_on.partitions[&key(0)].1.covered, [600, 500]);
}

#[test]
fn the_newest_snapshot_being_corrupt_the_one_before_is_used_and_that_is_said() {
    let mut facts = facts(vec![Keeps::WithOffsets]);
    facts.group = Some(on_snapshot(4, 6));
    facts.snapshots = vec![damaged(4), manifest(2)];
    let go_on = go_on(&facts);
    assert_eq!((go_on.snapshot, go_on.partitions[&key(0)].0), (Some(2), 200));
    assert_eq!(
        notes(&go_on),
        ["the snapshot of epoch 4 cannot be used (its checksum is wrong); going on from the one of epoch 2"]
    );
}

#[test]
fn a_partition_that_joined_behind_the_snapshot_begins_where_it_joined() {
    let mut facts = facts(vec![Keeps::WithOffsets]);
    let mut group = on_snapshot(4, 6);
    group.partitions.push(partition(1, 40, 70)); // as it stood at the snapshot of epoch 4
    facts.group = Some(group);
    facts.inputs[0].partitions.push(log(1, 0, 10_000));
    let (at, mut newest) = damaged(4);
    newest.as_mut().unwrap_err().epoch.as_mut().unwrap().partitions.push(partition(1, 0, 40));
    facts.snapshots = vec![(at, newest), manifest(2)];
    let go_on = go_on(&facts);
    assert_eq!((go_on.snapshot, go_on.partitions[&key(1)].0), (Some(2), 0));
    assert_eq!(go_on.partitions[&key(1)].1.readers[0].0.watermark, EventTime(T));
}

#[test]
fn no_snapshot_that_can_be_read_stops() {
    let mut facts = facts(vec![Keeps::WithOffsets]);
    facts.group = Some(on_snapshot(4, 6));
    assert_eq!(
        stop(&facts),
        "epoch 6 needs the snapshot of epoch 4, and none can be read: there is none; `--discard-state` goes on from the \
         committed offsets without the windows that were open"
    );
    facts.snapshots = vec![(4, Err(Damage { why: "its checksum is wrong".into(), epoch: None })), manifest(2)];
    assert!(stop(&facts).contains("none can be read: its checksum is wrong"));
    facts.discard_state = true;
    let go_on = go_on(&facts);
    assert_eq!((go_on.snapshot, go_on.partitions[&key(0)].0), (None, 600));
    assert_eq!(go_on.written, [written(T + 6, 0)], "what is written stays written");
}

#[test]
fn another_format_another_datafusion_another_plan_stop() {
    let mut facts = facts(vec![Keeps::WithOffsets]);
    facts.group = Some(on_snapshot(4, 6));
    let changed = |change: &dyn Fn(&mut Manifest)| {
        let (at, manifest) = manifest(4);
        let mut manifest = manifest.unwrap();
        change(&mut manifest);
        Facts { snapshots: vec![(at, Ok(manifest))], ..facts.clone() }
    };
    assert_eq!(
        stop(&changed(&|manifest| manifest.format = 9)),
        "the snapshot of epoch 4 has format 9, this version reads 1; run the version that wrote it, or go on without the \
         windows that were open by `--discard-state`"
    );
    assert_eq!(
        stop(&changed(&|manifest| manifest.datafusion = "54.0.0".into())),
        format!(
            "the snapshot of epoch 4 was written by DataFusion 54.0.0, this is {DATAFUSION}: its aggregates keep their state \
             otherwise; finish with the version before, or go on without the windows that were open by `--discard-state`"
        )
    );
    let other_plan = changed(&|manifest| manifest.standing.plan = "another".into());
    assert_eq!(
        stop(&other_plan),
        "the query has changed since the snapshot of epoch 4, and the state no longer fits; `--discard-state` goes on from \
         the committed offsets without the windows that were open"
    );
    assert_eq!(go_on(&Facts { discard_state: true, ..other_plan }).partitions[&key(0)].0, 600);
}

#[test]
fn a_query_that_has_changed_goes_on_where_nothing_but_records_is_needed() {
    let mut facts = facts(vec![Keeps::WithOffsets, Keeps::WithOffsets]);
    facts.group = Some(EpochRecord { plan: "another".into(), written_below: vec![T + 9, T + 3, T + 5], ..epoch(6) });
    let go_on = go_on(&facts);
    assert_eq!(
        notes(&go_on),
        ["the query has changed since epoch 6: windows that are open now are computed by the new one"]
    );
    assert_eq!(go_on.written, [written(T + 3, 0); 2], "another number of statements: the smallest holds for all");
}

#[test]
fn offsets_that_are_no_longer_in_the_log_stop_and_name_what_is_lost_and_the_flag_that_goes_on() {
    let mut facts = facts(vec![Keeps::WithOffsets]);
    facts.group = Some(epoch(3));
    facts.inputs[0].partitions = vec![log(0, 270, 900)];
    assert_eq!(
        stop(&facts),
        "topic `t` partition 0: offsets 250 to 270, from event time 2023-11-14T22:13:20.000250Z on, are needed and no longer in \
         the log; `--discard-state` goes on behind them without the windows that were open, `--from-start` begins anew"
    );
    facts.discard_state = true;
    let behind = go_on(&facts);
    assert_eq!((behind.partitions[&key(0)].0, behind.notes.len()), (300, 0), "the committed offset is there");
    facts.inputs[0].partitions = vec![log(0, 400, 900)];
    let behind = go_on(&facts);
    assert_eq!(behind.partitions[&key(0)].0, 400);
    assert_eq!(
        notes(&behind),
        ["topic `t` partition 0: offsets 300 to 400 are no longer in the log and are left out (--discard-state)"]
    );
}

#[test]
fn a_topic_of_the_same_name_with_another_id_stops() {
    let mut facts = facts(vec![Keeps::WithOffsets]);
    let mut group = epoch(3);
    group.partitions[0].topic_id = Some("old".into());
    facts.group = Some(group);
    go_on(&facts); // on librdkafka's path the id is not asked for
    facts.inputs[0].partitions[0].topic_id = Some("old".into());
    go_on(&facts);
    facts.inputs[0].partitions[0].topic_id = Some("new".into());
    assert_eq!(
        stop(&facts),
        "topic `t` was deleted and made again since epoch 3 (its id was old, now it is new); the job's offsets are those of the \
         old one; `--from-start` begins anew"
    );
}

#[test]
fn a_topic_that_was_made_again_stops() {
    let mut facts = facts(vec![Keeps::WithOffsets]);
    facts.group = Some(epoch(3));
    facts.inputs[0].partitions = vec![log(0, 0, 12)];
    assert_eq!(
        stop(&facts),
        "topic `t` partition 0 ends at offset 12, but records up to 300 were read: it was deleted and made again, or its log \
         was cut; `--from-start` begins anew"
    );
    facts.inputs[0].partitions = vec![];
    assert_eq!(
        stop(&facts),
        "topic `t` has no partition 0 any more, of which records up to 300 were read: it was deleted and made again; \
         `--from-start` begins anew"
    );
}

#[test]
fn a_partition_that_was_added_is_new_and_an_input_that_was_taken_out_is_forgotten() {
    let mut facts = facts(vec![Keeps::WithOffsets]);
    let mut group = epoch(3);
    group.partitions.push(PartitionRecord { input: "gone".into(), ..partition(0, 5, 9) });
    facts.group = Some(group);
    facts.inputs[0].partitions.push(log(1, 0, 20));
    assert_eq!(go_on(&facts).partitions.keys().cloned().collect::<Vec<_>>(), [key(0)]);
}

#[test]
fn a_partition_that_joined_between_two_epochs_is_read_from_where_it_began() {
    let mut facts = facts(vec![Keeps::WithOffsets, Keeps::InTopic(Some(epoch(3)))]);
    let mut group = epoch(4);
    group.partitions.push(partition(1, 0, 7));
    facts.group = Some(group);
    facts.inputs[0].partitions.push(log(1, 0, 20));
    let go_on = go_on(&facts);
    assert_eq!(go_on.partitions[&key(1)].0, 0);
    assert_eq!(go_on.partitions[&key(1)].1.covered, [7, i64::MIN]);
}

#[test]
fn committed_offsets_that_expired_are_not_missed() {
    let mut facts = facts(vec![Keeps::WithOffsets]);
    facts.begun = Some(Begun { record: epoch(0), outputs: vec!["out0".into()] });
    facts.log = Some(epoch(5));
    let from_log = go_on(&facts);
    assert_eq!((from_log.epoch, from_log.partitions[&key(0)].0), (5, 450));
    assert_eq!(
        notes(&from_log),
        ["the group's committed offsets are gone; going on from epoch 5 in the state store, not from `start`"]
    );
    facts.snapshots = vec![manifest(6)];
    assert_eq!(go_on(&facts).epoch, 6, "or from a manifest, when that is newer");
}

#[test]
fn offsets_of_another_program_are_taken_as_they_are() {
    let mut facts = facts(vec![Keeps::WithOffsets]);
    facts.foreign = BTreeMap::from([(key(0), 77)]);
    // Somebody has moved the group: that counts, whatever the store says.
    facts.log = Some(epoch(5));
    let moved = go_on(&facts);
    assert_eq!(moved.partitions[&key(0)], (77, Resume::default()));
    assert_eq!(moved.written, [Written::NOTHING]);
    facts.inputs[0].partitions = vec![log(0, 100, 200)];
    assert!(stop(&facts).contains("offsets 77 to 100, from event time -inf on, are needed and no longer in the log"));
    facts.inputs[0].partitions = vec![log(0, 0, 50)];
    assert!(stop(&facts).contains("ends at offset 50, but records up to 77 were read"));
}

#[test]
fn a_file_that_was_read_may_be_taken_away() {
    let mut facts = facts(vec![Keeps::InLog]);
    (facts.log, facts.inputs[0].files) = (Some(epoch(3)), true);
    facts.inputs[0].partitions = vec![];
    assert_eq!(go_on(&facts).partitions, BTreeMap::new());
}
