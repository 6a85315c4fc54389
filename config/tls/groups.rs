//! `ecdh_curves`: groups in which keys are exchanged.

use nuncio_filter_api::{LowerCx, Refused};
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::kx_group as group;

use super::p521::P521;
use super::parameters::lower_names;

/// A group.
pub(super) type Group = &'static dyn SupportedKxGroup;

/// Groups by BoringSSL's names, and by those of OpenSSL that it knows.
const GROUPS: [(&[&str], Group); 6] = [
    (&["X25519MLKEM768"], group::X25519MLKEM768),
    (&["X25519", "x25519"], group::X25519),
    (&["P-256", "prime256v1"], group::SECP256R1),
    (&["P-384", "secp384r1"], group::SECP384R1),
    (&["P-521", "secp521r1"], &P521),
    (&["MLKEM1024"], group::MLKEM1024),
];
/// How many of `GROUPS` are offered where none are named.
const DEFAULT: usize = 3;

/// Those that are offered where none are named.
pub(super) fn default() -> Vec<Group> {
    GROUPS[..DEFAULT].iter().map(|(_, group)| *group).collect()
}

/// Lowers the field; `None` where it names none.
pub(super) fn lower(entries: &[String], cx: &mut LowerCx<'_>) -> Result<Option<Vec<Group>>, Refused> {
    let find = |name: &str| GROUPS.iter().position(|(names, _)| names.contains(&name));
    let named = lower_names("ecdh_curves", entries, find, "is not a group that is spoken here", cx)?;
    Ok(named.map(|all| all.into_iter().map(|named| GROUPS[named.known].1).collect()))
}
