//! Runs one scenario against one proxy and writes down all that can be seen from outside, as lines.

use super::escape::{visible, visible_body, visible_value};
use super::mask::Mask;
use super::scenario::{Action, Condition, Kind, Move, Scenario, Step};
use super::udp;
use crate::support::client::{Client, End, fetch, get};
use crate::support::h2_client::{H2Client, Outcome};
use crate::support::http1::{Framing, Message};
use crate::support::proxy::{NotStarted, Running, proxy};
use crate::support::split::Split;
use crate::support::upstream::{What, closing, http1, http2, refusing};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

/// How long a proxy may take to close a connection after it said that it would.
const ANNOUNCED_CLOSE: Duration = Duration::from_secs(3);

/// How long a stat may take to get the value that is waited for.
const STAT_DEADLINE: Duration = Duration::from_secs(10);

/// How long silence must last to be taken for the end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    Normal,
    /// For a second look at what seemed to differ.
    Long,
}

impl Patience {
    fn scale(self, millis: u64) -> Duration {
        Duration::from_millis(if self == Patience::Long { millis * 6 } else { millis })
    }
}

/// All that was seen; lines that begin with `>` came to the client, `<` to the upstream.
pub(super) struct Report {
    pub(super) steps: Vec<Seen>,
    pub(super) stats: Vec<String>,
    pub(super) admin: Vec<String>,
    pub(super) log: Vec<String>,
}

/// What one step led to.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) lines: Vec<String>,
    /// Of the last response; 0 where none came.
    pub(super) status: u16,
    /// Requests, and pieces of one, that reached an upstream.
    pub(super) at_upstream: usize,
}

impl Report {
    pub(super) fn render(&self, scenario: &Scenario) -> String {
        let mut text = String::new();
        for (step, seen) in scenario.steps.iter().zip(&self.steps) {
            text += &format!("[{}]\n", step.label);
            text.extend(seen.lines.iter().map(|line| format!("  {line}\n")));
        }
        text.extend(self.stats.iter().map(|line| format!("  stat {line}\n")));
        text.extend(self.admin.iter().map(|line| format!("  admin {line}\n")));
        text.extend(self.log.iter().map(|line| format!("  log {line}\n")));
        text
    }
}

pub(super) async fn run(
    scenario: &Scenario,
    program: &Path,
    split: Split,
    patience: Patience,
) -> Result<Report, NotStarted> {
    let mut running = start(scenario, program).await?;
    let mut mask = Mask::new(&scenario.masks);
    mask.port(running.addr().port(), "listener");
    mask.port(running.name_server().port(), "dns");
    for (at, upstream) in running.upstreams().iter().enumerate() {
        mask.port(upstream.port(), ["upstream", "upstream2"][at]);
    }
    let mut report = Report { steps: Vec::new(), stats: Vec::new(), admin: Vec::new(), log: Vec::new() };
    let mut probes = BTreeSet::new();
    for step in &scenario.steps {
        let mut seen = Seen::default();
        for _ in 0..step.times {
            seen = Seen::default();
            match act(step, &running, split, patience, &mut seen).await {
                Ok(Some(local)) => mask.port(local.port(), "client"),
                Ok(None) => {}
                // A reset is told by its kind alone: the words are the kernel's.
                Err(e) => seen.lines.push(format!("> (client: {:?})", e.kind())),
            }
            received(&running, scenario.probes.as_deref(), &mut seen, &mut probes);
        }
        seen.lines = seen.lines.iter().map(|line| mask.apply(line)).collect();
        if matches!(step.action, Action::Hosts(_)) {
            // Clusters come in no order; masked, since ports are others each time.
            seen.lines.sort();
        }
        report.steps.push(seen);
    }
    if !scenario.stats.is_empty() || !scenario.admin.is_empty() {
        tokio::time::sleep(patience.scale(60)).await;
    }
    for path in &scenario.admin {
        let answer = running.admin(path).await;
        report.admin.extend(answer.lines().map(|line| mask.apply(&visible(line))));
    }
    if !scenario.stats.is_empty() {
        let stats = running.stats().await;
        for name in &scenario.stats {
            let value = stats.iter().find(|(n, _)| n == name).map_or("(absent)", |(_, value)| value);
            report.stats.push(format!("{name}: {value}"));
        }
    }
    running.stop().await;
    let logs = std::iter::once("access.log").chain(scenario.logs.iter().map(String::as_str));
    let lines = logs.flat_map(|log| text_of(&running, log).lines().map(str::to_owned).collect::<Vec<_>>());
    report.log = lines.map(|line| mask.apply(&visible(&line))).collect();
    if scenario.sorted_log {
        report.log.sort();
    }
    report.log.extend(probes.iter().map(|probe| mask.apply(probe)));
    Ok(report)
}

async fn start(scenario: &Scenario, program: &Path) -> Result<Running, NotStarted> {
    let mut scripts = [
        match scenario.upstream {
            Kind::Http1 => http1(),
            Kind::Http2 => http2(),
            Kind::Refuse => refusing(),
            Kind::Close => closing(),
        },
        http1(),
    ];
    for (number, prefix, answer) in &scenario.responses {
        let script = std::mem::replace(&mut scripts[*number], refusing());
        scripts[*number] = script.answer(prefix, answer.clone());
    }
    let [first, second] = scripts;
    let mut builder = proxy(scenario.pieces.yaml()).program(program).argument("-l").argument("warn");
    builder = scenario.arguments.iter().fold(builder, |builder, argument| builder.argument(argument));
    builder = scenario.files.iter().fold(builder, |builder, (name, content)| builder.file(name, content));
    builder.upstream(first).upstream(second).names(&scenario.names).start().await
}

/// Puts the ports of the upstreams where a request names them.
fn with_ports(bytes: &[u8], running: &Running) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    // From the last to the first, since `$UPSTREAM` is a prefix of `$UPSTREAM2`.
    for (name, upstream) in ["$UPSTREAM", "$UPSTREAM2"].iter().zip(running.upstreams()).rev() {
        let port = upstream.port().to_string();
        while let Some(at) = bytes.windows(name.len()).position(|window| window == name.as_bytes()) {
            bytes.splice(at..at + name.len(), port.bytes());
        }
    }
    bytes
}

/// Does what the step says. Where it is a request, its own address is returned.
async fn act(
    step: &Step,
    running: &Running,
    split: Split,
    patience: Patience,
    seen: &mut Seen,
) -> io::Result<Option<SocketAddr>> {
    let to = step.to.as_ref().map_or_else(|| running.addr(), |name| running.listener(name));
    match &step.action {
        Action::Wait(conditions) => {
            wait(running, conditions, seen).await;
            Ok(None)
        }
        Action::Names(table) => {
            running.name_server().change(table);
            Ok(None)
        }
        Action::Hosts(pattern) => {
            let text = get(running.admin, "/clusters").await?.text();
            seen.lines.extend(text.lines().filter(|line| pattern.is_match(line)).map(|line| format!("> {line}")));
            Ok(None)
        }
        Action::Post(path) => {
            let request = format!("POST {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\n\r\n");
            let answer = fetch(running.admin, &request).await?;
            seen.lines.push(format!("> {}", answer.status()));
            Ok(None)
        }
        Action::Http1 { bytes, methods, tunnel, raw } => {
            let mut client = Client::connect(to, split).await?;
            let address = client.address();
            // The proxy may refuse and close before it has read everything.
            let _ = client.send(&with_ports(bytes, running)).await;
            if *raw {
                raw_responses(&mut client, methods, patience, seen).await?;
            } else {
                one_response(&mut client, &methods[0], tunnel.as_deref(), patience, seen).await?;
            }
            Ok(Some(address))
        }
        Action::Stream(bytes) => {
            let mut client = Client::connect(to, split).await?;
            let _ = client.send(bytes).await;
            let (answer, end) = client.until_quiet(patience.scale(300)).await?;
            let text = String::from_utf8_lossy(&answer).into_owned();
            let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
            let mut fields: Vec<_> = head.split("\r\n").map(|line| format!("> {}", visible(line))).collect();
            fields.get_mut(1..).unwrap_or_default().sort();
            seen.lines.append(&mut fields);
            seen.lines.extend([format!("> {}", visible(body)), format!("> {}", name(end))]);
            Ok(Some(client.address()))
        }
        Action::Tcp(moves) => {
            let client = TcpStream::connect(to).await?;
            client.set_nodelay(true)?;
            let address = client.local_addr()?;
            play(client, running, moves, patience, seen).await;
            Ok(Some(address))
        }
        Action::Udp(moves) => {
            udp::play(to, moves, patience.scale(300), &mut seen.lines).await?;
            Ok(None)
        }
        Action::Http2 { head, body, trailers } => {
            let mut client = H2Client::connect(to, split).await?;
            match client.request(head.clone(), body, trailers.clone()).await {
                Outcome::Response(message) => response(&message, seen),
                Outcome::Reset(reason) => seen.lines.push(format!("> reset {reason}")),
            }
            Ok(Some(client.address()))
        }
    }
}

/// Makes the moves of a client on a connection.
async fn play(client: TcpStream, running: &Running, moves: &[Move], patience: Patience, seen: &mut Seen) {
    let Ok(proxy) = client.peer_addr() else { return };
    let (mut from, mut to) = client.into_split();
    let mut kept = Vec::new();
    for next in moves {
        match next {
            // The proxy may have closed already: what comes then is seen by reading.
            Move::Send(bytes) => drop(to.write_all(bytes).await),
            Move::Bulk(length) => drop(to.write_all(&vec![b'x'; *length]).await),
            Move::Fin => drop(to.shutdown().await),
            Move::Reset => {
                let _ = from.as_ref().set_zero_linger();
                // Dropped, it would send a FIN first.
                to.forget();
                return;
            }
            Move::Read => seen.lines.push(read_until_quiet(&mut from, patience).await),
            Move::Drain => seen.lines.push(drain(&mut from).await),
            Move::File(name, place) => {
                let moved = std::fs::rename(running.dir().join(name), running.dir().join(place));
                seen.lines.extend(moved.err().map(|error| format!("> {name}: {error}")));
            }
            Move::Wait(condition) => wait(running, std::slice::from_ref(condition), seen).await,
            Move::Back(number) => {
                let (its_from, its_to) = &mut kept[*number];
                std::mem::swap(&mut from, its_from);
                std::mem::swap(&mut to, its_to);
            }
            Move::Another(ip) => match TcpStream::connect((ip.unwrap_or(proxy.ip()), proxy.port())).await {
                Ok(another) => {
                    let (its_from, its_to) = another.into_split();
                    kept.push((std::mem::replace(&mut from, its_from), std::mem::replace(&mut to, its_to)));
                }
                Err(error) => seen.lines.push(format!("> {:?}", error.kind())),
            },
            Move::Pause(time) => tokio::time::sleep(*time).await,
        }
    }
    // What is left of it ends in an orderly way.
    let _ = to.shutdown().await;
}

async fn read_until_quiet(from: &mut OwnedReadHalf, patience: Patience) -> String {
    let (mut all, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
    let end = loop {
        match tokio::time::timeout(patience.scale(300), from.read(&mut chunk)).await {
            Err(_) => break "open",
            Ok(Ok(0)) => break "end",
            Ok(Ok(n)) => all.extend_from_slice(&chunk[..n]),
            Ok(Err(_)) => break "reset",
        }
    };
    format!("> {} {end}", visible_body(&all))
}

async fn drain(from: &mut OwnedReadHalf) -> String {
    let (mut total, mut chunk) = (0, vec![0; 1 << 16]);
    loop {
        match tokio::time::timeout(STAT_DEADLINE, from.read(&mut chunk)).await {
            Err(_) => return format!("> {total} bytes open"),
            Ok(Ok(0)) => return format!("> {total} bytes end"),
            Ok(Ok(n)) => total += n,
            Ok(Err(_)) => return format!("> {total} bytes reset"),
        }
    }
}

/// Waits until all conditions hold at once, or says which do not.
async fn wait(running: &Running, conditions: &[Condition], seen: &mut Seen) {
    let until = Instant::now() + STAT_DEADLINE;
    loop {
        let stats: HashMap<_, _> = running.stats().await.into_iter().collect();
        let value = |c: &Condition| stats.get(&c.name).and_then(|value| value.parse().ok()).unwrap_or(0);
        let misses = |c: &&Condition| if c.at_least { value(c) < c.value } else { value(c) != c.value };
        let missed: Vec<_> =
            conditions.iter().filter(misses).map(|c| format!("> {} is {}", c.name, value(c))).collect();
        if missed.is_empty() || Instant::now() >= until {
            seen.lines.extend(missed);
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn one_response(
    client: &mut Client,
    method: &str,
    tunnel: Option<&[u8]>,
    patience: Patience,
    seen: &mut Seen,
) -> io::Result<()> {
    while let Some(message) = client.response(method).await? {
        let status = message.status();
        response(&message, seen);
        if let Some(text) = tunnel.filter(|_| status == 101 || (status == 200 && method == "CONNECT")) {
            client.send(text).await?;
            let echoed = client.raw(text.len()).await?;
            seen.lines.push(format!("> tunnel {}", visible_body(&echoed)));
            return Ok(());
        }
        if status == 101 || status >= 200 {
            let quiet = if announces_close(&message) { ANNOUNCED_CLOSE } else { patience.scale(30) };
            let end = client.end(quiet).await?;
            seen.lines.push(format!("> {}", name(end)));
            return Ok(());
        }
    }
    seen.lines.push("> closed without a response".to_owned());
    Ok(())
}

/// All responses until the proxy closes or says nothing more.
async fn raw_responses(client: &mut Client, methods: &[String], patience: Patience, seen: &mut Seen) -> io::Result<()> {
    let mut closing = false;
    for at in 0.. {
        let method = methods.get(at).map_or("GET", String::as_str);
        // Before the first response there is an upstream to wait for.
        let quiet = if closing { ANNOUNCED_CLOSE } else { patience.scale(if at == 0 { 300 } else { 120 }) };
        match tokio::time::timeout(quiet, client.response(method)).await {
            Err(_) => {
                seen.lines.push("> open".to_owned());
                return Ok(());
            }
            Ok(Ok(Some(message))) => {
                closing = announces_close(&message);
                response(&message, seen);
            }
            // Bytes that were not read when the proxy closed turn its FIN into RST: not a difference.
            Ok(Ok(None)) => break,
            Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionReset => break,
            Ok(Err(e)) => {
                seen.lines.push(format!("> left over: {}", visible(&e.to_string())));
                break;
            }
        }
    }
    seen.lines.push("> closed".to_owned());
    Ok(())
}

fn announces_close(message: &Message) -> bool {
    message.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"))
}

fn name(end: End) -> &'static str {
    match end {
        End::Open => "open",
        End::Closed | End::Reset => "closed",
    }
}

fn response(message: &Message, seen: &mut Seen) {
    seen.status = message.status();
    lines('>', "", message, seen);
}

fn received(running: &Running, probes_prefix: Option<&str>, seen: &mut Seen, probes: &mut BTreeSet<String>) {
    for (at, upstream) in running.upstreams().iter().enumerate() {
        for received in upstream.take_received() {
            if let What::Request(message) = &received.what
                && probes_prefix.is_some_and(|prefix| message.target().starts_with(prefix))
            {
                let mut probe = Seen::default();
                lines('<', ["up: ", "up2: "][at], message, &mut probe);
                probes.insert(probe.lines.join(" | "));
                continue;
            }
            seen.at_upstream += 1;
            match received.what {
                What::Request(message) => lines('<', ["up: ", "up2: "][at], &message, seen),
                What::Garbage(text) => seen.lines.push(format!("< garbage {}", visible(&text))),
            }
        }
    }
}

/// Fields are sorted by name, since their order is no contract; those of one name keep theirs.
fn lines(mark: char, prefix: &str, message: &Message, seen: &mut Seen) {
    seen.lines.push(format!("{mark} {prefix}{}", visible(&message.start)));
    for (kind, fields) in [("", &message.headers), ("trailer ", &message.trailers)] {
        let mut fields = fields.clone();
        fields.sort_by_key(|(name, _)| name.to_ascii_lowercase());
        seen.lines.extend(fields.iter().map(|(n, v)| format!("{mark} {kind}{}: {}", visible(n), visible_value(v))));
    }
    if message.framing != Framing::None || !message.body.is_empty() {
        seen.lines.push(format!("{mark} body {}", visible_body(&message.body)));
    }
    if message.truncated {
        seen.lines.push(format!("{mark} (truncated)"));
    }
}

/// The text of a file of the run, or of all whose names match: `*` stands for what no two runs have in common.
fn text_of(running: &Running, name: &str) -> String {
    let Some((before, after)) = name.split_once('*') else { return running.file(name) };
    let names = std::fs::read_dir(running.dir()).into_iter().flatten().flatten();
    let mut names: Vec<String> = names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(before) && name.ends_with(after))
        .collect();
    // By number, where they are numbers.
    names.sort_by_key(|name| (name.len(), name.clone()));
    names.iter().map(|name| running.file(name)).collect()
}
