use super::*;
use crate::event_time::Placement;

const MARGIN: i64 = 2;
const P0: PartitionId = PartitionId(0);
const P1: PartitionId = PartitionId(1);
const P2: PartitionId = PartitionId(2);

fn t(us: i64) -> EventTime {
    EventTime(us)
}

fn growing() -> InputTime {
    InputTime::new(TimeRule::LogAppend, MARGIN, true)
}

fn place(input: &mut InputTime, partition: PartitionId, us: i64) -> Placement {
    input.partition(partition).unwrap().place(t(us), t(us))
}

#[test]
fn the_slowest_partition_counts() {
    let mut input = InputTime::new(TimeRule::LogAppend, MARGIN, false);
    input.joined(P0, 0);
    input.joined(P1, 0);
    place(&mut input, P0, 30);
    assert_eq!(input.watermark(), EventTime::MIN);
    place(&mut input, P1, 20);
    assert_eq!(input.watermark(), t(20));
    input.finished(P1);
    assert_eq!(input.watermark(), t(30));
    input.finished(P0);
    assert_eq!(input.watermark(), EventTime::MAX);
}

#[test]
fn no_further_than_the_topology_is_known() {
    let mut input = growing();
    input.joined(P0, 0);
    place(&mut input, P0, 30);
    assert_eq!(input.watermark(), EventTime::MIN, "other partitions may exist");
    input.topology(t(25));
    assert_eq!(input.watermark(), t(25));
    input.topology(t(24));
    assert_eq!(input.watermark(), t(25), "an older answer takes nothing back");
    input.topology(t(50));
    assert_eq!(input.watermark(), t(30));
    input.finished(P0);
    assert_eq!(input.watermark(), t(50), "a partition may still appear");
}

#[test]
fn a_worker_without_partitions_follows_the_topology() {
    let mut input = growing();
    assert_eq!(input.watermark(), EventTime::MIN);
    input.topology(t(40));
    assert_eq!(input.watermark(), t(40));
}

#[test]
fn a_new_partition_is_not_late_and_holds_the_watermark() {
    let mut input = growing();
    assert_eq!(input.joined(P0, 7), TimeFact::Joined { partition: P0, offset: 7, watermark: EventTime::MIN });
    input.topology(t(100));
    place(&mut input, P0, 500);
    assert_eq!(input.joined(P1, 0), TimeFact::Joined { partition: P1, offset: 0, watermark: t(100) });
    input.topology(t(500));
    assert_eq!(input.watermark(), t(100));
    assert_eq!(place(&mut input, P1, 101), Placement::At(t(101)), "created after the answer of 100");
    assert_eq!(input.watermark(), t(101));
    assert_eq!(input.counters().late, 0);
}

#[test]
fn columns_bound_what_a_new_partition_can_deliver_by_late_arrival() {
    let bounds = crate::dataflow::plan::TimeBounds {
        late_arrival: Some(10),
        out_of_order: 0,
        early_arrival: None,
        action: crate::dataflow::plan::LateAction::Adjust,
    };
    let mut input = InputTime::new(TimeRule::Bounded(bounds), MARGIN, true);
    input.topology(t(100));
    assert_eq!(input.watermark(), t(90));
    let mut unbounded = InputTime::new(TimeRule::Unbounded, MARGIN, true);
    unbounded.topology(t(100));
    assert_eq!(unbounded.watermark(), EventTime::MIN);
}

#[test]
fn evidence_becomes_a_fact_only_when_it_moves_the_watermark() {
    let mut input = growing();
    assert_eq!(input.end_evidence(P0, 0, 0, t(50)), None, "not joined");
    input.joined(P0, 3);
    assert_eq!(input.end_evidence(P0, 3, 4, t(50)), None);
    let fact = TimeFact::IdleAdvance { partition: P0, offset: 3, watermark: t(48) };
    assert_eq!(input.end_evidence(P0, 3, 3, t(50)), Some(fact));
    assert_eq!(input.end_evidence(P0, 3, 3, t(50)), None);
    assert_eq!(input.counters().idle_advances, 1);
}

#[test]
fn a_partition_goes_on_where_its_mark_was_taken() {
    let mut input = growing();
    input.joined(P0, 0);
    input.joined(P1, 0);
    input.topology(t(60));
    place(&mut input, P0, 50);
    input.end_evidence(P1, 0, 0, t(57));
    let mut resumed = growing();
    for partition in [P0, P1] {
        resumed.resumed(partition, input.mark(partition));
        assert_eq!(resumed.mark(partition), input.mark(partition));
    }
    for input in [&mut input, &mut resumed] {
        assert_eq!(place(input, P0, 49), Placement::At(t(50)), "the largest stamp is part of it");
        assert_eq!(place(input, P1, 54), Placement::Late, "the idle advance is part of it");
        assert_eq!(place(input, P1, 58), Placement::At(t(58)));
    }
    assert_eq!(resumed.watermarks().collect::<Vec<_>>(), input.watermarks().collect::<Vec<_>>());
    assert_eq!(resumed.mark(P2), TimeMark::START, "not joined");
}

/// Two partitions and a third that joins in between, idle advances at moments of chance: what each row becomes, and the
/// watermarks at the end, come out the same when only the records and the facts are replayed, partition by partition.
#[test]
fn a_replay_of_records_and_facts_equals_the_live_run() {
    for seed in 1..200_u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut live = growing();
        let mut facts = vec![live.joined(P0, 0), live.joined(P1, 0)];
        let mut logs: [Vec<i64>; 3] = Default::default();
        let mut placed: [Vec<Placement>; 3] = Default::default();
        let mut watermark = EventTime::MIN;
        for now in 1..100 {
            if now == 40 {
                facts.push(live.joined(P2, 0));
            }
            let p = random(if now < 40 { 2 } else { 3 }) as usize;
            let partition = PartitionId(p as u32);
            match random(4) {
                0 => live.topology(t(now)),
                1 => {
                    let end = logs[p].len() as i64;
                    facts.extend(live.end_evidence(partition, end, end, t(now + random(4) as i64)));
                }
                _ => {
                    let stamp = now - random(6) as i64;
                    logs[p].push(stamp);
                    placed[p].push(place(&mut live, partition, stamp));
                }
            }
            assert!(live.watermark() >= watermark, "seed {seed}: the watermark went back at {now}");
            watermark = live.watermark();
        }
        let mut replay = growing();
        for (p, log) in logs.iter().enumerate() {
            let partition = PartitionId(p as u32);
            let mut replayed = Vec::new();
            for offset in 0..=log.len() as i64 {
                for fact in &facts {
                    match *fact {
                        TimeFact::Joined { partition: of, offset: at, .. }
                        | TimeFact::IdleAdvance { partition: of, offset: at, .. }
                            if of == partition && at == offset =>
                        {
                            replay.apply(fact);
                        }
                        _ => {}
                    }
                }
                if let Some(&stamp) = log.get(offset as usize) {
                    replayed.push(place(&mut replay, partition, stamp));
                }
            }
            assert_eq!(replayed, placed[p], "seed {seed}, partition {p}");
        }
        assert!(replay.watermarks().eq(live.watermarks()), "seed {seed}");
        assert_eq!(replay.counters(), live.counters(), "seed {seed}");
    }
}
