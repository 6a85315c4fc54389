//! A ClientHello of our own making, the same in each run.

/// Asks for `name`, which may be anything, and offers `protocols`; with TLS 1.2 and 1.3, two cipher suites of each and
/// numbers of RFC 8701 among them.
pub(crate) fn client_hello<'a>(name: &[u8], protocols: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut extensions = extension(0x2a2a, &[]);
    if !name.is_empty() {
        extensions.extend(extension(0, &sized(&[&[0][..], &sized(name)].concat())));
    }
    extensions.extend(extension(10, &sized(&[0x1a, 0x1a, 0, 29, 0, 23])));
    extensions.extend(extension(11, &[1, 0]));
    extensions.extend(extension(13, &sized(&[4, 3, 8, 4, 4, 1])));
    let protocols: Vec<u8> =
        protocols.flat_map(|p| [&[u8::try_from(p.len()).expect("it is short")][..], p.as_bytes()].concat()).collect();
    if !protocols.is_empty() {
        extensions.extend(extension(16, &sized(&protocols)));
    }
    extensions.extend(extension(43, &[4, 3, 4, 3, 3]));
    extensions.extend(extension(51, &sized(&[&[0, 29, 0, 32][..], &[9; 32]].concat())));
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend(sized(&[0x0a, 0x0a, 0x13, 0x01, 0x13, 0x02, 0xc0, 0x2b, 0xc0, 0x2f]));
    body.extend([1, 0]);
    body.extend(sized(&extensions));
    let length = u32::try_from(body.len()).expect("it is short").to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    [&[22, 3, 1][..], &sized(&message)].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &sized(content)].concat()
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("it is short").to_be_bytes()[..], bytes].concat()
}
