use super::super::der;
use super::super::forged::*;
use super::super::revocation::Revocations;
use super::*;
use crate::tls::certificate_info;

/// 2026-06-01
const NOW: i64 = 1_780_272_000;

/// Keys of a root, an intermediate authority and a peer, and what is trusted.
struct World {
    keys: [Key; 3],
    authorities: Authorities,
    peer: Peer,
    max_depth: Option<u32>,
    is_ignored: bool,
}

const ROOT: usize = 0;
const MIDDLE: usize = 1;
const LEAF: usize = 2;

impl World {
    /// One that trusts an authority of this shape.
    fn trusting(root: &Shape) -> Self {
        let keys = [Key::new(), Key::new(), Key::new()];
        let authorities = Authorities::new(vec![root.sign(&keys[ROOT], &keys[ROOT])], "", [0; 32]);
        Self { keys, authorities, peer: Peer::Client, max_depth: None, is_ignored: false }
    }

    fn trusting_root() -> Self {
        Self::trusting(&Shape::authority("root", "root"))
    }

    fn sign(&self, shape: &Shape, own: usize, issuer: usize) -> CertificateDer<'static> {
        shape.sign(&self.keys[own], &self.keys[issuer])
    }

    fn judge(&self, leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), (usize, Flaw)> {
        let known = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
        let when = When { now: NOW, is_ignored: self.is_ignored };
        let judge = Judge { trusted: &self.authorities, when, peer: self.peer, max_depth: self.max_depth, known };
        judge.check(leaf, others).map_err(|at| (at.depth, at.flaw))
    }

    /// A peer of this shape, below the root.
    fn below_root(&self, leaf: &Shape) -> Result<(), (usize, Flaw)> {
        self.judge(&self.sign(leaf, LEAF, ROOT), &[])
    }

    /// A peer of this shape below an authority of that, below the root.
    fn below(&self, middle: &Shape, leaf: &Shape) -> Result<(), (usize, Flaw)> {
        self.judge(&self.sign(leaf, LEAF, MIDDLE), &[self.sign(middle, MIDDLE, ROOT)])
    }

    fn with_lists(mut self, lists: &[&List]) -> Self {
        let read = |list: &&List| Revocations::read(&list.sign(&self.keys[ROOT])).expect("it can be read");
        self.authorities.revocations = lists.iter().map(read).collect();
        self
    }
}

fn peer() -> Shape {
    Shape::peer("leaf", "root")
}

fn below_middle() -> Shape {
    Shape::peer("leaf", "middle")
}

fn middle() -> Shape {
    Shape::authority("middle", "root")
}

#[test]
fn a_chain_leads_to_an_authority_that_is_trusted() {
    let world = World::trusting_root();
    assert_eq!(world.below_root(&peer()), Ok(()));
    assert_eq!(world.below(&middle(), &below_middle()), Ok(()));
    assert_eq!(world.judge(&world.sign(&below_middle(), LEAF, MIDDLE), &[]), Err((0, Flaw::UnknownIssuer)));
    assert_eq!(world.judge(&world.sign(&peer(), LEAF, MIDDLE), &[]), Err((0, Flaw::Signature)), "another key");
    let own = world.sign(&Shape::peer("me", "me"), LEAF, LEAF);
    assert_eq!(world.judge(&own, &[]), Err((0, Flaw::SelfSigned)));
    let fake = world.sign(&Shape::authority("other", "other"), MIDDLE, MIDDLE);
    let leaf = world.sign(&Shape::peer("leaf", "other"), LEAF, MIDDLE);
    assert_eq!(world.judge(&leaf, &[fake]), Err((1, Flaw::SelfSignedInChain)));
}

#[test]
fn of_several_authorities_of_a_name_the_one_that_signed_counts() {
    let mut world = World::trusting_root();
    let (root, other) = (Shape::authority("root", "root"), Key::new());
    let all = vec![root.sign(&other, &other), root.sign(&world.keys[ROOT], &world.keys[ROOT])];
    world.authorities = Authorities::new(all, "", [0; 32]);
    assert_eq!(world.below_root(&peer()), Ok(()));
}

#[test]
fn keys_are_told_apart_by_what_certificates_say_of_them() {
    let key = |id: &[u8]| sequence(&[&tlv(0x80, &[id])]);
    let root = Shape::authority("root", "root").with(SUBJECT_KEY, false, &[4, 1, 5]);
    let world = World::trusting(&root);
    assert_eq!(world.below_root(&peer().with(ISSUER_KEY, false, &key(&[5]))), Ok(()));
    assert_eq!(world.below_root(&peer().with(ISSUER_KEY, false, &key(&[6]))), Err((0, Flaw::UnknownIssuer)));
    let serial = |serial: u8| sequence(&[&tlv(0xa1, &[&tlv(0xa4, &[&called("root")])]), &tlv(0x82, &[&[serial]])]);
    assert_eq!(world.below_root(&peer().with(ISSUER_KEY, false, &serial(7))), Ok(()));
    assert_eq!(world.below_root(&peer().with(ISSUER_KEY, false, &serial(8))), Err((0, Flaw::UnknownIssuer)));
}

#[test]
fn every_certificate_is_valid_now() {
    let world = World::trusting_root();
    assert_eq!(world.below_root(&peer().from("250101000000Z", "260101000000Z")), Err((0, Flaw::Expired)));
    assert_eq!(world.below_root(&peer().from("270101000000Z", "280101000000Z")), Err((0, Flaw::NotYetValid)));
    let old = middle().from("250101000000Z", "260101000000Z");
    assert_eq!(world.below(&old, &below_middle()), Err((1, Flaw::Expired)));
    let ended = World::trusting(&Shape::authority("root", "root").from("250101000000Z", "260101000000Z"));
    assert_eq!(ended.below_root(&peer()), Err((1, Flaw::Expired)));
    assert_eq!(World { is_ignored: true, ..ended }.below_root(&peer()), Ok(()));
}

#[test]
fn times_that_are_no_times_make_no_certificate() {
    let world = World::trusting_root();
    for end in ["3001010000Z", "300101000000+0000", "3001010000+0000", "300230000000Z", "20300101000060Z", "0"] {
        assert_eq!(world.below_root(&peer().from("250101000000Z", end)), Err((0, Flaw::Extension)), "{end}");
    }
}

#[test]
fn who_issues_others_says_that_it_may() {
    let world = World::trusting_root();
    let none = Shape { extensions: Vec::new(), ..middle() };
    assert_eq!(world.below(&none, &below_middle()), Err((1, Flaw::NoAuthority)));
    let no = middle().with(BASIC, true, &sequence(&[]));
    assert_eq!(world.below(&no, &below_middle()), Err((1, Flaw::NoAuthority)));
    let usage = middle().with(KEY_USAGE, true, &SIGNS);
    assert_eq!(world.below(&usage, &below_middle()), Err((0, Flaw::UnknownIssuer)));
    assert_eq!(world.below(&middle().with(KEY_USAGE, true, &SIGNS_CERTIFICATES), &below_middle()), Ok(()));
    // One that is trusted need not say so, but must not deny it.
    let root = Shape { extensions: Vec::new(), ..Shape::authority("root", "root") };
    assert_eq!(World::trusting(&root).below_root(&peer()), Ok(()));
    let denies = World::trusting(&Shape::authority("root", "root").with(KEY_USAGE, true, &SIGNS));
    assert_eq!(denies.below_root(&peer()), Err((0, Flaw::UnknownIssuer)));
    // A peer may say that it is one.
    let says = Shape::authority("leaf", "root");
    assert_eq!(world.below_root(&says), Ok(()));
}

#[test]
fn an_authority_bounds_how_many_stand_below_it() {
    let bound = |most: u8| sequence(&[&[der::BOOLEAN, 1, 0xff], &[der::INTEGER, 1, most]]);
    for (most, expected) in [(0, Err((2, Flaw::PathLength))), (1, Ok(()))] {
        let world = World::trusting_root();
        let first = Shape::authority("first", "root").with(BASIC, true, &bound(most));
        let keys = (Key::new(), Key::new());
        let first = first.sign(&keys.0, &world.keys[ROOT]);
        let middle = Shape::authority("middle", "first").sign(&world.keys[MIDDLE], &keys.0);
        let leaf = world.sign(&below_middle(), LEAF, MIDDLE);
        assert_eq!(world.judge(&leaf, &[middle, first]), expected);
    }
    let shallow = World { max_depth: Some(0), ..World::trusting_root() };
    assert_eq!(shallow.below_root(&peer()), Ok(()));
    assert_eq!(shallow.below(&middle(), &below_middle()), Err((1, Flaw::UnknownIssuer)));
}

#[test]
fn certificates_are_for_the_side_that_shows_them() {
    // Of servers: 1.3.6.1.5.5.7.3.1, of clients: 2.
    let purpose = |last: u8| sequence(&[&[der::OID, 8, 0x2b, 6, 1, 5, 5, 7, 3, last]]);
    for (peer, last, expected) in [
        (Peer::Client, 2, Ok(())),
        (Peer::Client, 1, Err((0, Flaw::Purpose))),
        (Peer::Server, 1, Ok(())),
        (Peer::Server, 2, Err((0, Flaw::Purpose))),
    ] {
        let world = World { peer, ..World::trusting_root() };
        assert_eq!(world.below_root(&self::peer().with(PURPOSES, false, &purpose(last))), expected);
        let above = expected.map_err(|(_, flaw)| (1, flaw));
        assert_eq!(world.below(&middle().with(PURPOSES, false, &purpose(last)), &below_middle()), above);
    }
}

#[test]
fn what_counts_is_known_and_can_be_read() {
    let world = World::trusting_root();
    assert_eq!(world.below_root(&peer().with(99, true, &[5, 0])), Err((0, Flaw::CriticalExtension)));
    assert_eq!(world.below_root(&peer().with(99, false, &[5, 0])), Ok(()));
    for kind in [KEY_USAGE, BASIC, PURPOSES, NAMES, CONSTRAINTS, SUBJECT_KEY, ISSUER_KEY, POINTS] {
        assert_eq!(world.below_root(&peer().with(kind, false, &[5, 1])), Err((0, Flaw::Extension)), "{kind}");
    }
    let mut twice = peer();
    twice.extensions.push(twice.extensions[0].clone());
    assert_eq!(world.below_root(&twice), Err((0, Flaw::Extension)));
}

#[test]
fn policies_can_be_read_also_where_nobody_asks_for_one() {
    let world = World::trusting_root();
    let one = sequence(&[&sequence(&[&[der::OID, 1, 0x2a]])]);
    assert_eq!(world.below_root(&peer().with(POLICIES, true, &one)), Ok(()));
    assert_eq!(world.below_root(&peer().with(POLICIES, false, &[0x30, 0])), Err((0, Flaw::PolicyExtension)));
    let broken = middle().with(POLICIES, false, &[0x30, 1, 0]);
    assert_eq!(world.below(&broken, &below_middle()), Err((1, Flaw::PolicyExtension)));
    let root = World::trusting(&Shape::authority("root", "root").with(POLICIES, false, &[0x30, 0]));
    assert_eq!(root.below_root(&peer()), Ok(()), "nobody asks those that are trusted");
}

#[test]
fn authorities_are_bound_to_names() {
    let world = World::trusting_root();
    let tree = |tag: u8, kind: u8, base: &[u8]| sequence(&[&tlv(tag, &[&sequence(&[&tlv(kind, &[base])])])]);
    let (permitted, excluded, dns) = (0xa0, 0xa1, 0x82);
    for (constraints, name, flaw) in [
        (tree(permitted, dns, b"test"), (dns, &b"a.test"[..]), None),
        (tree(permitted, dns, b"test"), (dns, b"a.other"), Some(Flaw::NotPermitted)),
        (tree(excluded, dns, b"test"), (dns, b"a.test"), Some(Flaw::Excluded)),
        (tree(excluded, dns, b"a.test"), (dns, b"*.test"), Some(Flaw::Excluded)),
        (tree(permitted, 0x86, b"td"), (0x86, b"spiffe://td/a"), None),
        (tree(permitted, 0x86, b"td"), (0x86, b"spiffe://other/a"), Some(Flaw::NotPermitted)),
        (tree(permitted, 0x81, b"test"), (0x81, b"a@test"), None),
        (tree(permitted, 0x81, b"test"), (0x81, b"a@evil@test"), Some(Flaw::NameSyntax)),
        (tree(permitted, 0x87, &[10, 0, 0, 0, 255, 0, 0, 0]), (0x87, &[10, 0, 0, 1]), Some(Flaw::ConstraintKind)),
        (tree(permitted, 0x87, &[10, 0, 0, 0, 255, 0, 0, 0]), (dns, b"a.test"), None),
    ] {
        let leaf = below_middle().with(NAMES, false, &names(&[name]));
        let found = world.below(&middle().with(CONSTRAINTS, true, &constraints), &leaf);
        assert_eq!(found, flaw.map_or(Ok(()), |flaw| Err((0, flaw))), "{name:x?} under {constraints:x?}");
    }
    let nameless = Shape { extensions: Vec::new(), ..Shape::peer("a.test", "middle") };
    let bound = middle().with(CONSTRAINTS, true, &tree(permitted, dns, b"test"));
    assert_eq!(world.below(&bound, &nameless), Err((0, Flaw::NoNames)));
    // A name in another form is one that not all read alike.
    let odd = below_middle().with(NAMES, false, &names(&[(0xa2, b"a.test")]));
    assert_eq!(world.below(&middle(), &odd), Err((0, Flaw::Extension)));
}

#[test]
fn what_is_revoked_is_not_believed() {
    let list = List::of("root");
    let empty = World::trusting_root().with_lists(&[&list]);
    assert_eq!(empty.below_root(&peer()), Ok(()));
    assert_eq!(empty.below(&middle(), &below_middle()), Err((0, Flaw::NoList)));
    let world = World::trusting_root().with_lists(&[&list.clone().revoking(9).revoking(7).revoking(8)]);
    assert_eq!(world.below_root(&peer()), Err((0, Flaw::Revoked)));
    let spared = Shape { serial: vec![6], ..peer() };
    // The root has the number of the others.
    assert_eq!(world.below_root(&spared), Err((1, Flaw::Revoked)));
    let mut only_leaf = world;
    only_leaf.authorities.only_leaf = true;
    assert_eq!(only_leaf.below_root(&spared), Ok(()));
}

#[test]
fn lists_are_in_force_signed_and_by_whom_may_sign_them() {
    let times = |from: &str, until: &str| List { times: [time(from), time(until)].concat(), ..List::of("root") };
    for (list, flaw) in [
        (times("250101000000Z", "260101000000Z"), Flaw::ListExpired),
        (times("270101000000Z", "280101000000Z"), Flaw::ListNotYetValid),
    ] {
        let world = World::trusting_root().with_lists(&[&list]);
        assert_eq!(world.below_root(&peer()), Err((0, flaw)));
        assert_eq!(World { is_ignored: true, ..world }.below_root(&peer()), Ok(()));
    }
    let mut forged = World::trusting_root();
    forged.authorities.revocations = vec![Revocations::read(&List::of("root").sign(&forged.keys[LEAF])).unwrap()];
    assert_eq!(forged.below_root(&peer()), Err((0, Flaw::ListSignature)));
    let root = Shape::authority("root", "root");
    let silent =
        World::trusting(&root.clone().with(KEY_USAGE, true, &SIGNS_CERTIFICATES)).with_lists(&[&List::of("root")]);
    assert_eq!(silent.below_root(&peer()), Err((0, Flaw::ListUsage)));
    let both = World::trusting(&root.with(KEY_USAGE, true, &SIGNS_ALL)).with_lists(&[&List::of("root")]);
    assert_eq!(both.below_root(&peer()), Ok(()));
}

#[test]
fn the_list_that_says_most_counts() {
    let all = List::of("root");
    let later = List { times: [time("260101000000Z"), time("20300101000000Z")].concat(), ..all.clone() };
    let odd = all.clone().with(99, true, &[5, 0]);
    let (point, users, authorities) =
        (28, tlv(der::SEQUENCE, &[&[0x81, 1, 0xff]]), tlv(der::SEQUENCE, &[&[0x82, 1, 0xff]]));
    let for_users = all.clone().with(point, true, &users);
    let for_authorities = all.clone().with(point, true, &authorities);
    let revoking = |list: &List| list.clone().revoking(7);
    let leaf = Shape { serial: vec![3], ..peer() };
    let check = |lists: &[&List], expected: Result<(), (usize, Flaw)>| {
        assert_eq!(World::trusting_root().with_lists(lists).below_root(&leaf), expected);
    };
    check(&[&later, &revoking(&all)], Ok(()));
    check(&[&all, &revoking(&later)], Err((1, Flaw::Revoked)));
    check(&[&odd], Err((0, Flaw::ListExtension)));
    check(&[&odd, &all], Ok(()));
    check(&[&for_users], Err((1, Flaw::ListScope)));
    check(&[&for_authorities], Err((0, Flaw::ListScope)));
    check(&[&for_users, &for_authorities], Ok(()));
    check(&[&for_users, &revoking(&for_authorities)], Err((1, Flaw::Revoked)));
}

#[test]
fn a_list_of_a_point_is_for_those_that_name_it() {
    let point = tlv(0xa0, &[&tlv(0xa0, &[&tlv(0x86, &[b"http://a/b"])])]);
    let list = List::of("root").with(28, true, &tlv(der::SEQUENCE, &[&point]));
    let mut world = World::trusting_root().with_lists(&[&list]);
    world.authorities.only_leaf = true;
    assert_eq!(world.below_root(&peer()), Err((0, Flaw::ListScope)));
    let named = peer().with(POINTS, false, &sequence(&[&sequence(&[&point])]));
    assert_eq!(world.below_root(&named), Ok(()));
    let of_reasons = peer().with(POINTS, false, &sequence(&[&sequence(&[&point, &[0x81, 2, 1, 2]])]));
    assert_eq!(world.below_root(&of_reasons), Err((0, Flaw::ListScope)));
}

#[test]
fn no_certificate_and_no_list_makes_the_process_panic() {
    let world = World::trusting_root().with_lists(&[&List::of("root").revoking(3).with(28, true, &[0x30, 0])]);
    let tree = sequence(&[&tlv(0xa0, &[&sequence(&[&tlv(0x86, &[b"td"])])])]);
    let middle = world.sign(&middle().with(CONSTRAINTS, true, &tree).with(KEY_USAGE, true, &SIGNS_ALL), MIDDLE, ROOT);
    let leaf = below_middle().with(NAMES, false, &names(&[(0x86, b"spiffe://td/a"), (0x81, b"a@b")]));
    let leaf = world.sign(&leaf.with(POLICIES, true, &[0x30, 5, 0x30, 3, 6, 1, 0x2a]), LEAF, MIDDLE);
    let list = List::of("root").revoking(3).with(28, true, &[0x30, 3, 0x81, 1, 0xff]).sign(&world.keys[ROOT]);
    let mut random = fastrand::Rng::with_seed(6);
    let mut change = |whole: &[u8]| {
        let mut bytes = whole.to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            match random.u8(..4) {
                0 => bytes[at] = random.u8(..),
                1 => bytes[at] ^= 1 << random.u8(..8),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        bytes
    };
    for _ in 0..3_000 {
        let (leaf, middle) = (CertificateDer::from(change(&leaf)), CertificateDer::from(change(&middle)));
        assert!(world.judge(&leaf, &[middle]).is_err());
        certificate_info(&leaf);
        if let Some(list) = Revocations::read(&change(&list)) {
            list.at((0, 1));
        }
    }
}
