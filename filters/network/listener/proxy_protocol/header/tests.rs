use super::*;

fn ends_of(found: Found) -> Option<String> {
    match found {
        Found::Header(_, Header { ends: Some((source, destination)), .. }) => Some(format!("{source} {destination}")),
        _ => None,
    }
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("it is short").to_be_bytes();
    [SIGNATURE_V2, &[command, family], &length, body].concat()
}

const ENDS: [u8; 12] = [1, 2, 3, 4, 10, 0, 0, 1, 0, 5, 0, 80];

#[test]
fn a_line_of_text_tells_both_ends() {
    let cases: [(&[u8], &str); 4] = [
        (b"PROXY TCP4 1.2.3.4 10.0.0.1 5 65535\r\n", "1.2.3.4:5 10.0.0.1:65535"),
        (b"PROXY TCP6 1::2 ::1 +5 6\r\nGET", "[1::2]:5 [::1]:6"),
        (b"PROXY TCP6 fe80::1%7 ::1 5 6\r\n", "[fe80::1%7]:5 [::1]:6"),
        (b"PROXY TCP6 ::ffff:1.2.3.4 ::1 5 6\r\n", "[::ffff:1.2.3.4]:5 [::1]:6"),
    ];
    for (line, expected) in cases {
        assert_eq!(ends_of(parse(line)).as_deref(), Some(expected));
    }
    let unknown = parse(b"PROXY UNKNOWN whatever it is\r\n");
    assert!(matches!(unknown, Found::Header(Version::V1, Header { ends: None, length: 30, .. })), "{unknown:?}");
}

#[test]
fn malformed_lines_are_told_from_none() {
    for line in [
        "PROXY TCP4 1.2.3.4 10.0.0.1 5\r\n",
        "PROXY TCP4 1.2.3.4 10.0.0.1 5 6 7\r\n",
        "PROXY TCP4 1.2.3.4 10.0.0.1 5 65536\r\n",
        "PROXY TCP4 1.2.3.4 10.0.0.1 5 -6\r\n",
        "PROXY TCP4 1::2 ::1 5 6\r\n",
        "PROXY TCP6 1.2.3.4 10.0.0.1 5 6\r\n",
        "PROXY TCP4 1.2.3.4%7 10.0.0.1 5 6\r\n",
        "PROXY TCP6 fe80::1% ::1 5 6\r\n",
        "PROXY TCP6 fe80::1%no/such ::1 5 6\r\n",
        "PROXY TCP4 255.255.255.255 10.0.0.1 5 6\r\n",
        "PROXY TCP4 224.0.0.1 10.0.0.1 5 6\r\n",
        "PROXY UDP4 1.2.3.4 10.0.0.1 5 6\r\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Found::Broken(Version::V1), "{line}");
    }
    assert_eq!(parse(b"GET / HTTP/1.1\r\nhost: a"), Found::Nothing);
    assert_eq!(parse(b"PROXYTCP4 1.2.3.4 10.0.0.1 5 6\r\n"), Found::Nothing);
    assert_eq!(parse(format!("PROXY {}", "x".repeat(120)).as_bytes()), Found::Nothing);
    assert_eq!(parse(format!("PROXY {}\r\n", "x".repeat(120)).as_bytes()), Found::Broken(Version::V1));
}

#[test]
fn every_beginning_of_a_header_may_become_one() {
    let line = b"PROXY TCP4 1.2.3.4 10.0.0.1 5 6\r\n".to_vec();
    let binary = v2(0x21, 0x11, &[&ENDS[..], &[0xea, 0, 1, 9]].concat());
    for whole in [line, binary] {
        for length in 1..whole.len() {
            assert!(matches!(parse(&whole[..length]), Found::More(_)), "{length} of {whole:?}");
        }
        assert!(matches!(parse(&whole), Found::Header(_, Header { length, .. }) if length == whole.len()));
    }
}

#[test]
fn a_binary_header_tells_both_ends_and_more() {
    let Found::Header(Version::V2, header) =
        parse(&v2(0x21, 0x11, &[&ENDS[..], &[4, 0, 0, 0xea, 0, 2, b'h', b'i']].concat()))
    else {
        panic!("it is a header")
    };
    let tlvs: Vec<_> = header.tlvs.iter().map(|tlv| (tlv.kind, &*tlv.value)).collect();
    assert_eq!(tlvs, [(4, &b""[..]), (0xea, &b"hi"[..])]);
    assert_eq!(ends_of(parse(&v2(0x21, 0x11, &ENDS))).as_deref(), Some("1.2.3.4:5 10.0.0.1:80"));
    let local = parse(&v2(0x20, 0, &[1, 2, 3]));
    assert!(matches!(local, Found::Header(_, Header { ends: None, length: 19, .. })), "{local:?}");
}

#[test]
fn malformed_binary_headers_are_refused() {
    let cases = [
        ("version", v2(0x31, 0x11, &ENDS)),
        ("command", v2(0x22, 0x11, &ENDS)),
        ("family", v2(0x21, 0x31, &ENDS)),
        ("transport", v2(0x21, 0x10, &ENDS)),
        ("short", v2(0x21, 0x21, &ENDS)),
        ("cut value", v2(0x21, 0x11, &[&ENDS[..], &[4, 0, 9, 1]].concat())),
        ("cut length", v2(0x21, 0x11, &[&ENDS[..], &[4, 0]].concat())),
    ];
    for (what, bytes) in cases {
        assert_eq!(parse(&bytes), Found::Broken(Version::V2), "{what}");
    }
}
