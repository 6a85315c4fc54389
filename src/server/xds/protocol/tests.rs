use super::*;
use prost::Message;
use tokio::time::Instant;

const CDS: &str = CLUSTER;
const EDS: &str = ORDER[2];
const LDS: &str = LISTENER;

fn identity() -> Identity {
    Identity::new(Node { id: "me".into(), ..Node::default() }, true)
}

fn subscribe(name: &str) -> Change {
    Change::Subscribe(name.into())
}

fn unsubscribe(name: &str) -> Change {
    Change::Unsubscribe(name.into())
}

fn any(type_url: &str) -> Any {
    Any { type_url: type_url.into(), value: Vec::new() }
}

fn response(type_url: &str, version: &str, nonce: &str) -> proto::DiscoveryResponse {
    proto::DiscoveryResponse {
        version_info: version.into(),
        type_url: type_url.into(),
        nonce: nonce.into(),
        resources: vec![any(type_url)],
        ..Default::default()
    }
}

fn delta(type_url: &str, names: &[&str], removed: &[&str], nonce: &str) -> proto::DeltaDiscoveryResponse {
    let resource = |name: &&str| proto::Resource {
        name: (*name).into(),
        version: format!("{name}-{nonce}"),
        resource: Some(any(type_url)),
        ..Default::default()
    };
    proto::DeltaDiscoveryResponse {
        type_url: type_url.into(),
        nonce: nonce.into(),
        resources: names.iter().map(resource).collect(),
        removed_resources: removed.iter().map(|n| (*n).into()).collect(),
        ..Default::default()
    }
}

/// A stream that has asked for all clusters.
fn sotw() -> Sotw {
    let mut stream = Sotw::new(identity());
    stream.change(&CDS.into(), subscribe(WILDCARD));
    stream.connect();
    assert!(stream.next_request().unwrap().node.is_some());
    stream
}

fn accepted(names: &[(&str, &str)]) -> Verdict {
    let own = |(name, version): &(&str, &str)| ((*name).to_owned(), (*version).to_owned());
    Verdict { accepted: names.iter().map(own).collect(), error: None }
}

fn refused(reason: &str) -> Verdict {
    Verdict { error: Some(reason.into()), ..Verdict::default() }
}

#[test]
fn a_response_is_acknowledged_with_its_version_and_nonce() {
    let mut stream = sotw();
    let Received::Update(update) = stream.receive(response(CDS, "7", "n1")) else { panic!("an update") };
    assert_eq!((update.version.as_str(), update.is_whole, update.resources.len()), ("7", true, 1));
    assert_eq!(stream.next_request(), None, "no request before the verdict");
    stream.settle(CDS, Verdict::default());
    let ack = stream.next_request().unwrap();
    assert_eq!((ack.version_info.as_str(), ack.response_nonce.as_str()), ("7", "n1"));
    assert_eq!((ack.error_detail, ack.node, ack.resource_names), (None, None, vec![]));
    assert_eq!(stream.next_request(), None);
}

#[test]
fn a_refusal_keeps_the_version_and_tells_why() {
    let mut stream = sotw();
    stream.receive(response(CDS, "7", "n1"));
    stream.settle(CDS, Verdict::default());
    stream.next_request();
    stream.receive(response(CDS, "8", "n2"));
    stream.settle(CDS, refused("cluster a: no"));
    let nack = stream.next_request().unwrap();
    assert_eq!((nack.version_info.as_str(), nack.response_nonce.as_str()), ("7", "n2"));
    let detail = nack.error_detail.unwrap();
    assert_eq!((detail.code, detail.message.as_str()), (3, "cluster a: no"));
}

#[test]
fn a_new_stream_begins_at_the_last_version_without_a_nonce() {
    let mut stream = sotw();
    stream.receive(response(CDS, "7", "n1"));
    stream.settle(CDS, Verdict::default());
    stream.connect();
    let first = stream.next_request().unwrap();
    assert_eq!((first.version_info.as_str(), first.response_nonce.as_str()), ("7", ""));
    assert!(first.node.is_some());
}

#[test]
fn names_that_are_wanted_meanwhile_wait_for_the_verdict_of_their_type_only() {
    let mut stream = sotw();
    stream.receive(response(CDS, "7", "n1"));
    stream.change(&EDS.into(), subscribe("b"));
    stream.change(&EDS.into(), subscribe("a"));
    let eds = stream.next_request().unwrap();
    assert_eq!((eds.type_url.as_str(), eds.resource_names), (EDS, vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(stream.next_request(), None);
    stream.settle(CDS, Verdict::default());
    assert_eq!(stream.next_request().unwrap().type_url, CDS);
}

#[test]
fn requests_go_out_clusters_first() {
    let mut stream = Sotw::new(identity());
    for type_url in ["other", LDS, EDS, CDS] {
        stream.change(&type_url.into(), subscribe("x"));
    }
    stream.connect();
    let order: Vec<_> = std::iter::from_fn(|| stream.next_request()).map(|r| r.type_url).collect();
    assert_eq!(order, [CDS, EDS, LDS, "other"]);
}

#[test]
fn all_is_said_by_name_once_names_were_asked_for() {
    let mut stream = sotw();
    stream.change(&CDS.into(), subscribe("extra"));
    assert_eq!(stream.next_request().unwrap().resource_names, ["*", "extra"]);
    stream.change(&CDS.into(), unsubscribe("extra"));
    assert_eq!(stream.next_request().unwrap().resource_names, ["*"]);
}

#[test]
fn the_last_name_given_up_is_told() {
    let mut stream = Sotw::new(identity());
    stream.change(&EDS.into(), subscribe("a"));
    stream.connect();
    stream.next_request();
    stream.change(&EDS.into(), unsubscribe("a"));
    assert_eq!(stream.next_request().unwrap().resource_names, Vec::<String>::new());
}

#[test]
fn a_resource_of_another_type_is_refused_with_its_response() {
    let mut stream = sotw();
    let mut mixed = response(CDS, "8", "n2");
    mixed.resources.push(any(LDS));
    assert!(matches!(stream.receive(mixed), Received::Refused { .. }));
    let nack = stream.next_request().unwrap();
    assert_eq!((nack.version_info.as_str(), nack.response_nonce.as_str()), ("", "n2"));
    assert!(nack.error_detail.unwrap().message.contains(LDS));
}

#[test]
fn a_response_of_a_type_that_nobody_wants_is_not_answered() {
    let mut stream = sotw();
    assert_eq!(stream.receive(response(LDS, "1", "n")), Received::Unwanted(LDS.into()));
    assert_eq!(stream.next_request(), None);
}

#[test]
fn a_wrapped_resource_has_its_name_and_time_to_live() {
    let mut stream = sotw();
    let wrapped = proto::Resource {
        name: "a".into(),
        resource: Some(any(CDS)),
        ttl: Some(nuncio_proto::google::protobuf::Duration { seconds: 3, nanos: 0 }),
        ..Default::default()
    };
    let mut message = response(CDS, "1", "n");
    message.resources = vec![Any {
        type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".into(),
        value: wrapped.encode_to_vec(),
    }];
    let Received::Update(update) = stream.receive(message) else { panic!("an update") };
    let resource = &update.resources[0];
    assert_eq!((resource.name.as_deref(), resource.ttl), (Some("a"), Some(Duration::from_secs(3))));
    assert_eq!(resource.version, "1");
}

/// A stream that has asked for all clusters.
fn incremental() -> Delta {
    let mut stream = Delta::new(identity());
    stream.change(&CDS.into(), subscribe(WILDCARD));
    stream.connect();
    let first = stream.next_request().unwrap();
    assert!(first.resource_names_subscribe.is_empty() && first.node.is_some());
    stream
}

#[test]
fn a_delta_is_acknowledged_by_nonce() {
    let mut stream = incremental();
    assert!(matches!(stream.receive(delta(CDS, &["a"], &[], "n1")), Received::Update(_)));
    assert_eq!(stream.next_request(), None);
    stream.settle(CDS, accepted(&[("a", "a-n1")]));
    let ack = stream.next_request().unwrap();
    assert_eq!((ack.response_nonce.as_str(), ack.error_detail), ("n1", None));
    assert!(ack.initial_resource_versions.is_empty() && ack.node.is_none());
}

#[test]
fn a_new_delta_stream_tells_what_is_known() {
    let mut stream = incremental();
    stream.receive(delta(CDS, &["a", "b", "c"], &[], "n1"));
    stream.settle(CDS, accepted(&[("a", "a-n1"), ("b", "b-n1")]));
    stream.receive(delta(CDS, &[], &["b"], "n2"));
    stream.settle(CDS, Verdict::default());
    stream.connect();
    let first = stream.next_request().unwrap();
    let known: Vec<_> = first.initial_resource_versions.into_iter().collect();
    assert_eq!(known, [("a".to_owned(), "a-n1".to_owned())]);
    assert_eq!(first.response_nonce, "");
}

#[test]
fn a_refused_delta_is_told_by_nonce_and_reason() {
    let mut stream = incremental();
    stream.receive(delta(CDS, &["a"], &[], "n1"));
    stream.settle(CDS, refused("no"));
    let nack = stream.next_request().unwrap();
    assert_eq!((nack.response_nonce.as_str(), nack.error_detail.unwrap().message.as_str()), ("n1", "no"));
}

#[test]
fn only_changes_of_interest_are_told() {
    let mut stream = Delta::new(identity());
    for name in ["a", "b"] {
        stream.change(&EDS.into(), subscribe(name));
    }
    stream.connect();
    assert_eq!(stream.next_request().unwrap().resource_names_subscribe, ["a", "b"]);
    stream.change(&EDS.into(), subscribe("c"));
    stream.change(&EDS.into(), unsubscribe("a"));
    let change = stream.next_request().unwrap();
    assert_eq!(
        (change.resource_names_subscribe, change.resource_names_unsubscribe),
        (vec!["c".into()], vec!["a".into()])
    );
}

#[test]
fn a_name_that_is_given_up_and_wanted_again_is_asked_for_again() {
    let mut stream = Delta::new(identity());
    stream.change(&EDS.into(), subscribe("a"));
    stream.connect();
    stream.next_request();
    stream.receive(delta(EDS, &["a"], &[], "n1"));
    stream.settle(EDS, accepted(&[("a", "1")]));
    stream.next_request();
    stream.change(&EDS.into(), unsubscribe("a"));
    stream.change(&EDS.into(), subscribe("a"));
    let again = stream.next_request().unwrap();
    assert_eq!(again.resource_names_subscribe, ["a"]);
    assert!(again.resource_names_unsubscribe.is_empty());
    stream.connect();
    assert!(stream.next_request().unwrap().initial_resource_versions.is_empty(), "what was given up is not known");
}

#[test]
fn a_name_twice_in_a_delta_is_refused() {
    for (names, removed) in [(&["a", "a"][..], &[][..]), (&["a"], &["a"])] {
        let mut stream = incremental();
        let Received::Refused { reason, .. } = stream.receive(delta(CDS, names, removed, "n")) else {
            panic!("refused")
        };
        assert!(reason.contains("duplicate name a"), "{reason}");
        assert_eq!(stream.next_request().unwrap().error_detail.unwrap().message, reason);
    }
}

#[test]
fn what_lives_for_a_time_dies_unless_it_is_refreshed() {
    let (mut expiry, now) = (Expiry::default(), Instant::now());
    let second = Duration::from_secs(1);
    expiry.refresh(&"a", Some(second), now);
    expiry.refresh(&"b", Some(second * 2), now);
    expiry.refresh(&"a", Some(second * 3), now);
    expiry.refresh(&"c", None, now);
    assert_eq!(expiry.next(), Some(now + second * 2));
    assert_eq!((expiry.expired(now + second), expiry.expired(now + second * 2)), (None, Some("b")));
    expiry.forget(&"a");
    assert_eq!((expiry.next(), expiry.expired(now + second * 9)), (None, None));
}

#[test]
fn what_is_held_back_of_a_state_of_the_world_is_one_answer_in_the_end() {
    let mut stream = sotw();
    stream.hold(Some(CDS));
    stream.receive(response(CDS, "7", "n1"));
    stream.settle(CDS, refused("cluster a: no"));
    stream.change(&EDS.into(), subscribe("a"));
    assert_eq!(stream.next_request().unwrap().type_url, EDS, "others go on");
    assert!(!stream.is_due() && stream.next_request().is_none());
    stream.receive(response(CDS, "8", "n2"));
    stream.settle(CDS, Verdict::default());
    stream.hold(None);
    let answer = stream.next_request().unwrap();
    assert_eq!((answer.version_info.as_str(), answer.response_nonce.as_str()), ("8", "n2"));
    assert_eq!((answer.error_detail, stream.next_request()), (None, None));
}

#[test]
fn changes_that_are_held_back_are_answered_one_after_the_other() {
    let mut stream = Delta::new(identity());
    stream.change(&CDS.into(), subscribe(WILDCARD));
    stream.connect();
    stream.next_request();
    stream.hold(Some(CDS));
    for (nonce, verdict) in [("n1", accepted(&[])), ("n2", refused("no"))] {
        stream.receive(delta(CDS, &["a"], &[], nonce));
        stream.settle(CDS, verdict);
        assert!(!stream.is_due() && stream.next_request().is_none());
    }
    stream.hold(None);
    let answers: Vec<_> = std::iter::from_fn(|| stream.next_request()).collect();
    let told: Vec<_> = answers.iter().map(|a| (a.response_nonce.as_str(), a.error_detail.is_some())).collect();
    assert_eq!(told, [("n1", false), ("n2", true)]);
}
