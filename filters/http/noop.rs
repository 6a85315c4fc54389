use nuncio_filter_api::HttpFilter;

/// What a filter instantiates where it has nothing to do on a stream: its box allocates nothing.
pub(crate) struct Noop;

impl HttpFilter for Noop {}
