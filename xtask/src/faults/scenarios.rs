//! The scenarios, one function each. Topics have names of their own, so that one cluster serves several rounds.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use anyhow::{Result, ensure};

use super::log::Topic;
use crate::kafka::{Cluster, Record};

/// A topic's replicas and the other order.
const ON_2_AND_3: [i32; 2] = [2, 3];
const ON_3_AND_2: [i32; 2] = [3, 2];

/// An acknowledged record is on both replicas as long as both are there.
const SAFE: [(&str, &str); 1] = [("min.insync.replicas", "1")];

fn topic(
    cluster: &Cluster,
    name: &str,
    partitions: usize,
    replicas: &[i32],
    config: &[(&str, &str)],
) -> Result<String> {
    static TOPICS: AtomicU32 = AtomicU32::new(0);
    let name = format!("{name}-{}", TOPICS.fetch_add(1, Relaxed));
    cluster.create_topic(&name, partitions, replicas, config)?;
    Ok(name)
}

pub(super) fn leader_moves(cluster: &Cluster) -> Result<()> {
    let name = topic(cluster, "moves", 2, &ON_2_AND_3, &SAFE)?;
    let mut topic = Topic::read(cluster, &name, 2)?;
    for replicas in [ON_3_AND_2, ON_2_AND_3, ON_3_AND_2] {
        topic.write_while(|| cluster.move_leader(&name, &replicas))?;
    }
    topic.expect_all()
}

pub(super) fn connections_cut(cluster: &Cluster) -> Result<()> {
    /// Answers are of 256 KiB: most connections end within one, some deliver one or two.
    const LIVES: (u64, u64) = (20_000, 900_000);
    let name = topic(cluster, "cut", 1, &[2], &[])?;
    let records = (0..3_000).map(|n| Record::new(0, format!("{n:>2000}")));
    // An answer holds at least one whole batch.
    cluster.broker(1).produce_with(&[("batch.size", "50000")], &name, records)?;
    let before = cluster.proxy().cuts();
    cluster.proxy().cut_after(LIVES.0, LIVES.1);
    let topic = Topic::read(cluster, &name, 1)?;
    let outcome = topic.wait_for_records(3_000);
    cluster.proxy().cut_after(0, 0);
    outcome?;
    ensure!(cluster.proxy().cuts() > before + 3, "the proxy has not cut");
    topic.expect_all()
}

pub(super) fn broker_frozen(cluster: &Cluster) -> Result<()> {
    let name = topic(cluster, "frozen", 2, &ON_2_AND_3, &SAFE)?;
    let mut topic = Topic::read(cluster, &name, 2)?;
    topic.write(1_000)?;
    let frozen = topic.write_while(|| {
        cluster.broker(2).pause()?;
        cluster.wait_for_leader(&name, 3)
    });
    cluster.broker(2).resume()?;
    frozen?;
    topic.expect_all()?;
    cluster.wait_for_in_sync(&name, 2)?;
    topic.write_while(|| cluster.move_leader(&name, &ON_2_AND_3))?;
    topic.expect_all()
}

pub(super) fn brokers_killed(cluster: &Cluster) -> Result<()> {
    let careless = [("min.insync.replicas", "1"), ("unclean.leader.election.enable", "true")];
    let (safe, cut) =
        (topic(cluster, "killed", 2, &ON_3_AND_2, &SAFE)?, topic(cluster, "truncated", 1, &ON_2_AND_3, &careless)?);
    let (mut kept, mut lost) = (Topic::read(cluster, &safe, 2)?, Topic::read(cluster, &cut, 1)?);
    kept.write(1_000)?;
    lost.write(1_000)?;
    // Node 3 goes: node 2 leads both, and what comes now is on it alone.
    kept.write_while(|| {
        cluster.broker(3).kill()?;
        cluster.wait_for_leader(&safe, 2)
    })?;
    cluster.wait_for_in_sync(&cut, 1)?;
    lost.write(1_000)?;
    kept.expect_all()?;
    lost.expect_all()?;
    // Node 2 goes, node 3 comes back: it may lead the topic that takes an outdated replica, not the other.
    cluster.broker(2).kill()?;
    cluster.broker(3).restart()?;
    cluster.wait_for_leader(&cut, 3)?;
    cluster.broker(1).produce(&cut, (0..10).map(|n| Record::new(0, format!("another {n}"))))?;
    lost.expect_stop(&["lost records that were read already"])?;
    cluster.broker(2).restart()?;
    cluster.wait_for_leader(&safe, 2)?;
    kept.write(1_000)?;
    kept.expect_all()?;
    cluster.wait_for_in_sync(&safe, 2)
}

pub(super) fn topic_replaced(cluster: &Cluster) -> Result<()> {
    let name = topic(cluster, "replaced", 1, &ON_2_AND_3, &SAFE)?;
    let mut topic = Topic::read(cluster, &name, 1)?;
    topic.write(500)?;
    topic.expect_all()?;
    cluster.broker(1).delete_topic(&name)?;
    cluster.create_topic(&name, 1, &ON_3_AND_2, &SAFE)?;
    cluster.broker(1).produce(&name, (0..1_000).map(|n| Record::new(0, format!("new {n}"))))?;
    topic.expect_stop(&["was deleted and made again", "was deleted while the job ran"])
}

pub(super) fn retention_overtakes(cluster: &Cluster) -> Result<()> {
    let name = topic(cluster, "overtaken", 1, &ON_2_AND_3, &SAFE)?;
    // More than what is read ahead.
    cluster.broker(1).produce(&name, (0..2_000).map(|n| Record::new(0, format!("{n:>10000}"))))?;
    let topic = Topic::read(cluster, &name, 1)?;
    topic.hold()?;
    cluster.broker(1).delete_records(&name, 0, 1_900)?;
    topic.go_on();
    topic.expect_stop(&["is not in the log, which has 1900 to 2000"])
}
