//! Matchers that routes, filters and access logs share: strings, headers, query parameters, fractions.
//!
//! In: the matcher messages. Out: compiled matchers that neither allocate nor fail.

mod fraction;
mod header;
mod query;
mod regex;
mod string;

pub use self::regex::{Regex, Substitution};
pub use fraction::Fraction;
pub use header::HeaderMatcher;
pub(crate) use header::{Field, is_tunnel};
pub use query::QueryMatcher;
pub use string::StringMatcher;
