//! `/clusters`: clusters, their hosts, and what is counted for each host.

use std::collections::HashSet;
use std::fmt::Write;
use std::sync::Arc;

use nuncio_config::address::to_proto;
use nuncio_config::cluster::{Health, Locality, Priority};
use nuncio_config::load::{Defaults, to_json};
use nuncio_proto::envoy::admin::v3 as proto;
use nuncio_proto::envoy::config::cluster::v3 as cluster;
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::r#type::v3::Percent;
use nuncio_proto::google::protobuf::UInt32Value;
use nuncio_upstream::{Cluster, HealthFlag, HealthFlags, Host};
use regex::Regex;

use super::{Admin, Params, Reply};
use crate::update::{Kind, lock};

/// `/clusters`
pub(super) fn clusters(admin: &Admin, params: &Params) -> Reply {
    let filter = match params.value("filter").map(Regex::new).transpose() {
        Ok(filter) => filter,
        Err(error) => return Reply::bad_request(format!("Invalid regex: {error}\n")),
    };
    let snapshot = admin.shared.clusters.snapshot();
    let by_name = snapshot.by_name();
    let selected = by_name.iter().filter(|(name, _)| filter.as_ref().is_none_or(|f| f.is_match(name)));
    let selected = selected.map(|(_, cluster)| *cluster);
    let records = lock(&admin.shared.records);
    let discovered: HashSet<&str> = records.all(Kind::Cluster).map(|(id, _)| &*id.name).collect();
    let is_discovered =
        |cluster: &Cluster| cluster.config.is_made_for_host || discovered.contains(&*cluster.config.name.name);
    if params.value("format") == Some("json") {
        let cluster_statuses = selected.map(|cluster| status(cluster, is_discovered(cluster))).collect();
        return Reply::json(to_json(&proto::Clusters { cluster_statuses }, Defaults::Omit));
    }
    let mut text = String::new();
    for cluster in selected {
        // Writing to a String cannot fail.
        let _ = write_cluster(cluster, is_discovered(cluster), &mut text);
    }
    Reply::text(text)
}

// === text ===

fn write_cluster(cluster: &Cluster, is_discovered: bool, out: &mut String) -> std::fmt::Result {
    let name = &cluster.config.name.name;
    writeln!(out, "{name}::observability_name::{}", cluster.config.observable_name)?;
    if let Some(rates) = cluster.outlier_rates() {
        let names = ["success_rate_average", "success_rate_ejection_threshold"];
        let names = names.map(str::to_owned).into_iter().chain(names.map(|name| format!("local_origin_{name}")));
        let cluster_name = name;
        for (name, rate) in names.zip(rates) {
            writeln!(out, "{cluster_name}::outlier::{name}::{rate}")?;
        }
    }
    for (priority, label) in [(Priority::Default, "default"), (Priority::High, "high")] {
        let [max_connections, max_pending_requests, max_requests, max_retries] = cluster.limits_in_force(priority);
        writeln!(out, "{name}::{label}_priority::max_connections::{max_connections}")?;
        writeln!(out, "{name}::{label}_priority::max_pending_requests::{max_pending_requests}")?;
        writeln!(out, "{name}::{label}_priority::max_requests::{max_requests}")?;
        writeln!(out, "{name}::{label}_priority::max_retries::{max_retries}")?;
    }
    writeln!(out, "{name}::added_via_api::{is_discovered}")?;
    if let Some(service) = cluster.config.discovery.told_service() {
        writeln!(out, "{name}::eds_service_name::{service}")?;
    }
    for host in &*cluster.hosts().hosts {
        write_host(name, host, out)?;
    }
    Ok(())
}

fn write_host(cluster: &str, host: &Host, out: &mut String) -> std::fmt::Result {
    let address = host.address();
    let mut line = |key: &str, value: &dyn std::fmt::Display| writeln!(out, "{cluster}::{address}::{key}::{value}");
    for (name, value) in gauges(host).into_iter().chain(counters(host)).collect::<std::collections::BTreeMap<_, _>>() {
        line(name, &value)?;
    }
    let locality = host.locality.as_deref();
    line("hostname", &host.hostname)?;
    line("health_flags", &host.flags())?;
    line("weight", &host.weight())?;
    line("region", &locality.map_or("", |l| &l.region))?;
    line("zone", &locality.map_or("", |l| &l.zone))?;
    line("sub_zone", &locality.map_or("", |l| &l.sub_zone))?;
    line("canary", &host.is_canary())?;
    line("priority", &host.priority)?;
    let [success_rate, local_origin] = host.success_rates();
    line("success_rate", &success_rate)?;
    line("local_origin_success_rate", &local_origin)
}

fn counters(host: &Host) -> [(&'static str, u64); 6] {
    let stats = &host.stats;
    [
        ("cx_connect_fail", stats.cx_connect_fail.get()),
        ("cx_total", stats.cx_total.get()),
        ("rq_error", stats.rq_error.get()),
        ("rq_success", stats.rq_success.get()),
        ("rq_timeout", stats.rq_timeout.get()),
        ("rq_total", stats.rq_total.get()),
    ]
}

fn gauges(host: &Host) -> [(&'static str, u64); 3] {
    let stats = &host.stats;
    [
        ("cx_active", stats.cx_active.get()),
        ("rq_active", stats.rq_active.get()),
        ("rq_pending_active", stats.rq_pending_active.get()),
    ]
}

// === JSON ===

fn status(cluster: &Cluster, added_via_api: bool) -> proto::ClusterStatus {
    let thresholds =
        [(Priority::Default, core::RoutingPriority::Default), (Priority::High, core::RoutingPriority::High)];
    let thresholds = thresholds.map(|(ours, theirs)| threshold(cluster.limits_in_force(ours), theirs));
    let rates = cluster.outlier_rates();
    let threshold_of = |at: usize| rates.and_then(|rates| percent(rates[at]));
    proto::ClusterStatus {
        name: cluster.config.name.name.to_string(),
        added_via_api,
        eds_service_name: cluster.config.discovery.told_service().unwrap_or_default().to_owned(),
        host_statuses: cluster.hosts().hosts.iter().map(host_status).collect(),
        circuit_breakers: Some(cluster::CircuitBreakers {
            thresholds: thresholds.into(),
            ..cluster::CircuitBreakers::default()
        }),
        observability_name: cluster.config.observable_name.to_string(),
        success_rate_ejection_threshold: threshold_of(1),
        local_origin_success_rate_ejection_threshold: threshold_of(3),
    }
}

/// Of the limits of connections, waiting requests, requests and retries.
fn threshold(limits: [u32; 4], priority: core::RoutingPriority) -> cluster::circuit_breakers::Thresholds {
    let [connections, pending, requests, retries] = limits.map(|value| Some(UInt32Value { value }));
    cluster::circuit_breakers::Thresholds {
        priority: priority as i32,
        max_connections: connections,
        max_pending_requests: pending,
        max_requests: requests,
        max_retries: retries,
        ..cluster::circuit_breakers::Thresholds::default()
    }
}

fn host_status(host: &Arc<Host>) -> proto::HostStatus {
    let metric = |kind: proto::simple_metric::Type| {
        move |(name, value): (&str, u64)| proto::SimpleMetric { r#type: kind as i32, value, name: name.to_owned() }
    };
    let counters = counters(host).into_iter().map(metric(proto::simple_metric::Type::Counter));
    let gauges = gauges(host).into_iter().map(metric(proto::simple_metric::Type::Gauge));
    let locality = host.locality.as_deref().map(Locality::to_proto);
    let [success_rate, local_origin_success_rate] = host.success_rates().map(percent);
    proto::HostStatus {
        address: Some(to_proto(&host.address())),
        stats: counters.chain(gauges).collect(),
        health_status: Some(health_status(host.flags())),
        weight: host.weight(),
        hostname: host.hostname.to_string(),
        priority: host.priority,
        success_rate,
        local_origin_success_rate,
        locality: Some(locality.unwrap_or_default()),
    }
}

/// `None` for the number that stands for none.
fn percent(rate: f64) -> Option<Percent> {
    (rate >= 0.0).then_some(Percent { value: rate })
}

fn health_status(flags: HealthFlags) -> proto::HostHealthStatus {
    let eds_health_status = match flags.health_of_discovery() {
        Health::Unknown | Health::Healthy => core::HealthStatus::Healthy,
        Health::Unhealthy | Health::Timeout => core::HealthStatus::Unhealthy,
        Health::Draining => core::HealthStatus::Draining,
        Health::Degraded => core::HealthStatus::Degraded,
    };
    proto::HostHealthStatus {
        failed_active_health_check: flags.has(HealthFlag::FailedActiveHc),
        failed_outlier_check: flags.has(HealthFlag::FailedOutlierCheck),
        failed_active_degraded_check: flags.has(HealthFlag::DegradedActiveHc),
        pending_dynamic_removal: flags.has(HealthFlag::PendingDynamicRemoval),
        pending_active_hc: flags.has(HealthFlag::PendingActiveHc),
        excluded_via_immediate_hc_fail: flags.has(HealthFlag::ExcludedViaImmediateHcFail),
        active_hc_timeout: flags.has(HealthFlag::ActiveHcTimeout),
        failed_degraded_outlier_detection: flags.has(HealthFlag::DegradedOutlierDetection),
        eds_health_status: eds_health_status as i32,
    }
}
