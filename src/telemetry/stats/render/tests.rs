//! Renderings beside what Envoy 1.40 prints for the same values.

use super::{Buckets, Format, Query, QueryError, render};
use crate::stats::Store;

crate::stats! {
    struct HttpStats {
        downstream_cx_active: Gauge,
        downstream_rq_2xx: Counter,
        downstream_rq_4xx: Counter,
        downstream_cx_length_ms: Histogram(Milliseconds),
        downstream_rq_time: Histogram(Milliseconds),
    }
}

/// What Envoy had recorded when the expected texts of this file were taken from it.
const TIMES: [u64; 5] = [0, 0, 1, 5, 21];

fn filled() -> (Store, HttpStats) {
    let store = Store::new();
    let stats = HttpStats::new(&store.scope("http.in"));
    stats.downstream_rq_2xx().add(3);
    stats.downstream_cx_active().inc();
    for time in TIMES {
        stats.downstream_rq_time().record(time);
    }
    (store, stats)
}

fn rendered(store: &Store, parameters: &[(&str, &str)]) -> String {
    let mut out = String::new();
    render(store, &Query::parse(parameters.iter().copied()).expect("known parameters"), &mut out);
    out
}

#[test]
fn text_shows_quantiles_of_interval_and_total() {
    let (store, _stats) = filled();
    let expected = "http.in.downstream_rq_time: P0(nan,0) P25(nan,0) P50(nan,1.05) P75(nan,5.05) P90(nan,21.5) \
                    P95(nan,21.5) P99(nan,21.5) P99.5(nan,21.5) P99.9(nan,21.5) P100(nan,21.5)\n";
    assert_eq!(rendered(&store, &[("filter", "rq_time")]), expected);
    assert_eq!(
        rendered(&store, &[("filter", "length"), ("histogram_buckets", "detailed")]),
        "http.in.downstream_cx_length_ms: No recorded values\n"
    );
}

#[test]
fn quantiles_lie_at_equal_distances_in_their_bin() {
    let store = Store::new();
    let stats = HttpStats::new(&store.scope("h"));
    for time in [1, 1, 1, 2, 2, 3, 5, 7] {
        stats.downstream_rq_time().record(time);
    }
    store.flush();
    assert_eq!(
        rendered(&store, &[("type", "Histograms"), ("usedonly", ""), ("histogram_buckets", "detailed")]),
        "h.downstream_rq_time:\n  totals=1,0.1:3, 2,0.1:2, 3,0.1:1, 5,0.1:1, 7,0.1:1\n  \
         intervals=1,0.1:3, 2,0.1:2, 3,0.1:1, 5,0.1:1, 7,0.1:1\n  \
         summary=P0(1.025,1.025) P25(1.05,1.05) P50(2.033333333333333,2.033333333333333) P75(3.05,3.05) \
         P90(7.05,7.05) P95(7.05,7.05) P99(7.05,7.05) P99.5(7.05,7.05) P99.9(7.05,7.05) P100(7.05,7.05)\n"
    );
}

#[test]
fn an_interval_holds_what_came_since_the_flush_before() {
    let (store, stats) = filled();
    store.flush();
    stats.downstream_rq_time().record(30);
    store.flush();
    let query = [("filter", "rq_time"), ("histogram_buckets", "detailed")];
    assert!(rendered(&store, &query).contains("  intervals=30,1:1\n"));
    store.flush();
    assert!(rendered(&store, &query).contains("  intervals=\n"));
}

#[test]
fn text_shows_buckets() {
    let (store, _stats) = filled();
    let cumulative = rendered(&store, &[("filter", "rq_time"), ("histogram_buckets", "cumulative")]);
    assert!(cumulative.starts_with("http.in.downstream_rq_time: B0.5(0,2) B1(0,3) B5(0,4) B10(0,4) B25(0,5) B50(0,5)"));
    assert!(cumulative.ends_with(" B600000(0,5) B1.8e+06(0,5) B3.6e+06(0,5)\n"));
    let disjoint = rendered(&store, &[("filter", "rq_time"), ("histogram_buckets", "disjoint")]);
    assert!(disjoint.starts_with("http.in.downstream_rq_time: B0.5(0,2) B1(0,1) B5(0,1) B10(0,0) B25(0,1) B50(0,0)"));
}

#[test]
fn a_bucket_counts_the_bin_that_begins_at_its_bound() {
    let store = Store::new();
    let stats = HttpStats::new(&store.scope("h"));
    stats.downstream_rq_time().record(255);
    assert_eq!(stats.downstream_rq_time().merged().cumulative(&[249.0, 250.0]), [0, 1]);
}

#[test]
fn json_has_all_histograms_in_its_last_element() {
    let (store, _stats) = filled();
    let json = rendered(&store, &[("format", "json"), ("filter", "2xx|rq_time")]);
    assert!(json.starts_with(
        "{\"stats\":[{\"name\":\"http.in.downstream_rq_2xx\",\"value\":3},{\"histograms\":{\"supported_quantiles\":\
         [0,25,50,75,90,95,99,99.5,99.9,100],\"computed_quantiles\":[{\"name\":\"http.in.downstream_rq_time\",\
         \"values\":[{\"cumulative\":0,\"interval\":null},{\"cumulative\":0,\"interval\":null},\
         {\"cumulative\":1.05,\"interval\":null},"
    ));
    assert!(json.ends_with("{\"cumulative\":21.5,\"interval\":null}]}]}}]}"));
    assert_eq!(rendered(&store, &[("format", "json"), ("filter", "nothing")]), "{\"stats\":[]}");
}

#[test]
fn json_shows_bins_and_buckets() {
    let (store, _stats) = filled();
    let detailed = rendered(&store, &[("format", "json"), ("filter", "rq_time"), ("histogram_buckets", "detailed")]);
    assert!(detailed.contains(
        "\"details\":[{\"name\":\"http.in.downstream_rq_time\",\"totals\":[{\"lower_bound\":0,\"width\":0,\"count\":2},\
         {\"lower_bound\":1,\"width\":0.1,\"count\":1},{\"lower_bound\":5,\"width\":0.1,\"count\":1},\
         {\"lower_bound\":21,\"width\":1,\"count\":1}],\"intervals\":[],\"percentiles\":[{\"cumulative\":0,"
    ));
    let buckets = rendered(&store, &[("format", "json"), ("filter", "rq_time"), ("histogram_buckets", "cumulative")]);
    assert!(buckets.starts_with(
        "{\"stats\":[{\"histograms\":[{\"name\":\"http.in.downstream_rq_time\",\"buckets\":[\
         {\"upper_bound\":0.5,\"interval\":0,\"cumulative\":2},"
    ));
    assert!(buckets.ends_with("{\"upper_bound\":3600000,\"interval\":0,\"cumulative\":5}]}]}]}"));
}

#[test]
fn prometheus_groups_by_name_without_tags() {
    let (store, _stats) = filled();
    let _other = HttpStats::new(&store.scope("http.also"));
    let text = rendered(&store, &[("format", "prometheus"), ("filter", "xx|active")]);
    let line = |class: &str, prefix: &str, value: u32| {
        format!(
            "envoy_http_downstream_rq_xx{{envoy_response_code_class=\"{class}\",\
             envoy_http_conn_manager_prefix=\"{prefix}\"}} {value}\n"
        )
    };
    let expected = [
        "# TYPE envoy_http_downstream_rq_xx counter\n",
        &line("2", "also", 0),
        &line("4", "also", 0),
        &line("2", "in", 3),
        &line("4", "in", 0),
        "# TYPE envoy_http_downstream_cx_active gauge\n",
        "envoy_http_downstream_cx_active{envoy_http_conn_manager_prefix=\"also\"} 0\n",
        "envoy_http_downstream_cx_active{envoy_http_conn_manager_prefix=\"in\"} 1\n",
    ];
    assert_eq!(text, expected.concat());
}

#[test]
fn prometheus_shows_histograms_as_buckets() {
    let (store, _stats) = filled();
    let text = rendered(&store, &[("format", "prometheus"), ("filter", "rq_time|length"), ("usedonly", "")]);
    assert!(text.starts_with(
        "# TYPE envoy_http_downstream_rq_time histogram\n\
         envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix=\"in\",le=\"0.5\"} 2\n"
    ));
    assert!(text.ends_with(
        "envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix=\"in\",le=\"3600000\"} 5\n\
         envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix=\"in\",le=\"+Inf\"} 5\n\
         envoy_http_downstream_rq_time_sum{envoy_http_conn_manager_prefix=\"in\"} 27.5854960911373510157318378333\n\
         envoy_http_downstream_rq_time_count{envoy_http_conn_manager_prefix=\"in\"} 5\n"
    ));
}

#[test]
fn prometheus_summaries_are_of_the_interval() {
    let (store, stats) = filled();
    store.flush();
    stats.downstream_rq_time().record(1);
    store.flush();
    let text = rendered(&store, &[("format", "prometheus"), ("filter", "rq_time"), ("histogram_buckets", "summary")]);
    assert!(text.contains(
        "_time{envoy_http_conn_manager_prefix=\"in\",quantile=\"0.995\"} 1.0500000000000000444089209850063\n"
    ));
    assert!(text.ends_with("_count{envoy_http_conn_manager_prefix=\"in\"} 1\n"));
}

#[test]
fn prometheus_gets_text_readouts_only_when_asked() {
    let store = Store::new();
    let version = store.scope("http.in.rds.ro.ute").text_readout("version_text");
    version.set("a\"b");
    assert_eq!(rendered(&store, &[("format", "prometheus")]), "");
    assert_eq!(
        rendered(&store, &[("format", "prometheus"), ("text_readouts", "")]),
        "# TYPE envoy_http_rds_version_text gauge\n\
         envoy_http_rds_version_text{envoy_rds_route_config=\"ro.ute\",envoy_http_conn_manager_prefix=\"in\",\
         text_value=\"a\\\"b\"} 0\n"
    );
}

#[test]
fn prometheus_splits_names_given_at_run_time_too() {
    let store = Store::new();
    let scope = store.scope("cluster.c");
    scope.counter("upstream_rq_503").inc();
    let root = store.scope("");
    root.counter("alone").inc();
    assert_eq!(
        rendered(&store, &[("format", "prometheus")]),
        "# TYPE envoy_alone counter\nenvoy_alone{} 1\n# TYPE envoy_cluster_upstream_rq counter\n\
         envoy_cluster_upstream_rq{envoy_response_code=\"503\",envoy_cluster_name=\"c\"} 1\n"
    );
}

#[test]
fn nothing_is_hidden() {
    let (store, _stats) = filled();
    assert_eq!(rendered(&store, &[("hidden", "only")]), "");
    assert_eq!(
        rendered(&store, &[("hidden", "exclude")]),
        rendered(&store, &[("type", ""), ("histogram_buckets", "")])
    );
}

#[test]
fn an_unknown_parameter_value_is_refused() {
    let error = |key, value| Query::parse([(key, value)]).expect_err(key).to_string();
    assert_eq!(error("type", "foo"), "invalid &type= param");
    assert!(error("format", "foo").starts_with("usage: /stats?format="));
    assert!(error("filter", "(").starts_with("Invalid regex: "));
    let both = Query::parse([("format", "prometheus"), ("histogram_buckets", "disjoint")]);
    assert!(matches!(both, Err(QueryError::PrometheusBuckets)));
    let query = Query::parse([("format", "json"), ("histogram_buckets", "none"), ("pretty", "")]).expect("all known");
    assert_eq!((query.format, query.buckets), (Format::Json, Buckets::Summary));
}
