//! Whether the chain of a peer's certificate leads to an authority that is trusted (RFC 5280 §6), found and judged in
//! the way and the order of BoringSSL, so that Envoy and we believe the same.
//!
//! Why not webpki: it looks at neither the dates nor the key usage of authorities, and refuses much that is in use:
//! peers whose certificate says that it is an authority's, critical policies, constraints of URIs, long chains.

#[cfg(test)]
mod tests;

use std::cell::Cell;

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm};

use super::authorities::Authorities;
use super::flaw::{Flaw, FlawAt};
use super::link::Link;
use super::revocation;
use super::validation::Peer;

/// Most certificates between the peer's and the authority's where nothing is set, as in BoringSSL.
const DEFAULT_DEPTH: u32 = 100;
/// Signatures that are tried to find out which of several issuers of one name it was.
const MOST_TRIED: u32 = 8;

/// What a chain is held against.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    pub(super) trusted: &'a Authorities,
    pub(super) when: When,
    pub(super) peer: Peer,
    pub(super) max_depth: Option<u32>,
    pub(super) known: &'a [&'a dyn SignatureVerificationAlgorithm],
}

/// The time at which a chain has to be valid.
#[derive(Clone, Copy, Debug)]
pub(super) struct When {
    /// Seconds since 1970.
    pub(super) now: i64,
    /// Certificates of other times are fine too.
    pub(super) is_ignored: bool,
}

/// A chain, the peer's certificate first.
struct Chain<'a> {
    links: Vec<Link<'a>>,
    /// How many of them are not trusted by themselves.
    untrusted: usize,
}

impl<'a> Judge<'a> {
    /// Looks for a chain, and for what is wrong with it.
    pub(super) fn check(&self, leaf: &'a CertificateDer<'_>, others: &'a [CertificateDer<'_>]) -> Result<(), FlawAt> {
        let leaf = Link::read(leaf).ok_or(FlawAt { depth: 0, flaw: Flaw::Extension })?;
        let chain = self.find(leaf, others.iter().filter_map(|der| Link::read(der)).collect())?;
        self.check_extensions(&chain)?;
        self.check_revocation(&chain)?;
        self.check_signatures(&chain)?;
        check_names(&chain)?;
        // The authority that is trusted speaks of others alone.
        let below = &chain.links[..chain.links.len() - 1];
        if let Some(depth) = below.iter().rposition(Link::has_bad_policies) {
            return Err(FlawAt { depth, flaw: Flaw::PolicyExtension });
        }
        let policy = below.iter().position(Link::wants_policy);
        policy.map_or(Ok(()), |depth| Err(FlawAt { depth, flaw: Flaw::Policy }))
    }

    fn find(&self, leaf: Link<'a>, mut others: Vec<Link<'a>>) -> Result<Chain<'a>, FlawAt> {
        let (most, tries) = (self.max_depth.unwrap_or(DEFAULT_DEPTH) as usize, Cell::new(MOST_TRIED));
        let most = most.saturating_add(2);
        let mut links = vec![leaf];
        // Those that are trusted come first, so that a chain is no longer than it must be.
        let mut issuers = loop {
            let last = &links[links.len() - 1];
            let issuers = self.trusted_issuers(last);
            if links.len() >= most || last.is_self_signed() || issuers.iter().any(|one| last.is_issued_by(one)) {
                break issuers;
            }
            let Some(next) = self.choose(last, &others, &tries) else { break issuers };
            links.push(others.remove(next));
        };
        let mut root = None;
        if links[links.len() - 1].is_self_signed() {
            match links.len() {
                1 if self.trusted.holds(links[0].der) => return Ok(Chain { links, untrusted: 0 }),
                1 => return Err(FlawAt { depth: 0, flaw: Flaw::SelfSigned }),
                _ => root = links.pop(),
            }
            issuers = self.trusted_issuers(&links[links.len() - 1]);
        }
        let untrusted = links.len();
        while links.len() < most {
            let Some(next) = self.choose(&links[links.len() - 1], &issuers, &tries) else { break };
            links.push(issuers.swap_remove(next));
            issuers = self.trusted_issuers(&links[links.len() - 1]);
        }
        if links.len() > untrusted {
            return Ok(Chain { links, untrusted });
        }
        if self.trusted.holds(links[0].der) {
            return Ok(Chain { links, untrusted: 0 });
        }
        let last = &links[links.len() - 1];
        Err(match root.is_some_and(|root| last.is_issued_by(&root)) {
            true => FlawAt { depth: links.len(), flaw: Flaw::SelfSignedInChain },
            false => FlawAt { depth: links.len() - 1, flaw: Flaw::UnknownIssuer },
        })
    }

    /// Those that are trusted and may have issued it. One that has signed itself needs none.
    fn trusted_issuers(&self, certificate: &Link<'_>) -> Vec<Link<'a>> {
        match certificate.is_self_signed() {
            true => Vec::new(),
            false => self.trusted.issuers_of(certificate),
        }
    }

    /// The one that issued a certificate. Where several say so, one that has signed it and is valid; where none has, the
    /// first, whose flaw is told.
    fn choose(&self, certificate: &Link<'_>, issuers: &[Link<'_>], tries: &Cell<u32>) -> Option<usize> {
        let all: Vec<usize> = (0..issuers.len()).filter(|i| certificate.is_issued_by(&issuers[*i])).collect();
        if all.len() < 2 {
            return all.first().copied();
        }
        let has_signed = |i: &&usize| {
            let left = tries.get().checked_sub(1);
            left.is_some_and(|left| {
                tries.set(left);
                certificate.is_signed_by(&issuers[**i], self.known)
            })
        };
        let (valid, other): (Vec<usize>, Vec<usize>) = all.iter().partition(|i| self.check_time(&issuers[**i]).is_ok());
        valid.iter().chain(&other).find(has_signed).or(all.first()).copied()
    }

    /// What certificates say of themselves. Those that are trusted need not say what others must.
    fn check_extensions(&self, chain: &Chain<'_>) -> Result<(), FlawAt> {
        let mut authorities = 0;
        for (depth, link) in chain.links.iter().enumerate() {
            let flawed = |flaw| Err(FlawAt { depth, flaw });
            if link.is_invalid() {
                return flawed(Flaw::Extension);
            }
            if depth >= chain.untrusted {
                continue;
            }
            if link.has_unknown() {
                return flawed(Flaw::CriticalExtension);
            }
            if depth > 0 && !link.may_issue() {
                return flawed(Flaw::NoAuthority);
            }
            if !link.is_for(self.peer) || (depth == 0 && !link.has_key_for(self.peer)) {
                return flawed(Flaw::Purpose);
            }
            // RFC 5280 §4.2.1.9: neither the peer's certificate counts nor those by which an authority goes on.
            if depth > 0 && link.most_below().is_some_and(|most| authorities > most) {
                return flawed(Flaw::PathLength);
            }
            authorities += usize::from(depth > 0 && !link.is_self_issued());
        }
        Ok(())
    }

    fn check_revocation(&self, chain: &Chain<'_>) -> Result<(), FlawAt> {
        let lists = &self.trusted.revocations;
        if lists.is_empty() {
            return Ok(());
        }
        let most = if self.trusted.only_leaf { 1 } else { chain.links.len() };
        for depth in 0..most {
            let checked = revocation::check(lists, &chain.links, depth, self.when, self.known);
            checked.map_err(|flaw| FlawAt { depth, flaw })?;
        }
        Ok(())
    }

    /// Signatures and times, from the authority down.
    fn check_signatures(&self, chain: &Chain<'_>) -> Result<(), FlawAt> {
        for (depth, link) in chain.links.iter().enumerate().rev() {
            let issuer = chain.links.get(depth + 1);
            if issuer.is_some_and(|issuer| !link.is_signed_by(issuer, self.known)) {
                return Err(FlawAt { depth, flaw: Flaw::Signature });
            }
            self.check_time(link).map_err(|flaw| FlawAt { depth, flaw })?;
        }
        Ok(())
    }

    fn check_time(&self, link: &Link<'_>) -> Result<(), Flaw> {
        let (start, end) = link.validity();
        match self.when.now {
            _ if self.when.is_ignored => Ok(()),
            now if now < start => Err(Flaw::NotYetValid),
            now if now > end => Err(Flaw::Expired),
            _ => Ok(()),
        }
    }
}

/// Whether all authorities may have issued for the names of those below them.
fn check_names(chain: &Chain<'_>) -> Result<(), FlawAt> {
    for (depth, link) in chain.links.iter().enumerate().rev() {
        // RFC 5280 §6.1.3: an authority may go on under a new key.
        if depth > 0 && link.is_self_issued() {
            continue;
        }
        for constraints in chain.links[depth + 1..].iter().rev().filter_map(Link::constraints) {
            constraints.allow(&link.names()).map_err(|flaw| FlawAt { depth, flaw })?;
        }
    }
    // No constraint looks at common names, which stand for hosts where there are no other names.
    let is_bound = chain.links[1..].iter().any(|link| link.constraints().is_some());
    match is_bound && chain.links[0].is_host_by_common_name() {
        true => Err(FlawAt { depth: 0, flaw: Flaw::NoNames }),
        false => Ok(()),
    }
}
