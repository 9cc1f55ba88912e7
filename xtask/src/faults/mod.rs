//! `cargo xtask faults`: what brokers do to a reader of our own path, on a real cluster of three.
//!
//! Each [`Scenario`] writes, reads and hurts at once. In the end the reader has handed over what the log holds, as librdkafka
//! reads it, each record once and in order; or it has stopped with the sentence that belongs to the fault. The scenarios share a
//! [`Cluster`], one after the other, and leave it whole.

mod log;
mod scenarios;

use std::time::Instant;

use anyhow::{Context, Result};

use crate::kafka::Cluster;

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The scenarios to run; none: all of them.
    scenarios: Vec<Scenario>,
    /// How often; each round on a cluster of its own.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
}

/// A fault and what must come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// The leader moves while records come: nothing is lost or doubled.
    LeaderMoves,
    /// Connections are cut in the middle of answers: nothing is lost or doubled.
    ConnectionsCut,
    /// The leader freezes, another takes over, it comes back: nothing is lost or doubled.
    BrokerFrozen,
    /// The leader is killed, and the next one too, and both come back: nothing is lost or doubled. A topic that let an outdated
    /// replica lead meanwhile has lost records: its reader stops and says so.
    BrokersKilled,
    /// A topic is deleted and made again: the reader stops and says so.
    TopicReplaced,
    /// Records are deleted before they were read: the reader stops and says so.
    RetentionOvertakes,
}

impl Scenario {
    const ALL: [Self; 6] = [
        Self::LeaderMoves,
        Self::ConnectionsCut,
        Self::TopicReplaced,
        Self::RetentionOvertakes,
        Self::BrokerFrozen,
        Self::BrokersKilled,
    ];

    fn run(self, cluster: &Cluster) -> Result<()> {
        let start = Instant::now();
        let outcome = match self {
            Self::LeaderMoves => scenarios::leader_moves(cluster),
            Self::ConnectionsCut => scenarios::connections_cut(cluster),
            Self::BrokerFrozen => scenarios::broker_frozen(cluster),
            Self::BrokersKilled => scenarios::brokers_killed(cluster),
            Self::TopicReplaced => scenarios::topic_replaced(cluster),
            Self::RetentionOvertakes => scenarios::retention_overtakes(cluster),
        };
        let verdict = if outcome.is_ok() { "held" } else { "FAILED" };
        eprintln!("{self:?}: {verdict}, {:.1} s", start.elapsed().as_secs_f64());
        outcome.with_context(|| format!("{self:?}"))
    }
}

/// Runs the scenarios, each on what the one before left, and prints how many held. False when one did not.
///
/// # Errors
/// When no cluster can be started.
pub fn run(options: &Options) -> Result<bool> {
    let scenarios = if options.scenarios.is_empty() { &Scenario::ALL[..] } else { &options.scenarios };
    let mut failed = 0;
    for round in 1..=options.rounds {
        eprintln!("round {round}");
        let cluster = Cluster::start()?;
        for error in scenarios.iter().filter_map(|scenario| scenario.run(&cluster).err()) {
            failed += 1;
            println!("round {round}: {error:#}");
        }
    }
    println!("{} scenarios, {failed} failed", scenarios.len() * options.rounds as usize);
    Ok(failed == 0)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// The moving leader apart, which the frozen one does at its end.
    #[test]
    fn faults_of_brokers_lose_and_double_nothing_or_stop_by_name() {
        let cluster = Cluster::start().unwrap();
        let light = [Scenario::ConnectionsCut, Scenario::TopicReplaced, Scenario::RetentionOvertakes];
        thread::scope(|scope| {
            let cluster = &cluster;
            let running = light.map(|scenario| scope.spawn(move || scenario.run(cluster).unwrap()));
            running.into_iter().for_each(|scenario| scenario.join().unwrap());
        });
        [Scenario::BrokerFrozen, Scenario::BrokersKilled].into_iter().try_for_each(|s| s.run(&cluster)).unwrap();
    }
}
