//! Which cluster gets the datagrams of a client: the matcher of `udp_proxy`, whose leaves are actions of type `Route`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use nuncio_filter_api::{ClusterName, LowerCx, Refused};
use nuncio_proto::envoy::extensions::filters::udp::udp_proxy::v3::Route;
use nuncio_proto::google::protobuf::Any;
use nuncio_proto::xds::r#type::matcher::v3::Matcher;
use nuncio_telemetry::ConnectionInfo;
use tokio::time::Instant;

use crate::matching::{HostData, Inputs, Tree, TreeRules};
use crate::protocol::{any_as, message_name};

/// A tree of matchers whose leaves are clusters.
#[derive(Debug)]
pub struct UdpRoutes {
    tree: Tree,
    clusters: Vec<ClusterName>,
}

impl UdpRoutes {
    /// Lowers the tree.
    pub fn lower(matcher: Matcher, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        const ROUTE: &str = "envoy.extensions.filters.udp.udp_proxy.v3.Route";
        let mut clusters = Vec::new();
        let mut leaf = |any: Any, cx: &mut LowerCx<'_>| {
            if message_name(&any) != ROUTE {
                let reason = format!("{} is no action of udp_proxy, which has {ROUTE}", message_name(&any));
                return Err(cx.invalid(reason));
            }
            let Route { cluster } = any_as(&any, cx)?;
            clusters.push(cx.env.clusters.intern(&cluster));
            Ok(u32::try_from(clusters.len() - 1).unwrap_or(u32::MAX))
        };
        let mut rules = TreeRules { inputs: Inputs::Datagram, keep_matching: true, leaf: &mut leaf };
        let tree = Tree::lower(matcher, &mut rules, cx)?;
        Ok(Self { tree, clusters })
    }

    /// The cluster for what `peer` sends to `local`, if there is one.
    pub fn find(&self, peer: SocketAddr, local: SocketAddr) -> Option<&ClusterName> {
        let connection = ConnectionInfo::new(0, peer.into(), local.into(), Instant::now());
        let leaf = self.tree.find_for_connection(Rc::new(connection), HostData::default())?;
        self.clusters.get(leaf as usize)
    }

    /// The cluster, where it is the same for whoever sends.
    pub fn only(&self) -> Option<&ClusterName> {
        let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        if self.tree.is_constant() { self.find(nobody, nobody) } else { None }
    }
}
