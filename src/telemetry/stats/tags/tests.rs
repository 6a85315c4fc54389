use super::*;

fn check(prefix: &str, name: &str, tags: &[(&str, &str)]) {
    let found = Prefix::new(prefix, &TagRules::default());
    let found_tags: Vec<_> = found.tags.iter().map(|(tag, value)| (&tag["envoy.".len()..], &**value)).collect();
    assert_eq!((&*found.name, &*found_tags), (name, tags), "{prefix}");
}

#[test]
fn envoy_finds_the_same_tags() {
    check("server", "server", &[]);
    check("server.worker_1", "server.worker", &[("worker_id", "1")]);
    check("server.main_thread", "server.main_thread", &[]);
    check("cluster.c", "cluster", &[("cluster_name", "c")]);
    check("cluster.a.b.external", "cluster.b.external", &[("cluster_name", "a")]);
    check("cluster_manager", "cluster_manager", &[]);
    let of_endpoint = |address| [("cluster_name", "c"), ("endpoint_address", address)];
    check("cluster.c.endpoint.1.2.3.4_80", "cluster.endpoint", &of_endpoint("1.2.3.4:80"));
    check("cluster.c.endpoint.[__1]_80", "cluster.endpoint", &of_endpoint("[::1]:80"));
    check("cluster.c.endpoint.one.two_3", "cluster.endpoint", &of_endpoint("one.two_3"));
    let of_check = [("cluster_name", "c"), ("health_check_name", "web")];
    check("cluster.c.health_check.name.web", "cluster.health_check", &of_check);
    check("http.in", "http", &[("http_conn_manager_prefix", "in")]);
    check("tcp.my.tcp", "tcp.tcp", &[("tcp_prefix", "my")]);
    check("http.in.rds.ro.ute", "http.rds", &[("rds_route_config", "ro.ute"), ("http_conn_manager_prefix", "in")]);
    check("http.in.fault.k", "http.fault", &[("fault_downstream_cluster", "k"), ("http_conn_manager_prefix", "in")]);
    let of_scopes = [("scoped_rds_config", "x.y"), ("http_conn_manager_prefix", "in")];
    check("http.in.scoped_rds.x.y", "http.scoped_rds", &of_scopes);
    check("sds.a.b", "sds.b", &[("xds_resource_name", "a")]);
    check("vhost.v.vcluster.x", "vhost.vcluster", &[("virtual_cluster", "x"), ("virtual_host", "v")]);
    check("vhost.v.route.x", "vhost.route", &[("virtual_host", "v"), ("route", "x")]);
    check("r.rbac", "rbac", &[("rbac_prefix", "r")]);
    check("connection_limit.c", "connection_limit", &[("connection_limit_prefix", "c")]);
    check("in.http_local_rate_limit", "http_local_rate_limit", &[("local_http_ratelimit_prefix", "in")]);
    check("proxy_proto.versions.v1", "proxy_proto", &[("proxy_protocol_version", "1")]);
    let of_proxy = [("proxy_protocol_prefix", "p"), ("proxy_protocol_version", "2")];
    check("proxy_proto.p.versions.v2", "proxy_proto", &of_proxy);
    let of_certificate = [("tls_certificate", "c_1"), ("listener_address", "l")];
    check("listener.l.ssl.certificate.c_1", "listener.ssl.certificate", &of_certificate);
}

#[test]
fn a_listener_is_known_by_address_or_first_token() {
    check("listener.127.0.0.1_80", "listener", &[("listener_address", "127.0.0.1_80")]);
    check("listener.[__1]_80", "listener", &[("listener_address", "[__1]_80")]);
    check("listener./tmp/u.sock", "listener.sock", &[("listener_address", "/tmp/u")]);
    check("listener.admin.main_thread", "listener.admin.main_thread", &[]);
    check(
        "listener.127.0.0.1_80.worker_0",
        "listener.worker",
        &[("worker_id", "0"), ("listener_address", "127.0.0.1_80")],
    );
    check("listener.a.b.worker_0", "listener.b.worker_0", &[("listener_address", "a")]);
    check(
        "listener.127.0.0.1_80.http.in",
        "listener.http",
        &[("http_conn_manager_prefix", "in"), ("listener_address", "127.0.0.1_80")],
    );
    check("listener.admin.http.admin", "listener.admin.http", &[("http_conn_manager_prefix", "admin")]);
}

/// Name and tags of a metric by these rules.
fn taken_apart(name: &str, rules: &TagRules) -> (String, Vec<(String, String)>) {
    let (prefix, last) = split(name);
    let (prefix, suffix) = (Prefix::new(prefix, rules), Suffix::new(prefix, last, rules));
    let found = rules.find(name, &prefix, &suffix);
    let tags = rules.tags(name, &prefix, &suffix, &found);
    let owned = tags.into_iter().map(|(tag, value)| (tag.to_owned(), value.to_owned())).collect();
    (prefix.name(name, &suffix, &found), owned)
}

fn check_name(name: &str, rules: &TagRules, without: &str, tags: &[(&str, &str)]) {
    let (found, found_tags) = taken_apart(name, rules);
    let found_tags: Vec<_> = found_tags.iter().map(|(tag, value)| (&**tag, &**value)).collect();
    assert_eq!((&*found, &*found_tags), (without, tags), "{name}");
}

#[test]
fn the_end_of_a_name_may_be_a_tag() {
    let rules = TagRules::default();
    let code = [("envoy.response_code", "503"), ("envoy.cluster_name", "c")];
    check_name("cluster.c.upstream_rq_503", &rules, "cluster.upstream_rq", &code);
    let class = [("envoy.response_code_class", "5"), ("envoy.cluster_name", "c")];
    check_name("cluster.c.upstream_rq_5xx", &rules, "cluster.upstream_rq_xx", &class);
    let version = [("envoy.ssl_version", "TLSv1.3"), ("envoy.listener_address", "l")];
    check_name("listener.l.ssl.versions.TLSv1.3", &rules, "listener.ssl.versions", &version);
    let cipher = [("cipher_suite", "TLS_X"), ("envoy.cluster_name", "c")];
    check_name("cluster.c.ssl.ciphers.TLS_X", &rules, "cluster.ssl.ciphers", &cipher);
    for whole in ["upstream_rq_total", "rq_1234", "rq", "upstream_rq_é", "a.ssl.versions.b"] {
        check_name(whole, &rules, whole, &[]);
    }
}

#[test]
fn what_is_not_wanted_stays_in_the_name() {
    let rules = TagRules::empty();
    for name in [
        "cluster.c.upstream_rq_503",
        "listener.127.0.0.1_80.worker_0.downstream_cx_total",
        "listener.l.ssl.versions.TLSv1.3",
        "http.in.rds.r.update_success",
        "proxy_proto.p.versions.v2.found",
        "cluster.c.health_check.name.web.success",
    ] {
        check_name(name, &rules, name, &[]);
    }
    let mut rules = TagRules::empty();
    rules.want("envoy.worker_id").unwrap();
    let worker = [("envoy.worker_id", "0")];
    check_name("listener.a.worker_0.cx", &rules, "listener.a.worker.cx", &worker);
    assert!(matches!(rules.want("envoy.none"), Err(TagError::NoDefault(_))));
}

#[test]
fn expressions_cut_out_their_first_group() {
    let mut rules = TagRules::default();
    rules.fix("fixed".into(), "v".into()).unwrap();
    rules.extract("digit".into(), r"_rq(_(\d))").unwrap();
    rules.extract("ahead".into(), r"^cluster(?=\.).*?\.((x)\.)\w+?$").unwrap();
    let tags =
        [("envoy.response_code", "503"), ("fixed", "v"), ("digit", "5"), ("envoy.cluster_name", "c"), ("ahead", "x")];
    check_name("cluster.c.x.upstream_rq_503", &rules, "cluster.upstream_rq", &tags);
    check_name("server.live", &rules, "server.live", &[("fixed", "v")]);
    assert!(matches!(rules.extract("bad".into(), "("), Err(TagError::Regex(_))));
    assert!(matches!(rules.extract(String::new(), "(a)"), Err(TagError::NoName)));
}

#[test]
fn an_expression_that_tries_too_much_finds_nothing() {
    let mut rules = TagRules::empty();
    rules.extract("slow".into(), r"^((a+)+)\1$").unwrap();
    let name = format!("{}b", "a".repeat(60));
    check_name(&name, &rules, &name, &[]);
}
