//! HTTP on both sides: codecs, the connection manager, the filter chain, local replies.
//!
//! In: connections from the network layer; heads and bodies from filters. Out: requests through the filter chain, and
//! bytes. Invariants: a stream is one future; a body is pulled by whoever passes it on; every limit comes from config.
//! Start reading at [`hcm`], which drives a downstream connection.

// Deprecated fields are configuration too.
#![allow(deprecated)]

pub mod ahead;
pub mod h1;
pub mod h2;
pub mod hcm;
mod local_reply;
pub mod path;
pub mod pieces;
pub mod request_id;
pub mod timer;
