//! CONNECT-UDP (RFC 9298): a request for it names its target in the path.

use std::net::Ipv6Addr;

use http::StatusCode;
use nuncio_filter_api::{ByteStr, LocalReply, RequestHead};
use percent_encoding::percent_decode_str;

/// The default template of RFC 9298 §2, up to its variables.
const PREFIX: &str = "/.well-known/masque/udp/";

/// Makes the target of a CONNECT-UDP its authority, which virtual hosts are found by. Envoy refuses every other
/// template.
pub(super) fn aim(head: &mut RequestHead) -> Result<(), LocalReply> {
    let is_asked = head.protocol.as_ref().is_some_and(|protocol| protocol.eq_ignore_ascii_case("connect-udp"));
    if !is_asked {
        return Ok(());
    }
    let Some(target) = target(&head.path) else {
        return Err(
            LocalReply::new(StatusCode::NOT_FOUND, "invalid_path").body("The path is incorrect for CONNECT-UDP")
        );
    };
    head.authority = target;
    Ok(())
}

/// Host and port that the path names. Envoy looks at neither of them closely.
fn target(path: &str) -> Option<ByteStr> {
    let visible = path.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
    let (host, rest) = path.strip_prefix(PREFIX).filter(|_| visible)?.split_once('/')?;
    let port = rest.strip_suffix('/').filter(|port| !port.contains('/'))?;
    if host.is_empty() || port.is_empty() {
        return None;
    }
    let host = percent_decode_str(host).decode_utf8().ok()?;
    let port = percent_decode_str(port).decode_utf8().ok()?;
    // RFC 9298 §3: no zone of an IPv6 address is named.
    if host.contains('%') {
        return None;
    }
    let sound = |text: &str| text.bytes().all(|byte| byte > b' ' && byte != 0x7f);
    if !sound(&host) || !sound(&port) {
        return None;
    }
    Some(if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]:{port}") } else { format!("{host}:{port}") }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Option<&str>) {
        assert_eq!(target(path).as_deref(), expected, "{path}");
    }

    #[test]
    fn the_path_names_the_target() {
        check("/.well-known/masque/udp/127.0.0.1/9/", Some("127.0.0.1:9"));
        check("/.well-known/masque/udp/%3A%3A1/9/", Some("[::1]:9"));
        check("/.well-known/masque/udp/host/a%62c/", Some("host:abc"));
    }

    #[test]
    fn other_paths_name_none() {
        check("/", None);
        check("/.well-known/masque/udp/a/9", None);
        check("/.well-known/masque/udp/a/9/x", None);
        check("/.well-known/masque/udp/a/9/?x=1", None);
        check("/.well-known/masque/udp//9/", None);
        check("/.well-known/masque/udp/a//", None);
        check("/.well-known/masque/udp/fe80%3A%3A1%25eth0/9/", None);
        check("/.well-known/masque/udp/a%0d%0ab/9/", None);
    }
}
