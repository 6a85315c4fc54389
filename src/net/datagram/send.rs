use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use nuncio_filter_api::UdpSent;

use super::{Control, LONGEST, Name};

/// Sends datagrams to one place with few system calls: those of one length as one, which the kernel cuts up
/// (UDP_SEGMENT), and what is left together (sendmmsg).
pub struct Sender {
    vectors: Vec<libc::iovec>,
    groups: Vec<Group>,
    controls: Box<[Control]>,
    headers: Vec<libc::mmsghdr>,
    /// False once the kernel has said that it cannot.
    segments: bool,
}

/// Datagrams that the kernel gets as one message.
#[derive(Clone, Copy)]
struct Group {
    /// The first of them.
    start: usize,
    count: usize,
    bytes: usize,
}

/// Datagrams that one call sends at most: what the kernel makes of one buffer, in versions that are in use.
const BATCH: usize = 64;
/// What one message may hold, less room for headers.
const MOST_BYTES: usize = LONGEST - 48;

impl Default for Sender {
    fn default() -> Self {
        Self {
            vectors: Vec::with_capacity(BATCH),
            groups: Vec::with_capacity(BATCH),
            controls: vec![Control::EMPTY; BATCH].into(),
            headers: Vec::with_capacity(BATCH),
            segments: true,
        }
    }
}

impl Sender {
    /// Sends `payloads` to `to`, where the socket is not connected, as from the address `from`.
    pub fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        to: Option<SocketAddr>,
        from: Option<IpAddr>,
        payloads: &[&[u8]],
    ) -> UdpSent {
        let mut sent = UdpSent::default();
        if let ([payload], None) = (payloads, from) {
            // What is most often sent takes the shortest way: the kernel copies neither headers nor vectors.
            send_one(socket, to, payload, &mut sent);
            return sent;
        }
        for batch in payloads.chunks(BATCH) {
            self.group(batch, self.segments);
            self.send_groups(socket, to, from, batch, &mut sent);
        }
        sent
    }

    /// Puts datagrams into groups: of one length, but for a last one that is shorter.
    fn group(&mut self, payloads: &[&[u8]], join: bool) {
        self.groups.clear();
        let mut open: Option<Group> = None;
        for (at, payload) in payloads.iter().enumerate() {
            let fits = |group: &Group| {
                let segment = payloads[group.start].len();
                // The one before may have been shorter.
                let is_open = payloads[at - 1].len() == segment;
                is_open && !payload.is_empty() && payload.len() <= segment && group.bytes + payload.len() <= MOST_BYTES
            };
            match &mut open {
                Some(group) if join && fits(group) => {
                    group.count += 1;
                    group.bytes += payload.len();
                }
                _ => {
                    self.groups.extend(open.take());
                    open = Some(Group { start: at, count: 1, bytes: payload.len() });
                }
            }
        }
        self.groups.extend(open);
    }

    fn send_groups(
        &mut self,
        socket: BorrowedFd<'_>,
        to: Option<SocketAddr>,
        from: Option<IpAddr>,
        payloads: &[&[u8]],
        sent: &mut UdpSent,
    ) {
        self.vectors.clear();
        let vector =
            |payload: &&[u8]| libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
        self.vectors.extend(payloads.iter().map(vector));
        let name = to.map(Name::new);
        self.headers.clear();
        for (at, group) in self.groups.iter().enumerate() {
            let segment = (group.count > 1).then(|| payloads[group.start].len());
            let used = write_controls(&mut self.controls[at], segment, from);
            // SAFETY: zero is a value of each of its fields.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            if let Some((name, length)) = &name {
                header.msg_hdr.msg_name = std::ptr::from_ref(name).cast_mut().cast();
                header.msg_hdr.msg_namelen = *length;
            }
            header.msg_hdr.msg_iov = &raw mut self.vectors[group.start];
            header.msg_hdr.msg_iovlen = group.count;
            if used > 0 {
                header.msg_hdr.msg_control = self.controls[at].0.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = used;
            }
            self.headers.push(header);
        }
        let mut done = 0;
        while done < self.headers.len() {
            match send_some(socket, &mut self.headers[done..]) {
                Ok(count) => {
                    for group in &self.groups[done..done + count] {
                        sent.datagrams += group.count as u64;
                        sent.bytes += group.bytes as u64;
                    }
                    done += count;
                }
                // The device or the route takes no such message, but it may take the datagrams in it.
                Err(error) if self.groups[done].count > 1 && is_of_joining(&error) => {
                    self.segments &= error.raw_os_error() != Some(libc::EIO);
                    let Group { start, .. } = self.groups[done];
                    let rest = &payloads[start..];
                    self.group(rest, false);
                    return self.send_groups(socket, to, from, rest, sent);
                }
                // Nothing waits for room, and nothing is tried twice.
                Err(_) => {
                    sent.errors += self.groups[done].count as u64;
                    done += 1;
                }
            }
        }
    }
}

fn send_one(socket: BorrowedFd<'_>, to: Option<SocketAddr>, payload: &[u8], sent: &mut UdpSent) {
    let name = to.map(Name::new);
    let (address, length) = match &name {
        Some((name, length)) => (std::ptr::from_ref(name).cast::<libc::sockaddr>(), *length),
        None => (std::ptr::null(), 0),
    };
    let (bytes, flags) = (payload.as_ptr().cast(), libc::MSG_DONTWAIT);
    // SAFETY: the kernel reads as many bytes as the slice has, and as long an address as it is told.
    match unsafe { libc::sendto(socket.as_raw_fd(), bytes, payload.len(), flags, address, length) } {
        -1 => sent.errors += 1,
        _ => {
            sent.datagrams += 1;
            sent.bytes += payload.len() as u64;
        }
    }
}

/// udp(7), and what the kernel says where a segment does not fit the route or the device cannot make checksums.
fn is_of_joining(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP))
}

fn send_some(socket: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let count = headers.len() as libc::c_uint;
    // SAFETY: the headers point to names, control messages and payloads of the lengths that they say.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Writes control messages, and says how long they are together.
fn write_controls(control: &mut Control, segment: Option<usize>, from: Option<IpAddr>) -> usize {
    let mut used = 0;
    if let Some(segment) = segment {
        // Less than `MOST_BYTES`, since there are several.
        used += write_control(&mut control.0[used..], libc::SOL_UDP, libc::UDP_SEGMENT, segment as u16);
    }
    match from {
        Some(IpAddr::V4(ip)) => {
            let source = libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: libc::in_addr { s_addr: 0 } };
            used += write_control(&mut control.0[used..], libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        Some(IpAddr::V6(ip)) => {
            let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
            used += write_control(&mut control.0[used..], libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
        None => {}
    }
    used
}

fn write_control<T: Copy>(room: &mut [u8], level: libc::c_int, kind: libc::c_int, value: T) -> usize {
    let length = size_of::<T>() as libc::c_uint;
    // SAFETY: these only compute.
    let (whole, header) = unsafe { (libc::CMSG_SPACE(length) as usize, libc::CMSG_LEN(length) as usize) };
    assert!(whole <= room.len(), "a `Control` has room for the two messages that are written");
    // SAFETY: there is room for header and value, as was just seen; neither needs to be aligned.
    unsafe {
        let message = libc::cmsghdr { cmsg_len: header, cmsg_level: level, cmsg_type: kind };
        room.as_mut_ptr().cast::<libc::cmsghdr>().write_unaligned(message);
        room.as_mut_ptr().add(libc::CMSG_LEN(0) as usize).cast::<T>().write_unaligned(value);
    }
    whole
}
