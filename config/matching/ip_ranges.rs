//! Which of many address ranges an address is in.

use std::collections::HashMap;
use std::net::IpAddr;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::CidrRange;
use nuncio_proto::xds_matcher::IpRangeMatcher;
use smallvec::SmallVec;

use crate::matcher::{Cidr, bits};

use super::{Insufficient, MatchingData, OnMatch, TreeRules, required};

/// Ranges of both families. Looking an address up costs a look into a table for each length that occurs.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    v4: Family,
    v6: Family,
}

/// The ranges of one family by their length, the longest first.
#[derive(Debug, Default)]
struct Family(Vec<(u8, HashMap<u128, SmallVec<[u32; 2]>>)>);

/// `xds.type.matcher.v3.IPMatcher`
#[derive(Debug)]
pub(super) struct IpRanges {
    /// Numbers of matchers.
    ranges: Ranges,
    matchers: Box<[IpMatcher]>,
}

#[derive(Debug)]
struct IpMatcher {
    on_match: OnMatch,
    exclusive: bool,
}

// === impl Ranges ===

impl Ranges {
    /// Ranges in the order of the message; a range that is found is told by its place.
    pub(super) fn lower(field: &str, ranges: Vec<CidrRange>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let ranges = cx.each(field, ranges, Cidr::lower)?;
        let mut all = Self::default();
        for (number, range) in (0..).zip(ranges) {
            all.add(range, number);
        }
        all.finish();
        Ok(all)
    }

    fn add(&mut self, range: Cidr, number: u32) {
        let family = if range.is_v4 { &mut self.v4.0 } else { &mut self.v6.0 };
        let at = family.iter().position(|(len, _)| *len == range.len).unwrap_or_else(|| {
            family.push((range.len, HashMap::new()));
            family.len() - 1
        });
        family[at].1.entry(range.network).or_default().push(number);
    }

    fn finish(&mut self) {
        for family in [&mut self.v4, &mut self.v6] {
            family.0.sort_unstable_by_key(|(len, _)| std::cmp::Reverse(*len));
        }
    }

    /// The numbers of the ranges that `address` is in: the longest first, those of one length in order.
    pub(super) fn find(&self, address: IpAddr) -> impl Iterator<Item = u32> {
        let (family, (bits, width)) = (if address.is_ipv4() { &self.v4 } else { &self.v6 }, bits(address));
        family
            .0
            .iter()
            .filter_map(move |(len, networks)| networks.get(&Cidr::network(bits, *len, width)))
            .flatten()
            .copied()
    }
}

// === impl IpRanges ===

impl IpRanges {
    pub(super) fn lower(
        matchers: Vec<IpRangeMatcher>,
        rules: &mut TreeRules<'_>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let mut all = Ranges::default();
        let mut number = 0;
        let matchers = cx.each("range_matchers", matchers, |matcher, cx| {
            let IpRangeMatcher { ranges, on_match, exclusive } = matcher;
            let ranges = cx.each("ranges", ranges, Cidr::lower_xds);
            let on_match = required("on_match", on_match, cx, |on_match, cx| OnMatch::lower(on_match, rules, cx));
            for range in ranges? {
                all.add(range, number);
            }
            number += 1;
            Ok(IpMatcher { on_match: on_match?, exclusive })
        })?;
        all.finish();
        Ok(Self { ranges: all, matchers: matchers.into() })
    }

    /// What the longest range that finds anything finds. An exclusive one is asked only if it is the longest of all.
    pub(super) fn find(&self, address: &[u8], data: MatchingData<'_>) -> Result<Option<u32>, Insufficient> {
        let Some(address) = parse_address(address) else { return Ok(None) };
        let candidates = self.ranges.find(address).map(|number| &self.matchers[number as usize]);
        let asked = candidates.enumerate().filter(|(place, matcher)| *place == 0 || !matcher.exclusive);
        super::first(asked.map(|(_, matcher)| &matcher.on_match), data)
    }
}

/// The address that a text is.
pub(super) fn parse_address(text: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
