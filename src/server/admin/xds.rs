//! `/xds`: what is wanted of each source, and how it answers. Ours; Envoy tells it by stats alone.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

use nuncio_config::discovery::Origin;
use nuncio_config::load::rfc3339;
use serde_json::{Value, json};

use super::{Admin, Params, Reply};
use crate::update::{Answer, BOUNDS, Failed, Kind, Latency, Records, Status, lock};

/// A kind, and a source of it.
type Pair<'a> = (Kind, &'a Origin);

/// How it stands with a source that was never asked.
static NOTHING: Status = Status::NONE;

/// What is told of one kind of one source.
#[derive(Default)]
struct Entry<'a> {
    names: Vec<&'a str>,
    status: Option<&'a Status>,
    resources: usize,
    is_cached: bool,
    /// Resources that are not in force as they were delivered last.
    refused: Vec<(&'a str, &'a Failed)>,
}

/// `/xds`
pub(super) fn xds(admin: &Admin, params: &Params) -> Reply {
    let wanted = admin.wanted.borrow().clone();
    let mut names: BTreeMap<Pair<'_>, Vec<&str>> = BTreeMap::new();
    for target in wanted.iter() {
        names.entry((target.kind, &target.origin)).or_default().push(target.name.as_deref().unwrap_or("*"));
    }
    let records = lock(&admin.shared.records);
    let entries = entries(names, &records);
    let now = SystemTime::now();
    if params.value("format") == Some("json") {
        let subscriptions: Vec<Value> = entries.iter().map(|(pair, entry)| entry.json(*pair, now)).collect();
        return Reply::json(format!("{:#}", json!({ "subscriptions": subscriptions })));
    }
    let mut text = String::new();
    for (pair, entry) in &entries {
        // Writing to a String cannot fail.
        let _ = entry.write(*pair, now, &mut text);
    }
    Reply::text(text)
}

fn entries<'a>(names: BTreeMap<Pair<'a>, Vec<&'a str>>, records: &'a Records) -> BTreeMap<Pair<'a>, Entry<'a>> {
    let named = names.into_iter().map(|(pair, names)| (pair, Entry { names, ..Entry::default() }));
    let mut entries: BTreeMap<Pair<'a>, Entry<'a>> = named.collect();
    for (pair, status) in records.statuses() {
        entries.entry(pair).or_default().status = Some(status);
    }
    for (kind, origin) in records.cached() {
        entries.entry((*kind, origin)).or_default().is_cached = true;
    }
    for (kind, id, record) in records.each() {
        let entry = entries.entry((kind, &id.origin)).or_default();
        entry.resources += usize::from(record.accepted.is_some());
        entry.refused.extend(record.failed.as_ref().map(|failed| (&*id.name, failed)));
    }
    entries
}

// === impl Entry ===

impl Entry<'_> {
    fn json(&self, (kind, origin): Pair<'_>, now: SystemTime) -> Value {
        let Status { requested, acked, nacked, failed, latency } = self.status.unwrap_or(&NOTHING);
        let time = |at: &Option<SystemTime>| at.map(rfc3339);
        let answer = |answer: &Option<Answer>| {
            answer.as_ref().map(
                |Answer { at, version, reason }| json!({ "at": rfc3339(*at), "version": version, "reason": reason }),
            )
        };
        let refused = self.refused.iter().map(|(name, failed)| {
            json!({ "name": name, "version": failed.version, "at": rfc3339(failed.at), "reason": failed.details })
        });
        json!({
            "type": kind.short(),
            "type_url": kind.type_url(),
            "source": origin.to_string(),
            "subscribed": self.names,
            "resources": self.resources,
            "from_cache": self.is_cached,
            "refused": refused.collect::<Vec<_>>(),
            "last_request": time(requested),
            "last_ack": answer(acked),
            "last_nack": answer(nacked),
            "last_failure": time(failed),
            "age_ms": self.status.and_then(Status::updated).map(|at| millis(age(now, at))),
            "update_latency_ms": histogram(latency),
        })
    }

    fn write(&self, (kind, origin): Pair<'_>, now: SystemTime, out: &mut String) -> std::fmt::Result {
        let Status { requested, acked, nacked, failed, latency } = self.status.unwrap_or(&NOTHING);
        let ago = |at: &SystemTime| format!("{} ({:.1?} ago)", rfc3339(*at), age(now, *at));
        writeln!(out, "{} from {origin}", kind.short())?;
        writeln!(out, "  subscribed: {}", self.names.join(", "))?;
        let cached = if self.is_cached { ", from the cache" } else { "" };
        writeln!(out, "  resources: {}{cached}", self.resources)?;
        if let Some(at) = requested {
            writeln!(out, "  last request: {}", ago(at))?;
        }
        if let Some(Answer { at, version, reason: _ }) = acked {
            writeln!(out, "  last ACK: version {version:?}, {}", ago(at))?;
        }
        if let Some(Answer { at, version, reason }) = nacked {
            writeln!(out, "  last NACK: version {version:?}, {}: {reason}", ago(at))?;
        }
        if let Some(at) = failed {
            writeln!(out, "  last failure: {}", ago(at))?;
        }
        let (count, mean, max) = (latency.count(), latency.mean(), latency.max);
        writeln!(out, "  updates: {count}, in force after {mean:.1?} on average and {max:.1?} at most")?;
        for (name, failed) in &self.refused {
            writeln!(out, "  refused: {name}, version {:?}, {}: {}", failed.version, ago(&failed.at), failed.details)?;
        }
        Ok(())
    }
}

fn age(now: SystemTime, at: SystemTime) -> Duration {
    now.duration_since(at).unwrap_or_default()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Counts of those up to each bound, as Prometheus has them.
fn histogram(latency: &Latency) -> Value {
    let mut so_far = 0;
    let bounds = BOUNDS.map(Some).into_iter().chain([None]);
    let buckets = bounds.zip(latency.buckets).map(|(bound, count)| {
        so_far += count;
        json!({ "le": bound, "count": so_far })
    });
    let buckets: Vec<Value> = buckets.collect();
    json!({ "count": latency.count(), "mean": millis(latency.mean()), "max": millis(latency.max), "buckets": buckets })
}
