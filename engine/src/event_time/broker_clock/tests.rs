use super::*;

const SECOND: i64 = 1_000_000;
const P0: PartitionId = PartitionId(0);
const P1: PartitionId = PartitionId(1);
const UNCERTAINTY: i64 = 5 * SECOND;

/// Our monotonic clock starts at 0 when the true time is this.
const EPOCH: i64 = 1_800_000_000 * SECOND;

fn now(at: i64) -> Now {
    Now { monotonic: Monotonic(at), wall: EventTime(EPOCH + at) }
}

/// A live record, stamped by a clock that is `skew` ahead, that took `delay` to come in at `received`.
fn live(clocks: &mut BrokerClocks, partition: PartitionId, leader: i32, skew: i64, delay: i64, received: i64) {
    clocks.sample(partition, leader, EventTime(EPOCH + received - delay + skew), Monotonic(received));
}

/// How far the estimate for `at` lies ahead of the true time.
fn ahead(clocks: &mut BrokerClocks, partition: PartitionId, leader: i32, at: i64) -> i64 {
    clocks.broker_time(partition, leader, Monotonic(at), now(at)).0 - EPOCH - at
}

#[test]
fn without_a_sample_the_wall_clock_less_its_uncertainty() {
    // A backlog that was complete before the start, or an empty partition: nothing live was ever seen.
    let mut clocks = BrokerClocks::new(UNCERTAINTY);
    assert_eq!(ahead(&mut clocks, P0, 1, 10 * SECOND), -UNCERTAINTY);
    let asked_earlier = clocks.broker_time(P0, 1, Monotonic(7 * SECOND), now(10 * SECOND));
    assert_eq!(asked_earlier, EventTime(EPOCH + 7 * SECOND - UNCERTAINTY));
    assert_eq!(clocks.topology_time(Monotonic(7 * SECOND), now(10 * SECOND)), asked_earlier);
}

#[test]
fn the_quickest_record_counts_and_the_estimate_is_never_ahead() {
    let mut clocks = BrokerClocks::new(UNCERTAINTY);
    for (i, delay) in [9_000, 700, 40_000, 1_500].into_iter().enumerate() {
        live(&mut clocks, P0, 1, 0, delay, (i as i64 + 1) * SECOND);
    }
    assert_eq!(ahead(&mut clocks, P0, 1, 5 * SECOND), -700);
    assert_eq!(ahead(&mut clocks, P0, 1, 200 * SECOND), -700);
}

#[test]
fn a_sample_lasts_five_minutes() {
    let mut clocks = BrokerClocks::new(UNCERTAINTY);
    live(&mut clocks, P0, 1, 0, 100, SECOND);
    live(&mut clocks, P0, 1, 0, 900, 250 * SECOND);
    assert_eq!(ahead(&mut clocks, P0, 1, 269 * SECOND), -100);
    assert_eq!(ahead(&mut clocks, P0, 1, 301 * SECOND), -900);
    assert_eq!(ahead(&mut clocks, P0, 1, 540 * SECOND), -UNCERTAINTY);
}

#[test]
fn two_leaders_ten_seconds_apart() {
    let mut clocks = BrokerClocks::new(UNCERTAINTY);
    live(&mut clocks, P0, 1, 0, 300, SECOND);
    live(&mut clocks, P1, 2, 10 * SECOND, 500, SECOND);
    assert_eq!(ahead(&mut clocks, P0, 1, 2 * SECOND), -300);
    assert_eq!(ahead(&mut clocks, P1, 2, 2 * SECOND), 10 * SECOND - 500);
    let bound = clocks.topology_time(Monotonic(2 * SECOND), now(2 * SECOND));
    assert_eq!(bound, EventTime(EPOCH + 2 * SECOND - 300), "the slower clock bounds what a new partition can deliver");
}

#[test]
fn a_leader_change_forgets_the_leader_that_went() {
    let mut clocks = BrokerClocks::new(UNCERTAINTY);
    live(&mut clocks, P0, 1, 0, 300, SECOND);
    live(&mut clocks, P1, 2, 0, 500, SECOND);
    assert_eq!(ahead(&mut clocks, P0, 2, 2 * SECOND), -500, "the new leader is known from its other partition");
    assert_eq!(
        ahead(&mut clocks, P0, 1, 2 * SECOND),
        -UNCERTAINTY,
        "the old one came back, perhaps as another machine"
    );
    assert_eq!(ahead(&mut clocks, P1, 2, 2 * SECOND), -UNCERTAINTY);
}

#[test]
fn a_broker_clock_set_forward_is_followed() {
    let mut clocks = BrokerClocks::new(UNCERTAINTY);
    live(&mut clocks, P0, 1, 0, 300, SECOND);
    live(&mut clocks, P0, 1, 10 * SECOND, 600, 2 * SECOND);
    assert_eq!(ahead(&mut clocks, P0, 1, 3 * SECOND), 10 * SECOND - 600);
}

#[test]
fn a_broker_clock_set_back_is_not_outrun() {
    let mut clocks = BrokerClocks::new(UNCERTAINTY);
    live(&mut clocks, P0, 1, 0, 300, SECOND);
    live(&mut clocks, P0, 1, -10 * SECOND, 600, 2 * SECOND);
    assert_eq!(ahead(&mut clocks, P0, 1, 3 * SECOND), -10 * SECOND - 600);
    live(&mut clocks, P0, 1, -10 * SECOND, 200, 4 * SECOND);
    assert_eq!(ahead(&mut clocks, P0, 1, 5 * SECOND), -10 * SECOND - 200);
}

#[test]
fn our_wall_clock_stepping_forgets_all_samples() {
    for step in [10 * SECOND, -10 * SECOND] {
        let mut clocks = BrokerClocks::new(UNCERTAINTY);
        live(&mut clocks, P0, 1, 0, 300, SECOND);
        assert_eq!(ahead(&mut clocks, P0, 1, 2 * SECOND), -300);
        let stepped = Now { monotonic: Monotonic(3 * SECOND), wall: EventTime(EPOCH + 3 * SECOND + step) };
        let time = clocks.broker_time(P0, 1, stepped.monotonic, stepped);
        assert_eq!(time, EventTime(EPOCH + 3 * SECOND + step - UNCERTAINTY));
        live(&mut clocks, P0, 1, 0, 400, 4 * SECOND);
        let later = Now { monotonic: Monotonic(5 * SECOND), wall: EventTime(EPOCH + 5 * SECOND + step) };
        let time = clocks.broker_time(P0, 1, later.monotonic, later);
        assert_eq!(time, EventTime(EPOCH + 5 * SECOND - 400), "the next live record restores the estimate");
    }
}

#[test]
fn slewing_is_no_step() {
    let mut clocks = BrokerClocks::new(UNCERTAINTY);
    live(&mut clocks, P0, 1, 0, 300, SECOND);
    for second in 2..200 {
        let slewed =
            Now { monotonic: Monotonic(second * SECOND), wall: EventTime(EPOCH + second * SECOND + second * 500) };
        let time = clocks.broker_time(P0, 1, slewed.monotonic, slewed);
        assert_eq!(time, EventTime(EPOCH + second * SECOND - 300));
    }
}
