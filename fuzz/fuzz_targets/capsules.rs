//! Capsules of a CONNECT-UDP stream: whatever comes, nothing panics, how the bytes are split changes nothing, and what
//! nuncio writes it reads.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

// A module of the crate that is not public.
#[allow(dead_code)]
#[path = "../../src/upstream/capsule.rs"]
mod capsule;

use capsule::{CapsuleError, Capsules};

fn read<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Vec<Bytes>, Result<(), CapsuleError>) {
    let (mut capsules, mut payloads) = (Capsules::default(), Vec::new());
    for part in parts {
        capsules.push(part);
        loop {
            match capsules.next() {
                Ok(Some(payload)) => payloads.push(payload),
                Ok(None) => break,
                Err(error) => return (payloads, Err(error)),
            }
        }
    }
    (payloads, capsules.end())
}

// The first byte: how many bytes come at once.
fuzz_target!(|data: &[u8]| {
    let [size, bytes @ ..] = data else { return };
    let (payloads, end) = read(std::iter::once(bytes));
    assert_eq!(read(bytes.chunks(usize::from(*size).max(1))), (payloads.clone(), end));
    let written: Vec<u8> = payloads.iter().flat_map(|payload| capsule::datagram(payload)).collect();
    assert_eq!(read(std::iter::once(&*written)), (payloads, Ok(())));
});
