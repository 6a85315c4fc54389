use nuncio_filter_api::InvalidKind;
use prost::Message;

use super::*;

fn resource(name: &str) -> Any {
    let cluster = nuncio_proto::envoy::config::cluster::v3::Cluster { name: name.to_owned(), ..Default::default() };
    Any { type_url: format!("type.googleapis.com/{}", Kind::Cluster.message_name()), value: cluster.encode_to_vec() }
}

#[test]
fn a_resource_is_called_what_it_calls_itself() {
    assert_eq!(Resource::new(resource("c"), "1").name, "c");
    let broken = Any { value: vec![0x0a, 0xff], ..resource("c") };
    assert_eq!(Resource::new(broken, "1").name, "", "it is refused later");
}

#[test]
fn the_detail_of_a_refusal_names_each_resource_and_path() {
    let reasons = vec![Invalid { path: "a.b".to_owned(), reason: "is wrong".to_owned(), kind: InvalidKind::Value }];
    let rejected = |name: &str| Rejected { name: name.to_owned(), index: 0, reasons: reasons.clone() };
    let outcome = Outcome { rejected: vec![rejected("x"), rejected("y")], ..Outcome::default() };
    assert_eq!(
        outcome.error_detail(Kind::Cluster).as_deref(),
        Some("Error adding/updating cluster(s) x: a.b: is wrong\ny: a.b: is wrong")
    );
    assert_eq!(Outcome::default().error_detail(Kind::Cluster), None);
}

#[test]
fn what_others_need_is_applied_before_them() {
    assert!(Kind::Cluster < Kind::Endpoints && Kind::Endpoints < Kind::Listener && Kind::Listener < Kind::Routes);
}

#[test]
fn a_state_of_the_world_takes_what_it_lacks_unless_that_may_be_what_is_broken() {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<HashSet<_>>();
    let removed = Removed::AllBut(set(&["beating"]));
    let gone = |present: &[&str]| ["there", "beating", "gone"].map(|name| removed.takes(name, &set(present)));
    assert_eq!(gone(&["there"]), [false, false, true]);
    assert_eq!(gone(&["there", ""]), [false; 3]);
    assert!(Removed::Named(vec!["gone".to_owned()]).takes("gone", &set(&[])));
}
