use super::*;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../tests/support/certificates/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn keys_of_both_forms_open_by_their_password_alone() {
    for name in ["server-encrypted.key", "server-legacy.key"] {
        assert!(decrypt_pem(&file(name), b"secret").unwrap().is_ok(), "{name}");
        assert_eq!(decrypt_pem(&file(name), b"other").unwrap().unwrap_err(), Closed::Password, "{name}");
        assert_eq!(decrypt_pem(&file(name), b"").unwrap().unwrap_err(), Closed::Password, "{name}");
    }
    assert!(decrypt_pem(&file("server.key"), b"secret").is_none(), "it is not encrypted");
}

#[test]
fn a_keystore_opens_by_its_password_alone() {
    let opened = open(&file("server.p12"), "secret").unwrap();
    assert_eq!(opened.certificates.len(), 2, "with its authority");
    assert_eq!(open(&file("server.p12"), "other"), Err(Closed::Password));
    assert_eq!(open(&file("server-open.p12"), "").unwrap().certificates.len(), 1);
    assert_eq!(open(&file("server-legacy.p12"), "secret"), Err(Closed::Scheme));
}

#[test]
fn what_was_cut_or_changed_opens_nothing_and_ends_nothing() {
    let whole = file("server.p12");
    for at in 0..whole.len() {
        assert!(open(&whole[..at], "secret").is_err(), "{at}");
        if at % 7 == 0 {
            let mut changed = whole.clone();
            changed[at] ^= 0x41;
            let _ = open(&changed, "secret");
        }
    }
    let pem = file("server-encrypted.key");
    for at in 0..pem.len() {
        let _ = decrypt_pem(&pem[..at], b"secret");
    }
}
