//! URLs that redirects lead to: refused, or taken apart into pieces that make the same URL again; and paths, which
//! are as they should be once they were normalised.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nuncio_http::path::{EscapedSlashes, Normalized, PathOptions, normalize};

// A module of the crate that is not public.
#[allow(dead_code)]
#[path = "../../src/upstream/router/redirect/location.rs"]
mod location;

use location::Location;

fuzz_target!(|data: (u8, &[u8])| {
    let (flags, text) = data;
    if let Some(found) = Location::parse(text) {
        let Location { scheme, authority, path } = found;
        assert!(!authority.is_empty() && path.starts_with(['/', '?']), "{found:?}");
        assert!(!path.contains('#') && !authority.contains('@'), "{found:?}");
        let again = format!("{scheme}://{authority}{path}");
        assert_eq!(Location::parse(again.as_bytes()), Some(found));
    }
    // What a codec lets through.
    let Some(path) = std::str::from_utf8(text).ok().filter(|path| !path.contains(|c| c <= ' ' || c == '\x7f')) else {
        return;
    };
    let escaped_slashes = match flags & 3 {
        0 => EscapedSlashes::Keep,
        1 => EscapedSlashes::Reject,
        2 => EscapedSlashes::UnescapeAndRedirect,
        _ => EscapedSlashes::UnescapeAndForward,
    };
    let options = PathOptions { escaped_slashes, normalize: flags & 4 != 0, merge_slashes: flags & 8 != 0 };
    if let Normalized::Changed(changed) | Normalized::Redirect(changed) = normalize(path, options) {
        match normalize(&changed, PathOptions { escaped_slashes: EscapedSlashes::Keep, ..options }) {
            Normalized::Unchanged => {}
            Normalized::Changed(again) => assert_eq!(again, changed, "{path:?}"),
            other => panic!("{path:?} becomes {changed:?}, and that {other:?}"),
        }
    }
});
