//! `%METADATA%`, `%DYNAMIC_METADATA%`, `%CLUSTER_METADATA%` and `%UPSTREAM_METADATA%`.

use serde_json::Value;

use crate::Metadata;
use crate::format::FormatCx;
use crate::format::escape::{push_object, push_value};

use super::Written;

/// Whose metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Stream,
    Cluster,
    Route,
    Host,
    Listener,
    FilterChain,
    VirtualHost,
}

/// A look-up in metadata.
#[derive(Debug)]
pub(super) struct MetadataOp {
    owner: Owner,
    namespace: Box<str>,
    /// Empty: the whole namespace.
    path: Box<[Box<str>]>,
}

impl MetadataOp {
    /// `namespace:key:key...`.
    pub(super) fn parse(owner: Owner, argument: &str) -> Self {
        let mut parts = argument.split(':').map(Box::from);
        Self { owner, namespace: parts.next().unwrap_or_default(), path: parts.collect() }
    }

    /// `TYPE:namespace:key:key...`.
    pub(super) fn parse_typed(argument: &str) -> Result<Self, String> {
        let (name, rest) = argument.split_once(':').unwrap_or((argument, ""));
        let owner = match name {
            "DYNAMIC" => Owner::Stream,
            "CLUSTER" => Owner::Cluster,
            "ROUTE" => Owner::Route,
            "UPSTREAM_HOST" => Owner::Host,
            "LISTENER" => Owner::Listener,
            "LISTENER_FILTER_CHAIN" => Owner::FilterChain,
            "VIRTUAL_HOST" => Owner::VirtualHost,
            _ => return Err(format!("{name:?} is not a type of metadata")),
        };
        Ok(Self::parse(owner, rest))
    }

    pub(super) fn write(&self, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Written {
        let info = cx.info;
        let of = |metadata: Option<&Metadata>, out: &mut Vec<u8>| match metadata {
            Some(metadata) => self.write_from(metadata, out),
            None => Written::Missing,
        };
        match self.owner {
            Owner::Stream => of(info.metadata.borrow().as_deref(), out),
            Owner::Cluster => of(info.upstream.borrow().cluster_metadata.as_deref(), out),
            Owner::Host => of(info.upstream.borrow().host_metadata.as_deref(), out),
            Owner::Route => of(info.route_metadata.borrow().as_deref(), out),
            Owner::VirtualHost => of(info.virtual_host_metadata.borrow().as_deref(), out),
            Owner::Listener => of(info.connection.listener_metadata.as_deref(), out),
            Owner::FilterChain => of(info.connection.filter_chain_metadata.as_deref(), out),
        }
    }

    fn write_from(&self, metadata: &Metadata, out: &mut Vec<u8>) -> Written {
        let Some(fields) = metadata.get(&*self.namespace) else { return Written::Missing };
        let Some((first, rest)) = self.path.split_first() else {
            push_object(out, fields);
            return Written::Json;
        };
        let found = rest.iter().try_fold(fields.get(&**first), |value, key| Some(value?.as_object()?.get(&**key)));
        match found.flatten() {
            None | Some(Value::Null) => Written::Missing,
            Some(Value::String(text)) => {
                out.extend_from_slice(text.as_bytes());
                Written::Text
            }
            Some(value) => {
                push_value(out, value);
                Written::Json
            }
        }
    }
}
