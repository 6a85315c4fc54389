//! Response flags: why a stream did not end as its upstream meant it to (Envoy's `%RESPONSE_FLAGS%`).

macro_rules! flags {
    ($($name:ident $short:literal $long:literal),* $(,)?) => {
        /// One response flag.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum ResponseFlag { $(#[doc = $long] $name),* }

        impl ResponseFlag {
            /// Every flag.
            pub const ALL: &'static [ResponseFlag] = &[$(Self::$name),*];

            /// The short form of `%RESPONSE_FLAGS%`, such as `UH`.
            pub fn short(self) -> &'static str {
                match self { $(Self::$name => $short),* }
            }

            /// The long form of `%RESPONSE_FLAGS_LONG%`, such as `NoHealthyUpstream`.
            pub fn long(self) -> &'static str {
                match self { $(Self::$name => $long),* }
            }
        }
    };
}

flags! {
    FailedLocalHealthCheck "LH" "FailedLocalHealthCheck",
    NoHealthyUpstream "UH" "NoHealthyUpstream",
    UpstreamRequestTimeout "UT" "UpstreamRequestTimeout",
    LocalReset "LR" "LocalReset",
    UpstreamRemoteReset "UR" "UpstreamRemoteReset",
    UpstreamConnectionFailure "UF" "UpstreamConnectionFailure",
    UpstreamConnectionTermination "UC" "UpstreamConnectionTermination",
    UpstreamOverflow "UO" "UpstreamOverflow",
    NoRouteFound "NR" "NoRouteFound",
    DelayInjected "DI" "DelayInjected",
    FaultInjected "FI" "FaultInjected",
    RateLimited "RL" "RateLimited",
    UnauthorizedExternalService "UAEX" "UnauthorizedExternalService",
    RateLimitServiceError "RLSE" "RateLimitServiceError",
    DownstreamConnectionTermination "DC" "DownstreamConnectionTermination",
    UpstreamRetryLimitExceeded "URX" "UpstreamRetryLimitExceeded",
    StreamIdleTimeout "SI" "StreamIdleTimeout",
    InvalidEnvoyRequestHeaders "IH" "InvalidEnvoyRequestHeaders",
    DownstreamProtocolError "DPE" "DownstreamProtocolError",
    UpstreamMaxStreamDurationReached "UMSDR" "UpstreamMaxStreamDurationReached",
    ResponseFromCacheFilter "RFCF" "ResponseFromCacheFilter",
    NoFilterConfigFound "NFCF" "NoFilterConfigFound",
    DurationTimeout "DT" "DurationTimeout",
    UpstreamProtocolError "UPE" "UpstreamProtocolError",
    NoClusterFound "NC" "NoClusterFound",
    OverloadManager "OM" "OverloadManagerTerminated",
    DnsResolutionFailed "DF" "DnsResolutionFailed",
    DropOverload "DO" "DropOverload",
    DownstreamRemoteReset "DR" "DownstreamRemoteReset",
    UnconditionalDropOverload "UDO" "UnconditionalDropOverload",
}

/// A set of [`ResponseFlag`]s, which remembers the order in which they were set: so Envoy prints them.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseFlags {
    set: u32,
    /// The first flags to be set, [`BITS`] for each, the first in the lowest; a stream rarely has three.
    order: u64,
}

/// Bits of a flag's number in the order.
const BITS: u32 = 6;

/// Flags whose order is remembered.
const ORDERED: u32 = u64::BITS / BITS;

impl ResponseFlags {
    /// The empty set.
    pub const NONE: Self = Self { set: 0, order: 0 };

    /// The set of one flag.
    pub const fn one(flag: ResponseFlag) -> Self {
        Self { set: 1 << flag as u8, order: flag as u64 }
    }

    /// The union of two sets, the flags of `self` first.
    pub fn union(mut self, other: Self) -> Self {
        for flag in other.iter() {
            if self.has(flag) {
                continue;
            }
            let len = self.set.count_ones();
            if len < ORDERED {
                self.order |= (flag as u64) << (len * BITS);
            }
            self.set |= 1 << flag as u8;
        }
        self
    }

    /// Whether `flag` is in the set.
    pub const fn has(self, flag: ResponseFlag) -> bool {
        self.set & (1 << flag as u8) != 0
    }

    /// Envoy's bits of them.
    pub(crate) fn bits(self) -> i64 {
        self.set.into()
    }

    /// Whether no flag is set.
    pub const fn is_empty(self) -> bool {
        self.set == 0
    }

    /// The flags of the set in the order in which they were set.
    pub fn iter(self) -> impl Iterator<Item = ResponseFlag> {
        let len = self.set.count_ones();
        let number = move |at: u32| (self.order >> (at * BITS)) as usize & ((1 << BITS) - 1);
        let ordered = (0..len.min(ORDERED)).map(move |at| ResponseFlag::ALL[number(at)]);
        let is_ordered = move |flag: &ResponseFlag| (0..ORDERED).any(|at| number(at) == *flag as usize);
        let rest = ResponseFlag::ALL.iter().copied().filter(move |f| len > ORDERED && self.has(*f) && !is_ordered(f));
        ordered.chain(rest)
    }

    /// Writes them with commas between them, each as `name` has it; nothing where there is none.
    pub fn write(self, name: fn(ResponseFlag) -> &'static str, out: &mut Vec<u8>) {
        for (at, flag) in self.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(name(flag).as_bytes());
        }
    }
}

impl PartialEq for ResponseFlags {
    fn eq(&self, other: &Self) -> bool {
        self.set == other.set
    }
}

impl Eq for ResponseFlags {}

impl From<ResponseFlag> for ResponseFlags {
    fn from(flag: ResponseFlag) -> Self {
        Self::one(flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_keep_the_order_in_which_they_were_set() {
        use ResponseFlag::{FailedLocalHealthCheck, UpstreamConnectionFailure, UpstreamRetryLimitExceeded};
        let flags = [UpstreamRetryLimitExceeded, UpstreamConnectionFailure, UpstreamRetryLimitExceeded];
        let flags = flags.into_iter().fold(ResponseFlags::NONE, |set, flag| set.union(flag.into()));
        assert_eq!(flags.iter().map(ResponseFlag::short).collect::<Vec<_>>(), ["URX", "UF"]);
        let mut written = Vec::new();
        flags.write(ResponseFlag::short, &mut written);
        assert_eq!(written, b"URX,UF");
        let first = ResponseFlags::one(FailedLocalHealthCheck);
        assert_eq!(first.union(flags), flags.union(first));
        assert_eq!(ResponseFlags::NONE.iter().count(), 0);
    }

    #[test]
    fn all_flags_fit() {
        let all = ResponseFlag::ALL.iter().rev().fold(ResponseFlags::NONE, |set, flag| set.union((*flag).into()));
        assert_eq!(all.iter().count(), ResponseFlag::ALL.len());
        assert!(ResponseFlag::ALL.iter().all(|flag| all.has(*flag)));
    }
}
