//! Extensions: a type URL selects one, not its name.

mod filter;
mod slot;

pub(crate) use filter::{DiscoveredHttpFilter, DiscoveredListenerFilter, DiscoveredNetworkFilter};
pub use slot::{Category, Discovered, ExtensionSlot, lower_extension};

use nuncio_filter_api::{InvalidKind, LowerCx, Refused};

/// Names that differ in more characters are no misspelt ones: those of other extensions do.
pub(crate) const MAX_EDITS: usize = 4;

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

/// Whether `message` configures an HTTP filter of Envoy, or says something of one for a route: what may be missing is not
/// one that Envoy has and nuncio has not, for it may be what keeps others out.
pub(crate) fn is_http_filter_of_envoy(message: &str) -> bool {
    const PACKAGES: [&str; 3] =
        ["envoy.extensions.filters.http.", "envoy.extensions.common.matching.", "envoy.config.filter.http."];
    nuncio_proto::is_envoy_type(message) && PACKAGES.iter().any(|package| message.starts_with(package))
}

fn unknown<'a>(what: &str, message: &str, known: impl Iterator<Item = &'a str>) -> (InvalidKind, String) {
    let is_well_known = message.starts_with("google.protobuf.");
    if nuncio_proto::is_envoy_type(message) && !is_well_known {
        let article = article(what);
        return (InvalidKind::NotImplemented, format!("{message} as {article} {what} is not implemented yet"));
    }
    let near = known
        .map(|name| (strsim::damerau_levenshtein(message, name), name))
        .min()
        .filter(|(distance, _)| *distance <= (message.len() / 3).min(MAX_EDITS));
    let hint = near.map(|(_, name)| format!("; did you mean {name}?")).unwrap_or_default();
    (InvalidKind::UnknownType, format!("{message:?} is no {what}{hint}"))
}

/// As it is said: "an HTTP filter", "an access logger", "a UDP listener filter".
fn article(noun: &str) -> &'static str {
    match noun.starts_with(['a', 'e', 'i', 'o', 'H']) {
        true => "an",
        false => "a",
    }
}
