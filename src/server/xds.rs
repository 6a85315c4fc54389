//! The client of control planes.
//!
//! In: what configuration wants of a server ([`protocol::Change`]), and the server's responses. Out: requests, and
//! [`protocol::Update`]s for whoever applies them, whose verdict becomes the ACK or NACK. [`protocol`] does no I/O and
//! knows no clock; it is the same for every transport.

pub(crate) mod client;
pub(crate) mod pace;
pub(crate) mod protocol;
