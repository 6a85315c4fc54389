//! The format of the scenario files, and its parser.
//!
//! ```text
//! === name of the scenario
//! # a comment, before the first block
//! --- hcm | listener | network | filters | router | route_config | scoped_routes | vhosts | vhost | routes | cluster | clusters | listeners
//! --- bootstrap
//! YAML that takes its place in the bootstrap (support/bootstrap.rs); $UPSTREAM and $UPSTREAM2 are ports, $ECHO, $UDP_A
//! and $UDP_B those of hosts that send datagrams back (support/datagrams.rs), $UDP_NOBODY that of none, $TCP_ECHO that of
//! one that sends back whatever comes over TCP
//! --- access_log
//! a format string, logged to a file, whose lines are compared; or YAML of the field access_log, with $LOG
//! --- upstream h1 | h2 | refuse | close
//! --- response [upstream=2] [target=/prefix] [then=close|reset|hang|echo] [delay=MS] [times=N]
//! what the upstream answers (N times), as lines; a blank line ends the head
//! --- request [tunnel=TEXT] [times=N] [to=LISTENER] label
//! lines of an HTTP/1 request; a blank line ends the head, $LEN is the length of the body, ports are as in YAML
//! --- raw [methods=GET,HEAD] label
//! bytes as they are, line breaks of the file dropped
//! --- stream [to=LISTENER] [hello=NAME[;PROTOCOL,...]] label
//! bytes as they are, line breaks of the file dropped; whatever comes back is shown as it is; `hello` adds a ClientHello
//! that asks for this name and offers these protocols
//! --- tcp [to=LISTENER] label
//! what a client does on a connection: `send TEXT`, `bulk BYTES`, `fin`, `reset`, `read` (until it is quiet), `drain`
//! (until the end, counting bytes), `pause MS`, `another [IP]` (it goes on with another connection, perhaps to another
//! address, and keeps this one), `back N` (it goes on with the Nth that it keeps, and keeps this one), `move FROM TO`
//! (files in $DIR), `wait NAME = VALUE` (of a stat)
//! --- file NAME
//! a file in $DIR, with the placeholders of YAML
//! --- arguments
//! of the process
//! --- udp [to=LISTENER] label
//! what a client does with datagrams (udp.rs)
//! --- h2 label
//! `:pseudo: value` and header lines, `> name: value` for trailers, a blank line before the body
//! --- expect [status=400|501|none] [upstream=nothing|N] [end=closed] [or=envoy] reason
//! nuncio's own outcome of the step above, where it is deliberately not Envoy's
//! --- pending reason
//! nuncio still differs here: tolerated, and told; NUNCIO_PARITY=pending shows how
//! --- alone reason
//! Envoy cannot be asked here: nuncio is held against the outcomes that the steps state
//! --- dns
//! `NAME ANSWER` of the name server at port $DNS (support/name_server.rs); after a step, a change that is a step itself
//! --- wait label
//! `name = value` or `name >= value`, of stats that are waited for, as a step of its own
//! --- post PATH
//! a step of its own: a POST to the admin interface, whose status is shown
//! --- hosts PATTERN
//! a step of its own: the lines of `/clusters` that match
//! --- probes PREFIX
//! requests to upstreams whose target begins so are health checks: each kind of them is listed once, at the end
//! --- log FILE
//! a file in $DIR whose lines are compared at the end; `*` in its name stands for anything
//! --- stats
//! names whose values are compared at the end
//! --- admin
//! paths of the admin interface, whose answers are compared at the end
//! --- sorted_log
//! the lines of the access log may come in any order
//! --- mask
//! regex => replacement
//! ```
//!
//! In requests, responses and raw bytes the escapes of `escape.rs` hold.

use super::escape::unescape;
use super::hello::client_hello;
use super::udp;
use crate::support::bootstrap::Pieces;
use crate::support::name_server::{Table, table};
use crate::support::upstream::{Answer, Then};
use regex::Regex;
use std::net::IpAddr;
use std::time::Duration;

/// One bootstrap and what is done to it.
#[derive(Default)]
pub(super) struct Scenario {
    pub(super) name: String,
    pub(super) pieces: Pieces,
    pub(super) upstream: Kind,
    /// What the name server knows at first.
    pub(super) names: Table,
    /// Number of the upstream (0 or 1), prefix of the target, answer.
    pub(super) responses: Vec<(usize, String, Answer)>,
    pub(super) steps: Vec<Step>,
    pub(super) stats: Vec<String>,
    pub(super) admin: Vec<String>,
    pub(super) sorted_log: bool,
    pub(super) masks: Vec<(Regex, String)>,
    /// Prefix of the targets of health checks.
    pub(super) probes: Option<String>,
    /// Files whose lines are compared, beside the access log.
    pub(super) logs: Vec<String>,
    /// Name and content of files in $DIR.
    pub(super) files: Vec<(String, String)>,
    /// Of the process.
    pub(super) arguments: Vec<String>,
    /// Why a difference is tolerated for now.
    pub(super) pending: Option<String>,
    /// Envoy is not asked.
    pub(super) alone: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Http1,
    Http2,
    Refuse,
    /// Connections are taken and closed.
    Close,
}

pub(super) struct Step {
    pub(super) label: String,
    pub(super) action: Action,
    /// It is done so often; what is seen is that of the last time.
    pub(super) times: usize,
    /// The listener that is connected to; none: the first.
    pub(super) to: Option<String>,
    pub(super) expect: Option<Expect>,
}

pub(super) enum Action {
    Http1 {
        bytes: Vec<u8>,
        methods: Vec<String>,
        tunnel: Option<Vec<u8>>,
        raw: bool,
    },
    Stream(Vec<u8>),
    /// What is done on a connection, line by line.
    Tcp(Vec<Move>),
    /// What is done with datagrams, line by line.
    Udp(Vec<udp::Move>),
    Http2 {
        head: http::Request<()>,
        body: Vec<u8>,
        trailers: Option<http::HeaderMap>,
    },
    Wait(Vec<Condition>),
    /// Lines of `/clusters`.
    Hosts(Regex),
    /// Something that the admin interface is told.
    Post(String),
    /// The name server says something else from then on.
    Names(Table),
}

/// What a client does on a connection.
pub(super) enum Move {
    Send(Vec<u8>),
    /// So many bytes of one value.
    Bulk(usize),
    /// It sends no more.
    Fin,
    /// It leaves with a reset.
    Reset,
    /// It reads until nothing comes any more.
    Read,
    /// It reads until the end, and tells how many bytes there were.
    Drain,
    Pause(Duration),
    /// It makes another connection, on which it goes on; it keeps those before.
    Another(Option<IpAddr>),
    /// It goes on with one of those that it keeps.
    Back(usize),
    /// A file takes the place of another.
    File(String, String),
    Wait(Condition),
}

/// A value of a stat that is waited for.
pub(super) struct Condition {
    pub(super) name: String,
    pub(super) value: u64,
    /// More will do as well.
    pub(super) at_least: bool,
}

/// An outcome of our own.
#[derive(Clone, Default)]
pub(super) struct Expect {
    /// Any of these as the status of the last response; 0 is no response.
    pub(super) status: Vec<u16>,
    /// How many requests reach an upstream.
    pub(super) upstream: Option<usize>,
    pub(super) end: Option<String>,
    /// Envoy's outcome is right as well.
    pub(super) or_envoy: bool,
}

pub(super) fn parse(text: &str) -> Result<Vec<Scenario>, String> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    let mut block: Option<(&str, Vec<&str>)> = None;
    for line in text.lines().chain(["=== end"]) {
        let head = line.starts_with("--- ") || line.starts_with("=== ");
        if !head {
            if let Some((_, lines)) = &mut block {
                lines.push(line);
            }
            continue;
        }
        if let (Some((header, lines)), Some(scenario)) = (block.take(), scenarios.last_mut()) {
            scenario.block(header, &lines).map_err(|e| format!("{}: --- {header}: {e}", scenario.name))?;
        }
        match line.strip_prefix("=== ") {
            Some(name) => scenarios.push(Scenario { name: name.to_owned(), ..Scenario::default() }),
            None => block = Some((&line[4..], Vec::new())),
        }
    }
    scenarios.pop();
    Ok(scenarios)
}

/// The words `key=value` of a block's header, and all other words as its label.
struct Words<'a> {
    options: Vec<(&'a str, &'a str)>,
    label: String,
}

impl<'a> Words<'a> {
    fn new(words: &'a str, known: &[&str]) -> Self {
        let mut options = Vec::new();
        let mut label = Vec::new();
        for word in words.split_whitespace() {
            match word.split_once('=') {
                Some((key, value)) if known.contains(&key) => options.push((key, value)),
                _ => label.push(word),
            }
        }
        Self { options, label: label.join(" ") }
    }

    fn option(&self, key: &str) -> Option<&'a str> {
        self.options.iter().find(|(k, _)| *k == key).map(|(_, value)| *value)
    }
}

impl Scenario {
    fn block(&mut self, header: &str, lines: &[&str]) -> Result<(), String> {
        let (kind, words) = header.split_once(' ').unwrap_or((header, ""));
        let text = lines.join("\n") + "\n";
        if let Some(piece) = self.piece(kind) {
            *piece += &text;
            return Ok(());
        }
        match kind {
            "access_log" => self.pieces.hcm += &access_log(&text),
            "upstream" => self.upstream(words)?,
            "response" => self.response(words, lines)?,
            "request" => self.request(words, lines)?,
            "raw" => self.raw(words, lines)?,
            "stream" => {
                let words = Words::new(words, &["to", "hello"]);
                let mut bytes = unescape(&lines.concat())?;
                if let Some(hello) = words.option("hello") {
                    let (name, protocols) = hello.split_once(';').unwrap_or((hello, ""));
                    bytes.extend(client_hello(&unescape(name)?, protocols.split(',').filter(|p| !p.is_empty())));
                }
                let (action, to) = (Action::Stream(bytes), words.option("to").map(str::to_owned));
                self.steps.push(Step { label: words.label, action, times: 1, to, expect: None });
            }
            "tcp" => {
                let moves = lines.iter().filter(|line| !line.trim().is_empty()).map(|line| a_move(line));
                let action = Action::Tcp(moves.collect::<Result<_, _>>()?);
                let words = Words::new(words, &["to"]);
                let to = words.option("to").map(str::to_owned);
                self.steps.push(Step { label: words.label, action, times: 1, to, expect: None });
            }
            "udp" => {
                let words = Words::new(words, &["to"]);
                let (action, to) = (Action::Udp(udp::parse(lines)?), words.option("to").map(str::to_owned));
                self.steps.push(Step { label: words.label, action, times: 1, to, expect: None });
            }
            "h2" => self.steps.push(h2_step(words, lines)?),
            "dns" if self.steps.is_empty() => self.names.extend(table(&text)?),
            "dns" => self.steps.push(Step {
                label: format!("dns {words}"),
                action: Action::Names(table(&text)?),
                times: 1,
                to: None,
                expect: None,
            }),
            "wait" => self.wait(words, lines)?,
            "hosts" => self.steps.push(Step {
                label: format!("hosts {words}"),
                action: Action::Hosts(Regex::new(words).map_err(|e| e.to_string())?),
                times: 1,
                to: None,
                expect: None,
            }),
            "post" => self.steps.push(Step {
                label: format!("post {words}"),
                action: Action::Post(words.to_owned()),
                times: 1,
                to: None,
                expect: None,
            }),
            "probes" => self.probes = Some(words.to_owned()),
            "file" => self.files.push((words.to_owned(), text)),
            "arguments" => self.arguments.extend(text.split_whitespace().map(str::to_owned)),
            "log" => self.logs.push(words.to_owned()),
            "expect" => self.expect(words)?,
            "stats" => self.stats.extend(words_of(lines)),
            "admin" => self.admin.extend(words_of(lines)),
            "sorted_log" => self.sorted_log = true,
            "mask" => self.mask(lines)?,
            "alone" => self.alone = true,
            "pending" => self.pending = Some(words.to_owned()),
            unknown => return Err(format!("no such block as {unknown}")),
        }
        Ok(())
    }

    fn piece(&mut self, kind: &str) -> Option<&mut String> {
        let pieces = &mut self.pieces;
        Some(match kind {
            "hcm" => &mut pieces.hcm,
            "network" => &mut pieces.network,
            "listener" => &mut pieces.listener,
            "filters" => &mut pieces.filters,
            "router" => &mut pieces.router,
            "route_config" => &mut pieces.route_config,
            "scoped_routes" => &mut pieces.scoped_routes,
            "vhosts" => &mut pieces.vhosts,
            "vhost" => &mut pieces.vhost,
            "routes" => &mut pieces.routes,
            "cluster" => &mut pieces.cluster,
            "listeners" => &mut pieces.listeners,
            "clusters" => &mut pieces.clusters,
            "bootstrap" => &mut pieces.bootstrap,
            _ => return None,
        })
    }

    fn upstream(&mut self, kind: &str) -> Result<(), String> {
        self.upstream = match kind {
            "h1" => Kind::Http1,
            "h2" => Kind::Http2,
            "refuse" => Kind::Refuse,
            "close" => Kind::Close,
            other => return Err(format!("no such upstream as {other}")),
        };
        self.pieces.http2_upstream = self.upstream == Kind::Http2;
        Ok(())
    }

    fn response(&mut self, words: &str, lines: &[&str]) -> Result<(), String> {
        let words = Words::new(words, &["upstream", "target", "then", "delay", "times"]);
        let mut answer = Answer::bytes(if lines.is_empty() { Vec::new() } else { message(lines)? });
        answer.then = match words.option("then") {
            None => Then::Keep,
            Some("close") => Then::Close,
            Some("reset") => Then::Reset,
            Some("hang") => Then::Hang,
            Some("echo") => Then::Echo,
            Some(other) => return Err(format!("then={other}")),
        };
        if let Some(delay) = words.option("delay") {
            answer.delay = Duration::from_millis(delay.parse().map_err(|e| format!("delay: {e}"))?);
        }
        if let Some(times) = words.option("times") {
            answer.times = times.parse().map_err(|e| format!("times: {e}"))?;
        }
        let number = usize::from(words.option("upstream") == Some("2"));
        self.responses.push((number, words.option("target").unwrap_or("").to_owned(), answer));
        Ok(())
    }

    fn request(&mut self, words: &str, lines: &[&str]) -> Result<(), String> {
        let words = Words::new(words, &["tunnel", "times", "to"]);
        let times = words.option("times").map_or(Ok(1), str::parse).map_err(|e| format!("times: {e}"))?;
        let first = lines.first().copied().unwrap_or_default();
        let method = first.split(' ').next().unwrap_or_default().to_owned();
        self.steps.push(Step {
            label: if words.label.is_empty() { first.to_owned() } else { words.label.clone() },
            action: Action::Http1 {
                bytes: message(lines)?,
                methods: vec![method],
                tunnel: words.option("tunnel").map(unescape).transpose()?,
                raw: false,
            },
            times,
            to: words.option("to").map(str::to_owned),
            expect: None,
        });
        Ok(())
    }

    fn raw(&mut self, words: &str, lines: &[&str]) -> Result<(), String> {
        let words = Words::new(words, &["methods"]);
        let methods = words.option("methods").unwrap_or("GET").split(',').map(str::to_owned).collect();
        let text = lines.concat();
        let label = if words.label.is_empty() { text.chars().take(70).collect() } else { words.label };
        let action = Action::Http1 { bytes: unescape(&text)?, methods, tunnel: None, raw: true };
        self.steps.push(Step { label, action, times: 1, to: None, expect: None });
        Ok(())
    }

    fn wait(&mut self, label: &str, lines: &[&str]) -> Result<(), String> {
        let mut conditions = Vec::new();
        for line in lines.iter().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            conditions.push(condition(line)?);
        }
        self.steps.push(Step {
            label: format!("wait {label}"),
            action: Action::Wait(conditions),
            times: 1,
            to: None,
            expect: None,
        });
        Ok(())
    }

    fn expect(&mut self, words: &str) -> Result<(), String> {
        let words = Words::new(words, &["status", "upstream", "end", "or"]);
        let mut expect = Expect { or_envoy: words.option("or") == Some("envoy"), ..Expect::default() };
        for status in words.option("status").into_iter().flat_map(|s| s.split('|')) {
            expect.status.push(if status == "none" {
                0
            } else {
                status.parse().map_err(|e| format!("{status}: {e}"))?
            });
        }
        expect.upstream = match words.option("upstream") {
            None => None,
            Some("nothing") => Some(0),
            Some(n) => Some(n.parse().map_err(|e| format!("{n}: {e}"))?),
        };
        expect.end = words.option("end").map(str::to_owned);
        if words.label.is_empty() {
            return Err("a deviation from Envoy says why".to_owned());
        }
        self.steps.last_mut().ok_or("no step above")?.expect = Some(expect);
        Ok(())
    }

    fn mask(&mut self, lines: &[&str]) -> Result<(), String> {
        for line in lines.iter().filter(|line| !line.trim().is_empty()) {
            let (pattern, name) = line.split_once(" => ").ok_or("a mask is `regex => replacement`")?;
            self.masks.push((Regex::new(pattern).map_err(|e| e.to_string())?, name.to_owned()));
        }
        Ok(())
    }
}

fn condition(line: &str) -> Result<Condition, String> {
    let (name, operator, value) = match line.split_whitespace().collect::<Vec<_>>()[..] {
        [name, operator @ ("=" | ">="), value] => (name, operator, value),
        _ => return Err(format!("not `name = value`: {line}")),
    };
    let value = value.parse().map_err(|e| format!("{value}: {e}"))?;
    Ok(Condition { name: name.to_owned(), value, at_least: operator == ">=" })
}

fn a_move(line: &str) -> Result<Move, String> {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let number = || rest.parse().map_err(|e| format!("{line}: {e}"));
    Ok(match verb {
        "send" => Move::Send(unescape(rest)?),
        "bulk" => Move::Bulk(number()?),
        "fin" => Move::Fin,
        "reset" => Move::Reset,
        "read" => Move::Read,
        "another" if rest.is_empty() => Move::Another(None),
        "another" => Move::Another(Some(rest.parse().map_err(|e| format!("{line}: {e}"))?)),
        "back" => Move::Back(number()?),
        "move" => {
            let (from, to) = rest.split_once(' ').ok_or("two names are wanted")?;
            Move::File(from.to_owned(), to.to_owned())
        }
        "wait" => Move::Wait(condition(rest)?),
        "drain" => Move::Drain,
        "pause" => Move::Pause(Duration::from_millis(number()? as u64)),
        other => return Err(format!("no such move as {other}")),
    })
}

fn words_of(lines: &[&str]) -> impl Iterator<Item = String> {
    lines.iter().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

fn access_log(text: &str) -> String {
    if text.contains("typed_config") {
        let indented: String = text.lines().map(|line| format!("  {line}\n")).collect();
        return format!("access_log:\n{}", indented.replace("$LOG", "$DIR/access.log"));
    }
    let format = text.trim_end().replace('\\', "\\\\").replace('"', "\\\"");
    format!(
        "access_log:\n- name: file\n  typed_config:\n    \
         \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    \
         path: $DIR/access.log\n    log_format: {{ text_format_source: {{ inline_string: \"{format}\\n\" }} }}\n"
    )
}

/// Lines up to the first blank one end in CRLF; the rest is the body, its lines joined by LF.
fn message(lines: &[&str]) -> Result<Vec<u8>, String> {
    let blank = lines.iter().position(|line| line.is_empty()).unwrap_or(lines.len());
    let body = unescape(lines.get(blank + 1..).unwrap_or_default().join("\n").trim_end_matches('\n'))?;
    let head = lines[..blank].join("\r\n").replace("$LEN", &body.len().to_string());
    let mut bytes = unescape(&head)?;
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

fn h2_step(label: &str, lines: &[&str]) -> Result<Step, String> {
    let blank = lines.iter().position(|line| line.is_empty()).unwrap_or(lines.len());
    let body = unescape(lines.get(blank + 1..).unwrap_or_default().join("\n").trim_end_matches('\n'))?;
    let (mut request, mut trailers) = (http::Request::builder(), http::HeaderMap::new());
    let (mut scheme, mut authority, mut path) = ("http", "a", "/");
    for line in &lines[..blank] {
        let (in_trailers, line) = match line.strip_prefix("> ") {
            Some(rest) => (true, rest),
            None => (false, *line),
        };
        let at = line[1..].find(": ").ok_or_else(|| format!("not a header: {line}"))? + 1;
        let (name, value) = (&line[..at], &line[at + 2..]);
        match name {
            ":method" => request = request.method(value),
            ":scheme" => scheme = value,
            ":authority" => authority = value,
            ":path" => path = value,
            ":protocol" => request = request.extension(h2::ext::Protocol::from(value)),
            _ if in_trailers => {
                let name = http::HeaderName::from_bytes(name.as_bytes()).map_err(|e| e.to_string())?;
                trailers.append(name, value.parse().map_err(|_| format!("not a value: {value}"))?);
            }
            _ => request = request.header(name, unescape(value)?),
        }
    }
    let request = request.version(http::Version::HTTP_2).uri(format!("{scheme}://{authority}{path}"));
    let head = request.body(()).map_err(|e| e.to_string())?;
    let label = if label.is_empty() { format!("{} {path} over HTTP/2", head.method()) } else { label.to_owned() };
    let trailers = (!trailers.is_empty()).then_some(trailers);
    Ok(Step { label, action: Action::Http2 { head, body, trailers }, times: 1, to: None, expect: None })
}

#[test]
fn a_scenario_file_is_read_block_by_block() {
    let text = "=== one\n# why\n--- hcm\nvia: x\n--- request\nPOST / HTTP/1.1\ncontent-length: $LEN\n\nabc\n\
                --- expect status=400|none upstream=nothing because\n=== two\n--- h2\n:path: /x\na: b\n";
    let scenarios = parse(text).expect("well-formed");
    assert_eq!(scenarios.len(), 2);
    assert_eq!(scenarios[0].pieces.hcm, "via: x\n");
    let Action::Http1 { bytes, .. } = &scenarios[0].steps[0].action else { panic!("an HTTP/1 step") };
    assert_eq!(bytes, b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc");
    let expect = scenarios[0].steps[0].expect.clone().expect("has one");
    assert_eq!((expect.status, expect.upstream), (vec![400, 0], Some(0)));
    assert!(matches!(&scenarios[1].steps[0].action, Action::Http2 { head, .. } if head.uri().path() == "/x"));
}
