use std::sync::Arc;

use nuncio_config::cluster::HealthCheckLog;

use nuncio_filter_api::{Runtime, RuntimeValue};

use super::*;
use crate::testing::{fixed, tcp_check};

const OK: CheckResult = CheckResult::Passed { degraded: false };
const REFUSED: CheckResult = CheckResult::Failed(Failure { kind: FailureKind::Network, retriable: true, status: 0 });
const TIMEOUT: CheckResult =
    CheckResult::Failed(Failure { kind: FailureKind::NetworkTimeout, retriable: true, status: 0 });
const SAYS_NO: CheckResult = CheckResult::Failed(Failure { kind: FailureKind::Active, retriable: false, status: 503 });

fn intervals() -> Intervals {
    tcp_check().intervals.clone()
}

fn config() -> HealthCheck {
    Arc::into_inner(tcp_check()).expect("it was just made")
}

/// A host that waits for its first check.
fn host() -> Host {
    let address: std::net::SocketAddr = ([127, 0, 0, 1], 80).into();
    let host = Host::new(&fixed(address), address.into());
    host.set_flag(HealthFlag::FailedActiveHc);
    host
}

/// Runs `results` and gives the flags after each, with the transition.
fn run(host: &Host, results: &[CheckResult]) -> Vec<(String, Transition)> {
    let (mut state, config) = (HostState::new(host, Rc::default()), config());
    results
        .iter()
        .map(|result| {
            let step = state.take(*result, host, &config);
            (host.flags().to_string(), step.transition)
        })
        .collect()
}

fn last(results: &[CheckResult]) -> (String, Transition) {
    run(&host(), results).pop().unwrap()
}

#[test]
fn the_first_success_is_enough_and_later_ones_need_the_threshold() {
    assert_eq!(last(&[OK]), ("healthy".to_owned(), Transition::Changed));
    assert_eq!(last(&[REFUSED, OK]), ("/failed_active_hc".to_owned(), Transition::Pending));
    assert_eq!(last(&[REFUSED, OK, OK]), ("healthy".to_owned(), Transition::Changed));
    assert_eq!(last(&[REFUSED, OK, REFUSED, OK]), ("/failed_active_hc".to_owned(), Transition::Pending));
}

#[test]
fn failures_of_the_network_need_the_threshold_and_a_bad_answer_does_not() {
    assert_eq!(last(&[OK, REFUSED]), ("healthy".to_owned(), Transition::Pending));
    assert_eq!(last(&[OK, REFUSED, REFUSED]), ("/failed_active_hc".to_owned(), Transition::Changed));
    assert_eq!(last(&[OK, REFUSED, OK, REFUSED]), ("healthy".to_owned(), Transition::Pending));
    assert_eq!(last(&[OK, SAYS_NO]), ("/failed_active_hc".to_owned(), Transition::Changed));
    let again = CheckResult::Failed(Failure { kind: FailureKind::Active, retriable: true, status: 429 });
    assert_eq!(last(&[OK, again]), ("healthy".to_owned(), Transition::Pending));
}

#[test]
fn a_timeout_is_noted_until_the_next_result() {
    assert_eq!(last(&[TIMEOUT]).0, "/failed_active_hc/active_hc_timeout");
    assert_eq!(last(&[TIMEOUT, REFUSED]).0, "/failed_active_hc");
    assert_eq!(last(&[TIMEOUT, OK, OK]).0, "healthy");
    assert_eq!(last(&[OK, TIMEOUT]).0, "/active_hc_timeout");
    assert_eq!(last(&[OK, TIMEOUT, OK]).0, "healthy");
}

#[test]
fn a_degraded_host_is_healthy_all_the_same() {
    let degraded = CheckResult::Passed { degraded: true };
    assert_eq!(last(&[degraded]), ("/degraded_active_hc".to_owned(), Transition::Changed));
    assert_eq!(last(&[OK, degraded]), ("/degraded_active_hc".to_owned(), Transition::Changed));
    assert_eq!(last(&[degraded, OK]), ("healthy".to_owned(), Transition::Changed));
    assert_eq!(last(&[REFUSED, degraded]), ("/failed_active_hc/degraded_active_hc".to_owned(), Transition::Pending));
}

#[test]
fn the_end_of_the_wait_for_a_first_check_is_a_change() {
    let host = host();
    host.set_flag(HealthFlag::PendingActiveHc);
    assert_eq!(run(&host, &[REFUSED]), [("/failed_active_hc".to_owned(), Transition::Changed)]);
}

#[test]
fn a_host_that_asked_to_be_left_alone_is_back_with_its_health() {
    let host = host();
    host.set_flag(HealthFlag::ExcludedViaImmediateHcFail);
    assert_eq!(run(&host, &[SAYS_NO])[0].0, "/failed_active_hc/excluded_via_immediate_hc_fail");
    assert_eq!(run(&host, &[OK])[0].0, "healthy");
}

#[test]
fn events_tell_what_changed_and_more_where_asked() {
    let (host, mut config) = (host(), config());
    let mut state = HostState::new(&host, Rc::default());
    let mut events = |result, config: &HealthCheck| state.take(result, &host, config).events.to_vec();
    assert_eq!(events(OK, &config), [Event::AddHealthy { first_check: true }]);
    assert_eq!(events(OK, &config), []);
    let CheckResult::Failed(failure) = SAYS_NO else { unreachable!() };
    assert_eq!(events(SAYS_NO, &config), [Event::EjectUnhealthy(failure)]);
    assert_eq!(events(SAYS_NO, &config), []);
    config.log = HealthCheckLog { all_failures: true, all_successes: true, ..HealthCheckLog::default() };
    assert_eq!(events(SAYS_NO, &config), [Event::Failure { failure, first_check: false }]);
    assert_eq!(events(OK, &config), [Event::Success]);
    assert_eq!(events(OK, &config), [Event::AddHealthy { first_check: false }]);
}

#[test]
fn each_state_has_its_interval() {
    use Transition::{Changed, Pending, Unchanged};
    let next = |passed, transition, traffic| {
        next_interval(&intervals(), passed, transition, traffic, |_| Duration::ZERO).as_secs()
    };
    assert_eq!([Unchanged, Changed, Pending].map(|t| next(true, t, Traffic::Some)), [1, 1, 4]);
    assert_eq!([Unchanged, Changed, Pending].map(|t| next(false, t, Traffic::Some)), [2, 2, 3]);
    assert_eq!([Unchanged, Changed, Pending].map(|t| next(true, t, Traffic::None)), [6, 6, 5]);
    assert_eq!([Unchanged, Changed, Pending].map(|t| next(false, t, Traffic::None)), [5, 5, 5]);
}

#[test]
fn jitter_of_both_kinds_is_added() {
    let mut intervals = intervals();
    intervals.jitter = Duration::from_millis(100);
    intervals.jitter_percent = 20;
    let next = |random: fn(Duration) -> Duration| {
        next_interval(&intervals, true, Transition::Unchanged, Traffic::Some, random).as_millis()
    };
    assert_eq!(next(|_| Duration::ZERO), 1000);
    assert_eq!(next(|bound| bound), 1300);
}

#[test]
fn the_runtime_bounds_the_intervals() {
    let runtime = Runtime::default();
    let intervals = Intervals { least: runtime.key("least"), most: runtime.key("most"), ..intervals() };
    let next = |values: &[(&str, u64)]| {
        let value = |n| Arc::new(RuntimeValue { integer: Some(n), ..RuntimeValue::default() });
        runtime.publish(values.iter().map(|(key, n)| ((*key).to_owned(), value(*n))).collect());
        next_interval(&intervals, true, Transition::Unchanged, Traffic::Some, |_| Duration::ZERO).as_millis()
    };
    assert_eq!(next(&[]), 1000);
    assert_eq!(next(&[("most", 20)]), 20);
    assert_eq!(next(&[("most", 20), ("least", 3000)]), 3000, "the least counts");
    assert_eq!(next(&[("most", 0)]), 1);
}

#[test]
fn a_host_fails_where_it_fails_by_any_of_several_checks() {
    let (host, config, votes) = (host(), config(), Rc::<Votes>::default());
    let mut one = HostState::new(&host, votes.clone());
    let mut other = HostState::new(&host, votes);
    let mut flags = Vec::new();
    for (state, result) in [
        (0, OK),
        (1, OK),
        (0, SAYS_NO),
        (1, SAYS_NO),
        (0, OK),
        (0, OK),
        (1, OK),
        (1, CheckResult::Passed { degraded: true }),
    ] {
        let state = if state == 0 { &mut one } else { &mut other };
        state.take(result, &host, &config);
        flags.push(host.flags().to_string());
    }
    let failed = "/failed_active_hc";
    assert_eq!(flags, [failed, "healthy", failed, failed, failed, failed, failed, "/degraded_active_hc"]);
}
