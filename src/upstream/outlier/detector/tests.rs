use std::cell::Cell;
use std::rc::Rc;

use nuncio_config::cluster::{Consecutive, FailurePercentage, SuccessRate};
use nuncio_telemetry::stats::Store;

use super::*;
use crate::outlier::OutlierShare;
use crate::testing::fixed;

fn config() -> OutlierDetection {
    let consecutive = Consecutive { count: 2, enforcing: 100 };
    OutlierDetection {
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(70),
        max_ejection_time_jitter: Duration::ZERO,
        max_ejection_percent: 50,
        always_eject_one_host: false,
        split_errors: false,
        health_check_ends_ejection: true,
        detects_degraded: true,
        keys: Arc::default(),
        consecutive_5xx: consecutive,
        consecutive_gateway_failure: Consecutive { count: 0, enforcing: 0 },
        consecutive_local_origin_failure: consecutive,
        success_rate: SuccessRate {
            minimum_hosts: 2,
            request_volume: 5,
            stdev_factor: 0.5,
            enforcing: 100,
            enforcing_local_origin: 100,
        },
        failure_percentage: FailurePercentage {
            minimum_hosts: 100,
            request_volume: 5,
            threshold: 50,
            enforcing: 100,
            enforcing_local_origin: 100,
        },
    }
}

/// A detector with its hosts and a clock.
struct Bench {
    share: OutlierShare,
    detector: Detector,
    hosts: Vec<Arc<Host>>,
    now: Instant,
    /// What chance gives.
    random: Rc<Cell<u64>>,
}

impl Bench {
    fn new(config: OutlierDetection, hosts: u8) -> Self {
        let host = |n: u8| {
            let address: std::net::SocketAddr = ([127, 0, 0, n], 80).into();
            let host = Arc::new(Host::new(&fixed(address), address.into()));
            host.monitor_outliers();
            host
        };
        let hosts: Vec<_> = (0..hosts).map(host).collect();
        let (config, random) = (Arc::new(config), Rc::new(Cell::new(0)));
        let drawn = random.clone();
        let scope = Store::new().scope("c");
        let mut detector = Detector::new(config.clone(), &scope, move |below| drawn.get().min(below - 1));
        detector.set_hosts(&hosts);
        Self { share: OutlierShare::new(config, None), detector, hosts, now: Instant::now(), random }
    }

    fn fail(&mut self, host: usize, times: usize) -> usize {
        for _ in 0..times {
            self.share.put_status(&self.hosts[host], 500);
        }
        self.detector.answer_alarms(self.now).len()
    }

    fn pass(&mut self, seconds: u64) -> usize {
        self.now += Duration::from_secs(seconds);
        self.detector.end_interval(&self.share.rates, self.now).len()
    }

    fn ejected(&self) -> Vec<bool> {
        self.hosts.iter().map(|host| is_ejected(host)).collect()
    }
}

#[test]
fn failures_in_a_row_eject_and_time_brings_back() {
    let mut bench = Bench::new(config(), 2);
    assert_eq!(bench.fail(0, 1), 0);
    assert_eq!(bench.fail(0, 1), 1);
    assert_eq!(bench.ejected(), [true, false]);
    bench.pass(29);
    assert_eq!(bench.ejected(), [true, false]);
    bench.pass(1);
    assert_eq!(bench.ejected(), [false, false]);
    assert_eq!(bench.detector.stats.ejections_active().value(), 0);
}

#[test]
fn ejections_in_a_row_last_longer_up_to_a_limit() {
    let mut bench = Bench::new(config(), 2);
    for lasts in [30, 60, 70, 70] {
        bench.fail(0, 2);
        bench.pass(lasts - 1);
        assert!(bench.ejected()[0], "{lasts}");
        bench.pass(1);
        assert!(!bench.ejected()[0], "{lasts}");
    }
}

#[test]
fn intervals_without_ejection_are_forgiven() {
    let mut bench = Bench::new(config(), 2);
    bench.fail(0, 2);
    bench.pass(30);
    bench.pass(10);
    bench.fail(0, 2);
    bench.pass(30);
    assert!(!bench.ejected()[0], "as long as the first");
}

#[test]
fn jitter_makes_an_ejection_last_longer() {
    let mut bench = Bench::new(OutlierDetection { max_ejection_time_jitter: Duration::from_secs(10), ..config() }, 2);
    bench.random.set(0);
    bench.fail(0, 1);
    // The second draw is the jitter; the first, whether the outlier is ejected.
    bench.random.set(99);
    assert_eq!(bench.fail(0, 1), 1);
    bench.pass(30);
    assert!(bench.ejected()[0]);
    bench.pass(1);
    assert!(!bench.ejected()[0]);
}

#[test]
fn no_more_than_the_share_is_ejected() {
    let mut bench = Bench::new(config(), 3);
    bench.fail(0, 2);
    bench.fail(1, 2);
    assert_eq!(bench.ejected(), [true, false, false]);
    assert_eq!(bench.detector.stats.ejections_overflow().value(), 1);
    let mut alone = Bench::new(config(), 1);
    alone.fail(0, 2);
    assert_eq!(alone.ejected(), [false]);
    let mut one = Bench::new(OutlierDetection { always_eject_one_host: true, ..config() }, 1);
    one.fail(0, 2);
    assert_eq!(one.ejected(), [true]);
}

#[test]
fn chance_may_spare_an_outlier() {
    let mut half = config();
    half.consecutive_5xx.enforcing = 50;
    let mut bench = Bench::new(half, 2);
    bench.random.set(50);
    assert_eq!(bench.fail(0, 2), 1, "it is told all the same");
    assert_eq!(bench.ejected(), [false, false]);
    bench.random.set(49);
    bench.fail(0, 2);
    assert_eq!(bench.ejected(), [true, false]);
}

#[test]
fn a_host_far_below_the_mean_is_ejected_at_the_end_of_the_interval() {
    let mut bench =
        Bench::new(OutlierDetection { consecutive_5xx: Consecutive { count: 0, enforcing: 0 }, ..config() }, 3);
    for host in 0..3 {
        let status = if host == 2 { 500 } else { 200 };
        (0..5).for_each(|_| bench.share.put_status(&bench.hosts[host], status));
    }
    assert_eq!(bench.pass(10), 1);
    assert_eq!(bench.ejected(), [false, false, true]);
    assert_eq!(bench.hosts[2].success_rates(), [0.0, -1.0]);
    assert!((bench.share.rates.all()[0] - 66.666).abs() < 0.001);
    bench.pass(10);
    assert_eq!(bench.hosts[0].success_rates(), [-1.0, -1.0], "nothing is known of an interval without requests");
}

#[test]
fn a_good_check_ends_an_ejection_and_clears_the_counts() {
    let mut bench = Bench::new(config(), 2);
    bench.fail(0, 2);
    bench.fail(0, 1);
    let (host, now) = (bench.hosts[0].clone(), bench.now);
    assert!(bench.detector.uneject(&host, now).is_some());
    assert!(bench.detector.uneject(&host, now).is_none());
    bench.fail(0, 1);
    assert_eq!(bench.ejected(), [false, false]);
}

#[test]
fn a_host_that_is_gone_is_no_longer_counted() {
    let mut bench = Bench::new(config(), 2);
    bench.fail(0, 2);
    bench.detector.set_hosts(&bench.hosts[1..]);
    assert_eq!(bench.detector.stats.ejections_active().value(), 0);
}

#[test]
fn a_host_that_calls_itself_degraded_is_so_for_longer_and_longer() {
    let mut bench = Bench::new(config(), 2);
    let is_degraded = |bench: &Bench| bench.hosts[0].flags().has(HealthFlag::DegradedOutlierDetection);
    for seconds in [30, 60] {
        bench.share.put_degraded(&bench.hosts[0]);
        assert!(bench.detector.answer_alarms(bench.now).is_empty(), "nobody is ejected");
        assert!(is_degraded(&bench) && bench.detector.take_stale());
        bench.pass(seconds - 1);
        assert!(is_degraded(&bench) && !bench.detector.take_stale());
        bench.pass(1);
        assert!(!is_degraded(&bench) && bench.detector.take_stale());
    }
    assert_eq!(bench.detector.stats.ejections_detected_degradation().value(), 2);
}
