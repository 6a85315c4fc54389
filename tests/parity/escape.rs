//! Bytes as scenario files write them, and back.

/// Resolves `\r \n \t \0 \\ \xHH` and `\{text*N}`, which is the text N times.
pub(super) fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        rest = &rest[one(rest, &mut bytes).ok_or_else(|| format!("not an escape: \\{:.20}", rest))?..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

/// Resolves the escape at the head of `rest`, behind its backslash; returns how many bytes it is long.
fn one(rest: &str, bytes: &mut Vec<u8>) -> Option<usize> {
    let plain = match rest.as_bytes().first()? {
        b'r' => b'\r',
        b'n' => b'\n',
        b't' => b'\t',
        b'0' => 0,
        b'\\' => b'\\',
        b'x' => {
            bytes.push(u8::from_str_radix(rest.get(1..3)?, 16).ok()?);
            return Some(3);
        }
        b'{' => {
            let (repeated, count) = rest[1..].split_once('}')?.0.rsplit_once('*')?;
            bytes.extend_from_slice(&unescape(repeated).ok()?.repeat(count.parse().ok()?));
            return Some(repeated.len() + count.len() + 3);
        }
        _ => return None,
    };
    bytes.push(plain);
    Some(1)
}

/// One printable line for a text whose characters stand for bytes.
pub(super) fn visible(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars() {
        match c {
            '\r' => line += "\\r",
            '\n' => line += "\\n",
            '\t' => line += "\\t",
            ' '..='~' => line.push(c),
            other => line += &format!("\\x{:02x}", other as u32),
        }
    }
    line
}

/// As `visible`, the middle of a long value left out.
pub(super) fn visible_value(text: &str) -> String {
    let line = visible(text);
    if line.len() <= 300 { line } else { format!("{} ... of {} characters", &line[..40], line.len()) }
}

/// A body in one line: short ones as they are, long ones by length and a hash.
pub(super) fn visible_body(body: &[u8]) -> String {
    if body.len() <= 300 {
        return format!("\"{}\"", visible(&crate::support::http1::latin1(body)));
    }
    // FNV-1a: the same in every run, which std's hasher does not promise.
    let hash = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    format!("{} bytes, hash {hash:016x}", body.len())
}

#[test]
fn escapes_become_bytes() {
    assert_eq!(unescape(r"a\r\n\x80\{xy*3}\\").expect("well-formed"), b"a\r\n\x80xyxyxy\\");
    assert!(unescape(r"\q").is_err());
}
