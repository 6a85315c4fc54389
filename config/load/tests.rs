use super::*;
use nuncio_proto::envoy::config::bootstrap::v3::Bootstrap;

fn load(yaml: &str) -> Result<Loaded<Bootstrap>, Vec<Problem>> {
    let source = Source::new("b.yaml", Format::Yaml, yaml.as_bytes().to_vec());
    Loader::new(UnknownFields::Reject).load(vec![source])
}

fn refusals(yaml: &str) -> Vec<String> {
    match load(yaml) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(Problem::to_string).collect(),
    }
}

#[test]
fn a_bootstrap_becomes_its_message() {
    let loaded = load("node: {id: a}\nstatic_resources:\n  clusters:\n  - name: c\n    connectTimeout: 0.25s\n")
        .expect("it is good");
    let resources = loaded.message.static_resources.expect("it has clusters");
    assert_eq!(resources.clusters[0].name, "c");
    let timeout = resources.clusters[0].connect_timeout.expect("it is set");
    assert_eq!((timeout.seconds, timeout.nanos), (0, 250_000_000));
}

#[test]
fn an_unknown_field_has_path_place_and_suggestion() {
    assert_eq!(
        refusals("static_resources:\n  clusters:\n  - name: c\n    connect_timout: 1s\n"),
        ["b.yaml:4:5: static_resources.clusters[0].connect_timout: unknown field in envoy.config.cluster.v3.Cluster; \
             did you mean \"connect_timeout\"?"]
    );
}
