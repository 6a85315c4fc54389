//! Who is an outlier among the hosts of an interval.

use nuncio_config::cluster::{FailurePercentage, SuccessRate};

use super::{UNKNOWN, Volume};

/// What the requests of an interval say of the hosts that had enough of them.
#[derive(Debug, PartialEq)]
pub(super) struct Findings {
    /// Success rate of each host; [`UNKNOWN`] where it had too few requests.
    pub(super) rates: Vec<f64>,
    /// Mean of the success rates; [`UNKNOWN`] where too few hosts had enough requests.
    pub(super) mean: f64,
    /// Below it a host is an outlier.
    pub(super) limit: f64,
    /// Places of the hosts below the limit.
    pub(super) below_limit: Vec<usize>,
    /// Places of the hosts with too large a share of failures.
    pub(super) too_many_failures: Vec<usize>,
}

/// Looks at `hosts`: the requests of each that is not ejected, `None` for the others.
pub(super) fn analyse(hosts: &[Option<Volume>], by_rate: &SuccessRate, by_percentage: &FailurePercentage) -> Findings {
    let mut findings = Findings {
        rates: vec![UNKNOWN; hosts.len()],
        mean: UNKNOWN,
        limit: UNKNOWN,
        below_limit: Vec::new(),
        too_many_failures: Vec::new(),
    };
    let enough = |minimum: u32| hosts.len() as u64 >= u64::from(minimum);
    if !enough(by_rate.minimum_hosts) && !enough(by_percentage.minimum_hosts) {
        return findings;
    }
    let (mut for_rate, mut for_percentage) = (Vec::new(), Vec::new());
    for (at, volume) in hosts.iter().enumerate() {
        let Some(Volume { total, good }) = *volume else { continue };
        // Nothing is known of a host that had no request.
        if total == 0 {
            continue;
        }
        let rate = f64::from(good) * 100.0 / f64::from(total);
        if total >= by_rate.request_volume.min(by_percentage.request_volume) {
            findings.rates[at] = rate;
        }
        if total >= by_rate.request_volume {
            for_rate.push((at, rate));
        }
        if total >= by_percentage.request_volume {
            for_percentage.push((at, rate));
        }
    }
    if !for_rate.is_empty() && for_rate.len() as u64 >= u64::from(by_rate.minimum_hosts) {
        (findings.mean, findings.limit) = mean_and_limit(&for_rate, by_rate.stdev_factor);
        findings.below_limit = places(&for_rate, |rate| rate < findings.limit);
    }
    if !for_percentage.is_empty() && for_percentage.len() as u64 >= u64::from(by_percentage.minimum_hosts) {
        let threshold = f64::from(by_percentage.threshold);
        findings.too_many_failures = places(&for_percentage, |rate| 100.0 - rate >= threshold);
    }
    findings
}

fn places(hosts: &[(usize, f64)], is_outlier: impl Fn(f64) -> bool) -> Vec<usize> {
    hosts.iter().filter(|(_, rate)| is_outlier(*rate)).map(|(at, _)| *at).collect()
}

fn mean_and_limit(hosts: &[(usize, f64)], stdev_factor: f64) -> (f64, f64) {
    let count = hosts.len() as f64;
    let mean = hosts.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = hosts.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
    (mean, mean - stdev_factor * variance.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_rate() -> SuccessRate {
        SuccessRate {
            minimum_hosts: 3,
            request_volume: 10,
            stdev_factor: 1.0,
            enforcing: 100,
            enforcing_local_origin: 100,
        }
    }

    fn by_percentage() -> FailurePercentage {
        FailurePercentage {
            minimum_hosts: 3,
            request_volume: 5,
            threshold: 80,
            enforcing: 100,
            enforcing_local_origin: 100,
        }
    }

    fn hosts(all: &[(u32, u32)]) -> Vec<Option<Volume>> {
        all.iter().map(|(good, total)| Some(Volume { total: *total, good: *good })).collect()
    }

    #[test]
    fn a_host_far_below_the_mean_is_an_outlier() {
        let found = analyse(&hosts(&[(10, 10), (10, 10), (10, 10), (5, 10)]), &by_rate(), &by_percentage());
        assert_eq!(found.rates, [100.0, 100.0, 100.0, 50.0]);
        assert_eq!(found.mean, 87.5);
        // The standard deviation of the rates is 21.65.
        assert!((found.limit - 65.849).abs() < 0.001, "{}", found.limit);
        assert_eq!(found.below_limit, [3]);
        assert!(found.too_many_failures.is_empty());
    }

    #[test]
    fn hosts_alike_are_no_outliers_however_bad() {
        let found = analyse(&hosts(&[(1, 10), (1, 10), (1, 10)]), &by_rate(), &by_percentage());
        assert!(found.below_limit.is_empty());
        assert_eq!(found.too_many_failures, [0, 1, 2]);
    }

    #[test]
    fn a_share_of_failures_at_the_threshold_is_too_many() {
        let found = analyse(&hosts(&[(1, 5), (2, 10), (3, 10)]), &by_rate(), &by_percentage());
        assert_eq!(found.too_many_failures, [0, 1]);
        assert_eq!(found.rates, [20.0, 20.0, 30.0]);
    }

    #[test]
    fn hosts_with_few_requests_and_ejected_ones_do_not_count() {
        let mut all = hosts(&[(10, 10), (10, 10), (0, 4), (0, 10)]);
        all[3] = None;
        let found = analyse(&all, &by_rate(), &by_percentage());
        assert_eq!((found.mean, found.limit), (UNKNOWN, UNKNOWN));
        assert_eq!(found.rates, [100.0, 100.0, UNKNOWN, UNKNOWN]);
        assert!(found.too_many_failures.is_empty(), "two of the three hosts that are needed");
    }

    #[test]
    fn too_few_hosts_are_not_looked_at() {
        let found = analyse(&hosts(&[(0, 10), (0, 10)]), &by_rate(), &by_percentage());
        assert_eq!(found.rates, [UNKNOWN; 2]);
    }
}
