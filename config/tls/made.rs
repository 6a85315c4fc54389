//! How the keys of a session were made and its peer signed. Whoever resumes it learns of neither from the handshake, and
//! BoringSSL, which keeps both with the session, tells of them all the same.

use rustls::{NamedGroup, SignatureScheme};

/// How a session was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// The group in which keys were exchanged.
    pub group: Option<NamedGroup>,
    /// How the peer has signed, if it has.
    pub scheme: Option<SignatureScheme>,
}

/// Bytes that it has where it is kept.
pub(super) const BYTES: usize = 4;

impl Made {
    pub(super) const UNKNOWN: Self = Self { group: None, scheme: None };

    /// The same, and that of `other` which is not known.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { group: self.group.or(other.group), scheme: self.scheme.or(other.scheme) }
    }

    pub(super) fn to_bytes(self) -> [u8; BYTES] {
        // No group and no scheme has the number 0.
        let [a, b] = self.group.map_or(0, u16::from).to_be_bytes();
        let [c, d] = self.scheme.map_or(0, u16::from).to_be_bytes();
        [a, b, c, d]
    }

    pub(super) fn of_bytes([a, b, c, d]: [u8; BYTES]) -> Self {
        let known = |number: u16| (number != 0).then_some(number);
        let (group, scheme) = (known(u16::from_be_bytes([a, b])), known(u16::from_be_bytes([c, d])));
        Self { group: group.map(NamedGroup::from), scheme: scheme.map(SignatureScheme::from) }
    }
}
