//! What the tests of this crate share.

/// An environment without extensions.
pub(crate) use nuncio_filter_api::testing::env;
