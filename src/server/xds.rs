//! Discovery from control planes.
//!
//! In: what configuration wants of servers ([`crate::update::Subscriptions`]), and the servers' responses. Out: requests,
//! and pushes to [`crate::update::Updates`], whose outcome becomes the ACK or NACK. [`protocol`] does no I/O and knows no
//! clock; it is the same for every transport. [`sources`] has a stream for each server, and for each kind of resource
//! where the server is not asked for all of them at once; [`rest`] has no streams and polls.

mod client;
mod delivery;
mod pace;
mod protocol;
mod rest;
mod sources;

pub(crate) use client::sent;
pub(crate) use sources::{Sources, collections};
