use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3::{CircuitBreakers as Proto, circuit_breakers as pb};
use nuncio_proto::envoy::config::core::v3::RoutingPriority;

/// Which set of limits and pools a request uses; a route chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Priority {
    /// DEFAULT
    #[default]
    Default,
    /// HIGH
    High,
}

/// The limits of a cluster for each priority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CircuitBreakers([Thresholds; 2]);

/// The limits of one priority, for all workers together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Connections; beyond, requests wait for one to become free.
    pub max_connections: u32,
    /// Requests that wait for a connection.
    pub max_pending_requests: u32,
    /// Requests in flight.
    pub max_requests: u32,
    /// Retries in flight.
    pub max_retries: u32,
    /// Whether the `remaining_*` gauges are kept.
    pub track_remaining: bool,
}

// === impl CircuitBreakers ===

impl CircuitBreakers {
    /// These limits.
    pub fn new(default: Thresholds, high: Thresholds) -> Self {
        Self([default, high])
    }

    /// The limits of `priority`.
    pub fn thresholds(&self, priority: Priority) -> &Thresholds {
        &self.0[priority as usize]
    }

    pub(super) fn lower(proto: Proto, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let Proto { thresholds, per_host_thresholds } = proto;
        cx.unsupported("per_host_thresholds", &per_host_thresholds)?;
        let lowered = cx.each("thresholds", thresholds, |t, cx| Thresholds::lower(t, cx))?;
        // Envoy: the first entry of a priority counts.
        let find = |priority| lowered.iter().find(|(p, _)| *p == priority).map(|(_, t)| t.clone()).unwrap_or_default();
        Ok(Self::new(find(Priority::Default), find(Priority::High)))
    }
}

// === impl Thresholds ===

impl Thresholds {
    fn lower(proto: pb::Thresholds, cx: &mut LowerCx<'_>) -> Result<(Priority, Self), Refused> {
        let pb::Thresholds {
            priority,
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            retry_budget,
            track_remaining,
            max_connection_pools,
        } = proto;
        cx.unsupported("retry_budget", &retry_budget)?;
        cx.unsupported("max_connection_pools", &max_connection_pools)?;
        let priority = if priority == RoutingPriority::High as i32 { Priority::High } else { Priority::Default };
        let default = Self::default();
        let thresholds = Self {
            max_connections: max_connections.map_or(default.max_connections, |v| v.value),
            max_pending_requests: max_pending_requests.map_or(default.max_pending_requests, |v| v.value),
            max_requests: max_requests.map_or(default.max_requests, |v| v.value),
            max_retries: max_retries.map_or(default.max_retries, |v| v.value),
            track_remaining,
        };
        Ok((priority, thresholds))
    }
}

impl Default for Thresholds {
    /// Envoy's defaults.
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            track_remaining: false,
        }
    }
}
