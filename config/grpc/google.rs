//! Services at an address of their own: `core.v3.GrpcService.GoogleGrpc`. What Envoy asks by another library is asked
//! here as the hosts of any cluster are, by way of a cluster that is made for it and is none of the configuration's.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{HeaderName, HeaderValue, header};
use nuncio_filter_api::{GrpcTarget, LowerCx, OwnService, OwnServiceStats, Refused};
use nuncio_proto::envoy::config::cluster::v3 as cluster;
use nuncio_proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::config::core::v3::grpc_service::GoogleGrpc;
use nuncio_proto::envoy::config::core::v3::grpc_service::google_grpc::{
    CallCredentials, ChannelArgs, ChannelCredentials, GoogleLocalCredentials, SslCredentials, call_credentials,
    channel_args, channel_credentials,
};
use nuncio_proto::envoy::config::endpoint::v3 as endpoint;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use nuncio_proto::envoy::extensions::upstreams::http::v3 as upstreams;
use nuncio_proto::envoy::r#type::matcher::v3::StringMatcher;
use nuncio_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use nuncio_proto::google::protobuf::{Any, BoolValue};
use prost::{Message, Name};
use tls::subject_alt_name_matcher::SanType;
use upstreams::http_protocol_options::explicit_http_config::ProtocolConfig;
use upstreams::http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions};

use super::DEFAULT_MAX_MESSAGE;
use crate::cluster::ClusterConfig;
use crate::fingerprint::fingerprint;
use crate::protocol::to_duration;
use crate::refuse_set;

/// What gRPC takes where a name comes without one.
const DEFAULT_PORT: u16 = 443;
/// The credentials that are made of what is configured beside.
const DEFAULT_FACTORY: &str = "envoy.grpc_credentials.default";
/// gRPC's default of `grpc.keepalive_timeout_ms`.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// gRPC: so many milliseconds are never. That is 24.8 days, for which a connection that does not answer is kept too.
const NEVER: u64 = i32::MAX as u64;
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Where a service is, as gRPC names it (doc/naming.md of gRPC).
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Name { host: String, port: u16 },
    Addresses(Vec<SocketAddr>),
    Pipe(String),
}

/// A place, and the authority of calls to it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Uri {
    place: Place,
    authority: String,
}

pub(super) fn lower(proto: GoogleGrpc, cx: &mut LowerCx<'_>) -> Result<GrpcTarget, Refused> {
    let key = format!("{} #{:016x}", proto.target_uri, fingerprint(&proto, &[]));
    let GoogleGrpc {
        target_uri,
        channel_credentials,
        channel_credentials_plugin,
        call_credentials,
        call_credentials_plugin,
        stat_prefix,
        credentials_factory_name,
        config,
        per_stream_buffer_limit_bytes,
        channel_args,
    } = proto;
    let refused = refuse_set!(cx; channel_credentials_plugin, call_credentials_plugin);
    let factory = match &*credentials_factory_name {
        "" | DEFAULT_FACTORY => Ok(()),
        other => Err(cx.at("credentials_factory_name", |cx| cx.not_implemented(other))),
    };
    if config.is_some() {
        tracing::info!(path = cx.path(), "config has no effect: the default credentials read nothing of it");
    }
    let args = cx.opt("channel_args", channel_args, Args::lower);
    if per_stream_buffer_limit_bytes.is_some() {
        tracing::info!(path = cx.path(), "per_stream_buffer_limit_bytes has no effect: only a few messages wait");
    }
    let uri = cx.at("target_uri", |cx| Uri::lower(&target_uri, cx));
    let security = cx.opt("channel_credentials", channel_credentials, Security::lower);
    let calls = cx.each("call_credentials", call_credentials, lower_call);
    refused.and(factory)?;
    let args = args?.unwrap_or_default();
    let (Uri { place, authority }, security, metadata) = (uri?, security?.unwrap_or(Security::None), calls?);
    if !metadata.is_empty() && security == Security::None {
        // gRPC: they are shown to nobody who is not known.
        return Err(cx.at("call_credentials", |cx| cx.invalid("need channel_credentials")));
    }
    security.check_place(&place, cx)?;
    let message = cluster(&key, place, security, &args);
    // A context of its own: what else is lowered now waits for nothing of this.
    let lowered = LowerCx::whole(cx.env, |cx| ClusterConfig::lower(message, cx));
    let lowered = lowered.map_err(|invalid| {
        let reasons: Vec<String> = invalid.iter().map(ToString::to_string).collect();
        cx.invalid(reasons.join("; "))
    })?;
    let config = ClusterConfig { is_own: true, ..lowered };
    let name = config.name.clone();
    cx.env.clusters.declare(&name);
    let stats = || OwnServiceStats::new(&cx.env.stats.scope("grpc").scope(&stat_prefix));
    let own = cx.env.own_services.share(&key, || OwnService { stats: stats(), cluster: Box::new(config) });
    let target = GrpcTarget {
        cluster: name,
        authority: args.authority.unwrap_or(authority).into(),
        metadata,
        max_message: args.max_message.unwrap_or(DEFAULT_MAX_MESSAGE),
        own: Some(own),
    };
    Ok(target)
}

/// Arguments of a channel that change something here, by what gRPC calls them.
#[derive(Debug, Default)]
struct Args {
    /// `grpc.default_authority`
    authority: Option<String>,
    /// `grpc.ssl_target_name_override`
    server_name: Option<String>,
    /// `grpc.max_receive_message_length`
    max_message: Option<usize>,
    /// `grpc.keepalive_time_ms`
    keepalive: Option<Duration>,
    /// `grpc.keepalive_timeout_ms`
    keepalive_timeout: Option<Duration>,
}

/// The names of which the server must have one.
struct Names {
    kind: SanType,
    all: Vec<String>,
    sni: String,
}

// === impl Args ===

impl Args {
    fn lower(proto: ChannelArgs, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        use channel_args::value::ValueSpecifier::{IntValue, StringValue};
        let ChannelArgs { args } = proto;
        let mut lowered = Self::default();
        let mut args: Vec<_> = args.into_iter().collect();
        args.sort_by(|a, b| a.0.cmp(&b.0));
        // gRPC: less than one is one.
        let millis = |number: i64| Duration::from_millis(number.max(1).cast_unsigned().min(NEVER));
        for (name, value) in args {
            match (&*name, value.value_specifier) {
                ("grpc.default_authority", Some(StringValue(text))) => lowered.authority = Some(text),
                ("grpc.ssl_target_name_override", Some(StringValue(text))) => lowered.server_name = Some(text),
                // Less than none is as much as there is.
                ("grpc.max_receive_message_length", Some(IntValue(n))) => lowered.max_message = usize::try_from(n).ok(),
                ("grpc.keepalive_time_ms", Some(IntValue(n))) => lowered.keepalive = Some(millis(n)),
                ("grpc.keepalive_timeout_ms", Some(IntValue(n))) => lowered.keepalive_timeout = Some(millis(n)),
                _ => return Err(cx.at("args", |cx| cx.at_key(&name, |cx| cx.not_implemented("this argument")))),
            }
        }
        match &lowered.authority {
            Some(authority) if HeaderValue::from_str(authority).is_err() => {
                Err(cx.at("args", |cx| cx.at_key("grpc.default_authority", |cx| cx.invalid("is no authority"))))
            }
            _ => Ok(lowered),
        }
    }

    fn http2(&self) -> core::Http2ProtocolOptions {
        let keepalive = self.keepalive.filter(|interval| *interval < Duration::from_millis(NEVER));
        let connection_keepalive = keepalive.map(|interval| core::KeepaliveSettings {
            interval: Some(to_duration(interval)),
            timeout: Some(to_duration(self.keepalive_timeout.unwrap_or(KEEPALIVE_TIMEOUT))),
            ..core::KeepaliveSettings::default()
        });
        core::Http2ProtocolOptions { connection_keepalive, ..core::Http2ProtocolOptions::default() }
    }
}

// === impl Place ===

impl Place {
    fn names(&self) -> Names {
        let dns = |name: &str, sni: &str| Names { kind: SanType::Dns, all: vec![name.to_owned()], sni: sni.to_owned() };
        match self {
            Self::Name { host, .. } => dns(host, host),
            Self::Addresses(all) => {
                let all = all.iter().map(|address| address.ip().to_string()).collect();
                Names { kind: SanType::IpAddress, all, sni: String::new() }
            }
            Self::Pipe(_) => dns("localhost", ""),
        }
    }
}

// === impl Uri ===

impl Uri {
    fn lower(text: &str, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let (scheme, rest) = match text.split_once(':') {
            Some((scheme @ ("dns" | "ipv4" | "ipv6" | "unix" | "unix-abstract" | "xds"), rest)) => (scheme, rest),
            // What begins with no scheme is a name.
            _ => ("dns", text),
        };
        match scheme {
            "dns" => Self::of_name(rest, cx),
            "ipv4" | "ipv6" => Self::of_addresses(rest, cx),
            "unix" => {
                // With an authority, which is empty, the path is absolute.
                let path = rest.strip_prefix("//").unwrap_or(rest);
                Ok(Self { place: Place::Pipe(path.to_owned()), authority: "localhost".to_owned() })
            }
            "unix-abstract" => Ok(Self { place: Place::Pipe(format!("@{rest}")), authority: "localhost".to_owned() }),
            _ => Err(cx.not_implemented(format_args!("the scheme {scheme}"))),
        }
    }

    fn of_name(rest: &str, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let name = match rest.strip_prefix("//") {
            None => rest,
            Some(rest) => match rest.split_once('/') {
                Some(("", name)) => name,
                Some(_) => return Err(cx.not_implemented("a name server of its own")),
                None => return Err(cx.invalid("has no name")),
            },
        };
        if let Ok(address) = name.parse::<SocketAddr>() {
            return Ok(Self { place: Place::Addresses(vec![address]), authority: name.to_owned() });
        }
        if let Ok(ip) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
            let place = Place::Addresses(vec![SocketAddr::new(ip, DEFAULT_PORT)]);
            return Ok(Self { place, authority: name.to_owned() });
        }
        let (host, port) = match name.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| cx.invalid(format!("{port:?} is no port")))?),
            None => (name, DEFAULT_PORT),
        };
        if host.is_empty() || HeaderValue::from_str(name).is_err() {
            return Err(cx.invalid("has no name"));
        }
        Ok(Self { place: Place::Name { host: host.to_owned(), port }, authority: name.to_owned() })
    }

    fn of_addresses(rest: &str, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let all = rest
            .trim_start_matches('/')
            .split(',')
            .map(|address| address.parse().map_err(|_| cx.invalid(format!("{address:?} is no address with a port"))));
        let all: Vec<SocketAddr> = all.collect::<Result<_, _>>()?;
        let authority = all.first().map(ToString::to_string).unwrap_or_default();
        Ok(Self { place: Place::Addresses(all), authority })
    }
}

/// How connections are secured.
#[derive(Clone, Debug, PartialEq)]
enum Security {
    None,
    /// It is the machine's own.
    Local,
    Tls(Box<SslCredentials>),
}

impl Security {
    fn lower(proto: ChannelCredentials, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        use channel_credentials::CredentialSpecifier::{GoogleDefault, LocalCredentials, SslCredentials};
        let ChannelCredentials { credential_specifier } = proto;
        match credential_specifier {
            Some(SslCredentials(ssl)) => Ok(Self::Tls(Box::new(ssl))),
            Some(LocalCredentials(GoogleLocalCredentials {})) => Ok(Self::Local),
            Some(GoogleDefault(_)) => Err(cx.at("google_default", |cx| cx.not_implemented("credentials of Google's"))),
            None => Err(cx.invalid("one of ssl_credentials, google_default and local_credentials is required")),
        }
    }

    /// Envoy makes no connection but to a pipe with credentials that are local: what calls show stays on the machine.
    fn check_place(&self, place: &Place, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
        if *self != Self::Local || matches!(place, Place::Pipe(_)) {
            return Ok(());
        }
        let refuse = |cx: &mut LowerCx<'_>| cx.invalid("are for pipes alone (unix: and unix-abstract:)");
        Err(cx.at("channel_credentials", |cx| cx.at("local_credentials", refuse)))
    }
}

/// What calls show.
fn lower_call(proto: CallCredentials, cx: &mut LowerCx<'_>) -> Result<(HeaderName, HeaderValue), Refused> {
    use call_credentials::CredentialSpecifier as Specifier;
    let CallCredentials { credential_specifier } = proto;
    let field = match credential_specifier {
        Some(Specifier::AccessToken(token)) => {
            let value = HeaderValue::try_from(format!("Bearer {token}"));
            let mut value =
                value.map_err(|_| cx.at("access_token", |cx| cx.invalid("has characters that no header may have")))?;
            value.set_sensitive(true);
            return Ok((header::AUTHORIZATION, value));
        }
        Some(Specifier::GoogleComputeEngine(_)) => "google_compute_engine",
        Some(Specifier::GoogleRefreshToken(_)) => "google_refresh_token",
        Some(Specifier::ServiceAccountJwtAccess(_)) => "service_account_jwt_access",
        Some(Specifier::GoogleIam(_)) => "google_iam",
        Some(Specifier::FromPlugin(_)) => "from_plugin",
        Some(Specifier::StsService(_)) => "sts_service",
        None => return Err(cx.invalid("a credential is required")),
    };
    Err(cx.at(field, |cx| cx.not_implemented("a credential that is fetched")))
}

/// The cluster that stands for the service.
fn cluster(name: &str, place: Place, security: Security, args: &Args) -> cluster::Cluster {
    use core::address::Address;
    use core::socket_address::PortSpecifier;
    let socket = |address: String, port: u16| {
        Address::SocketAddress(core::SocketAddress {
            address,
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..core::SocketAddress::default()
        })
    };
    let names = match &args.server_name {
        Some(name) => Names { kind: SanType::Dns, all: vec![name.clone()], sni: name.clone() },
        None => place.names(),
    };
    let (kind, addresses) = match place {
        Place::Name { host, port } => (DiscoveryType::LogicalDns, vec![socket(host, port)]),
        Place::Addresses(all) => {
            let of = |address: &SocketAddr| socket(address.ip().to_string(), address.port());
            (DiscoveryType::Static, all.iter().map(of).collect())
        }
        Place::Pipe(path) => (DiscoveryType::Static, vec![Address::Pipe(core::Pipe { path, mode: 0 })]),
    };
    let endpoint = |address| endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(core::Address { address: Some(address) }),
            ..endpoint::Endpoint::default()
        })),
        ..endpoint::LbEndpoint::default()
    };
    let locality = endpoint::LocalityLbEndpoints {
        lb_endpoints: addresses.into_iter().map(endpoint).collect(),
        ..endpoint::LocalityLbEndpoints::default()
    };
    let http2 = ProtocolConfig::Http2ProtocolOptions(args.http2());
    let options = upstreams::HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(http2),
        })),
        ..upstreams::HttpProtocolOptions::default()
    };
    cluster::Cluster {
        name: format!("google_grpc:{name}"),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind.into())),
        load_assignment: Some(endpoint::ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![locality],
            ..endpoint::ClusterLoadAssignment::default()
        }),
        typed_extension_protocol_options: [(HTTP_OPTIONS.to_owned(), any(&options))].into(),
        transport_socket: match security {
            Security::Tls(ssl) => Some(tls_socket(*ssl, names)),
            Security::None | Security::Local => None,
        },
        wait_for_warm_on_init: Some(BoolValue { value: false }),
        ..cluster::Cluster::default()
    }
}

/// gRPC: a server must have a certificate for the name by which it is called.
fn tls_socket(ssl: SslCredentials, names: Names) -> core::TransportSocket {
    let SslCredentials { root_certs, private_key, cert_chain } = ssl;
    let certificates = (private_key.is_some() || cert_chain.is_some()).then(|| tls::TlsCertificate {
        certificate_chain: cert_chain,
        private_key,
        ..tls::TlsCertificate::default()
    });
    let exact = |text: String| StringMatcher { match_pattern: Some(MatchPattern::Exact(text)), ignore_case: false };
    let matcher = |text: String| tls::SubjectAltNameMatcher {
        san_type: names.kind.into(),
        matcher: Some(exact(text)),
        ..tls::SubjectAltNameMatcher::default()
    };
    let system = tls::certificate_validation_context::SystemRootCerts {};
    let validation = tls::CertificateValidationContext {
        system_root_certs: root_certs.is_none().then_some(system),
        trusted_ca: root_certs,
        match_typed_subject_alt_names: names.all.into_iter().map(matcher).collect(),
        ..tls::CertificateValidationContext::default()
    };
    let common = tls::CommonTlsContext {
        tls_certificates: certificates.into_iter().collect(),
        validation_context_type: Some(tls::common_tls_context::ValidationContextType::ValidationContext(validation)),
        ..tls::CommonTlsContext::default()
    };
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: names.sni,
        ..tls::UpstreamTlsContext::default()
    };
    core::TransportSocket {
        name: "tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(&context))),
    }
}

fn any<T: Message + Name>(message: &T) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", T::full_name()), value: message.encode_to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::read_duration;
    use nuncio_filter_api::Invalid;

    fn uri(text: &str) -> Result<(Place, String), String> {
        let env = crate::testing::env();
        let mut cx = LowerCx::new(&env);
        let lowered = Uri::lower(text, &mut cx);
        lowered.map(|uri| (uri.place, uri.authority)).map_err(|Refused| cx.finish()[0].reason.clone())
    }

    fn lowered(proto: GoogleGrpc) -> Result<GrpcTarget, Vec<Invalid>> {
        let env = crate::testing::env();
        LowerCx::whole(&env, |cx| lower(proto, cx))
    }

    fn service(uri: &str) -> GoogleGrpc {
        GoogleGrpc { target_uri: uri.to_owned(), stat_prefix: "s".to_owned(), ..GoogleGrpc::default() }
    }

    #[test]
    fn a_uri_names_hosts_addresses_or_a_pipe() {
        let name = |host: &str, port| Place::Name { host: host.to_owned(), port };
        let at = |all: &[&str]| Place::Addresses(all.iter().map(|a| a.parse().unwrap()).collect());
        for (text, place, authority) in [
            ("dns:///a.example:80", name("a.example", 80), "a.example:80"),
            ("dns:a.example", name("a.example", 443), "a.example"),
            ("a.example:80", name("a.example", 80), "a.example:80"),
            ("127.0.0.1:80", at(&["127.0.0.1:80"]), "127.0.0.1:80"),
            ("ipv4:127.0.0.1:80,127.0.0.2:81", at(&["127.0.0.1:80", "127.0.0.2:81"]), "127.0.0.1:80"),
            ("ipv6:[::1]:80", at(&["[::1]:80"]), "[::1]:80"),
            ("unix:///run/s", Place::Pipe("/run/s".to_owned()), "localhost"),
            ("unix:s", Place::Pipe("s".to_owned()), "localhost"),
            ("unix-abstract:s", Place::Pipe("@s".to_owned()), "localhost"),
        ] {
            assert_eq!(uri(text), Ok((place, authority.to_owned())), "{text}");
        }
        for (text, reason) in [
            ("xds:///a", "the scheme xds is not implemented yet"),
            ("dns://8.8.8.8/a", "a name server of its own is not implemented yet"),
            ("a:b", "\"b\" is no port"),
            ("dns:///", "has no name"),
            ("ipv4:a:80", "\"a:80\" is no address with a port"),
        ] {
            assert_eq!(uri(text), Err(reason.to_owned()), "{text}");
        }
    }

    #[test]
    fn it_becomes_a_cluster_of_its_own_that_the_same_service_shares() {
        let env = crate::testing::env();
        let target = |uri: &str| LowerCx::whole(&env, |cx| lower(service(uri), cx)).unwrap();
        let (a, same, b) = (target("a:1"), target("a:1"), target("b:1"));
        assert_eq!((a.cluster.id, a.cluster.id != b.cluster.id), (same.cluster.id, true));
        let services = env.own_services.all::<OwnService>();
        let configs = services.iter().filter_map(|own| own.cluster.downcast_ref::<ClusterConfig>());
        let ids: std::collections::BTreeSet<u32> = configs.filter(|c| c.is_own).map(|config| config.name.id).collect();
        assert_eq!(ids, [a.cluster.id, b.cluster.id].into());
        drop((a, same, b, services));
        assert!(env.own_services.all::<OwnService>().is_empty());
    }

    fn args(all: &[(&str, &str)]) -> ChannelArgs {
        use channel_args::value::ValueSpecifier;
        let value = |text: &str| {
            let string = || ValueSpecifier::StringValue(text.to_owned());
            let value_specifier = Some(text.parse().map_or_else(|_| string(), ValueSpecifier::IntValue));
            channel_args::Value { value_specifier }
        };
        ChannelArgs { args: all.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect() }
    }

    #[test]
    fn arguments_of_a_channel_are_heard() {
        let said = args(&[
            ("grpc.default_authority", "other"),
            ("grpc.max_receive_message_length", "1000"),
            ("grpc.keepalive_time_ms", "5000"),
        ]);
        let env = crate::testing::env();
        let proto = GoogleGrpc {
            channel_args: Some(said),
            credentials_factory_name: DEFAULT_FACTORY.to_owned(),
            config: Some(Default::default()),
            ..service("a:1")
        };
        let target = LowerCx::whole(&env, |cx| lower(proto, cx)).unwrap();
        assert_eq!((&*target.authority, target.max_message), ("other", 1000));
        let services = env.own_services.all::<OwnService>();
        let config = services[0].cluster.downcast_ref::<ClusterConfig>().unwrap();
        let keepalive = config.http.http2.keepalive.as_ref().unwrap();
        assert_eq!((keepalive.interval, keepalive.timeout), (Some(Duration::from_secs(5)), KEEPALIVE_TIMEOUT));
    }

    #[test]
    fn the_most_milliseconds_are_never_and_less_than_one_is_one() {
        let keepalive = |time: &str, timeout: &str| {
            let said = args(&[("grpc.keepalive_time_ms", time), ("grpc.keepalive_timeout_ms", timeout)]);
            let env = crate::testing::env();
            let lowered = LowerCx::whole(&env, |cx| Args::lower(said, cx)).unwrap();
            let said = lowered.http2().connection_keepalive?;
            Some((read_duration(said.interval?)?.as_millis(), read_duration(said.timeout?)?.as_millis()))
        };
        assert_eq!(keepalive("5000", "2147483647"), Some((5000, 2_147_483_647)));
        assert_eq!(keepalive("0", "-1"), Some((1, 1)));
        assert_eq!(keepalive("2147483646", "1"), Some((2_147_483_646, 1)));
        assert_eq!(keepalive("2147483647", "1"), None);
    }

    #[test]
    fn what_cannot_be_mapped_is_refused_by_its_path() {
        use call_credentials::CredentialSpecifier;
        let call = |specifier| CallCredentials { credential_specifier: Some(specifier) };
        let refused = lowered(GoogleGrpc {
            channel_args: Some(args(&[("grpc.lb_policy_name", "round_robin")])),
            credentials_factory_name: "f".to_owned(),
            call_credentials: vec![call(CredentialSpecifier::GoogleRefreshToken("t".to_owned()))],
            ..service("a:1")
        });
        let said: Vec<String> = refused.unwrap_err().iter().map(ToString::to_string).collect();
        let expected = [
            "credentials_factory_name: f is not implemented yet",
            "channel_args.args[\"grpc.lb_policy_name\"]: this argument is not implemented yet",
            "call_credentials[0].google_refresh_token: a credential that is fetched is not implemented yet",
        ];
        assert_eq!(said, expected);
        let token = vec![call(CredentialSpecifier::AccessToken("t".to_owned()))];
        let refused = lowered(GoogleGrpc { call_credentials: token.clone(), ..service("a:1") }).unwrap_err();
        assert_eq!(refused[0].to_string(), "call_credentials: need channel_credentials");
        let local = channel_credentials::CredentialSpecifier::LocalCredentials(GoogleLocalCredentials {});
        let with_local = |uri: &str| {
            let channel_credentials = Some(ChannelCredentials { credential_specifier: Some(local.clone()) });
            lowered(GoogleGrpc { call_credentials: token.clone(), channel_credentials, ..service(uri) })
        };
        assert_eq!(with_local("unix:s").unwrap().metadata[0].1, "Bearer t");
        assert_eq!(
            with_local("127.0.0.1:1").unwrap_err()[0].to_string(),
            "channel_credentials.local_credentials: are for pipes alone (unix: and unix-abstract:)"
        );
    }
}
