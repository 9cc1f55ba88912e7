use super::{Placement::*, *};

const MARGIN: i64 = 2;

fn t(us: i64) -> EventTime {
    EventTime(us)
}

fn bounds(action: LateAction) -> TimeBounds {
    TimeBounds { late_arrival: Some(10), out_of_order: 3, early_arrival: Some(50), action }
}

fn fresh(rule: TimeRule) -> PartitionTime {
    PartitionTime::new(rule, EventTime::MIN)
}

#[test]
fn a_stamp_that_steps_back_takes_the_largest() {
    let mut time = fresh(TimeRule::LogAppend);
    let placed: Vec<_> = [5, 7, 6, 7, 8].into_iter().map(|us| time.place(t(us), t(us))).collect();
    assert_eq!(placed, [At(t(5)), At(t(7)), At(t(7)), At(t(7)), At(t(8))]);
    assert_eq!(time.watermark(), t(8));
    assert_eq!(time.counters, TimeCounters { stepped_back: 1, ..TimeCounters::default() });
}

#[test]
fn the_watermark_is_the_stamp_itself_since_equal_ones_may_follow() {
    let mut time = fresh(TimeRule::LogAppend);
    assert_eq!(time.watermark(), EventTime::MIN);
    assert_eq!(time.place(t(10), t(10)), At(t(10)));
    assert_eq!(time.watermark(), t(10));
    assert_eq!(time.place(t(10), t(10)), At(t(10)));
}

#[test]
fn a_run_is_placed_like_its_rows() {
    let rules = [
        TimeRule::LogAppend,
        TimeRule::Bounded(bounds(LateAction::Adjust)),
        TimeRule::Bounded(bounds(LateAction::Drop)),
        TimeRule::Bounded(bounds(LateAction::Keep)),
        TimeRule::Unbounded,
    ];
    let runs = [(20, 20, 3), (18, 20, 2), (5, 20, 2), (90, 22, 4), (22, 23, 1), (19, 24, 3), (16, 19, 2), (40, 41, 5)];
    for rule in rules {
        let (mut whole, mut single) = (fresh(rule), fresh(rule));
        for (event, arrival, rows) in runs {
            let placed = whole.place_run(t(event), t(arrival), rows);
            for _ in 0..rows {
                assert_eq!(single.place(t(event), t(arrival)), placed);
            }
            assert_eq!(whole, single);
            whole.end_evidence(7, 7, t(30), MARGIN);
            single.end_evidence(7, 7, t(30), MARGIN);
        }
    }
}

#[test]
fn evidence_advances_only_at_the_end_and_never_back() {
    let mut time = fresh(TimeRule::LogAppend);
    time.place(t(100), t(100));
    assert_eq!(time.end_evidence(5, 6, t(200), MARGIN), None, "a record is still to be read");
    assert_eq!(time.watermark(), t(100));
    assert_eq!(time.end_evidence(6, 6, t(200), MARGIN), Some(t(198)));
    assert_eq!(time.end_evidence(6, 6, t(150), MARGIN), None);
    assert_eq!(time.end_evidence(6, 6, t(200), MARGIN), None, "nothing moved");
    assert_eq!(time.end_evidence(9, 6, t(203), MARGIN), Some(t(201)), "positions count past control records");
    assert_eq!((time.watermark(), time.counters.idle_advances), (t(201), 2));
}

#[test]
fn an_empty_partition_advances_on_evidence() {
    let mut time = fresh(TimeRule::LogAppend);
    assert_eq!(time.end_evidence(0, 0, t(50), MARGIN), Some(t(48)));
}

#[test]
fn a_record_behind_an_idle_advance_is_late() {
    let mut time = fresh(TimeRule::LogAppend);
    time.place(t(100), t(100));
    time.end_evidence(1, 1, t(202), MARGIN);
    assert_eq!(time.place(t(199), t(199)), Late);
    assert_eq!(time.place(t(200), t(200)), At(t(200)), "equal to the watermark is not below it");
    assert_eq!(time.counters.late, 1);
    assert_eq!(time.watermark(), t(200));
}

#[test]
fn a_step_back_behind_an_idle_advance_is_late_too() {
    let mut time = fresh(TimeRule::LogAppend);
    time.place(t(100), t(100));
    time.end_evidence(1, 1, t(202), MARGIN);
    assert_eq!(time.place(t(90), t(90)), Late);
    assert_eq!((time.counters.late, time.counters.stepped_back), (1, 1));
}

#[test]
fn a_partition_that_joins_later_starts_where_it_is_told() {
    let mut time = PartitionTime::new(TimeRule::LogAppend, t(40));
    assert_eq!(time.watermark(), t(40));
    assert_eq!(time.place(t(41), t(41)), At(t(41)));
}

#[test]
fn early_rows_go_first_and_do_not_move_the_watermark() {
    let mut time = fresh(TimeRule::Bounded(bounds(LateAction::Adjust)));
    assert_eq!(time.place(t(151), t(100)), Early);
    assert_eq!(time.watermark(), EventTime::MIN);
    assert_eq!(time.place(t(150), t(100)), At(t(150)), "equal to the tolerance is not early");
    assert_eq!((time.watermark(), time.counters.early), (t(147), 1));
}

#[test]
fn late_rows_by_policy() {
    for (action, placed) in [(LateAction::Adjust, At(t(90))), (LateAction::Drop, Late), (LateAction::Keep, At(t(89)))] {
        let mut time = fresh(TimeRule::Bounded(bounds(action)));
        assert_eq!(time.place(t(90), t(100)), At(t(90)), "equal to the tolerance is not late");
        assert_eq!(time.place(t(89), t(100)), placed);
        assert_eq!(time.counters.late, u64::from(action == LateAction::Drop));
        assert_eq!(time.counters.adjusted, u64::from(action == LateAction::Adjust));
    }
}

#[test]
fn rows_out_of_order_by_policy() {
    for (action, placed) in [(LateAction::Adjust, At(t(97))), (LateAction::Drop, Late), (LateAction::Keep, At(t(96)))] {
        let mut time = fresh(TimeRule::Bounded(bounds(action)));
        assert_eq!(time.place(t(100), t(100)), At(t(100)));
        assert_eq!(time.place(t(97), t(100)), At(t(97)), "within the tolerance");
        assert_eq!(time.place(t(96), t(100)), placed);
        assert_eq!(time.watermark(), t(97));
    }
}

#[test]
fn a_late_row_is_adjusted_once_to_the_later_of_both_bounds() {
    let mut time = fresh(TimeRule::Bounded(bounds(LateAction::Adjust)));
    time.place(t(100), t(100));
    assert_eq!(time.place(t(1), t(100)), At(t(97)), "arrival less 10 is below the watermark");
    assert_eq!(time.place(t(1), t(120)), At(t(110)), "arrival less 10 is above it");
    assert_eq!(time.counters.adjusted, 2);
}

#[test]
fn an_adjusted_row_moves_the_watermark() {
    let mut time = fresh(TimeRule::Bounded(bounds(LateAction::Adjust)));
    assert_eq!(time.place(t(1), t(100)), At(t(90)));
    assert_eq!(time.watermark(), t(87));
}

#[test]
fn create_time_is_event_and_arrival_in_one() {
    let rule = TimeRule::Bounded(TimeBounds { early_arrival: None, ..bounds(LateAction::Drop) });
    let mut time = fresh(rule);
    let placed: Vec<_> = [100, 98, 110, 106, 107].into_iter().map(|us| time.place(t(us), t(us))).collect();
    assert_eq!(placed, [At(t(100)), At(t(98)), At(t(110)), Late, At(t(107))]);
    assert_eq!(time.watermark(), t(107));
}

#[test]
fn idle_waits_for_late_arrivals_and_at_least_for_the_margin() {
    let mut time = fresh(TimeRule::Bounded(bounds(LateAction::Adjust)));
    assert_eq!(time.end_evidence(0, 0, t(500), MARGIN), Some(t(490)));
    let hasty = TimeBounds { late_arrival: Some(0), ..bounds(LateAction::Adjust) };
    assert_eq!(fresh(TimeRule::Bounded(hasty)).end_evidence(0, 0, t(500), MARGIN), Some(t(498)));
    let patient = TimeBounds { late_arrival: None, ..bounds(LateAction::Adjust) };
    assert_eq!(fresh(TimeRule::Bounded(patient)).end_evidence(0, 0, t(500), MARGIN), None);
}

#[test]
fn without_bounds_nothing_is_late_and_the_watermark_waits_for_the_end() {
    let mut time = fresh(TimeRule::Unbounded);
    assert_eq!(time.place(t(1_000), t(5)), At(t(1_000)));
    assert_eq!(time.place(t(-1_000), t(6)), At(t(-1_000)));
    assert_eq!(time.end_evidence(2, 2, t(5_000), MARGIN), None);
    assert_eq!((time.watermark(), time.largest()), (EventTime::MIN, t(1_000)));
}

#[test]
fn extreme_times_do_not_overflow() {
    let mut time = fresh(TimeRule::Bounded(bounds(LateAction::Adjust)));
    assert_eq!(time.place(t(i64::MAX), t(i64::MIN + 1)), Early);
    assert_eq!(time.place(t(i64::MIN + 1), t(0)), At(t(-10)));
}
