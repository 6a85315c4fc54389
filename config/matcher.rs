//! Matchers that routes, filters and access logs share: strings, headers, query parameters, fractions.
//!
//! In: the matcher messages. Out: compiled matchers that neither allocate nor fail.

mod cidr;
mod cookie;
mod filter_state;
mod fraction;
mod header;
mod metadata;
mod metadata_key;
mod query;
mod regex;
mod string;

pub use self::regex::{Regex, Substitution};
pub use cidr::Cidr;
pub(crate) use cidr::bits;
pub use cookie::CookieMatcher;
pub(crate) use cookie::cookie;
pub use filter_state::FilterStateMatcher;
pub use fraction::Fraction;
pub use header::HeaderMatcher;
pub(crate) use header::{Field, is_tunnel};
pub use metadata::MetadataMatcher;
pub(crate) use metadata::ValueMatcher;
pub use metadata_key::MetadataKey;
pub use query::QueryMatcher;
pub(crate) use query::{first_decoded_value, first_value};
pub use string::StringMatcher;
