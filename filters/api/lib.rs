//! What a filter may see and return, and the tables that find filters by type URL.
//!
//! In: lowering context and raw config bytes at configuration time; requests, responses and a [`StreamCx`] at run time.
//! Out: verdicts. Nothing here does I/O or knows a protobuf type.
//! Start reading at [`HttpFilter`], then [`LowerCx`] for how configuration reaches a filter.

mod body;
mod byte_str;
mod cluster;
mod connection;
mod date;
pub mod filter_state;
mod forward;
mod grpc;
mod http_filter;
mod internal;
mod listener_filter;
mod lower;
mod message;
mod network_filter;
mod registry;
mod route;
mod runtime;
mod shared_configs;
mod slots;
mod stream_cx;
#[cfg(feature = "testing")]
pub mod testing;
mod token_bucket;
mod udp_filter;
mod worker;

pub use body::{Body, BodyError, BoxBody, Buffered};
pub use byte_str::ByteStr;
pub use cluster::{ClusterName, ClusterNames, UpstreamError, Upstreams};
pub use connection::{Connection, Io, Transport};
pub use date::DateCache;
pub use grpc::{GrpcSender, GrpcStream, GrpcTarget, OwnCalls, OwnService, OwnServiceStats, grpc_frame};
pub use http_filter::{HttpFilter, HttpFilterConfig, LocalReply, Reply, Step, Verdict};
pub use internal::{InternalListener, InternalListeners, Passed};
pub use listener_filter::{Incoming, IncomingSocket, Inspection, ListenerFilter, Rejected};
pub use lower::{Invalid, InvalidKind, IsSet, LowerCx, LowerEnv, NodeNames, Refused};
pub use message::{OriginalResponse, Request, RequestHead, Response, ResponseHead, Scheme};
pub use network_filter::{Admission, Drain, DrainState, Flow, NetworkCx, NetworkFilter, ServerState, TurnedAway};
pub use registry::{HttpFilterRow, ListenerFilterRow, NetworkFilterRow, Registry, Sides, UdpFilterRow};
pub use route::{PerRoute, Route, RouteRef, Routes};
pub use runtime::{Runtime, RuntimeKey, RuntimeValue};
pub use shared_configs::SharedConfigs;
pub use slots::{Readiness, Slots};
pub use stream_cx::{RouteSource, StreamCx};
pub use token_bucket::TokenBucket;
pub use udp_filter::{Datagrams, UdpCx, UdpFilter, UdpFlow, UdpListenerFilter, UdpReplies, UdpSent};
pub use worker::{Clock, Rng, Worker};
