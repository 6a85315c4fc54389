//! What `session_ticket_keys_type` says: which tickets clients are given to come back with.

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::SessionTicketKeysType as Type;

use super::sessions::TimedTickets;
use crate::secret::TicketKeys;

/// The keys of tickets.
pub(super) enum Tickets {
    None,
    OwnKeys,
    Shared(TicketKeys),
}

impl Tickets {
    pub(super) fn lower(proto: Option<Type>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        match proto {
            None | Some(Type::DisableStatelessSessionResumption(false)) => Ok(Self::OwnKeys),
            Some(Type::DisableStatelessSessionResumption(true)) => Ok(Self::None),
            Some(Type::SessionTicketKeys(keys)) => {
                cx.at("session_ticket_keys", |cx| TicketKeys::lower(keys, cx)).map(Self::Shared)
            }
            // They were taken out; while they are missing, nothing is made.
            Some(Type::SessionTicketKeysSdsSecretConfig(_)) => Ok(Self::None),
        }
    }

    /// Of keys that are given.
    pub(super) fn digest(&self) -> [u8; 32] {
        match self {
            Self::None | Self::OwnKeys => [0; 32],
            Self::Shared(keys) => keys.digest(),
        }
    }

    /// What makes the tickets; `bound_to` is what sessions are good for where others have the same keys.
    pub(super) fn make(
        self,
        lifetime: u32,
        bound_to: [u8; 32],
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<TimedTickets>, Refused> {
        match self {
            Self::None => Ok(None),
            Self::OwnKeys => {
                let tickets = TimedTickets::with_own_keys(lifetime);
                tickets.map(Some).map_err(|e| cx.invalid(format!("no keys for tickets can be made: {e}")))
            }
            Self::Shared(keys) => Ok(Some(TimedTickets::new(keys, lifetime, bound_to))),
        }
    }
}
