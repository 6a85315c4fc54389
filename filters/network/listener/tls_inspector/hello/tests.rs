use super::super::records::{
    ALERT, EXCESSIVE, HANDSHAKE, HTTP_REQUEST, MANY_EMPTY, MAX_EMPTY, TOO_LONG, UNEXPECTED_MESSAGE,
};
use super::*;

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("it is short").to_be_bytes(), bytes].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &sized(content)].concat()
}

fn name(name: &[u8]) -> Vec<u8> {
    extension(SERVER_NAME, &sized(&[&[0][..], &sized(name)].concat()))
}

fn message(version: u16, extensions: &[u8]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(sized(extensions));
    let length = u32::try_from(body.len()).expect("it is short").to_be_bytes();
    [&[CLIENT_HELLO][..], &length[1..], &body].concat()
}

fn record(content: &[u8]) -> Vec<u8> {
    [&[HANDSHAKE, 3, 1][..], &sized(content)].concat()
}

fn outcome(bytes: &[u8]) -> Result<Option<String>, String> {
    match parse(bytes) {
        Parsed::More => Err("more".to_owned()),
        Parsed::Closed => Err("closed".to_owned()),
        Parsed::NotTls(reason) => Err(reason.to_string()),
        Parsed::Hello(hello, length) => {
            assert_eq!(length, bytes.len());
            Ok(hello.server_name.map(|name| String::from_utf8(name.into()).expect("it is text")))
        }
    }
}

#[test]
fn every_beginning_of_a_hello_may_become_one() {
    let hello = record(&message(0x303, &name(b"a.test")));
    for length in 0..hello.len() {
        assert_eq!(outcome(&hello[..length]), Err("more".to_owned()), "{length}");
    }
    assert_eq!(outcome(&hello), Ok(Some("a.test".to_owned())));
}

#[test]
fn a_hello_may_come_in_records_of_a_byte() {
    let records: Vec<u8> = message(0x303, &name(b"a.test")).iter().flat_map(|byte| record(&[*byte])).collect();
    assert_eq!(outcome(&records), Ok(Some("a.test".to_owned())));
}

#[test]
fn hostile_hellos_are_none() {
    let of = |extensions: &[u8]| record(&message(0x303, extensions));
    let long = vec![b'a'; 256];
    let huge = record(&[CLIENT_HELLO, 1, 0, 0]);
    let cases: [(&str, Vec<u8>, Trouble); 9] = [
        ("zero byte", of(&name(b"a\0.test")), BAD_EXTENSION),
        ("long name", of(&name(&long)), BAD_EXTENSION),
        ("no name", of(&name(b"")), BAD_EXTENSION),
        ("twice", of(&[name(b"a"), name(b"b")].concat()), PARSE_FAILED),
        ("cut extension", of(&[0, 0, 0, 9, 1]), PARSE_FAILED),
        ("other message", record(&[2, 0, 0, 0]), UNEXPECTED_MESSAGE),
        ("huge message", huge, EXCESSIVE),
        ("huge record", vec![HANDSHAKE, 3, 1, 0x41, 0x41], TOO_LONG),
        ("text", b"GET / HTTP/1.1\r\n".to_vec(), HTTP_REQUEST),
    ];
    for (what, bytes, expected) in cases {
        assert_eq!(outcome(&bytes), Err(expected.to_string()), "{what}");
    }
    assert_eq!(outcome(&record(&[]).repeat(MAX_EMPTY + 1)), Err(MANY_EMPTY.to_string()));
}

#[test]
fn a_hello_of_sslv2_is_one_and_a_goodbye_is_none() {
    let mut old = vec![0x80, 28, 1, 3, 1, 0, 3, 0, 0, 0, 16, 0, 0, 0x2f];
    old.extend([7; 16]);
    for length in 0..old.len() {
        assert_eq!(outcome(&old[..length]), Err("more".to_owned()), "{length}");
    }
    assert_eq!(outcome(&old), Ok(None));
    assert_eq!(outcome(&[ALERT, 3, 1, 0, 2, 1, 0]), Err("closed".to_owned()));
    let told = "TLS_error|error:10000410:SSL routines:OPENSSL_internal:SSLV3_ALERT_HANDSHAKE_FAILURE:TLS_error_end";
    assert_eq!(outcome(&[ALERT, 3, 1, 0, 2, 2, 40]), Err(told.to_owned()));
}

#[test]
fn no_bytes_at_all_panic() {
    let hello = record(&message(0x303, &[name(b"a.test"), extension(ALPN, &sized(b"\x02h2"))].concat()));
    for at in 0..hello.len() {
        for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
            let mut changed = hello.clone();
            changed[at] = value;
            if let Parsed::Hello(hello, _) = parse(&changed) {
                let _ = (hello.protocols(), hello.extensions(), hello.ciphers().count());
            }
        }
    }
}
