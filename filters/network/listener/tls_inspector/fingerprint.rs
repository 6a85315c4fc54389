//! JA3 and JA4: what kind of client says a hello.

use std::fmt::Write;

use md5::{Digest, Md5};

use super::hello::{self, Hello};

/// Characters that JA4 keeps of a hash.
const HASH: usize = 12;

/// Numbers that clients sprinkle in so that servers learn to pass over unknown ones (RFC 8701).
fn is_grease(number: u16) -> bool {
    let [high, low] = number.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

/// The MD5 of a hello's numbers.
pub(super) fn ja3(hello: &Hello<'_>) -> String {
    let text = ja3_text(hello);
    hex(&Md5::digest(text.as_bytes()))
}

fn ja3_text(hello: &Hello<'_>) -> String {
    let known = |numbers: &mut dyn Iterator<Item = u16>| joined(numbers.filter(|number| !is_grease(*number)));
    let ciphers = known(&mut hello.ciphers());
    let extensions = known(&mut hello.extensions().into_iter().map(|(kind, _)| kind));
    // Envoy leaves those of RFC 8701 in here.
    let groups = hello.extension(hello::SUPPORTED_GROUPS).and_then(|content| content.get(2..)).unwrap_or_default();
    let formats = hello.extension(hello::POINT_FORMATS).and_then(|content| content.get(1..)).unwrap_or_default();
    let formats = joined(formats.iter().map(|format| u16::from(*format)));
    format!("{},{ciphers},{extensions},{},{formats}", hello.version, joined(hello::numbers(groups)))
}

fn joined(numbers: impl Iterator<Item = u16>) -> String {
    numbers.map(|number| number.to_string()).collect::<Vec<_>>().join("-")
}

/// JA4 of a hello over TCP.
pub(super) fn ja4(hello: &Hello<'_>) -> String {
    let extensions: Vec<(u16, &[u8])> = hello.extensions().into_iter().filter(|(kind, _)| !is_grease(*kind)).collect();
    let mut ciphers: Vec<u16> = hello.ciphers().filter(|cipher| !is_grease(*cipher)).collect();
    ciphers.sort_unstable();
    let name = if extensions.iter().any(|(kind, _)| *kind == hello::SERVER_NAME) { 'd' } else { 'i' };
    let counts = (ciphers.len().min(99), extensions.len().min(99));
    let by_cipher = hash(&hexes(&ciphers));
    format!(
        "t{}{name}{:02}{:02}{}_{by_cipher}_{}",
        version(hello),
        counts.0,
        counts.1,
        protocol(hello),
        of_extensions(&extensions)
    )
}

fn of_extensions(extensions: &[(u16, &[u8])]) -> String {
    let kinds = extensions.iter().map(|(kind, _)| *kind);
    let mut kinds: Vec<u16> = kinds.filter(|kind| ![hello::SERVER_NAME, hello::ALPN].contains(kind)).collect();
    kinds.sort_unstable();
    let mut text = hexes(&kinds);
    let algorithms = extensions.iter().find(|(kind, _)| *kind == hello::SIGNATURE_ALGORITHMS);
    let algorithms = algorithms.and_then(|(_, content)| content.get(2..)).unwrap_or_default();
    if !kinds.is_empty() && !algorithms.is_empty() {
        text += "_";
        text += &hexes(&hello::numbers(algorithms).collect::<Vec<_>>());
    }
    hash(&text)
}

fn version(hello: &Hello<'_>) -> &'static str {
    let told = hello.extension(hello::SUPPORTED_VERSIONS).and_then(|content| content.get(1..)).unwrap_or_default();
    let highest = hello::numbers(told).filter(|version| !is_grease(*version)).max();
    match highest.unwrap_or(hello.version) {
        0x304 => "13",
        0x303 => "12",
        0x302 => "11",
        0x301 => "10",
        _ => "00",
    }
}

/// First and last character of the first protocol of ALPN.
fn protocol(hello: &Hello<'_>) -> String {
    let content = hello.extension(hello::ALPN).unwrap_or_default();
    let name = content.get(2).and_then(|length| content.get(3..3 + usize::from(*length))).unwrap_or_default();
    let (Some(first), Some(last)) = (name.first(), name.last()) else { return "00".to_owned() };
    match first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        true => format!("{}{}", char::from(*first), char::from(*last)),
        false => format!("{:x}{:x}", first >> 4, last & 0x0f),
    }
}

fn hexes(numbers: &[u16]) -> String {
    numbers.iter().map(|number| format!("{number:04x}")).collect::<Vec<_>>().join(",")
}

fn hash(text: &str) -> String {
    if text.is_empty() {
        return "0".repeat(HASH);
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    hex(&digest.as_ref()[..HASH / 2])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
