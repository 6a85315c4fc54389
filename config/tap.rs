//! Taps: what of a connection is copied out, and where to (`envoy.config.tap.v3`).

mod admin;
mod output;
mod predicate;
mod socket;

use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::RuntimeFractionalPercent;
use nuncio_proto::envoy::config::tap::v3 as proto;
use nuncio_proto::envoy::extensions::common::tap::v3::common_extension_config::ConfigType;
use nuncio_proto::envoy::extensions::common::tap::v3::{AdminConfig, CommonExtensionConfig};
use nuncio_proto::envoy::r#type::v3::FractionalPercent;

use self::admin::{Listener, TapSlot};
use self::output::Output;
use self::predicate::Predicate;
use crate::matcher::Fraction;

pub use admin::{AttachedTap, TapEnd, has_admin_taps};
pub use socket::{SocketTap, SocketTrace, TappedConnection};

/// What is tapped, and where to.
#[derive(Debug)]
struct TapConfig {
    predicate: Predicate,
    output: Output,
    sampling: Option<Sampling>,
}

/// Where the configuration of a tap comes from.
#[derive(Debug)]
enum Origin {
    Static(Arc<TapConfig>),
    /// The admin interface: there is none but while somebody listens there.
    Admin(Arc<TapSlot>),
}

/// The share that is looked at, as it works and as traces tell of it.
#[derive(Debug)]
struct Sampling {
    share: Fraction,
    told: FractionalPercent,
}

// === impl Origin ===

impl Origin {
    /// Lowers the part that all taps have.
    fn lower(proto: CommonExtensionConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let CommonExtensionConfig { config_type } = proto;
        match config_type {
            Some(ConfigType::StaticConfig(config)) => {
                let config = cx.at("static_config", |cx| TapConfig::lower(config, None, cx))?;
                Ok(Self::Static(Arc::new(config)))
            }
            Some(ConfigType::AdminConfig(AdminConfig { config_id })) => Ok(Self::Admin(TapSlot::of(&config_id, cx))),
            None => Err(cx.invalid("static_config or admin_config is required")),
        }
    }

    /// The configuration in force, if there is one.
    fn current(&self) -> Option<Arc<TapConfig>> {
        match self {
            Self::Static(config) => Some(config.clone()),
            Self::Admin(slot) => slot.active(),
        }
    }
}

// === impl TapConfig ===

impl TapConfig {
    /// Lowers the message. Only where somebody listens may messages go there.
    fn lower(proto: proto::TapConfig, listener: Option<&Listener>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::TapConfig { match_config, r#match, output_config, tap_enabled } = proto;
        // Envoy: the newer of the two, where both are there.
        let predicate = match (r#match, match_config) {
            (Some(newer), _) => cx.at("match", |cx| Predicate::lower(newer, cx)),
            (None, Some(older)) => cx.at("match_config", |cx| Predicate::lower_older(older, cx)),
            (None, None) => Err(cx.invalid("neither match nor match_config is set")),
        };
        let output = cx.opt("output_config", output_config, |output, cx| Output::lower(output, listener, cx));
        let sampling = tap_enabled.map(|share| Sampling::new(share, cx));
        Ok(Self {
            predicate: predicate?,
            output: output?.ok_or_else(|| cx.invalid("output_config is required"))?,
            sampling,
        })
    }
}

// === impl Sampling ===

impl Sampling {
    fn new(proto: RuntimeFractionalPercent, cx: &LowerCx<'_>) -> Self {
        let told = proto.default_value.unwrap_or_default();
        Self { told, share: Fraction::lower_runtime(proto, cx) }
    }
}
