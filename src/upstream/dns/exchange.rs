//! One question to one name server.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::{Family, Found};

/// Some servers send more than they are told that they may.
const LARGEST_DATAGRAM: usize = u16::MAX as usize;
/// More seconds than this are none (RFC 2181 §8).
const LONGEST_TTL: u32 = i32::MAX as u32;

/// How a name server is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ways {
    /// Over TCP at once.
    pub(super) use_tcp: bool,
    /// The largest answer over UDP that it is told of.
    pub(super) udp_payload: u16,
}

/// What a name server said, where it could help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) found: Found,
    /// For how long a name that is not there may be taken to be missing.
    pub(super) negative_ttl: Option<Duration>,
}

/// Why a name server could not help.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("malformed answer")]
    Malformed,
    #[error("the name server answered {0}")]
    Code(ResponseCode),
}

/// Asks `server`, again without EDNS or over TCP where it wants that.
pub(super) async fn ask(server: SocketAddr, name: &Name, family: Family, ways: Ways) -> Result<Reply, Fault> {
    let mut question = question(name, family, Some(ways.udp_payload));
    let mut answer = send(server, &question, ways.use_tcp).await?;
    if answer.metadata.response_code == ResponseCode::FormErr {
        // An old server: EDNS is younger than it is.
        question = self::question(name, family, None);
        answer = send(server, &question, ways.use_tcp).await?;
    }
    if answer.metadata.truncation && !ways.use_tcp {
        answer = send(server, &question, true).await?;
    }
    read(&answer, family)
}

fn question(name: &Name, family: Family, udp_payload: Option<u16>) -> Message {
    let mut message = Message::new(fastrand::u16(..), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), family.record_type()));
    if let Some(payload) = udp_payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message
}

async fn send(server: SocketAddr, question: &Message, over_tcp: bool) -> Result<Message, Fault> {
    let bytes = question.to_vec().map_err(|_| Fault::Malformed)?;
    match over_tcp {
        true => send_tcp(server, question, &bytes).await,
        false => send_udp(server, question, &bytes).await,
    }
}

async fn send_udp(server: SocketAddr, question: &Message, bytes: &[u8]) -> Result<Message, Fault> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // A port of its own for each question, so that an answer is hard to forge.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    loop {
        let len = socket.recv(&mut buffer).await?;
        let answer = Message::from_vec(&buffer[..len]).map_err(|_| Fault::Malformed)?;
        // Anything else is late, or forged.
        if is_answer(&answer, question) {
            return Ok(answer);
        }
    }
}

async fn send_tcp(server: SocketAddr, question: &Message, bytes: &[u8]) -> Result<Message, Fault> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(bytes.len()).map_err(|_| Fault::Malformed)?;
    stream.write_all(&[&len.to_be_bytes(), bytes].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    let answer = Message::from_vec(&answer).map_err(|_| Fault::Malformed)?;
    is_answer(&answer, question).then_some(answer).ok_or(Fault::Malformed)
}

fn is_answer(answer: &Message, question: &Message) -> bool {
    let asks_the_same = match (&answer.queries[..], &question.queries[..]) {
        ([theirs], [ours]) => {
            theirs.name() == ours.name()
                && theirs.query_type() == ours.query_type()
                && theirs.query_class() == ours.query_class()
        }
        // Some say FORMERR to a question that they do not repeat.
        ([], _) => answer.metadata.response_code != ResponseCode::NoError,
        _ => false,
    };
    answer.metadata.id == question.metadata.id && answer.metadata.message_type == MessageType::Response && asks_the_same
}

fn read(answer: &Message, family: Family) -> Result<Reply, Fault> {
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        code => return Err(Fault::Code(code)),
    }
    let of_internet = || answer.answers.iter().filter(|record| record.dns_class == DNSClass::IN);
    let addresses = of_internet().filter_map(|record| match (&record.data, family) {
        (RData::A(a), Family::V4) => Some(a.0.into()),
        (RData::AAAA(a), Family::V6) => Some(a.0.into()),
        _ => None,
    });
    let addresses: Vec<_> = addresses.collect();
    let bounded = |ttl: u32| if ttl > LONGEST_TTL { 0 } else { ttl };
    let seconds = |ttl: u32| Duration::from_secs(bounded(ttl).into());
    // Those of the aliases on the way count as well: where they lead may change before the address does.
    let ttl = of_internet().map(|record| seconds(record.ttl)).min().filter(|_| !addresses.is_empty());
    // RFC 2308 §5: the smaller of the two.
    let negative = answer.authorities.iter().filter_map(|record| match &record.data {
        RData::SOA(soa) => Some(seconds(bounded(record.ttl).min(bounded(soa.minimum)))),
        _ => None,
    });
    Ok(Reply { found: Found { addresses, ttl }, negative_ttl: negative.min() })
}
