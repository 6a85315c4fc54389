//! Which group keys are exchanged in. rustls has it chosen by the client's order; BoringSSL by ours, unless that of clients
//! counts (`prefer_client_ciphers`). So whoever would rather have another group than we gets ours and no other.

use rustls::{NamedGroup, ServerConfig};

use super::parameters::{Parameters, Version};
use super::server_configs::ServerConfigs;

/// Configurations by the group that is to be taken.
#[derive(Debug)]
pub(super) struct ByGroup {
    /// With all groups, for those whose order is as ours.
    all: ServerConfigs,
    /// Groups in our order, each with the configurations that have it alone. None where clients choose. The last is for
    /// nobody: whoever shares no other takes it anyway.
    alone: Box<[(NamedGroup, ServerConfigs)]>,
}

/// Whose order of groups counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Ours,
    Theirs,
}

impl ByGroup {
    /// `make` makes those for the groups of its parameters.
    pub(super) fn new<E>(
        parameters: &Parameters,
        order: Order,
        mut make: impl FnMut(&Parameters) -> Result<ServerConfigs, E>,
    ) -> Result<Self, E> {
        let all = make(parameters)?;
        let mut groups = parameters.groups_alone();
        groups.pop();
        groups.retain(|_| order == Order::Ours);
        let alone = groups.into_iter().map(|(name, parameters)| Ok((name, make(&parameters)?)));
        Ok(Self { all, alone: alone.collect::<Result<_, E>>()? })
    }

    /// Those with all groups.
    pub(super) fn all(&self) -> &ServerConfigs {
        &self.all
    }

    /// The same, each changed in this way.
    pub(super) fn changed(&self, change: impl Fn(&mut ServerConfig)) -> Self {
        let alone = self.alone.iter().map(|(name, configs)| (*name, configs.changed(&change)));
        Self { all: self.all.changed(&change), alone: alone.collect() }
    }

    /// Those for a client that knows these groups, the best first, where `version` will be spoken.
    pub(super) fn for_client(&self, groups: &[NamedGroup], version: Version) -> &ServerConfigs {
        let ours = self.alone.iter().find(|(name, _)| groups.contains(name) && is_of(*name, version));
        match ours {
            Some((name, configs)) if groups.first() != Some(name) => configs,
            _ => &self.all,
        }
    }
}

/// Whether keys may be exchanged so: post-quantum groups are of TLS 1.3 alone.
fn is_of(group: NamedGroup, version: Version) -> bool {
    let is_old = matches!(
        group,
        NamedGroup::X25519 | NamedGroup::X448 | NamedGroup::secp256r1 | NamedGroup::secp384r1 | NamedGroup::secp521r1
    );
    is_old || version == Version::Tls13
}
