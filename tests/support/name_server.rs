//! A name server on loopback, over UDP and TCP on one port, that answers from a table which tests change.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;

/// What is answered for a name. As text: addresses, `NXDOMAIN`, `SERVFAIL` and the like, `empty`, `silent`, `garbage`,
/// `truncated` (over UDP: then it must be asked for over TCP), `cname=NAME`, `ttl=SECONDS`, `delay=MILLISECONDS`,
/// `v6=CODE` (for questions of that family alone).
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    addresses: Vec<IpAddr>,
    alias: Option<String>,
    code: u8,
    code_v6: u8,
    ttl: u32,
    delay: Duration,
    is_silent: bool,
    is_garbage: bool,
    is_truncated: bool,
}

impl FromStr for Entry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut entry = Self { ttl: 60, ..Self::default() };
        for word in text.split_whitespace() {
            match word.split_once('=').unwrap_or((word, "")) {
                ("empty", "") => {}
                ("silent", "") => entry.is_silent = true,
                ("garbage", "") => entry.is_garbage = true,
                ("truncated", "") => entry.is_truncated = true,
                ("cname", name) => entry.alias = Some(name.to_owned()),
                ("ttl", seconds) => entry.ttl = seconds.parse().map_err(|_| format!("no time: {word}"))?,
                ("delay", millis) => {
                    entry.delay = Duration::from_millis(millis.parse().map_err(|_| format!("no time: {word}"))?);
                }
                ("v6", name) => entry.code_v6 = code(name).ok_or_else(|| format!("no such code: {word}"))?,
                _ => match (code(word), word.parse()) {
                    (Some(code), _) => (entry.code, entry.code_v6) = (code, code),
                    (None, Ok(address)) => entry.addresses.push(address),
                    (None, Err(_)) => return Err(format!("neither an address nor a word of a name server: {word}")),
                },
            }
        }
        Ok(entry)
    }
}

fn code(name: &str) -> Option<u8> {
    let codes = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
    codes.iter().position(|code| *code == name).and_then(|at| u8::try_from(at).ok())
}

/// Names with what is answered for them. All others do not exist.
pub(crate) type Table = Vec<(String, Entry)>;

/// Reads a table of lines `NAME ANSWER`.
pub(crate) fn table(text: &str) -> Result<Table, String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let (name, answer) = line.trim().split_once(' ').ok_or_else(|| format!("no answer for {line}"))?;
            Ok((name.to_owned(), answer.parse()?))
        })
        .collect()
}

/// A question that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) name: String,
    pub(crate) is_v6: bool,
    pub(crate) over_tcp: bool,
}

/// A running name server. Dropping it ends it.
pub(crate) struct NameServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    names: Mutex<HashMap<String, Entry>>,
    asked: Mutex<Vec<Question>>,
}

impl NameServer {
    /// Binds to a free port of 127.0.0.1.
    pub(crate) async fn start(table: &Table) -> Self {
        let (udp, tcp) = bind().await;
        let address = tcp.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(Arc::new(udp), shared.clone()));
        tasks.spawn(serve_tcp(tcp, shared.clone()));
        let server = Self { address, shared, _tasks: tasks };
        server.change(table);
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on these names have these answers.
    pub(crate) fn change(&self, table: &Table) {
        let mut names = self.shared.names.lock().expect("no holder of this lock panics");
        names.extend(table.iter().cloned());
    }

    /// All questions so far.
    pub(crate) fn asked(&self) -> Vec<Question> {
        self.shared.asked.lock().expect("no holder of this lock panics").clone()
    }
}

async fn bind() -> (UdpSocket, TcpListener) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = tcp.local_addr().expect("a bound socket has an address");
        if let Ok(udp) = UdpSocket::bind(address).await {
            return (udp, tcp);
        }
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut answers = JoinSet::new();
    let mut buffer = [0; 4096];
    // A client that is gone is no reason to end.
    loop {
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
        let (socket, shared, query) = (socket.clone(), shared.clone(), buffer[..len].to_vec());
        answers.spawn(async move {
            if let Some(answer) = shared.answer(&query, false).await {
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(async move { drop(serve_connection(stream, shared).await) });
    }
}

async fn serve_connection(mut stream: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    loop {
        let mut query = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut query).await?;
        if let Some(answer) = shared.answer(&query, true).await {
            let len = u16::try_from(answer.len()).expect("the tables of tests are short").to_be_bytes();
            stream.write_all(&[&len, &answer[..]].concat()).await?;
        }
    }
}

impl Shared {
    async fn answer(&self, query: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let (name, kind, question) = read_question(query)?;
        let asked = Question { name: name.clone(), is_v6: kind == AAAA, over_tcp };
        self.asked.lock().expect("no holder of this lock panics").push(asked);
        let (entry, aliases, last) = self.find(&name);
        let Some(entry) = entry else { return Some(message(query, question, 3, false, &[])) };
        tokio::time::sleep(entry.delay).await;
        if entry.is_silent {
            return None;
        }
        if entry.is_garbage {
            return Some(b"this is no answer".to_vec());
        }
        if entry.is_truncated && !over_tcp {
            return Some(message(query, question, 0, true, &[]));
        }
        let mut records: Vec<_> =
            aliases.iter().map(|(from, to)| record(from, CNAME, entry.ttl, &encode(to))).collect();
        for address in &entry.addresses {
            match address {
                IpAddr::V4(ip) if kind == A => records.push(record(&last, A, entry.ttl, &ip.octets())),
                IpAddr::V6(ip) if kind == AAAA => records.push(record(&last, AAAA, entry.ttl, &ip.octets())),
                _ => {}
            }
        }
        Some(message(query, question, if kind == AAAA { entry.code_v6 } else { entry.code }, false, &records))
    }

    /// The entry at the end of the aliases, with these and the name that it has.
    fn find(&self, name: &str) -> (Option<Entry>, Vec<(String, String)>, String) {
        let names = self.names.lock().expect("no holder of this lock panics");
        let (mut aliases, mut last) = (Vec::new(), name.to_owned());
        loop {
            let entry = names.get(&last).cloned();
            match entry.as_ref().and_then(|entry| entry.alias.clone()) {
                Some(alias) if aliases.len() < 8 => {
                    aliases.push((last, alias.clone()));
                    last = alias;
                }
                _ => return (entry, aliases, last),
            }
        }
    }
}

fn read_question(query: &[u8]) -> Option<(String, u16, &[u8])> {
    let mut at = 12;
    let mut labels = Vec::new();
    while *query.get(at)? != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(query.get(at + 1..end)?).to_lowercase());
        at = end;
    }
    let kind = u16::from_be_bytes([*query.get(at + 1)?, *query.get(at + 2)?]);
    Some((labels.join("."), kind, query.get(12..at + 5)?))
}

fn message(query: &[u8], question: &[u8], code: u8, truncated: bool, records: &[Vec<u8>]) -> Vec<u8> {
    let flags = if truncated { 0x83 } else { 0x81 };
    let count = u8::try_from(records.len()).expect("the tables of tests are short");
    let mut message = vec![query[0], query[1], flags, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0];
    message.extend_from_slice(question);
    message.extend(records.concat());
    message
}

fn record(name: &str, kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(data.len()).expect("the tables of tests are short");
    let parts = [&kind.to_be_bytes()[..], &[0, 1], &ttl.to_be_bytes(), &len.to_be_bytes(), data];
    [encode(name), parts.concat()].concat()
}

fn encode(name: &str) -> Vec<u8> {
    let label = |label: &str| [&[u8::try_from(label.len()).expect("labels are short")], label.as_bytes()].concat();
    let labels = name.split('.').filter(|label| !label.is_empty()).flat_map(label);
    labels.chain([0]).collect()
}
