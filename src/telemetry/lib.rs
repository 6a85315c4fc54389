//! What nuncio knows about its own work: stats, stream info, access-log formats and writers.
//!
//! In: events of the data path (counter increments, timestamps, flags). Out: stats renderings and log lines.
//! Invariants: nothing here blocks a worker; a worker's shard and a stream's info are written by that worker alone.
//! Start reading at [`StreamInfo`], the record every stream fills while it lives.

pub mod access_log;
mod address;
pub mod cel;
mod filter_state;
mod flags;
mod flow;
pub mod format;
pub mod logging;
pub mod stats;
mod stream_info;
mod timeline;
mod tls_info;

pub use address::{Address, InternalAddress};
pub use filter_state::{FilterState, FilterValue, LifeSpan, Reach, Sharing};
pub use flags::{ResponseFlag, ResponseFlags};
pub use flow::BackedUp;
pub use stream_info::{
    ChosenHost, CloseType, ConnectionInfo, FailedHost, HostFacts, Inspected, Metadata, NodeInfo, Origin,
    OriginalSource, Protocol, RouteNames, RoutePlace, StreamInfo, TypedMessage, UpstreamInfo, WantedHost,
};
pub use timeline::Timeline;
pub use tls_info::{CertificateInfo, TlsInfo, url_encoded_pem};
