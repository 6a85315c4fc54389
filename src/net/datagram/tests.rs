use std::net::UdpSocket;
use std::os::fd::AsFd;

use super::*;

fn pair() -> (UdpSocket, UdpSocket) {
    let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    a.connect(b.local_addr().unwrap()).unwrap();
    (a, b)
}

fn receive_all(receiver: &mut Receiver, socket: &UdpSocket) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Ok(count) = receiver.receive(socket.as_fd()) {
        for slot in 0..count {
            all.extend(receiver.get(slot).datagrams().map(<[u8]>::to_vec));
        }
    }
    all
}

#[test]
fn datagrams_of_any_lengths_arrive_as_they_were_sent() {
    let (a, b) = pair();
    let payloads: Vec<Vec<u8>> = [3, 3, 3, 2, 3, 0, 0, 5, 1400, 1400, 7, 7, 9].map(|len| vec![len as u8; len]).into();
    let slices: Vec<&[u8]> = payloads.iter().map(|payload| &payload[..]).collect();
    let sent = Sender::default().send(a.as_fd(), None, None, &slices);
    let bytes: usize = slices.iter().map(|payload| payload.len()).sum();
    assert_eq!((sent.datagrams, sent.bytes, sent.errors), (slices.len() as u64, bytes as u64, 0));
    assert_eq!(receive_all(&mut Receiver::for_single(1500), &b), payloads);
}

#[test]
fn what_the_kernel_has_joined_is_told_apart() {
    let (a, b) = pair();
    crate::option::set_flag(&b, libc::SOL_UDP, libc::UDP_GRO, true).unwrap();
    let payloads: Vec<&[u8]> = vec![b"abc", b"def", b"gh"];
    Sender::default().send(a.as_fd(), None, None, &payloads);
    assert_eq!(receive_all(&mut Receiver::for_joined(), &b), payloads);
}

#[test]
fn more_datagrams_than_one_call_takes_are_sent_in_several() {
    let (a, b) = pair();
    let payloads: Vec<&[u8]> = vec![b"x"; 150];
    assert_eq!(Sender::default().send(a.as_fd(), None, None, &payloads).datagrams, 150);
    assert_eq!(receive_all(&mut Receiver::for_single(1500), &b).len(), 150);
}

#[test]
fn a_datagram_that_does_not_fit_is_told_of() {
    let (a, b) = pair();
    a.send(&[1; 20]).unwrap();
    let mut receiver = Receiver::for_single(10);
    assert_eq!(receiver.receive(b.as_fd()).unwrap(), 1);
    assert!(receiver.get(0).is_truncated);
}

#[test]
fn one_that_is_too_long_to_be_sent_is_an_error_and_the_others_are_sent() {
    let (a, b) = pair();
    let long = vec![0; 65_535];
    let sent = Sender::default().send(a.as_fd(), None, None, &[b"a", &long, b"b"]);
    assert_eq!((sent.datagrams, sent.errors), (2, 1));
    assert_eq!(receive_all(&mut Receiver::for_single(1500), &b), [b"a", b"b"]);
}

#[test]
fn both_ends_of_a_datagram_to_a_wildcard_are_known() {
    for (wildcard, to) in [("0.0.0.0:0", "127.0.0.2"), ("[::]:0", "::1")] {
        let socket = UdpSocket::bind(wildcard).unwrap();
        crate::option::set_flag(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, true).unwrap();
        let _ = crate::option::set_flag(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, true);
        let to = SocketAddr::new(to.parse().unwrap(), socket.local_addr().unwrap().port());
        let client = UdpSocket::bind(SocketAddr::new(to.ip(), 0)).unwrap();
        client.send_to(b"hi", to).unwrap();
        let mut receiver = Receiver::for_single(1500);
        receiver.receive(socket.as_fd()).unwrap();
        let received = receiver.get(0);
        assert_eq!((received.peer, received.local), (client.local_addr().ok(), Some(to.ip())));
        Sender::default().send(socket.as_fd(), received.peer, received.local, &[b"ho"]);
        assert_eq!(client.recv_from(&mut [0; 8]).unwrap(), (2, to));
    }
}
