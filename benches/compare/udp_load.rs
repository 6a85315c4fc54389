//! Load for the works of `benches/compare/run` that are of datagrams: `udp_load serve PORT` sends back whatever comes,
//! `udp_load load PORT SECONDS CLIENTS WINDOW` has each client send so many datagrams at once and wait for the answers, and
//! prints how many came back, how many did not, and in how many microseconds 99 of 100 rounds were done.
//!
//! Lengths differ from one datagram to the next, so that the kernel gets and gives each of them by itself, as it does with
//! those of clients of other hosts.

use nuncio_net::{Receiver, Sender};
use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|n| n.parse::<u64>().ok()).expect("a number");
    match arguments.first().map(String::as_str) {
        Some("serve") => serve(number(1) as u16),
        Some("load") => load(number(1) as u16, Duration::from_secs(number(2)), number(3) as usize, number(4) as usize),
        _ => panic!("udp_load serve PORT, or udp_load load PORT SECONDS CLIENTS WINDOW"),
    }
}

/// Waits until something can be received.
fn wait(socket: &UdpSocket) {
    // Whatever it is: `receive` tells.
    let _ = socket.peek_from(&mut [0; 1]);
}

fn serve(port: u16) {
    let socket = UdpSocket::bind(("127.0.0.1", port)).expect("the port is free");
    let (mut receiver, mut sender) = (Receiver::for_single(2048), Sender::default());
    loop {
        let Ok(count) = receiver.receive(socket.as_fd()) else {
            wait(&socket);
            continue;
        };
        let mut next = 0;
        while next < count {
            let peer = receiver.get(next).peer;
            let end = (next..count).find(|at| receiver.get(*at).peer != peer).unwrap_or(count);
            let payloads: Vec<&[u8]> = (next..end).map(|at| receiver.get(at).bytes).collect();
            sender.send(socket.as_fd(), peer, None, &payloads);
            next = end;
        }
    }
}

fn load(port: u16, time: Duration, clients: usize, window: usize) {
    let sockets: Vec<UdpSocket> = (0..clients)
        .map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
            socket.connect(("127.0.0.1", port)).expect("it is an address");
            socket.set_read_timeout(Some(Duration::from_millis(20))).expect("it is no zero");
            socket
        })
        .collect();
    let bytes = vec![7; 100 + window];
    let payloads: Vec<&[u8]> = (0..window).map(|at| &bytes[..100 + at]).collect();
    let (mut receiver, mut sender) = (Receiver::for_single(2048), Sender::default());
    let (mut answered, mut lost, mut rounds) = (0, 0, Vec::new());
    let start = Instant::now();
    while start.elapsed() < time {
        let begun = Instant::now();
        for socket in &sockets {
            sender.send(socket.as_fd(), None, None, &payloads);
        }
        for socket in &sockets {
            let mut missing = window;
            // What is there is taken before anything is waited for: to be woken costs more than all else here.
            loop {
                missing -= receiver.receive(socket.as_fd()).unwrap_or(0).min(missing);
                if missing == 0 || socket.peek(&mut [0; 1]).is_err() {
                    break;
                }
            }
            answered += window - missing;
            lost += missing;
        }
        rounds.push(begun.elapsed().as_micros());
    }
    rounds.sort_unstable();
    let p99 = rounds.get(rounds.len() * 99 / 100).copied().unwrap_or(0);
    let seconds = start.elapsed().as_secs_f64();
    let _ = writeln!(std::io::stdout(), "{answered} answered, {lost} lost, {p99} us, {seconds:.3} s");
}
