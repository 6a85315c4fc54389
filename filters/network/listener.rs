pub(crate) mod original_dst;
