//! What HTTP/2 needs beyond the h2 crate: a meter that ends floods, and bodies in our own types.

mod body;
pub mod client;
mod meter;
mod trailers;
mod upload;

pub(crate) use body::{BodyEvents, H2Body};
pub(crate) use meter::{FloodKind, FrameMeter, Limits, Metered};
