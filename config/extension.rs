//! Extensions: a type URL selects one, not its name.

mod filter;
mod slot;

pub(crate) use filter::{DiscoveredHttpFilter, DiscoveredListenerFilter, DiscoveredNetworkFilter};
pub use slot::{Category, Discovered, ExtensionSlot, lower_extension};

use nuncio_filter_api::{InvalidKind, LowerCx, Refused};

/// Refuses `message`, which selects no `what` (such as "network filter"), of which nuncio has those configured by `known`.
pub fn refuse_unknown<'a>(
    what: &str,
    message: &str,
    known: impl IntoIterator<Item = &'a str>,
    cx: &mut LowerCx<'_>,
) -> Refused {
    let (kind, reason) = unknown(what, message, known.into_iter());
    cx.record(kind, reason)
}

fn unknown<'a>(what: &str, message: &str, known: impl Iterator<Item = &'a str>) -> (InvalidKind, String) {
    if nuncio_proto::is_envoy_type(message) {
        return (InvalidKind::NotImplemented, format!("{message} as a {what} is not implemented yet"));
    }
    let near = known
        .map(|name| (strsim::damerau_levenshtein(message, name), name))
        .min()
        .filter(|(distance, _)| *distance <= message.len() / 3);
    let hint = near.map(|(_, name)| format!("; did you mean {name}?")).unwrap_or_default();
    (InvalidKind::UnknownType, format!("{message:?} is no {what}{hint}"))
}
