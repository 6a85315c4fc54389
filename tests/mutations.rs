//! Good input, broken at random: requests, frames and bootstraps. None of it ends the process or another connection.

use crate::support::bootstrap::Pieces;
use crate::support::client::fetch;
use crate::support::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS, encode, literal};
use crate::support::proxy::{Running, binary, proxy};
use crate::support::upstream::http1;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Connections under way at once.
const AT_ONCE: usize = 16;

/// A small generator with a fixed start, so that a failure happens again (xorshift64*).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap_or(0) % limit
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// One to four changes of single bytes or short ranges.
fn mutate(seed: &[u8], dice: &mut Dice) -> Vec<u8> {
    const BYTES: &[u8] = b"\0\r\n\t :;,/%#?@\"\\\x7f\x80\xff09AaZ-_+.[]{}\x01\x0b\x1b";
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len().max(1)).min(bytes.len());
        let end = (at + 1 + dice.below(12)).min(bytes.len());
        match dice.below(6) {
            0 => bytes.insert(at, dice.one_of(BYTES)),
            1 if at < bytes.len() => bytes[at] = dice.one_of(BYTES),
            2 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let copied = bytes[at..end].to_vec();
                bytes.splice(at..at, copied);
            }
            _ => bytes.truncate(at),
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

fn http1_seeds() -> Vec<Vec<u8>> {
    [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /x?y=z HTTP/1.1\r\nHost: a.example:80\r\nContent-Length: 5\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: x\r\n\r\n5;a=b\r\nhello\r\n0\r\nx: y\r\n\r\n",
        "GET http://b/x HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 1.2.3.4, 5.6.7.8\r\nx-request-id: 1\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "PUT / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabcGET /two HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn http2_seeds() -> Vec<Vec<u8>> {
    let block = |fields: &[(&str, &str)]| -> Vec<u8> {
        fields.iter().flat_map(|(n, v)| literal(n.as_bytes(), v.as_bytes())).collect()
    };
    let get = block(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("cookie", "a=1")]);
    let post =
        block(&[(":method", "POST"), (":scheme", "http"), (":path", "/x"), (":authority", "a"), ("te", "trailers")]);
    let preface =
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), encode(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])].concat();
    let tail = |frames: &[Vec<u8>]| [preface.clone(), frames.concat()].concat();
    vec![
        tail(&[encode(HEADERS, END_HEADERS | END_STREAM, 1, &get), encode(6, 0, 0, &[7; 8])]),
        tail(&[
            encode(HEADERS, END_HEADERS, 1, &post),
            encode(DATA, 0, 1, b"hello"),
            encode(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x-late", "1")])),
        ]),
        tail(&[encode(HEADERS, END_STREAM, 1, &get[..10]), encode(9, END_HEADERS, 1, &get[10..])]),
        tail(&[encode(8, 0, 0, &[0, 0, 1, 0]), encode(HEADERS, END_HEADERS, 1, &get), encode(3, 0, 1, &[0, 0, 0, 8])]),
    ]
}

/// Sends `count` mutations of the seeds, each on a connection of its own.
async fn bombard(to: SocketAddr, seeds: Vec<Vec<u8>>, count: usize) {
    let (seeds, next) = (Arc::new(seeds), Arc::new(AtomicUsize::new(0)));
    let mut senders = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (seeds, next) = (seeds.clone(), next.clone());
        senders.spawn(async move {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= count {
                    return;
                }
                let mut dice = Dice::new(at as u64 + 1);
                let seed = &seeds[dice.below(seeds.len())];
                send(to, &mutate(seed, &mut dice)).await;
            }
        });
    }
    senders.join_all().await;
}

/// Writes all, ends the sending side, and reads until the proxy has nothing more to say.
async fn send(to: SocketAddr, bytes: &[u8]) {
    let Ok(mut stream) = TcpStream::connect(to).await else { return };
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_millis(200), stream.read_to_end(&mut answer)).await;
}

async fn is_unharmed(proxy: &mut Running) {
    let response = fetch(proxy.addr(), "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy answers");
    assert_eq!(response.status(), 200);
    assert!(proxy.stop().await.success(), "{}", proxy.log());
    assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
}

#[tokio::test]
async fn ten_thousand_mutated_requests_do_no_harm() {
    let hcm = "upgrade_configs: [{ upgrade_type: websocket }]\nnormalize_path: true\nmerge_slashes: true\n".to_owned();
    let mut proxy = proxy(Pieces { hcm, ..Pieces::default() }.yaml()).upstream(http1()).run().await;
    bombard(proxy.addr(), http1_seeds(), 6000).await;
    bombard(proxy.addr(), http2_seeds(), 4000).await;
    is_unharmed(&mut proxy).await;
}

/// Values that a field may not have expected.
const ODD_VALUES: &[&str] = &[
    "-1",
    "0",
    "18446744073709551616",
    "1e400",
    "\"\"",
    "null",
    "[]",
    "{}",
    "[[[[[[]]]]]]",
    "true",
    "\"\\0\"",
    "0.000000001s",
    "-5s",
    "315576000001s",
    "\"%%%REQ(\"",
    "\"(((\"",
    "*",
    "&a x",
    "*a",
    "!!binary x",
    "{\"@type\": x}",
    "\"\\ud800\"",
];

/// One to three changes of whole lines or values of a bootstrap.
fn mutate_yaml(text: &str, dice: &mut Dice) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..=dice.below(3) {
        let at = dice.below(lines.len());
        let line = lines[at].clone();
        match dice.below(8) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, line),
            2 => lines[at] = format!("  {line}"),
            3 => lines[at] = line.strip_prefix("  ").unwrap_or(&line).to_owned(),
            4 => lines[at] = line.replacen(':', "_x:", 1),
            5 => lines.truncate(at.max(1)),
            6 => {
                let other = lines[dice.below(lines.len())].clone();
                lines[at] = other;
            }
            _ => {
                let key = line.split_once(": ").map_or(line.clone(), |(key, _)| key.to_owned());
                lines[at] = format!("{key}: {}", dice.one_of(ODD_VALUES));
            }
        }
        if lines.is_empty() {
            break;
        }
    }
    lines.join("\n")
}

/// The bootstraps that a user can run, and one of this test.
fn bootstraps() -> Vec<String> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let files = std::fs::read_dir(examples).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    texts.chain([Pieces::default().yaml().replace("$UPSTREAM", "1")]).collect()
}

fn validates_or_refuses(folder: &Path, seeds: &[String], at: usize) {
    let mut dice = Dice::new(at as u64 + 1);
    let seed = &seeds[dice.below(seeds.len())];
    let file = folder.join(format!("{at}.yaml"));
    let yaml = mutate_yaml(seed, &mut dice);
    std::fs::write(&file, &yaml).expect("the test's folder is writable");
    let output = Command::new(binary()).args(["--mode", "validate", "-c"]).arg(&file).output();
    let output = output.expect("the binary can be run");
    let text = String::from_utf8_lossy(&output.stderr);
    let is_fine = matches!(output.status.code(), Some(0 | 1)) && !text.contains("panicked");
    assert!(is_fine, "{}\n{text}\n{yaml}", output.status);
}

#[test]
fn a_thousand_mutated_bootstraps_are_validated_or_refused() {
    let folder = std::env::temp_dir().join(format!("nuncio-mutations-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
    let (seeds, next) = (bootstraps(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let at @ 0..1000 = next.fetch_add(1, Ordering::Relaxed) {
                    validates_or_refuses(&folder, &seeds, at);
                }
            });
        }
    });
    let _ = std::fs::remove_dir_all(folder);
}
