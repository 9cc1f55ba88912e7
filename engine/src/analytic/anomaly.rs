//! Detectors of anomalies in a series: which of its values fit those before, and since when the values are others.
//!
//! How well a value fits is a p-value: the chance that a value drawn from the history lies as far out. The history's
//! density is estimated by Gaussian kernels of Silverman's width (B. W. Silverman, "Density Estimation for Statistics and
//! Data Analysis", 1986, eq. 3.31). A spike or a dip is one value of a small p-value. A change point is a run of them: a
//! power martingale bets against the exchangeability of the values (V. Vovk, I. Nouretdinov, A. Gammerman, "Testing
//! Exchangeability On-Line", ICML 2003), and starts anew whenever it has lost (D. Volkhonskiy et al., "Inductive Conformal
//! Martingales for Change-Point Detection", COPA 2017), as a CUSUM does.

use std::collections::VecDeque;

/// Fewer values of history tell nothing.
const LEAST: usize = 10;
/// What a value that equals all before it may deviate, relative to their size, without being an anomaly.
const FLAT: f64 = 1e-9;
/// Exponent of the martingale's bets.
const EPSILON: f64 = 0.5;
/// A p-value counts as no smaller in a bet, so that a single value proves no change.
const LEAST_P: f64 = 0.005;

/// Which values of a series are looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Anomaly {
    /// Values far above those before.
    Spikes,
    /// Values far below.
    Dips,
    /// Both.
    SpikesAndDips,
    /// Values from which on the series is another.
    ChangePoint,
}

/// What a detector says of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) is_anomaly: bool,
    /// The p-value of a spike or dip, the logarithm of the martingale of a change point.
    pub(super) score: f64,
}

/// A series and what its martingale stands at.
#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    /// Event time and value, oldest first.
    pub(super) values: VecDeque<(i64, f64)>,
    pub(super) bets: f64,
}

impl Series {
    /// Judges a value by those before it and adds it. `confidence` is in percent; `most` values are kept.
    pub(super) fn judge(&mut self, anomaly: Anomaly, confidence: f64, most: usize, time: i64, value: f64) -> Verdict {
        let verdict = match self.tails(value) {
            None => Verdict { is_anomaly: false, score: if anomaly == Anomaly::ChangePoint { 0.0 } else { 1.0 } },
            Some((below, above)) => {
                let chance = 1.0 - confidence / 100.0;
                let p = match anomaly {
                    Anomaly::Spikes => above,
                    Anomaly::Dips => below,
                    Anomaly::SpikesAndDips | Anomaly::ChangePoint => (2.0 * above.min(below)).min(1.0),
                };
                match anomaly {
                    Anomaly::ChangePoint => self.bet(p, chance),
                    _ => Verdict { is_anomaly: p < chance, score: p },
                }
            }
        };
        if anomaly == Anomaly::ChangePoint && verdict.is_anomaly {
            // The values before belong to what was.
            self.values.clear();
            self.bets = 0.0;
        }
        if self.values.len() >= most {
            self.values.pop_front();
        }
        self.values.push_back((time, value));
        verdict
    }

    /// One step of the martingale. By Ville's inequality it exceeds 1 / chance only so often without a change.
    fn bet(&mut self, p: f64, chance: f64) -> Verdict {
        self.bets = self.bets.max(0.0) + EPSILON.ln() + (EPSILON - 1.0) * p.max(LEAST_P).ln();
        Verdict { is_anomaly: self.bets > -chance.max(f64::MIN_POSITIVE).ln(), score: self.bets }
    }

    /// The chance of a value at or below, and at or above; none while there is too little history.
    fn tails(&self, value: f64) -> Option<(f64, f64)> {
        let n = self.values.len();
        if n < LEAST {
            return None;
        }
        let mut sorted: Vec<f64> = self.values.iter().map(|(_, x)| *x).collect();
        sorted.sort_by(f64::total_cmp);
        let count = n as f64;
        let mean = sorted.iter().sum::<f64>() / count;
        let deviation = (sorted.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (count - 1.0)).sqrt();
        let quartiles = (sorted[(3 * n) / 4] - sorted[n / 4]) / 1.34;
        // Of a history with outliers the quartiles tell more; of one that is mostly one value they tell nothing.
        let spread = if quartiles > 0.0 { deviation.min(quartiles) } else { deviation };
        let width = (0.9 * spread * count.powf(-0.2)).max(FLAT * mean.abs().max(1.0));
        let above = sorted.iter().map(|x| upper_tail((value - x) / width)).sum::<f64>() / count;
        Some((1.0 - above, above))
    }

    pub(super) fn forget(&mut self, horizon: i64) {
        while self.values.front().is_some_and(|(time, _)| *time <= horizon) {
            self.values.pop_front();
        }
    }
}

/// The chance that a standard normal value is above `x`, to about 1e-7 (M. Abramowitz, I. Stegun, "Handbook of Mathematical
/// Functions", 26.2.17).
fn upper_tail(x: f64) -> f64 {
    if x < 0.0 {
        return 1.0 - upper_tail(-x);
    }
    if x > 40.0 {
        return 0.0;
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * x);
    let series = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let sum = series.iter().rev().fold(0.0, |sum, b| (sum + b) * t);
    (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * sum
}

#[cfg(test)]
#[allow(clippy::print_stdout, reason = "the figures are what the test is about")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Numbers of a seed; normal by the sum of twelve uniform ones.
    struct Noise(u64);

    impl Noise {
        fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) as f64 / (1u64 << 53) as f64
        }

        fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
        }
    }

    /// Precision and recall: a found place counts for a label that lies at most `slack` before it.
    fn figures(found: &[usize], labels: &[usize], slack: usize) -> (f64, f64) {
        let near = |at: usize, label: usize| (label..=label + slack).contains(&at);
        let hits: BTreeSet<usize> =
            labels.iter().copied().filter(|label| found.iter().any(|at| near(*at, *label))).collect();
        let right = found.iter().filter(|at| labels.iter().any(|label| near(**at, *label))).count();
        (right as f64 / found.len().max(1) as f64, hits.len() as f64 / labels.len() as f64)
    }

    fn found(anomaly: Anomaly, confidence: f64, series: &[f64]) -> Vec<usize> {
        let mut detector = Series::default();
        let judge = |(at, value): (usize, &f64)| {
            detector.judge(anomaly, confidence, 120, at as i64, *value).is_anomaly.then_some(at)
        };
        series.iter().enumerate().filter_map(judge).collect()
    }

    #[test]
    fn spikes_and_dips_are_found() {
        let mut noise = Noise(7);
        let mut series: Vec<f64> = (0..5_000).map(|_| 20.0 + noise.normal()).collect();
        let spikes: Vec<usize> = (1..50).map(|i| i * 100).collect();
        for (i, at) in spikes.iter().enumerate() {
            series[*at] += if i % 2 == 0 { 8.0 } else { -8.0 };
        }
        let (precision, recall) = figures(&found(Anomaly::SpikesAndDips, 99.9, &series), &spikes, 0);
        println!("spikes and dips: precision {precision:.3}, recall {recall:.3}");
        assert!(precision > 0.8 && recall > 0.95, "precision {precision}, recall {recall}");
        let only_up: Vec<usize> = spikes.iter().copied().step_by(2).collect();
        let (precision, recall) = figures(&found(Anomaly::Spikes, 99.9, &series), &only_up, 0);
        assert!(precision > 0.8 && recall > 0.95, "precision {precision}, recall {recall}");
    }

    #[test]
    fn change_points_are_found() {
        let mut noise = Noise(11);
        let changes: Vec<usize> = (1..25).map(|i| i * 200).collect();
        let level = |at: usize| if (at / 200).is_multiple_of(2) { 20.0 } else { 26.0 };
        let series: Vec<f64> = (0..5_000).map(|at| level(at) + noise.normal()).collect();
        let (precision, recall) = figures(&found(Anomaly::ChangePoint, 99.9, &series), &changes, 20);
        println!("change points: precision {precision:.3}, recall {recall:.3}");
        assert!(precision > 0.8 && recall > 0.95, "precision {precision}, recall {recall}");
        // A single spike is no change.
        let mut steady: Vec<f64> = (0..300).map(|_| 20.0 + noise.normal()).collect();
        steady[200] = 40.0;
        assert_eq!(found(Anomaly::ChangePoint, 99.9, &steady).iter().filter(|at| (195..215).contains(*at)).count(), 0);
    }

    #[test]
    fn a_flat_series_has_no_anomaly_but_what_differs() {
        let mut series = vec![5.0; 100];
        series[60] = 5.1;
        assert_eq!(found(Anomaly::SpikesAndDips, 95.0, &series), [60]);
        assert_eq!(found(Anomaly::Spikes, 95.0, &[5.0; 50]), [0usize; 0]);
    }

    #[test]
    fn tails_are_those_of_the_normal_distribution() {
        for (x, tail) in [(0.0, 0.5), (1.96, 0.024_997_9), (-1.0, 0.841_344_7), (5.0, 2.866_5e-7), (1e9, 0.0)] {
            assert!((upper_tail(x) - tail).abs() < 1e-6, "{x}");
        }
    }
}
