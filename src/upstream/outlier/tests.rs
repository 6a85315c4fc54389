use std::sync::Arc;

use nuncio_config::cluster::{Consecutive, FailurePercentage, SuccessRate};

use super::*;
use crate::testing::fixed;

fn share(split_errors: bool) -> OutlierShare {
    let consecutive = |count| Consecutive { count, enforcing: 100 };
    let seconds = std::time::Duration::from_secs;
    let config = OutlierDetection {
        interval: seconds(10),
        base_ejection_time: seconds(30),
        max_ejection_time: seconds(300),
        max_ejection_time_jitter: seconds(0),
        max_ejection_percent: 10,
        always_eject_one_host: false,
        split_errors,
        health_check_ends_ejection: true,
        detects_degraded: true,
        keys: Arc::default(),
        consecutive_5xx: consecutive(3),
        consecutive_gateway_failure: consecutive(2),
        consecutive_local_origin_failure: consecutive(2),
        success_rate: SuccessRate {
            minimum_hosts: 5,
            request_volume: 100,
            stdev_factor: 1.9,
            enforcing: 100,
            enforcing_local_origin: 100,
        },
        failure_percentage: FailurePercentage {
            minimum_hosts: 5,
            request_volume: 50,
            threshold: 85,
            enforcing: 0,
            enforcing_local_origin: 0,
        },
    };
    OutlierShare::new(Arc::new(config), None)
}

fn host() -> Host {
    let address: std::net::SocketAddr = ([127, 0, 0, 1], 80).into();
    let host = Host::new(&fixed(address), address.into());
    host.monitor_outliers();
    host
}

/// The alarms after responses of these statuses.
fn alarms(statuses: &[u16]) -> Vec<Alarm> {
    let (share, host) = (share(false), host());
    statuses.iter().for_each(|status| share.put_status(&host, *status));
    host.monitor().unwrap().take_alarms().collect()
}

#[test]
fn failures_in_a_row_raise_an_alarm() {
    assert_eq!(alarms(&[500, 501]), []);
    assert_eq!(alarms(&[500, 501, 599]), [Alarm::Consecutive5xx]);
    assert_eq!(alarms(&[500, 200, 500, 500]), []);
    assert_eq!(alarms(&[502, 404, 504]), []);
}

#[test]
fn gateway_failures_are_failures_too() {
    assert_eq!(alarms(&[502, 504]), [Alarm::ConsecutiveGatewayFailure]);
    assert_eq!(alarms(&[502, 500, 504]), [Alarm::Consecutive5xx]);
    assert_eq!(alarms(&[500, 503, 503]), [Alarm::ConsecutiveGatewayFailure, Alarm::Consecutive5xx]);
}

#[test]
fn what_goes_wrong_on_the_way_counts_as_503_or_504() {
    let (share, host) = (share(false), host());
    share.put_local_origin(&host, LocalOrigin::Connected);
    share.put_local_origin(&host, LocalOrigin::Failed);
    share.put_local_origin(&host, LocalOrigin::TimedOut);
    let monitor = host.monitor().unwrap();
    assert_eq!(monitor.take_alarms().collect::<Vec<_>>(), [Alarm::ConsecutiveGatewayFailure]);
    assert_eq!(monitor.take_volumes(), [Volume { total: 2, good: 0 }, Volume { total: 0, good: 0 }]);
}

#[test]
fn what_goes_wrong_on_the_way_is_told_apart_where_asked() {
    let (share, host) = (share(true), host());
    share.put_status(&host, 500);
    share.put_local_origin(&host, LocalOrigin::Failed);
    share.put_local_origin(&host, LocalOrigin::Connected);
    share.put_local_origin(&host, LocalOrigin::TimedOut);
    let monitor = host.monitor().unwrap();
    assert_eq!(monitor.take_alarms().count(), 0);
    share.put_local_origin(&host, LocalOrigin::Failed);
    assert_eq!(monitor.take_alarms().collect::<Vec<_>>(), [Alarm::ConsecutiveLocalOriginFailure]);
    assert_eq!(monitor.take_volumes(), [Volume { total: 1, good: 0 }, Volume { total: 4, good: 1 }]);
}

#[test]
fn a_host_that_nobody_watches_costs_nothing() {
    let address: std::net::SocketAddr = ([127, 0, 0, 1], 80).into();
    let host = Host::new(&fixed(address), address.into());
    share(false).put_status(&host, 500);
    assert_eq!(host.success_rates(), [-1.0, -1.0]);
}
