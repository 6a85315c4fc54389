//! Which requests are to be traced: `tracing` of routes and connection managers.

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::RuntimeFractionalPercent;
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_proto::envoy::r#type::tracing::v3::{CustomTag, custom_tag};
use nuncio_proto::envoy::r#type::v3::FractionalPercent;

use crate::format::format;
use crate::matcher::Fraction;

/// What shares of the requests are chosen; the runtime has the last word of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceShares {
    /// Of those whose client asks for it (`tracing.client_enabled`).
    pub client: Fraction,
    /// Of all (`tracing.random_sampling`).
    pub random: Fraction,
    /// Of those chosen for any reason (`tracing.global_enabled`).
    pub overall: Fraction,
}

impl TraceShares {
    /// The shares as the messages say; where there is none, all are meant.
    pub fn new([client, random, overall]: [Option<FractionalPercent>; 3], cx: &LowerCx<'_>) -> Self {
        let share = |share: Option<FractionalPercent>, key: &str| {
            let all = || FractionalPercent { numerator: 100, denominator: 0 };
            let default_value = Some(share.unwrap_or_else(all));
            Fraction::lower_runtime(RuntimeFractionalPercent { default_value, runtime_key: key.to_owned() }, cx)
        };
        Self {
            client: share(client, "tracing.client_enabled"),
            random: share(random, "tracing.random_sampling"),
            overall: share(overall, "tracing.global_enabled"),
        }
    }

    /// Lowers what a route says: it takes the place of what the connection manager says, as a whole.
    pub(super) fn lower(message: proto::Tracing, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::Tracing {
            client_sampling,
            random_sampling,
            overall_sampling,
            custom_tags,
            operation,
            upstream_operation,
        } = message;
        check_spans(custom_tags, [("operation", &operation), ("upstream_operation", &upstream_operation)], cx)?;
        Ok(Self::new([client_sampling, random_sampling, overall_sampling], cx))
    }
}

/// Refuses what spans could not be made of. There is nobody who gets one.
pub fn check_spans(
    custom_tags: Vec<CustomTag>,
    operations: [(&str, &str); 2],
    cx: &mut LowerCx<'_>,
) -> Result<(), Refused> {
    let tags = cx.each("custom_tags", custom_tags, |tag, cx| match tag.r#type {
        Some(custom_tag::Type::Value(text)) => cx.at("value", |cx| format(&text, cx).map(drop)),
        _ => Ok(()),
    });
    let mut refused = tags.map(drop);
    for (field, text) in operations {
        refused = refused.and(cx.at(field, |cx| format(text, cx).map(drop)));
    }
    refused
}
