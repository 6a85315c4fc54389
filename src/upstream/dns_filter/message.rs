//! Questions as they come, and answers as they go (RFC 1035 §4).
//!
//! Own code and not that of hickory-proto, since an answer has to be like Envoy's to the byte: without compression of
//! names, and to a question of which only a part can be read.

use std::net::IpAddr;

use nuncio_filter_api::Rng;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    head: Head,
    /// As text; what is no letter, digit or the like is escaped, as c-ares does.
    pub(super) name: String,
    /// That text as labels with their lengths, without the empty one at the end: Envoy answers with it, whatever the
    /// question had. `None` where a label gets too long by it.
    wire_name: Option<Vec<u8>>,
    pub(super) kind: Kind,
    /// Records come with it; those that tell of extensions (EDNS), mostly.
    pub(super) has_additional: bool,
}

/// What an answer repeats of the head of its question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    id: u16,
    flags: u16,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    A,
    Aaaa,
    Srv,
    Other(u16),
}

/// Why bytes are no question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuestionError {
    TooShort,
    Malformed,
    /// It is an answer, or brings some.
    IsAnswer,
    /// There is none, or more than one.
    NotOne,
}

/// What is answered.
#[derive(Debug, Default)]
pub(super) struct Answer {
    records: Vec<Record>,
    /// What comes with the records of services: the first address of each.
    additional: Vec<Record>,
}

/// A record; its name is that of the question where it has none.
#[derive(Debug)]
struct Record {
    name: Option<Vec<u8>>,
    kind: Kind,
    ttl: u32,
    data: Vec<u8>,
}

const HEAD: usize = 12;
const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;
/// Bytes of an answer, and records in it.
const MAX_ANSWER: usize = 512;
const MAX_RECORDS: usize = 8;
/// Jumps within one name: each goes to a place that no other went to, or there is no end to it.
const MAX_JUMPS: usize = 64;

const IS_ANSWER: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;

const FORMAT_ERROR: u16 = 1;
const NAME_ERROR: u16 = 3;
const NOT_IMPLEMENTED: u16 = 4;

/// The class of the Internet.
const INTERNET: u16 = 1;

/// Reads a question. What could be read of its head is there even if it is none.
pub(super) fn read(bytes: &[u8]) -> Result<Question, (Head, QuestionError)> {
    let field = |at: usize| Some(u16::from_be_bytes([*bytes.get(2 * at)?, *bytes.get(2 * at + 1)?]));
    let head = Head { id: field(0).unwrap_or(0), flags: field(1).unwrap_or(0) };
    let (Some(questions), Some(answers), Some(authorities), Some(additional)) =
        (field(2), field(3), field(4), field(5))
    else {
        return Err((head, QuestionError::TooShort));
    };
    if answers > 0 || authorities > 0 || head.flags & IS_ANSWER != 0 {
        return Err((head, QuestionError::IsAnswer));
    }
    if questions != 1 {
        return Err((head, QuestionError::NotOne));
    }
    let malformed = (head, QuestionError::Malformed);
    let (name, end) = read_name(bytes, HEAD).ok_or(malformed)?;
    let rest = bytes.get(end..end + 4).ok_or(malformed)?;
    let kind = Kind::from(u16::from_be_bytes([rest[0], rest[1]]));
    if name.is_empty() || u16::from_be_bytes([rest[2], rest[3]]) != INTERNET {
        return Err(malformed);
    }
    let wire_name = wire_text(&name);
    Ok(Question { head, name, wire_name, kind, has_additional: additional > 0 })
}

/// The name at a place, as text and without jumps, and the place behind it.
fn read_name(bytes: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut text, mut taken) = (String::new(), 0);
    let (mut at, mut end, mut jumps) = (start, None, 0);
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 if text.len() > MAX_NAME => return None,
            0 => return Some((text, end.unwrap_or(at + 1))),
            1..=MAX_LABEL => {
                let label = bytes.get(at + 1..at + 1 + length)?;
                if taken > 0 {
                    text.push('.');
                }
                push_text(label, &mut text);
                taken += 1 + length;
                // One byte is that of the end.
                if taken >= MAX_NAME + 2 {
                    return None;
                }
                at += 1 + length;
            }
            0xc0.. => {
                end = end.or(Some(at + 2));
                at = (length & 0x3f) << 8 | usize::from(*bytes.get(at + 1)?);
                jumps += 1;
                if jumps > MAX_JUMPS {
                    return None;
                }
            }
            _ => return None,
        }
    }
}

fn push_text(label: &[u8], text: &mut String) {
    for byte in label {
        match byte {
            b'"' | b'.' | b';' | b'\\' | b'(' | b')' | b'@' | b'$' => {
                text.push('\\');
                text.push(char::from(*byte));
            }
            b' '..=b'~' => text.push(char::from(*byte)),
            other => text.push_str(&format!("\\{other:03}")),
        }
    }
}

/// A name as text, as labels with their lengths: what is escaped stays so, and an escaped dot ends a label as any does.
fn wire_text(text: &str) -> Option<Vec<u8>> {
    let mut wire = Vec::with_capacity(text.len() + 2);
    for label in text.split('.') {
        wire.push(u8::try_from(label.len()).ok().filter(|length| usize::from(*length) <= MAX_LABEL)?);
        wire.extend_from_slice(label.as_bytes());
    }
    Some(wire)
}

/// A name of the configuration, as labels with their lengths; cut where there is no more room.
fn wire_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::with_capacity(name.len() + 2);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(MAX_LABEL)];
        wire.push(label.len() as u8);
        wire.extend_from_slice(label);
    }
    wire
}

// === impl Kind ===

impl From<u16> for Kind {
    fn from(number: u16) -> Self {
        match number {
            1 => Self::A,
            28 => Self::Aaaa,
            33 => Self::Srv,
            other => Self::Other(other),
        }
    }
}

impl Kind {
    /// That of the record which has this address.
    pub(super) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::A } else { Self::Aaaa }
    }

    pub(super) fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Aaaa => 28,
            Self::Srv => 33,
            Self::Other(other) => other,
        }
    }
}

// === impl Answer ===

impl Answer {
    /// The answer to what is no question.
    pub(super) fn malformed(head: Head, recursion: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD);
        write_head(&mut bytes, head, recursion, FORMAT_ERROR);
        bytes
    }

    /// Adds an address of the name that is asked for. False where addresses of another kind are.
    pub(super) fn add_address(&mut self, kind: Kind, ttl: u32, ip: IpAddr) -> bool {
        let is_asked_for = Kind::of(ip) == kind;
        if is_asked_for {
            self.records.push(Record { name: None, kind, ttl, data: octets(ip) });
        }
        is_asked_for
    }

    /// Adds a place of the service that is asked for, and its first address.
    pub(super) fn add_service(
        &mut self,
        ttl: u32,
        [priority, weight, port]: [u16; 3],
        target: &str,
        address: Option<(IpAddr, u32)>,
    ) {
        let name = wire_name(target);
        let mut data = Vec::with_capacity(7 + name.len());
        for number in [priority, weight, port] {
            data.extend(number.to_be_bytes());
        }
        data.extend_from_slice(&name);
        data.push(0);
        self.records.push(Record { name: None, kind: Kind::Srv, ttl, data });
        if let Some((ip, ttl)) = address {
            self.additional.push(Record { name: Some(name), kind: Kind::of(ip), ttl, data: octets(ip) });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The answer to `question`. Envoy: where there are more records than it takes, it begins with any of them.
    pub(super) fn write(mut self, question: &Question, recursion: bool, rng: &Rng) -> Vec<u8> {
        let Some(name) = &question.wire_name else { return Self::malformed(question.head, recursion) };
        let code = match question.kind {
            Kind::Other(_) => NOT_IMPLEMENTED,
            _ if self.records.is_empty() => NAME_ERROR,
            _ => 0,
        };
        if self.records.len() > MAX_RECORDS {
            let first = rng.below(self.records.len() as u64) as usize;
            self.records.rotate_left(first);
        }
        let mut bytes = Vec::with_capacity(MAX_ANSWER);
        write_head(&mut bytes, question.head, recursion, code);
        bytes.extend_from_slice(name);
        bytes.push(0);
        bytes.extend(question.kind.number().to_be_bytes());
        bytes.extend(INTERNET.to_be_bytes());
        let mut room = MAX_ANSWER.saturating_sub(bytes.len());
        let answers = write_records(&mut bytes, &self.records, name, &mut room);
        let additional = write_records(&mut bytes, &self.additional, name, &mut room);
        for (at, count) in [1, answers, 0, additional].into_iter().enumerate() {
            let at = 4 + 2 * at;
            bytes[at..at + 2].copy_from_slice(&(count as u16).to_be_bytes());
        }
        bytes
    }
}

/// How many records an answer has.
pub(super) fn answers(answer: &[u8]) -> u16 {
    match answer {
        [_, _, _, _, _, _, high, low, ..] => u16::from_be_bytes([*high, *low]),
        _ => 0,
    }
}

/// How an answer says that it went.
pub(super) fn response_code(answer: &[u8]) -> u8 {
    answer.get(3).map_or(0, |flags| flags & 0x0f)
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().into(),
        IpAddr::V6(v6) => v6.octets().into(),
    }
}

/// Writes a head that has no records yet.
fn write_head(bytes: &mut Vec<u8>, head: Head, recursion: bool, code: u16) {
    let mut flags = IS_ANSWER | head.flags & (OPCODE | RECURSION_DESIRED) | code;
    if recursion {
        flags |= RECURSION_AVAILABLE;
    }
    for field in [head.id, flags, 0, 0, 0, 0] {
        bytes.extend(field.to_be_bytes());
    }
}

/// Writes records as long as there is room, and says how many.
fn write_records(bytes: &mut Vec<u8>, records: &[Record], question: &[u8], room: &mut usize) -> usize {
    for (count, Record { name, kind, ttl, data }) in records.iter().take(MAX_RECORDS).enumerate() {
        let name = name.as_deref().unwrap_or(question);
        let length = name.len() + 11 + data.len();
        if length > *room {
            return count;
        }
        *room -= length;
        bytes.extend_from_slice(name);
        bytes.push(0);
        bytes.extend(kind.number().to_be_bytes());
        bytes.extend(INTERNET.to_be_bytes());
        bytes.extend(ttl.to_be_bytes());
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend_from_slice(data);
    }
    records.len().min(MAX_RECORDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(name: &[u8], tail: &[u8]) -> Vec<u8> {
        [&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name, tail].concat()
    }

    #[test]
    fn a_question_is_read() {
        let read = read(&question(b"\x01a\x02b.\x00", &[0, 1, 0, 1])).unwrap();
        let wire = Some(&b"\x01a\x02b\\\x00"[..]);
        assert_eq!((&*read.name, read.kind, read.wire_name.as_deref()), ("a.b\\.", Kind::A, wire));
    }

    #[test]
    fn what_is_no_question_is_told_apart() {
        let error = |bytes: &[u8]| read(bytes).unwrap_err().1;
        assert_eq!(error(b""), QuestionError::TooShort);
        assert_eq!(error(&question(b"", b"")[..11]), QuestionError::TooShort);
        assert_eq!(error(&question(b"", b"")), QuestionError::Malformed);
        assert_eq!(error(&question(b"\x00", &[0, 1, 0, 1])), QuestionError::Malformed, "the root");
        assert_eq!(error(&question(b"\xc0\x0c", &[0, 1, 0, 1])), QuestionError::Malformed, "a loop");
        assert_eq!(error(&question(b"\x05ab", b"")), QuestionError::Malformed);
        assert_eq!(error(&question(b"\x80ab", b"")), QuestionError::Malformed);
        assert_eq!(error(&question(b"\x01a\x00", &[0, 1, 0, 3])), QuestionError::Malformed, "another class");
        let long: Vec<u8> = [[63; 64]; 5].concat();
        assert_eq!(error(&question(&long, &[0, 0, 1, 0, 1])), QuestionError::Malformed);
    }

    #[test]
    fn no_bytes_are_too_strange_to_be_read() {
        let good = question(b"\x03www\x03foo\x03com\x00", &[0, 1, 0, 1]);
        let rng = Rng::seeded(3);
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..=rng.below(6) {
                let at = rng.below(bytes.len() as u64) as usize;
                bytes[at] = rng.u64() as u8;
            }
            bytes.truncate(rng.below(bytes.len() as u64 + 1) as usize);
            let answer = match read(&bytes) {
                Ok(question) => Answer::default().write(&question, true, &rng),
                Err((head, _)) => Answer::malformed(head, true),
            };
            assert!((HEAD..=512).contains(&answer.len()));
        }
    }

    #[test]
    fn an_answer_is_never_longer_than_it_may_be() {
        let asked = read(&question(b"\x01a\x00", &[0, 1, 0, 1])).unwrap();
        for count in 0..100 {
            let mut answer = Answer::default();
            for _ in 0..count {
                assert!(answer.add_address(Kind::A, 5, IpAddr::from([1, 2, 3, 4])));
                answer.add_service(5, [1, 2, 3], &"x.".repeat(60), Some((IpAddr::from([1, 2, 3, 4]), 5)));
            }
            assert!(answer.write(&asked, false, &Rng::seeded(1)).len() <= 512);
        }
    }
}
