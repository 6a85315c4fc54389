//! Slow start: the share of a host that is new, or that passes its checks again, grows to what its weight says.

use std::time::Duration;

use nuncio_config::cluster::SlowStart;

use super::LbEnv;
use crate::host::{CoarseHealth, Host};
use crate::host_set::Candidates;

/// Whether one of `candidates` has less than its share now.
pub(super) fn has_begun(candidates: &Candidates, env: LbEnv<'_>) -> bool {
    let Some(config) = env.slow_start else { return false };
    let now = env.clock.now();
    let is_new = |host: &Host| host.healthy_for(now).is_some_and(|time| time <= config.window);
    candidates.places().iter().any(|place| is_new(&env.set.hosts[*place as usize]))
}

/// The part of its share that `host` gets now.
pub(super) fn part(host: &Host, env: LbEnv<'_>) -> f64 {
    let Some(config) = env.slow_start else { return 1.0 };
    match host.healthy_for(env.clock.now()) {
        // Envoy: an unhealthy host, which is chosen in panic alone, is not spared.
        Some(time) if time < config.window && host.health() == CoarseHealth::Healthy => part_after(config, time),
        _ => 1.0,
    }
}

fn part_after(config: &SlowStart, time: Duration) -> f64 {
    // Envoy counts in whole milliseconds, from 1.
    let passed = time.as_millis().max(1) as f64 / config.window.as_millis() as f64;
    let aggression = config.aggression();
    let grown = if aggression == 1.0 { passed } else { passed.powf(1.0 / aggression) };
    grown.max(config.min_share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(aggression: f64, min_share: f64) -> [f64; 4] {
        let config = SlowStart { window: Duration::from_secs(10), aggression: aggression.into(), min_share };
        [0, 2500, 5000, 9999].map(|millis| (part_after(&config, Duration::from_millis(millis)) * 1e3).round() / 1e3)
    }

    #[test]
    fn the_part_grows_with_time_to_a_power() {
        assert_eq!(parts(1.0, 0.0), [0.0, 0.25, 0.5, 1.0]);
        assert_eq!(parts(2.0, 0.0), [0.01, 0.5, 0.707, 1.0]);
        assert_eq!(parts(0.5, 0.1), [0.1, 0.1, 0.25, 1.0]);
    }
}
