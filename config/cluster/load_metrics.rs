use std::sync::Arc;

use super::Metric;

/// A number of a host's load reports that the reports of the proxy itself pass on (`lrs_report_endpoint_metrics`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadMetric {
    /// By which it is passed on, as configured; of [`Self::is_map`] all up to the key.
    pub name: Arc<str>,
    /// Which it is.
    pub metric: Metric,
}

impl LoadMetric {
    /// Envoy passes over names that no report has.
    pub(super) fn lower_all(names: &[String]) -> Option<Arc<Vec<Self>>> {
        let lowered = names.iter().filter_map(|name| Self::lower(name));
        (!names.is_empty()).then(|| Arc::new(lowered.collect()))
    }

    fn lower(name: &str) -> Option<Self> {
        let metric = Metric::lower(name)?;
        let name = if metric.key() == Some("*") { name.trim_end_matches('*') } else { name };
        Some(Self { name: name.into(), metric })
    }

    /// Whether it stands for every key of its map.
    pub fn is_map(&self) -> bool {
        self.metric.key() == Some("*")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lowered(names: &[&str]) -> Option<Vec<(String, Metric)>> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let lowered = LoadMetric::lower_all(&names)?;
        Some(lowered.iter().map(|metric| (metric.name.to_string(), metric.metric.clone())).collect())
    }

    #[test]
    fn names_are_those_of_a_report_and_others_are_passed_over() {
        let metrics = lowered(&["cpu_utilization", "bogus", "named_metrics.a.b", "request_cost.*"]).unwrap();
        let expected = [
            ("cpu_utilization".to_owned(), Metric::Cpu),
            ("named_metrics.a.b".to_owned(), Metric::Named("a.b".into())),
            ("request_cost.".to_owned(), Metric::Cost("*".into())),
        ];
        assert_eq!(metrics, expected);
        assert_eq!(lowered(&["bogus"]), Some(Vec::new()));
        assert_eq!(lowered(&[]), None);
    }
}
