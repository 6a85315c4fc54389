//! Reports as text and as JSON.

use std::fmt::{self, Write};

use nuncio_config::route::{Considered, Descriptor, EntryPlace, Explanation, LimitOverride};
use serde_json::{Value, json};

use super::report::{ClusterReport, EndpointReport, RateLimitReport, Report, Taken};

// === text ===

pub(super) fn text(reports: &[Report]) -> String {
    let mut out = String::new();
    for (i, report) in reports.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        // Writing to a String cannot fail.
        let _ = write_report(report, &mut out);
    }
    out
}

fn write_report(report: &Report, out: &mut String) -> fmt::Result {
    let Report { listener, filter_chain, scope, route_config, head, refused, explanation, taken } = report;
    let scope = scope.as_ref().map(|scope| format!(", scope {scope:?}")).unwrap_or_default();
    writeln!(out, "listener {listener:?}, filter chain {filter_chain:?}{scope}, route configuration {route_config:?}")?;
    let internal = if head.headers.contains_key("x-envoy-internal") { "internal" } else { "external" };
    writeln!(out, "request {} {}://{}{}, {internal}", head.method, head.scheme.as_str(), head.authority, head.path)?;
    if let Some((status, details)) = refused {
        return writeln!(out, "answered with {status} before routing: {details}");
    }
    match explanation {
        Some(explanation) => write_explanation(explanation, out)?,
        None => writeln!(out, "no scope has the request's key")?,
    }
    match taken {
        None => writeln!(out, "no route: answered with 404"),
        Some(taken) => write_taken(taken, out),
    }
}

fn write_explanation(explanation: &Explanation, out: &mut String) -> fmt::Result {
    let Explanation { host, virtual_host, routes, is_tree, wants_tls } = explanation;
    match virtual_host {
        None => writeln!(out, "no virtual host has a domain for {host:?}")?,
        Some(found) => writeln!(out, "virtual host {:?}: {} domain {:?}", found.name, found.kind, found.domain)?,
    }
    if *wants_tls {
        writeln!(out, "require_tls sends the request to https before any route is looked at")?;
    } else if *is_tree {
        writeln!(out, "its matcher chooses the route")?;
    }
    for Considered { number, name, path, reasons } in routes {
        write!(out, "route {number}{}: {path}: ", named(name))?;
        writeln!(out, "{}", if reasons.is_empty() { "matches" } else { "does not match" })?;
        for reason in reasons {
            writeln!(out, "  {}: expected {}, is {}", reason.condition, reason.expected, reason.actual)?;
        }
    }
    Ok(())
}

fn write_taken(taken: &Taken, out: &mut String) -> fmt::Result {
    let Taken { place, name, action, cluster, rate_limits } = taken;
    writeln!(out, "taken: {}{}", place_text(place), named(name))?;
    for (key, value) in action {
        // A body may have lines.
        let value = if value.contains('\n') { format!("{value:?}") } else { value.clone() };
        writeln!(out, "  {key}: {value}")?;
    }
    rate_limits.iter().try_for_each(|limit| write_rate_limit(limit, out))?;
    let Some(ClusterReport { name, lb, endpoints }) = cluster else { return Ok(()) };
    let Some(lb) = lb else { return writeln!(out, "cluster {name:?}: there is no such cluster") };
    writeln!(out, "cluster {name:?}: {lb}")?;
    for EndpointReport { address, hostname, health, weight, is_candidate } in endpoints {
        let may = if *is_candidate { "candidate" } else { "no candidate" };
        writeln!(out, "  {address}{}: {health}, weight {weight}, {may}", named(hostname))?;
    }
    Ok(())
}

fn write_rate_limit(limit: &RateLimitReport, out: &mut String) -> fmt::Result {
    let RateLimitReport { level, stage, disable_key, on_stream_done, descriptor } = limit;
    write!(out, "rate limit of the {level}, stage {stage}")?;
    if *on_stream_done {
        out.push_str(", after the stream");
    }
    if let Some(key) = disable_key {
        write!(out, ", unless {key:?} disables it")?;
    }
    let Some(Descriptor { entries, limit }) = descriptor else { return writeln!(out, ": no descriptor") };
    for (i, (key, value)) in entries.iter().enumerate() {
        write!(out, "{}{key}={value:?}", if i == 0 { ": " } else { ", " })?;
    }
    if let Some(LimitOverride { requests, unit }) = limit {
        write!(out, ", at most {requests} per {}", unit.as_str())?;
    }
    out.push('\n');
    Ok(())
}

fn named(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" {name:?}") }
}

fn place_text(place: &EntryPlace) -> String {
    let EntryPlace { virtual_host, route, weighted } = place;
    let route = route.map(|route| format!(".routes[{route}]")).unwrap_or_default();
    let weighted = weighted.map(|n| format!(".route.weighted_clusters.clusters[{n}]")).unwrap_or_default();
    format!("virtual_hosts[{virtual_host}]{route}{weighted}")
}

// === JSON ===

pub(super) fn json(reports: &[Report]) -> String {
    let value = json!({ "listeners": reports.iter().map(report).collect::<Vec<_>>() });
    // A value of strings and numbers alone can be written.
    serde_json::to_string_pretty(&value).unwrap_or_default() + "\n"
}

fn report(report: &Report) -> Value {
    let Report { listener, filter_chain, scope, route_config, head, refused, explanation, taken } = report;
    json!({
        "listener": listener,
        "filter_chain": filter_chain,
        "scope": scope,
        "route_config": route_config,
        "request": {
            "method": head.method.as_str(),
            "scheme": head.scheme.as_str(),
            "authority": &*head.authority,
            "path": &*head.path,
            "internal": head.headers.contains_key("x-envoy-internal"),
        },
        "refused": refused.as_ref().map(|(status, details)| json!({ "status": status, "details": details })),
        "virtual_host": explanation.as_ref().and_then(|e| e.virtual_host.as_ref()).map(
            |host| json!({ "name": host.name, "domain": host.domain, "match": host.kind })
        ),
        "wants_tls": explanation.as_ref().is_some_and(|e| e.wants_tls),
        "chosen_by_matcher": explanation.as_ref().is_some_and(|e| e.is_tree),
        "routes": explanation.iter().flat_map(|e| &e.routes).map(considered).collect::<Vec<_>>(),
        "taken": taken.as_ref().map(taken_json),
    })
}

fn considered(route: &Considered) -> Value {
    let Considered { number, name, path, reasons } = route;
    let reasons: Vec<Value> = reasons
        .iter()
        .map(|r| json!({ "condition": r.condition, "expected": r.expected, "actual": r.actual }))
        .collect();
    json!({ "number": number, "name": name, "path": path, "matches": reasons.is_empty(), "reasons": reasons })
}

fn taken_json(taken: &Taken) -> Value {
    let Taken { place, name, action, cluster, rate_limits } = taken;
    let action: serde_json::Map<String, Value> =
        action.iter().map(|(key, value)| ((*key).to_owned(), value.as_str().into())).collect();
    json!({
        "place": place_text(place),
        "name": name,
        "action": action,
        "rate_limits": rate_limits.iter().map(rate_limit).collect::<Vec<_>>(),
        "cluster": cluster.as_ref().map(|ClusterReport { name, lb, endpoints }| json!({
            "name": name,
            "exists": lb.is_some(),
            "lb_policy": lb,
            "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        })),
    })
}

fn rate_limit(limit: &RateLimitReport) -> Value {
    let RateLimitReport { level, stage, disable_key, on_stream_done, descriptor } = limit;
    let entries = descriptor.as_ref().map(|descriptor| {
        let entries = descriptor.entries.iter();
        entries.map(|(key, value)| json!({ "key": &**key, "value": value })).collect::<Vec<_>>()
    });
    let limit = descriptor.as_ref().and_then(|descriptor| descriptor.limit);
    json!({
        "level": level,
        "stage": stage,
        "disable_key": disable_key,
        "apply_on_stream_done": on_stream_done,
        "descriptor": entries,
        "limit": limit.map(|limit| json!({ "requests_per_unit": limit.requests, "unit": limit.unit.as_str() })),
    })
}

fn endpoint(endpoint: &EndpointReport) -> Value {
    let EndpointReport { address, hostname, health, weight, is_candidate } = endpoint;
    json!({
        "address": address,
        "hostname": hostname,
        "health": health,
        "weight": weight,
        "candidate": is_candidate,
    })
}
