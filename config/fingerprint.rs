//! Messages as one number, to see whether something in them has changed.

use std::hash::Hasher;

use prost::Message;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use twox_hash::XxHash64;

/// A hash of what `message` says in all fields but those numbered `without`.
pub(crate) fn fingerprint(message: &impl Message, without: &[u32]) -> u64 {
    let encoded = message.encode_to_vec();
    let mut hasher = XxHash64::with_seed(0);
    let mut rest = &encoded[..];
    while !rest.is_empty() {
        let start = rest;
        // What was encoded a moment ago decodes.
        let Ok((number, wire)) = decode_key(&mut rest) else { break };
        if skip_field(wire, number, &mut rest, DecodeContext::default()).is_err() {
            break;
        }
        if !without.contains(&number) {
            hasher.write(&start[..start.len() - rest.len()]);
        }
    }
    hasher.finish()
}
