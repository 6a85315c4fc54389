use super::super::der;
use super::super::forged::*;
use super::*;

fn is_read(list: &List) -> bool {
    Revocations::read(&list.sign(&Key::new())).is_some()
}

#[test]
fn lists_are_of_the_first_or_the_second_version() {
    let list = List::of("root").revoking(1);
    assert!(is_read(&list) && is_read(&List::of("root")));
    let of = |version: u8| List { version: vec![der::INTEGER, 1, version], ..list.clone() };
    assert!(is_read(&of(0)) && is_read(&of(1)) && !is_read(&of(2)));
    let second = list.clone().with(20, false, &[der::INTEGER, 1, 1]);
    assert!(is_read(&second), "with a number");
    assert!(!is_read(&List { version: Vec::new(), ..second }), "the first has no extensions");
}

#[test]
fn what_counts_can_be_read_and_stands_there_once() {
    let list = List::of("root");
    let (key, point) = (sequence(&[&tlv(0x80, &[b"k"])]), sequence(&[&[0x81, 1, 0xff]]));
    for (kind, content) in [(35, &key), (28, &point)] {
        let one = list.clone().with(kind, true, content);
        assert!(is_read(&one) && !is_read(&one.with(kind, true, content)), "{kind}");
        assert!(!is_read(&list.clone().with(kind, true, &[5, 0])), "{kind}");
    }
    for point in [&[0x82, 1, 0xff, 0x81, 1, 0xff][..], &[0x81, 1, 0xff, 0x81, 1, 0xff], &[0x86, 1, 0], &[0xa0, 1, 0]] {
        assert!(!is_read(&list.clone().with(28, true, &sequence(&[point]))), "{point:x?}");
    }
}

#[test]
fn entries_have_a_number_a_time_and_a_reason() {
    let entry =
        |serial: &[u8], rest: &[u8]| List { revoked: vec![(serial.to_vec(), rest.to_vec())], ..List::of("root") };
    let reason = |content: &[u8]| sequence(&[&extension(21, false, content)]);
    assert!(is_read(&entry(&[1, 2], &reason(&[der::ENUMERATED, 1, 8]))));
    assert!(!is_read(&entry(&[1, 2], &reason(&[der::INTEGER, 1, 8]))));
    assert!(!is_read(&entry(&[0, 1], &[])) && !is_read(&entry(&[], &[])), "a number is as short as it can be");
    assert!(!is_read(&entry(&[1], &[5, 0])));
    let list = Revocations::read(&entry(&[1], &sequence(&[&extension(99, true, &[5, 0])])).sign(&Key::new()));
    assert!(list.unwrap().has_critical);
}

#[test]
fn numbers_are_found_whole() {
    let revoked = [&[2][..], &[1, 2], &[1], &[0x7f; 20]].map(|serial| (serial.to_vec(), Vec::new())).to_vec();
    let list = Revocations::read(&List { revoked, ..List::of("root") }.sign(&Key::new())).unwrap();
    assert!([&[1][..], &[2], &[1, 2], &[0x7f; 20]].into_iter().all(|serial| list.names(serial)));
    assert!(![&[][..], &[3], &[1, 2, 3], &[0x7f; 19]].into_iter().any(|serial| list.names(serial)));
}

#[test]
fn what_two_kinds_or_other_issuers_share_is_never_looked_at() {
    for (point, is_spoken) in [
        (&[0x81, 1, 0xff, 0x82, 1, 0xff][..], false),
        (&[0x81, 1, 0xff, 0x84, 1, 0xff], false),
        (&[0x83, 2, 1, 2], false),
        (&[0x81, 1, 0xff], true),
        (&[0x84, 1, 0], true),
    ] {
        let list = List::of("root").with(28, true, &sequence(&[point]));
        assert_eq!(!Revocations::read(&list.sign(&Key::new())).unwrap().scope.is_not_spoken, is_spoken, "{point:x?}");
    }
}
