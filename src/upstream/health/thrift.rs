use nuncio_config::cluster::{ThriftHealthCheck, ThriftProtocol, ThriftTransport};
use nuncio_filter_api::Io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::probe::{NO_ANSWER, Target};
use super::state::{CheckResult, Failure, FailureKind};

/// No answer that is looked at is nearly as long.
const MAX_ANSWER: usize = 64 * 1024;

/// How messages of the header transport begin, after their length.
const MAGIC: u16 = 0x0fff;

/// What a message is.
mod kind {
    pub(super) const CALL: u8 = 1;
    pub(super) const REPLY: u8 = 2;
}

/// A call and its answer.
#[derive(Default)]
pub(super) struct ThriftProbe {
    kept: Option<Io>,
}

/// Bytes of an answer that are not looked at yet.
struct Bytes<'a>(&'a [u8]);

/// Why an answer tells nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unclear {
    /// It may go on.
    Incomplete,
    /// It is none.
    Broken,
}

/// What an answer tells of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Well,
    Ill,
}

// === impl ThriftProbe ===

impl ThriftProbe {
    /// Envoy 1.40 ends itself when an answer is malformed, and at any that is not framed: here the one fails the check,
    /// and the other is taken.
    pub(super) async fn run(&mut self, target: &Target, config: &ThriftHealthCheck) -> CheckResult {
        let mut io = match self.kept.take() {
            Some(io) => io,
            None => match target.connect().await {
                Some(io) => io,
                None => return NO_ANSWER,
            },
        };
        let Some(verdict) = ask(&mut io, config).await else { return NO_ANSWER };
        // Where nothing delimits an answer, what is left of it would be taken for the next.
        if target.config.reuse_connection && config.transport != ThriftTransport::Unframed {
            self.kept = Some(io);
        }
        match verdict {
            Verdict::Well => CheckResult::Passed { degraded: false },
            Verdict::Ill => CheckResult::Failed(Failure { kind: FailureKind::Active, retriable: false, status: 0 }),
        }
    }

    pub(super) fn close(&mut self) {
        self.kept = None;
    }
}

async fn ask(io: &mut Io, config: &ThriftHealthCheck) -> Option<Verdict> {
    io.write_all(&call(config)).await.ok()?;
    io.flush().await.ok()?;
    let mut answer = Vec::new();
    loop {
        if io.read_buf(&mut answer).await.ok()? == 0 {
            return None;
        }
        match judge(&answer, config) {
            Ok(verdict) => return Some(verdict),
            Err(Unclear::Incomplete) if answer.len() < MAX_ANSWER => {}
            Err(Unclear::Incomplete | Unclear::Broken) => return None,
        }
    }
}

/// A call without arguments. Envoy: its number is always 0.
fn call(config: &ThriftHealthCheck) -> Vec<u8> {
    let name = config.method.as_bytes();
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes();
    // The end of the arguments. Envoy writes it twice, which matters only where nothing else delimits a message.
    let end: &[u8] = if config.transport == ThriftTransport::Unframed { &[0] } else { &[0, 0] };
    let message = match config.protocol {
        ThriftProtocol::Binary => [&[0x80, 1, 0, kind::CALL], &length[..], name, &[0; 4], end].concat(),
        ThriftProtocol::LaxBinary => [&length[..], name, &[kind::CALL], &[0; 4], end].concat(),
        ThriftProtocol::Compact => [&[0x82, 1 | kind::CALL << 5, 0], &varint(name.len())[..], name, end].concat(),
    };
    match config.transport {
        ThriftTransport::Unframed => message,
        ThriftTransport::Framed => framed(message),
        ThriftTransport::Header => {
            // No flags, number 0, one word of header: the protocol, no transforms, padding.
            let header = [&MAGIC.to_be_bytes()[..], &[0; 6], &[0, 1], &[protocol_id(config.protocol), 0, 0, 0]];
            framed([&header.concat()[..], &message].concat())
        }
    }
}

fn framed(message: Vec<u8>) -> Vec<u8> {
    [&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes()[..], &message].concat()
}

/// What the header transport calls a protocol.
fn protocol_id(protocol: ThriftProtocol) -> u8 {
    match protocol {
        ThriftProtocol::Binary | ThriftProtocol::LaxBinary => 0,
        ThriftProtocol::Compact => 2,
    }
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// What the answer that begins so tells.
fn judge(answer: &[u8], config: &ThriftHealthCheck) -> Result<Verdict, Unclear> {
    let mut bytes = Bytes(answer);
    if config.transport == ThriftTransport::Unframed {
        return bytes.verdict(config.protocol);
    }
    let length = bytes.u32()? as usize;
    if length > MAX_ANSWER {
        return Err(Unclear::Broken);
    }
    let mut frame = Bytes(bytes.take(length)?);
    if config.transport == ThriftTransport::Header {
        frame.skip_header(config.protocol).map_err(|_| Unclear::Broken)?;
    }
    // All of it is here: what is missing is not on its way.
    frame.verdict(config.protocol).map_err(|_| Unclear::Broken)
}

// === impl Bytes ===

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Unclear> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Unclear::Incomplete)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Unclear> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Unclear> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32, Unclear> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn varint(&mut self) -> Result<u32, Unclear> {
        let mut value = 0_u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Unclear::Broken)
    }

    /// Passes over a name with its length before it.
    fn skip_name(&mut self, length: u32) -> Result<(), Unclear> {
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_ANSWER).ok_or(Unclear::Broken)?;
        self.take(length).map(drop)
    }

    /// Passes over what the header transport puts before a message.
    fn skip_header(&mut self, protocol: ThriftProtocol) -> Result<(), Unclear> {
        let magic = self.u16()?;
        let (_flags, _number) = (self.u16()?, self.u32()?);
        let words = usize::from(self.u16()?);
        let mut header = Bytes(self.take(words * 4)?);
        let (id, transforms) = (header.varint()?, header.varint()?);
        let is_known = magic == MAGIC && id == u32::from(protocol_id(protocol)) && transforms == 0;
        if is_known { Ok(()) } else { Err(Unclear::Broken) }
    }

    /// Reads a message as far as it tells of its host. Envoy: neither name nor number need be those of the call.
    fn verdict(&mut self, protocol: ThriftProtocol) -> Result<Verdict, Unclear> {
        let kind = match protocol {
            ThriftProtocol::Binary => {
                let (version, kind) = (self.u16()?, self.u16()?);
                if version != 0x8001 {
                    return Err(Unclear::Broken);
                }
                let length = self.u32()?;
                self.skip_name(length)?;
                self.u32()?;
                (kind & 0xff) as u8
            }
            ThriftProtocol::LaxBinary => {
                let length = self.u32()?;
                self.skip_name(length)?;
                let kind = self.u8()?;
                self.u32()?;
                kind
            }
            ThriftProtocol::Compact => {
                let (id, kind) = (self.u8()?, self.u8()?);
                if id != 0x82 || kind & 0x1f != 1 {
                    return Err(Unclear::Broken);
                }
                self.varint()?;
                let length = self.varint()?;
                self.skip_name(length)?;
                kind >> 5
            }
        };
        if kind != kind::REPLY {
            return Ok(Verdict::Ill);
        }
        // The result of a call is field 0 of the answer; a void one has none, and an exception any other.
        Ok(if self.first_field(protocol)?.unwrap_or(0) == 0 { Verdict::Well } else { Verdict::Ill })
    }

    /// The number of the first field of a struct, if it has one.
    fn first_field(&mut self, protocol: ThriftProtocol) -> Result<Option<u32>, Unclear> {
        let first = self.u8()?;
        if first == 0 {
            return Ok(None);
        }
        Ok(Some(match protocol {
            ThriftProtocol::Binary | ThriftProtocol::LaxBinary => self.u16()?.into(),
            // The number as it is follows only where it is no more than 15 above the last.
            ThriftProtocol::Compact if first >> 4 == 0 => self.varint()?,
            ThriftProtocol::Compact => (first >> 4).into(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(transport: ThriftTransport, protocol: ThriftProtocol) -> ThriftHealthCheck {
        ThriftHealthCheck { method: "ping".into(), transport, protocol }
    }

    #[test]
    fn a_call_is_written_as_by_envoy() {
        use ThriftProtocol::*;
        use ThriftTransport::*;
        let check = |transport, protocol, expected: &[u8]| {
            assert_eq!(call(&config(transport, protocol)), expected, "{transport:?} {protocol:?}");
        };
        check(Framed, Binary, b"\0\0\0\x12\x80\x01\0\x01\0\0\0\x04ping\0\0\0\0\0\0");
        check(Framed, LaxBinary, b"\0\0\0\x0f\0\0\0\x04ping\x01\0\0\0\0\0\0");
        check(Framed, Compact, b"\0\0\0\x0a\x82\x21\0\x04ping\0\0");
        check(Unframed, Binary, b"\x80\x01\0\x01\0\0\0\x04ping\0\0\0\0\0");
        check(Header, Binary, b"\0\0\0\x20\x0f\xff\0\0\0\0\0\0\0\x01\0\0\0\0\x80\x01\0\x01\0\0\0\x04ping\0\0\0\0\0\0");
    }

    #[test]
    fn an_answer_is_good_where_it_has_a_result_or_none() {
        let check = |body: &[u8], expected| {
            let message = [b"\x80\x01\0\x02\0\0\0\x04ping\0\0\0\0", body].concat();
            let framed_config = config(ThriftTransport::Framed, ThriftProtocol::Binary);
            assert_eq!(judge(&framed(message.clone()), &framed_config), expected, "{body:?}");
        };
        check(b"\0", Ok(Verdict::Well));
        check(b"\x08\0\0\0\0\0\x05\0", Ok(Verdict::Well));
        check(b"\x0c\0\x01\0\0", Ok(Verdict::Ill));
        check(b"", Err(Unclear::Broken));
    }

    #[test]
    fn an_exception_is_a_failure() {
        let framed_config = config(ThriftTransport::Framed, ThriftProtocol::Binary);
        let message = framed(b"\x80\x01\0\x03\0\0\0\x04ping\0\0\0\0\0".to_vec());
        assert_eq!(judge(&message, &framed_config), Ok(Verdict::Ill));
    }

    #[test]
    fn an_answer_that_is_not_all_here_is_waited_for() {
        use ThriftProtocol::*;
        use ThriftTransport::*;
        for (transport, protocol, answer) in [
            (Framed, Binary, &b"\0\0\0\x11\x80\x01\0\x02\0\0\0\x04ping\0\0\0\0\0"[..]),
            (Unframed, Binary, b"\x80\x01\0\x02\0\0\0\x04ping\0\0\0\0\0"),
            (Unframed, LaxBinary, b"\0\0\0\x04ping\x02\0\0\0\0\0"),
            (Unframed, Compact, b"\x82\x41\0\x04ping\0"),
            (Header, Compact, b"\0\0\0\x17\x0f\xff\0\0\0\0\0\0\0\x01\x02\0\0\0\x82\x41\0\x04ping\0"),
        ] {
            let config = config(transport, protocol);
            for end in 0..answer.len() {
                assert_eq!(judge(&answer[..end], &config), Err(Unclear::Incomplete), "{config:?} {end}");
            }
            assert_eq!(judge(answer, &config), Ok(Verdict::Well), "{config:?}");
        }
    }

    #[test]
    fn what_is_no_thrift_is_no_answer() {
        use ThriftProtocol::*;
        use ThriftTransport::*;
        for (transport, protocol) in [(Framed, Binary), (Header, Compact), (Unframed, Binary), (Unframed, Compact)] {
            let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
            assert_eq!(judge(answer, &config(transport, protocol)), Err(Unclear::Broken), "{transport:?} {protocol:?}");
        }
        let answer = b"\0\0\0\x17\x0f\xff\0\0\0\0\0\0\0\x01\x02\0\0\0\x82\x41\0\x04ping\0";
        assert_eq!(judge(answer, &config(Header, Binary)), Err(Unclear::Broken));
    }
}
