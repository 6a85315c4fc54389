//! Taps that the admin interface configures, for as long as somebody listens there.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use nuncio_filter_api::{LowerCx, LowerEnv, Refused};
use nuncio_proto::envoy::admin::v3::TapRequest;
use tokio::sync::mpsc;

use super::TapConfig;

/// Messages that may wait for whoever listens; more are dropped.
const MAX_WAITING: usize = 1024;

/// The taps of one `config_id`.
#[derive(Debug)]
pub(super) struct TapSlot {
    id: String,
    active: ArcSwapOption<TapConfig>,
}

/// Where the messages of such a tap go, while it is made.
#[derive(Clone, Debug)]
pub(super) struct Listener(mpsc::Sender<Bytes>);

/// When a tap ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapEnd {
    /// After so many messages.
    pub after: u64,
    /// After so long.
    pub timeout: Option<Duration>,
}

/// A tap that is on. Dropping it ends the tap.
#[derive(Debug)]
pub struct AttachedTap {
    slot: Arc<TapSlot>,
    /// What is tapped, message by message.
    pub messages: mpsc::Receiver<Bytes>,
    /// When it ends, if before whoever listens goes.
    pub end: Option<TapEnd>,
}

/// Whether there is anything to be configured so.
pub fn has_admin_taps(env: &LowerEnv) -> bool {
    !env.slots.all::<TapSlot>().is_empty()
}

// === impl TapSlot ===

impl TapSlot {
    pub(super) fn of(id: &str, cx: &LowerCx<'_>) -> Arc<Self> {
        cx.env.slots.share(id, || Self { id: id.to_owned(), active: ArcSwapOption::empty() })
    }

    /// The tap that is on, if one is.
    pub(super) fn active(&self) -> Option<Arc<TapConfig>> {
        self.active.load_full()
    }
}

// === impl Listener ===

impl Listener {
    pub(super) fn tell(&self, message: Vec<u8>) {
        // Whoever listens is gone, or too slow: a tap holds up nobody.
        let _ = self.0.try_send(message.into());
    }
}

// === impl AttachedTap ===

impl AttachedTap {
    /// Turns on what `request` asks for. Envoy: there is one such tap at a time.
    pub fn attach(request: TapRequest, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let TapRequest { config_id, tap_config } = request;
        let slots = cx.env.slots.all::<TapSlot>();
        if slots.iter().any(|slot| slot.active.load().is_some()) {
            return Err(cx.invalid("An attached /tap admin stream already exists. Detach it."));
        }
        let Some(slot) = slots.into_iter().find(|slot| slot.id == config_id) else {
            let reason = format!("Unknown config id '{config_id}'. No extension has registered with this id.");
            return Err(cx.invalid(reason));
        };
        let (sender, messages) = mpsc::channel(MAX_WAITING);
        let listener = Listener(sender);
        let config = cx.opt("tap_config", tap_config, |config, cx| TapConfig::lower(config, Some(&listener), cx))?;
        let config = config.ok_or_else(|| cx.at("tap_config", |cx| cx.invalid("is required")))?;
        let end = config.output.end;
        slot.active.store(Some(Arc::new(config)));
        Ok(Self { slot, messages, end })
    }
}

impl Drop for AttachedTap {
    fn drop(&mut self) {
        self.slot.active.store(None);
    }
}
