//! Load reports of hosts (ORCA) in the headers or trailers of their responses.

use std::collections::HashMap;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use nuncio_config::cluster::{ClientWeights, ClusterConfig, LoadMetric, Metric};
use prost::Message;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::host::Host;

/// `xds.data.orca.v3.OrcaLoadReport`: the fields that nuncio reads.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LoadReport {
    #[prost(double, tag = "1")]
    cpu_utilization: f64,
    #[prost(double, tag = "2")]
    mem_utilization: f64,
    #[prost(map = "string, double", tag = "4")]
    request_cost: HashMap<String, f64>,
    #[prost(map = "string, double", tag = "5")]
    utilization: HashMap<String, f64>,
    #[prost(double, tag = "6")]
    rps_fractional: f64,
    #[prost(double, tag = "7")]
    eps: f64,
    #[prost(map = "string, double", tag = "8")]
    named_metrics: HashMap<String, f64>,
    #[prost(double, tag = "9")]
    application_utilization: f64,
}

const HEADER: &str = "endpoint-load-metrics";
const BINARY_HEADER: &str = "endpoint-load-metrics-bin";

/// Padding or none, as gRPC has it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a message says of the load of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reported {
    /// Nothing, or nothing that can be read.
    Nothing,
    /// What nothing follows from.
    Unusable,
    /// How much it has to do.
    Load,
}

// === impl Reported ===

impl Reported {
    /// Takes in what headers or trailers of a response say of the load of `host`. False where they say nothing that can
    /// be read.
    pub(crate) fn take_headers(headers: &HeaderMap, config: &ClusterConfig, host: &Host, now: Instant) -> bool {
        LoadReport::read(headers).is_some_and(|report| {
            report.take(config, host, now);
            // Envoy passes on what responses say, not what hosts send by themselves.
            if let Some(metrics) = &config.load_metrics {
                host.metrics.add(|add| report.each(metrics, add));
            }
            true
        })
    }

    /// Takes in one message that `host` sends by itself.
    pub(crate) fn take_message(message: &[u8], config: &ClusterConfig, host: &Host, now: Instant) -> Self {
        match LoadReport::decode(message) {
            Err(_) => Self::Nothing,
            Ok(report) => report.take(config, host, now),
        }
    }
}

// === impl LoadReport ===

impl LoadReport {
    /// Notes what follows from it.
    fn take(&self, config: &ClusterConfig, host: &Host, now: Instant) -> Reported {
        let weight = config.client_weights.as_ref().map(|config| self.weight(config));
        if let Some(Some(weight)) = weight {
            host.note_report(weight, now);
        }
        let utilization = config.locality_lb.load_aware().map(|config| self.utilization(&config.metrics));
        // Envoy: a host that is not busy at all has said nothing.
        let utilization = utilization.map(|utilization| Some(utilization).filter(|utilization| *utilization > 0.0));
        if let Some(Some(utilization)) = utilization {
            host.note_utilization(utilization.min(1.0), now);
        }
        match (weight, utilization) {
            (Some(None), _) | (None, Some(None)) => Reported::Unusable,
            _ => Reported::Load,
        }
    }

    fn read(headers: &HeaderMap) -> Option<Self> {
        if let Some(binary) = headers.get(BINARY_HEADER) {
            return Self::of_binary(binary.as_bytes());
        }
        let value = headers.get(HEADER)?.as_bytes();
        if let Some(report) = value.strip_prefix(b"TEXT ") {
            return Self::of_text(std::str::from_utf8(report).ok()?);
        }
        match value.strip_prefix(b"JSON ") {
            Some(report) => Self::of_json(report),
            None => Self::of_binary(value.strip_prefix(b"BIN ")?),
        }
    }

    fn of_binary(base64: &[u8]) -> Option<Self> {
        let bytes = BASE64.decode(base64).ok().filter(|bytes| !bytes.is_empty())?;
        Self::decode(&*bytes).ok()
    }

    /// Names and values with commas between them, each name once.
    fn of_text(text: &str) -> Option<Self> {
        let mut report = Self::default();
        let mut seen = Vec::new();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once(['=', ':'])?;
            let value: f64 = value.trim().parse().ok()?;
            if seen.contains(&name) || !value.is_finite() {
                return None;
            }
            seen.push(name);
            // Envoy: costs come in the other formats alone.
            let is_cost = name.starts_with("request_cost.");
            (!is_cost).then(|| report.set(name, value)).flatten()?;
        }
        Some(report)
    }

    fn set(&mut self, name: &str, value: f64) -> Option<()> {
        let map = match name.split_once('.') {
            Some((map, key)) if !key.is_empty() => Some((self.map(map)?, key)),
            _ => None,
        };
        match map {
            Some((map, key)) => _ = map.insert(key.to_owned(), value),
            None => *self.number(name)? = value,
        }
        Some(())
    }

    fn map(&mut self, name: &str) -> Option<&mut HashMap<String, f64>> {
        match name {
            "named_metrics" => Some(&mut self.named_metrics),
            "utilization" => Some(&mut self.utilization),
            "request_cost" => Some(&mut self.request_cost),
            _ => None,
        }
    }

    fn number(&mut self, name: &str) -> Option<&mut f64> {
        match name {
            "cpu_utilization" => Some(&mut self.cpu_utilization),
            "mem_utilization" => Some(&mut self.mem_utilization),
            "application_utilization" => Some(&mut self.application_utilization),
            "eps" => Some(&mut self.eps),
            "rps_fractional" => Some(&mut self.rps_fractional),
            _ => None,
        }
    }

    fn of_json(json: &[u8]) -> Option<Self> {
        let fields: Map<String, Value> = serde_json::from_slice(json).ok()?;
        let mut report = Self::default();
        for (name, value) in &fields {
            let name = snake_case(name);
            match value {
                Value::Null => {}
                // The older count of requests, which is not used.
                _ if name == "rps" => {}
                Value::Object(values) => {
                    let map = report.map(&name)?;
                    for (key, value) in values {
                        map.insert(key.clone(), json_number(value)?);
                    }
                }
                value => *report.number(&name)? = json_number(value)?,
            }
        }
        Some(report)
    }

    /// The weight of a host that reports this. Envoy: none follows from a report without requests or utilization.
    pub(crate) fn weight(&self, config: &ClientWeights) -> Option<u32> {
        let requests = self.rps_fractional;
        if requests.is_nan() || requests <= 0.0 {
            return None;
        }
        let utilization = self.utilization(&config.metrics) + config.error_penalty * self.eps / requests;
        if utilization.is_nan() || utilization <= 0.0 {
            return None;
        }
        // A conversion cuts what is too great for the type.
        Some((requests / utilization) as u32)
    }

    /// Tells `add` name and value of each of `metrics` that it has. Envoy: those that are in no map it always has.
    fn each(&self, metrics: &[LoadMetric], mut add: impl FnMut(&str, f64)) {
        for LoadMetric { name, metric } in metrics {
            match self.place(metric) {
                None => add(name, self.value(metric)),
                Some((map, "*")) => map.iter().for_each(|(key, value)| add(&format!("{name}{key}"), *value)),
                Some((map, key)) => _ = map.get(key).map(|value| add(name, *value)),
            }
        }
    }

    fn place<'a>(&'a self, metric: &'a Metric) -> Option<(&'a HashMap<String, f64>, &'a str)> {
        match metric {
            Metric::Cpu | Metric::Memory | Metric::Application | Metric::Errors | Metric::Requests => None,
            Metric::Named(key) => Some((&self.named_metrics, key)),
            Metric::Utilization(key) => Some((&self.utilization, key)),
            Metric::Cost(key) => Some((&self.request_cost, key)),
        }
    }

    fn utilization(&self, metrics: &[Metric]) -> f64 {
        let greatest = metrics.iter().map(|metric| self.value(metric)).fold(0.0, f64::max);
        let mut known = [greatest, self.application_utilization].into_iter();
        known.find(|utilization| *utilization > 0.0).unwrap_or(self.cpu_utilization)
    }

    fn value(&self, metric: &Metric) -> f64 {
        match metric {
            Metric::Cpu => self.cpu_utilization,
            Metric::Memory => self.mem_utilization,
            Metric::Application => self.application_utilization,
            Metric::Errors => self.eps,
            Metric::Requests => self.rps_fractional,
            Metric::Named(_) | Metric::Utilization(_) | Metric::Cost(_) => {
                self.place(metric).and_then(|(map, key)| map.get(key)).copied().unwrap_or(0.0)
            }
        }
    }
}

/// JSON names fields in either way.
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len());
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// proto3 JSON has numbers as texts too.
fn json_number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{cluster_config, fixed, load_aware};

    fn config(metrics: &[Metric], error_penalty: f64) -> ClientWeights {
        let time = Duration::from_secs(1);
        let metrics = metrics.into();
        ClientWeights {
            blackout: time,
            expiration: time,
            update_period: time,
            error_penalty,
            metrics,
            own_reports: None,
        }
    }

    /// The weight that follows from a report, where there is one.
    fn reported(name: &'static str, value: &str) -> Option<Option<u32>> {
        let headers = [(http::HeaderName::from_static(name), value.parse().unwrap())].into_iter().collect();
        LoadReport::read(&headers).map(|report| report.weight(&config(&[Metric::Named("foo".into())], 0.0)))
    }

    fn text(report: &str) -> Option<Option<u32>> {
        reported(HEADER, &format!("TEXT {report}"))
    }

    #[test]
    fn the_weight_is_what_a_host_can_take_at_full_load() {
        assert_eq!(text("rps_fractional=100,cpu_utilization=0.5"), Some(Some(200)));
        assert_eq!(text(" rps_fractional:100 , cpu_utilization:0.3"), Some(Some(333)));
        assert_eq!(text("rps_fractional=1e12,cpu_utilization=0.001"), Some(Some(u32::MAX)));
    }

    #[test]
    fn named_metrics_go_before_the_application_and_that_before_the_cpu() {
        let all = "rps_fractional=100,cpu_utilization=0.1,application_utilization=0.5,named_metrics.foo=0.25";
        assert_eq!(text(all), Some(Some(400)));
        assert_eq!(text(&all.replace("foo", "bar")), Some(Some(200)));
        assert_eq!(text(&all.replace("0.5,", "0,").replace("foo", "bar")), Some(Some(1000)));
    }

    #[test]
    fn metrics_are_passed_on_by_their_names_and_those_of_no_map_always() {
        let metric = |name: &str, metric| LoadMetric { name: name.into(), metric };
        let metrics = [
            metric("cpu_utilization", Metric::Cpu),
            metric("eps", Metric::Errors),
            metric("named_metrics.a", Metric::Named("a".into())),
            metric("named_metrics.c", Metric::Named("c".into())),
            metric("utilization.", Metric::Utilization("*".into())),
        ];
        let mut report = LoadReport { cpu_utilization: 0.5, ..LoadReport::default() };
        report.named_metrics = [("a".to_owned(), 1.0), ("b".to_owned(), 2.0)].into();
        report.utilization = [("x".to_owned(), 0.25)].into();
        let mut told = Vec::new();
        report.each(&metrics, |name, value| told.push((name.to_owned(), value)));
        let expected = [("cpu_utilization", 0.5), ("eps", 0.0), ("named_metrics.a", 1.0), ("utilization.x", 0.25)];
        assert_eq!(told, expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn errors_make_a_host_lighter() {
        let report = LoadReport { rps_fractional: 100.0, cpu_utilization: 0.5, eps: 25.0, ..LoadReport::default() };
        assert_eq!(report.weight(&config(&[], 0.0)), Some(200));
        assert_eq!(report.weight(&config(&[], 2.0)), Some(100));
    }

    #[test]
    fn no_weight_follows_from_a_report_without_requests_or_utilization() {
        assert_eq!(text("cpu_utilization=0.5"), Some(None));
        assert_eq!(text("rps_fractional=5"), Some(None));
        assert_eq!(text("rps_fractional=-5,cpu_utilization=1"), Some(None));
        assert_eq!(text(""), Some(None));
    }

    #[test]
    fn what_is_no_report_is_passed_over() {
        for report in [
            "rps_fractional",
            "rps_fractional=",
            "rps_fractional=x",
            "bogus=1",
            "named_metrics.=1",
            "request_cost.a=1",
            "=1",
            "cpu_utilization=1,cpu_utilization=1",
            "cpu_utilization=nan",
            "cpu_utilization=inf",
        ] {
            assert_eq!(text(report), None, "{report}");
        }
        for value in
            ["", "cpu_utilization=1", "XML x", "JSON {", "JSON {\"bogus\":1}", "JSON []", "BIN ", "BIN !", "BIN"]
        {
            assert_eq!(reported(HEADER, value), None, "{value}");
        }
    }

    #[test]
    fn json_and_binary_reports_are_read() {
        let json = r#"JSON {"rpsFractional":"100","cpu_utilization":0.5,"namedMetrics":{"foo":0.2},"rps":7}"#;
        assert_eq!(reported(HEADER, json), Some(Some(500)));
        let report = LoadReport { rps_fractional: 100.0, cpu_utilization: 0.5, ..LoadReport::default() };
        let padded = base64::engine::general_purpose::STANDARD.encode(report.encode_to_vec());
        for value in [padded.trim_end_matches('='), &padded] {
            assert_eq!(reported(BINARY_HEADER, value), Some(Some(200)));
            assert_eq!(reported(HEADER, &format!("BIN {value}")), Some(Some(200)));
        }
    }

    #[test]
    fn a_host_that_is_not_busy_at_all_has_said_nothing_of_its_utilization() {
        let mut config = cluster_config("c", vec![fixed(([127, 0, 0, 1], 1).into())]);
        config.locality_lb = load_aware(None);
        let now = Instant::now();
        let check = |text: &str, expected: Option<f64>| {
            let host = Host::new(&config.endpoints[0], std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into());
            host.note_for_balance(now);
            let value = format!("TEXT {text}").parse().unwrap();
            let headers = [(http::HeaderName::from_static(HEADER), value)].into_iter().collect();
            assert!(Reported::take_headers(&headers, &config, &host, now));
            assert_eq!(host.utilization(None, now), expected, "{text}");
        };
        check("cpu_utilization=0.5", Some(0.5));
        check("cpu_utilization=1.5", Some(1.0));
        check("application_utilization=0.25,cpu_utilization=0.5", Some(0.25));
        check("rps_fractional=5", None);
        check("cpu_utilization=-0.5", None);
    }
}
