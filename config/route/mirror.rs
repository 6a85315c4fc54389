//! `RequestMirrorPolicy`: a copy of a request goes to another cluster, whose response nobody waits for.

use nuncio_filter_api::{ByteStr, LowerCx, Refused, RequestHead};
use nuncio_proto::envoy::config::route::v3::route_action as proto;
use nuncio_telemetry::format::FormatCx;

use super::forward::Cluster;
use super::hosts::without_port;
use crate::header_rules::{Fields, HeaderMutations, MissingHeader};
use crate::matcher::Fraction;

/// Where the copies go, and what is different about them.
#[derive(Debug)]
pub struct MirrorPolicy {
    /// The cluster, or the header that names it.
    pub cluster: Cluster,
    /// Of which requests there are copies; all if not set.
    fraction: Option<Fraction>,
    mutations: HeaderMutations,
    host: Host,
}

#[derive(Debug)]
enum Host {
    Keep,
    /// `-shadow` comes before the port.
    Suffix,
    Literal(ByteStr),
}

/// Tells requests from their copies in the logs of those who get both.
const SUFFIX: &str = "-shadow";

impl MirrorPolicy {
    pub(crate) fn lower(message: proto::RequestMirrorPolicy, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::RequestMirrorPolicy {
            cluster,
            cluster_header,
            runtime_fraction,
            // Says whether a tracer samples the copy. There is none without `tracing` of the connection manager.
            trace_sampled: _,
            disable_shadow_host_suffix_append,
            request_headers_mutations,
            host_rewrite_literal,
        } = message;
        let cluster = match (cluster.is_empty(), cluster_header.is_empty()) {
            (false, true) => cx.at("cluster", |cx| Cluster::named(&cluster, cx)),
            (true, false) => cx.at("cluster_header", |cx| Cluster::header(&cluster_header, cx)),
            _ => Err(cx.invalid("exactly one of cluster and cluster_header must be specified")),
        };
        let mutations =
            HeaderMutations::lower(Fields::Request, "request_headers_mutations", request_headers_mutations, cx);
        Ok(Self {
            cluster: cluster?,
            fraction: runtime_fraction.map(|fraction| Fraction::lower_runtime(fraction, cx)),
            mutations: mutations?,
            host: match (host_rewrite_literal.is_empty(), disable_shadow_host_suffix_append) {
                (false, _) => Host::Literal(host_rewrite_literal.into()),
                (true, true) => Host::Keep,
                (true, false) => Host::Suffix,
            },
        })
    }

    /// Whether there is a copy of the request with these random bits.
    pub fn applies(&self, random: u64) -> bool {
        self.fraction.as_ref().is_none_or(|fraction| fraction.holds(random))
    }

    /// Makes of the head that goes upstream that of the copy. The request of `cx` is not looked at.
    pub fn rewrite(&self, head: &mut RequestHead, cx: &FormatCx<'_>) -> Result<(), MissingHeader> {
        self.mutations.apply_request(head, cx)?;
        match &self.host {
            Host::Keep => {}
            Host::Literal(host) => head.authority = host.clone(),
            Host::Suffix => {
                let (host, port) = head.authority.split_at(without_port(&head.authority).len());
                head.authority = format!("{host}{SUFFIX}{port}").into();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use nuncio_filter_api::Scheme;

    use super::*;

    #[test]
    fn the_suffix_stands_before_the_port() {
        for (authority, expected) in
            [("a", "a-shadow"), ("a:80", "a-shadow:80"), ("[::1]", "[::1]-shadow"), ("[::1]:80", "[::1]-shadow:80")]
        {
            let env = crate::testing::env();
            let message = proto::RequestMirrorPolicy { cluster: "c".into(), ..Default::default() };
            let policy = MirrorPolicy::lower(message, &mut LowerCx::new(&env)).unwrap();
            let mut head = RequestHead::new(Method::GET, Scheme::Http, authority.into(), "/".into());
            let info = super::super::tests::info();
            let now = tokio::time::Instant::now();
            policy.rewrite(&mut head, &FormatCx::new(&info, now, std::time::SystemTime::UNIX_EPOCH)).unwrap();
            assert_eq!(&*head.authority, expected);
        }
    }
}
