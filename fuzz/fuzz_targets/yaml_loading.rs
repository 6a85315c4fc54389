//! A bootstrap in any text format, any bytes: loaded or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nuncio_config::load::{Format, Loader, Source, UnknownFields};

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let format = match first % 8 {
        0 => Format::Json,
        1 => Format::Text,
        2 => Format::Binary,
        // Half of the inputs and more: YAML is what people write by hand.
        _ => Format::Yaml,
    };
    let unknown = if first & 8 == 0 { UnknownFields::Reject } else { UnknownFields::Count };
    if let Ok((loaded, clusters)) = Loader::new(unknown).load_bootstrap(vec![Source::new("x", format, rest.to_vec())]) {
        assert!(clusters.iter().all(|cluster| cluster.is_ok()), "prost refuses what the loader let pass");
        loaded.sources.locate("static_resources.listeners[0].name");
    }
});
