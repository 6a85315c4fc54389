//! What HTTP/2 needs beyond the h2 crate: a meter that ends floods, and bodies in our own types.

mod body;
pub mod client;
mod counts;
mod faults;
mod frames;
mod host_meter;
mod limits;
mod meter;
mod response;
mod settings;
mod trailers;
mod upload;
mod weights;

pub(crate) use body::{BodyEvents, H2Body};
pub(crate) use counts::{FloodKind, Limits};
pub use faults::Faults;
pub(crate) use meter::{FrameMeter, Metered};
pub(crate) use settings::FurtherSettings;
pub(crate) use weights::{fields_size, request_size, response_size};
