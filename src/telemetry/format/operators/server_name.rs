//! `%REQUESTED_SERVER_NAME(X:Y)%`: the name the client asked for, by SNI or by host header.

use http::HeaderName;

use crate::format::FormatCx;

/// The header in which the router keeps the authority it rewrote.
const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");

/// Which of the two is asked first, and which host header.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerNameOp {
    order: Order,
    host: Host,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    SniOnly,
    SniFirst,
    HostFirst,
}

#[derive(Clone, Copy, Debug)]
enum Host {
    OriginalOrNow,
    Original,
    Now,
}

impl ServerNameOp {
    pub(super) fn parse(argument: &str) -> Result<Self, String> {
        let mut parts = argument.split(':');
        let order = match parts.next().unwrap_or_default() {
            "" | "SNI_ONLY" => Order::SniOnly,
            "SNI_FIRST" => Order::SniFirst,
            "HOST_FIRST" => Order::HostFirst,
            other => return Err(format!("{other:?} is not one of SNI_ONLY, SNI_FIRST, HOST_FIRST")),
        };
        let host = match parts.next().unwrap_or_default() {
            "" | "ORIG_OR_HOST" => Host::OriginalOrNow,
            "HOST" => Host::Now,
            "ORIG" => Host::Original,
            other => return Err(format!("{other:?} is not one of ORIG_OR_HOST, HOST, ORIG")),
        };
        Ok(Self { order, host })
    }

    pub(super) fn write(self, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Option<()> {
        match self.order {
            Order::SniOnly => push_sni(cx, out),
            Order::SniFirst => push_sni(cx, out).or_else(|| self.host.write(cx, out)),
            Order::HostFirst => self.host.write(cx, out).or_else(|| push_sni(cx, out)),
        }
    }
}

impl Host {
    fn write(self, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Option<()> {
        let request = cx.request?;
        let original = || request.headers.get(ORIGINAL_HOST).map(|v| v.as_bytes());
        let host = || Some(request.authority.as_bytes()).filter(|h| !h.is_empty());
        out.extend_from_slice(match self {
            Self::Original => original()?,
            Self::Now => host()?,
            Self::OriginalOrNow => original().or_else(host)?,
        });
        Some(())
    }
}

/// The SNI, which a client chooses freely: a name with characters that no host name has is printed as `invalid:` and
/// the name with these replaced (CVE-2024-45808).
fn push_sni(cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Option<()> {
    let name = cx.info.connection.server_name.borrow();
    let name = name.as_deref().filter(|n| !n.is_empty())?;
    let usual = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    if !name.bytes().all(|c| usual(&c)) {
        out.extend_from_slice(b"invalid:");
    }
    out.extend(name.bytes().map(|c| if usual(&c) { c } else { b'_' }));
    Some(())
}
