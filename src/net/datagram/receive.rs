use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use nuncio_config::listener::UdpSocketConfig;

use super::{Control, LONGEST, Name};

/// Buffers for what several datagrams bring; one worker uses them over and over.
pub struct Receiver {
    slot: usize,
    bytes: Box<[u8]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
    /// Point into `bytes`.
    vectors: Box<[libc::iovec]>,
    /// Point into all the others.
    headers: Box<[libc::mmsghdr]>,
    /// Headers that the last call has changed.
    used: usize,
    /// The room for an address: none where it is known who sends.
    name_length: libc::socklen_t,
}

/// What one slot has received: a datagram, or several of one sender that the kernel has joined.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// All their bytes.
    pub bytes: &'a [u8],
    /// The length of each but the last, where there are several.
    pub segment: Option<usize>,
    /// Who sent them.
    pub peer: Option<SocketAddr>,
    /// Where they were sent to, where the socket was asked to tell.
    pub local: Option<IpAddr>,
    /// Some did not fit into the slot.
    pub is_truncated: bool,
    /// Datagrams that the kernel had no room for since the socket was made, where it was asked to tell and there were
    /// any.
    pub overflowed: Option<u32>,
}

/// What the control messages of a datagram tell.
#[derive(Default)]
struct Told {
    segment: Option<usize>,
    local: Option<IpAddr>,
    overflowed: Option<u32>,
}

/// Datagrams that one call takes at most, where the kernel joins none.
const SLOTS: usize = 64;
/// Where it joins them, a slot holds as many.
const GRO_SLOTS: usize = 16;

// === impl Receiver ===

impl Receiver {
    /// Buffers for what a socket with this configuration brings.
    pub fn of(config: &UdpSocketConfig) -> Self {
        if config.prefers_gro { Self::for_joined() } else { Self::for_single(config.max_datagram) }
    }

    /// As `of`, for sockets that one peer alone sends to: who sent is not told.
    pub fn of_connected(config: &UdpSocketConfig) -> Self {
        let mut receiver = Self::of(config);
        receiver.name_length = 0;
        receiver.headers.iter_mut().for_each(|header| header.msg_hdr.msg_name = std::ptr::null_mut());
        receiver
    }

    /// Buffers for datagrams of at most `longest` bytes, one in each slot.
    pub fn for_single(longest: usize) -> Self {
        Self::new(longest, SLOTS)
    }

    /// Buffers for datagrams that the kernel may join.
    pub(crate) fn for_joined() -> Self {
        Self::new(LONGEST, GRO_SLOTS)
    }

    fn new(slot: usize, count: usize) -> Self {
        // The pages of what is not written to are not there.
        let mut bytes = vec![0; slot * count].into_boxed_slice();
        let mut names = vec![Name::EMPTY; count].into_boxed_slice();
        let mut controls = vec![Control::EMPTY; count].into_boxed_slice();
        let vectors: Vec<_> = bytes
            .chunks_exact_mut(slot)
            .map(|slot| libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() })
            .collect();
        let mut vectors = vectors.into_boxed_slice();
        let headers = names.iter_mut().zip(controls.iter_mut()).zip(vectors.iter_mut());
        let headers = headers.map(|((name, control), vector)| {
            // SAFETY: zero is a value of each of its fields, of which some are the padding of the platform.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header
        });
        let headers = headers.collect();
        let name_length = size_of::<Name>() as libc::socklen_t;
        Self { slot, bytes, names, controls, vectors, headers, used: count, name_length }
    }

    /// Receives what is there, and says how many slots it has filled. Where that is less than [`Self::slots`] there was
    /// no more.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        for header in &mut self.headers[..self.used] {
            header.msg_hdr.msg_namelen = self.name_length;
            header.msg_hdr.msg_controllen = size_of::<Control>();
            header.msg_hdr.msg_flags = 0;
        }
        let count = self.headers.len() as libc::c_uint;
        // SAFETY: the headers point to buffers of the lengths that they say, which live as long as this does.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        match usize::try_from(received) {
            Ok(received) => {
                self.used = received;
                Ok(received)
            }
            Err(_) => {
                // Whatever the kernel has left in them, all are set anew.
                self.used = self.headers.len();
                Err(io::Error::last_os_error())
            }
        }
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.headers.len()
    }

    /// What the slot numbered `at` has received in the last call, which filled it.
    pub fn get(&self, at: usize) -> Received<'_> {
        let header = &self.headers[at];
        let start = at * self.slot;
        let length = (header.msg_len as usize).min(self.slot);
        let Told { segment, local, overflowed } = self.read_controls(at);
        let is_truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        Received {
            bytes: &self.bytes[start..start + length],
            segment: segment.filter(|segment| *segment > 0 && *segment < length),
            peer: self.names[at].get(header.msg_hdr.msg_namelen),
            local,
            is_truncated,
            overflowed,
        }
    }

    fn read_controls(&self, at: usize) -> Told {
        let header = &self.headers[at].msg_hdr;
        debug_assert!(std::ptr::eq(header.msg_control.cast_const().cast(), &raw const self.controls[at]));
        debug_assert!(std::ptr::eq(header.msg_iov, &raw const self.vectors[at]));
        let mut told = Told::default();
        if header.msg_controllen == 0 {
            return told;
        }
        // SAFETY: the kernel has written whole control messages into the buffer that the header points to, and their
        // length into the header; what is read of each is no longer than the kernel makes messages of its type.
        unsafe {
            let mut message = libc::CMSG_FIRSTHDR(header);
            while let Some(control) = message.as_ref() {
                let data = libc::CMSG_DATA(message);
                match (control.cmsg_level, control.cmsg_type) {
                    (libc::SOL_UDP, libc::UDP_GRO) => {
                        told.segment = usize::try_from(data.cast::<libc::c_int>().read_unaligned()).ok();
                    }
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                        told.local = Some(IpAddr::V4(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes())));
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                        told.local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical());
                    }
                    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                        told.overflowed = Some(data.cast::<u32>().read_unaligned());
                    }
                    _ => {}
                }
                message = libc::CMSG_NXTHDR(header, message);
            }
        }
        told
    }
}

// === impl Received ===

impl<'a> Received<'a> {
    /// Whether all datagrams are here as they were sent, and none is longer than this.
    pub fn fits(&self, longest: usize) -> bool {
        !self.is_truncated && self.segment.unwrap_or(self.bytes.len()) <= longest
    }

    /// The datagrams; one where the kernel has joined none.
    pub fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> {
        let (bytes, segment) = (self.bytes, self.segment.unwrap_or(self.bytes.len()).max(1));
        // An empty datagram is one too, though it has no chunk.
        let empty = bytes.is_empty().then_some(bytes);
        empty.into_iter().chain(bytes.chunks(segment))
    }
}
