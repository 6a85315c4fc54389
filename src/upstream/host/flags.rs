use std::fmt;

use nuncio_config::cluster::Health;

use super::CoarseHealth;

/// One thing that is known of a host's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum HealthFlag {
    /// Active health checks fail.
    FailedActiveHc = 0x1,
    /// Outlier detection ejected it.
    FailedOutlierCheck = 0x2,
    /// Discovery calls it unhealthy.
    FailedEdsHealth = 0x4,
    /// Active health checks call it degraded.
    DegradedActiveHc = 0x8,
    /// Discovery calls it degraded.
    DegradedEdsHealth = 0x10,
    /// Discovery has it no longer, but active health checks pass.
    PendingDynamicRemoval = 0x20,
    /// No active health check has ended yet.
    PendingActiveHc = 0x40,
    /// It asked to be left alone with `x-envoy-immediate-health-check-fail`.
    ExcludedViaImmediateHcFail = 0x80,
    /// The active health check that failed timed out.
    ActiveHcTimeout = 0x100,
    /// Discovery says that it drains.
    EdsStatusDraining = 0x200,
    /// Outlier detection calls it degraded.
    DegradedOutlierDetection = 0x400,
}

/// What is known of a host's health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthFlags(u32);

/// In the order in which `/clusters` names them.
const NAMES: [(HealthFlag, &str); 11] = [
    (HealthFlag::FailedActiveHc, "/failed_active_hc"),
    (HealthFlag::FailedOutlierCheck, "/failed_outlier_check"),
    (HealthFlag::FailedEdsHealth, "/failed_eds_health"),
    (HealthFlag::DegradedActiveHc, "/degraded_active_hc"),
    (HealthFlag::DegradedEdsHealth, "/degraded_eds_health"),
    (HealthFlag::PendingDynamicRemoval, "/pending_dynamic_removal"),
    (HealthFlag::PendingActiveHc, "/pending_active_hc"),
    (HealthFlag::ExcludedViaImmediateHcFail, "/excluded_via_immediate_hc_fail"),
    (HealthFlag::ActiveHcTimeout, "/active_hc_timeout"),
    (HealthFlag::EdsStatusDraining, "/eds_status_draining"),
    (HealthFlag::DegradedOutlierDetection, "/degraded_outlier_detection"),
];

// === impl HealthFlags ===

impl HealthFlags {
    const UNHEALTHY: Self = Self(
        HealthFlag::FailedActiveHc as u32
            | HealthFlag::FailedOutlierCheck as u32
            | HealthFlag::FailedEdsHealth as u32
            | HealthFlag::EdsStatusDraining as u32,
    );
    const DEGRADED: Self = Self(
        HealthFlag::DegradedActiveHc as u32
            | HealthFlag::DegradedEdsHealth as u32
            | HealthFlag::DegradedOutlierDetection as u32,
    );
    /// Neither missed when hosts are counted nor, unless there is nobody else, used.
    const EXCLUDED: Self = Self(
        HealthFlag::PendingActiveHc as u32
            | HealthFlag::ExcludedViaImmediateHcFail as u32
            | HealthFlag::EdsStatusDraining as u32,
    );
    const CONFIGURED: Self = Self(
        HealthFlag::FailedEdsHealth as u32
            | HealthFlag::DegradedEdsHealth as u32
            | HealthFlag::EdsStatusDraining as u32,
    );

    /// Those that discovery sets for `health`.
    pub fn configured(health: Health) -> Self {
        match health {
            Health::Unknown | Health::Healthy => Self::default(),
            Health::Unhealthy | Health::Timeout => HealthFlag::FailedEdsHealth.into(),
            Health::Degraded => HealthFlag::DegradedEdsHealth.into(),
            Health::Draining => HealthFlag::EdsStatusDraining.into(),
        }
    }

    /// As these, with what discovery says replaced.
    pub(super) fn with_configured(self, configured: Self) -> Self {
        Self(self.0 & !Self::CONFIGURED.0 | configured.0)
    }

    /// What active health checks have found.
    pub(super) fn checked(self) -> Self {
        let found = HealthFlag::FailedActiveHc as u32
            | HealthFlag::DegradedActiveHc as u32
            | HealthFlag::PendingActiveHc as u32
            | HealthFlag::ExcludedViaImmediateHcFail as u32
            | HealthFlag::ActiveHcTimeout as u32;
        Self(self.0 & found)
    }

    pub(super) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(super) fn bits(self) -> u32 {
        self.0
    }

    /// Whether `flag` is set.
    pub fn has(self, flag: HealthFlag) -> bool {
        self.meets(flag.into())
    }

    fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// What load balancing makes of them.
    pub fn coarse(self) -> CoarseHealth {
        match self {
            flags if flags.meets(Self::UNHEALTHY) => CoarseHealth::Unhealthy,
            flags if flags.meets(Self::DEGRADED) => CoarseHealth::Degraded,
            _ => CoarseHealth::Healthy,
        }
    }

    /// Whether the host counts neither as healthy nor as missing.
    pub fn is_excluded(self) -> bool {
        self.meets(Self::EXCLUDED)
    }

    /// What discovery says.
    pub fn health_of_discovery(self) -> Health {
        match Self(self.0 & Self::CONFIGURED.0) {
            flags if flags.has(HealthFlag::EdsStatusDraining) => Health::Draining,
            flags if flags.has(HealthFlag::FailedEdsHealth) => Health::Unhealthy,
            flags if flags.has(HealthFlag::DegradedEdsHealth) => Health::Degraded,
            _ => Health::Healthy,
        }
    }
}

impl From<HealthFlag> for HealthFlags {
    fn from(flag: HealthFlag) -> Self {
        Self(flag as u32)
    }
}

impl fmt::Display for HealthFlags {
    /// As `/clusters` has them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("healthy");
        }
        NAMES.iter().filter(|(flag, _)| self.has(*flag)).try_for_each(|(_, name)| f.write_str(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(all: &[HealthFlag]) -> HealthFlags {
        HealthFlags(all.iter().fold(0, |bits, flag| bits | *flag as u32))
    }

    #[test]
    fn flags_are_shown_in_envoys_order() {
        assert_eq!(HealthFlags::default().to_string(), "healthy");
        let shown = flags(&[HealthFlag::EdsStatusDraining, HealthFlag::FailedEdsHealth, HealthFlag::FailedActiveHc]);
        assert_eq!(shown.to_string(), "/failed_active_hc/failed_eds_health/eds_status_draining");
    }

    #[test]
    fn a_host_is_as_healthy_as_the_worst_of_its_flags() {
        use HealthFlag::*;
        assert_eq!(flags(&[PendingActiveHc, ExcludedViaImmediateHcFail]).coarse(), CoarseHealth::Healthy);
        assert_eq!(flags(&[DegradedEdsHealth]).coarse(), CoarseHealth::Degraded);
        assert_eq!(flags(&[DegradedActiveHc, FailedOutlierCheck]).coarse(), CoarseHealth::Unhealthy);
        assert_eq!(flags(&[EdsStatusDraining]).coarse(), CoarseHealth::Unhealthy);
    }

    #[test]
    fn who_waits_or_leaves_is_excluded() {
        use HealthFlag::*;
        for flag in [PendingActiveHc, ExcludedViaImmediateHcFail, EdsStatusDraining] {
            assert!(flags(&[flag]).is_excluded(), "{flag:?}");
        }
        assert!(!flags(&[FailedActiveHc, FailedEdsHealth, DegradedEdsHealth]).is_excluded());
    }
}
