//! What HTTP/2 needs beyond the h2 crate: exchanges on a client connection, and bodies in our own types.

mod body;
pub mod client;
