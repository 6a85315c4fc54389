//! Random formats on random headers: nothing panics, and JSON is always valid.

use super::support::Exchange;
use crate::format::{Format, JsonFormat, JsonFormatter, Missing, operators};
use http::HeaderValue;

/// Pieces that make operators, or nearly.
const PIECES: &[&str] = &[
    "%",
    "%%",
    "(",
    ")",
    ":",
    "?",
    "\n",
    "\"",
    "\\",
    "REQ",
    "RESP",
    "TRAILER",
    "START_TIME",
    "user-agent",
    ":path",
    "x?user-agent",
    ":3%",
    ":0%",
    ":18446744073709551615%",
    "%n",
    "%3f",
    "%Y",
    "ns:o:k",
    "é",
    "\u{0}",
    "%REQ(user-agent)%",
    "%REQ(user-agent):7%",
    "%RESPONSE_CODE%",
    "%DYNAMIC_METADATA(ns)%",
    "%DYNAMIC_METADATA(ns):9%",
    "%QUERY_PARAM(x)%",
    "%QUERY_PARAMS(DECODED)%",
    "%PATH(NQ)%",
    "%START_TIME(%Ez%^A%99d%E*S)%",
    "%COALESCE({\"operators\":[\"ROUTE_NAME\",\"PROTOCOL\"]}):3%",
    "%REQUESTED_SERVER_NAME(HOST_FIRST)%",
];

fn random_format(rng: &mut fastrand::Rng, names: &[&str]) -> String {
    let mut text = String::new();
    for _ in 0..rng.usize(..8) {
        match rng.u8(..8) {
            0 => text.push(rng.char(..)),
            1 => text.push_str(&format!("%{}%", names[rng.usize(..names.len())])),
            2 => text.push_str(&format!("%{}(", names[rng.usize(..names.len())])),
            _ => text.push_str(PIECES[rng.usize(..PIECES.len())]),
        }
    }
    text
}

fn random_value(rng: &mut fastrand::Rng) -> HeaderValue {
    let length = rng.usize(..40);
    let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
    let legal: Vec<u8> = bytes.into_iter().filter(|b| *b == b'\t' || (*b >= 0x20 && *b != 0x7f)).collect();
    HeaderValue::from_bytes(&legal).unwrap()
}

#[test]
fn random_formats_and_headers_never_panic_and_json_stays_valid() {
    let mut rng = fastrand::Rng::with_seed(0x6e75_6e63_696f);
    let names: Vec<&str> = operators::table::names().map(|(name, _)| name).collect();
    let mut x = Exchange::proxied();
    let mut parsed = 0;
    for _ in 0..20_000 {
        let text = random_format(&mut rng, &names);
        x.request_headers.insert("user-agent", random_value(&mut rng));
        x.path = String::from_utf8_lossy(random_value(&mut rng).as_bytes()).into_owned();
        let Ok(format) = Format::parse(&text) else {
            let _ = Format::parse_header_value(&text);
            continue;
        };
        parsed += 1;
        let mut out = Vec::new();
        format.write(&x.cx(), Missing::Dash, &mut out);
        let _ = Format::parse_header_value(&text).map(|f| f.write(&x.cx(), Missing::Empty, &mut out));
        for missing in [Missing::Dash, Missing::Empty] {
            out.clear();
            let fields = [(text.clone(), JsonFormat::List(vec![JsonFormat::String(text.clone())]))];
            JsonFormatter::compile(&fields, missing).unwrap().write(&x.cx(), &mut out);
            serde_json::from_slice::<serde_json::Value>(&out)
                .unwrap_or_else(|e| panic!("{text:?} gave {:?}: {e}", String::from_utf8_lossy(&out)));
        }
    }
    assert!(parsed > 4000, "only {parsed} of the formats were valid: the test has lost its point");
}
