//! Which of many domains, some with a wildcard, a name is in.

use std::collections::HashMap;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::xds_matcher::DomainMatcher;

use super::{Insufficient, MatchingData, OnMatch, TreeRules, required};

/// `xds.type.matcher.v3.ServerNameMatcher`. Names are compared as they are: Envoy folds no case.
#[derive(Debug, Default)]
pub(super) struct Domains {
    /// Numbers of matchers.
    exact: HashMap<Box<[u8]>, u32>,
    /// By what follows `*.`.
    below: HashMap<Box<[u8]>, u32>,
    any: Option<u32>,
    matchers: Box<[OnMatch]>,
}

impl Domains {
    pub(super) fn lower(
        matchers: Vec<DomainMatcher>,
        rules: &mut TreeRules<'_>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let mut all = Self::default();
        let mut number = 0;
        let matchers = cx.each("domain_matchers", matchers, |DomainMatcher { domains, on_match }, cx| {
            let domains = cx.each("domains", domains, |domain, cx| all.add(&domain, number, cx));
            let on_match = required("on_match", on_match, cx, |on_match, cx| OnMatch::lower(on_match, rules, cx));
            number += 1;
            domains?;
            on_match
        });
        Ok(Self { matchers: matchers?.into(), ..all })
    }

    fn add(&mut self, domain: &str, number: u32, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
        let twice = match (domain, domain.strip_prefix("*.")) {
            ("", _) => return Err(cx.invalid("must not be empty")),
            ("*", _) => self.any.replace(number).is_some(),
            (_, Some(rest)) if !rest.is_empty() && !rest.contains('*') => {
                self.below.insert(rest.as_bytes().into(), number).is_some()
            }
            _ if domain.contains('*') => {
                return Err(
                    cx.invalid(format!("{domain:?}: a wildcard is * alone, or begins a name as in *.example.com"))
                );
            }
            _ => self.exact.insert(domain.as_bytes().into(), number).is_some(),
        };
        if twice { Err(cx.invalid(format!("duplicate domain {domain}"))) } else { Ok(()) }
    }

    /// What the most precise domain that finds anything finds.
    pub(super) fn find(&self, name: &[u8], data: MatchingData<'_>) -> Result<Option<u32>, Insufficient> {
        if name.is_empty() {
            return Ok(None);
        }
        let dots = memchr::memchr_iter(b'.', name);
        let below = dots.filter_map(|dot| self.below.get(&name[dot + 1..]));
        let candidates = self.exact.get(name).into_iter().chain(below).chain(&self.any);
        super::first(candidates.map(|number| &self.matchers[*number as usize]), data)
    }
}
