//! For how long sessions can be resumed.

use std::sync::Arc;

use rustls::Error;
use rustls::pki_types::UnixTime;
use rustls::server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions};
use rustls::ticketer::TicketRotator;

use super::made::Made;
use super::witness::Witness;
use crate::secret::TicketKeys;

/// Seconds that a session is good for where nothing is set: those of BoringSSL, and of Envoy so.
pub(super) const DEFAULT_LIFETIME: u32 = 2 * 60 * 60;
/// Seconds that a session of TLS 1.3 is good for, whatever is set: those of BoringSSL.
pub(super) const LATEST_LIFETIME: u32 = 2 * 24 * 60 * 60;
/// Sessions that a context remembers for those who take no tickets.
const REMEMBERED: usize = 256;
/// Seconds since 1970 stand before what is kept, and how it was made.
const TIME: usize = 8;
/// Before them stands what a ticket is bound to.
const BOUND: usize = 32;

/// Tickets that are good for so long, where clients are held against the same as when they were made: whoever resumes
/// a session is not asked for a certificate again, and sides with other rules may have the same keys.
#[derive(Debug)]
pub(super) struct TimedTickets {
    made_by: Arc<dyn ProducesTickets>,
    lifetime: u32,
    bound_to: [u8; BOUND],
}

/// Sessions that are remembered for so long.
#[derive(Debug)]
pub(super) struct TimedSessions {
    kept_by: Arc<dyn StoresServerSessions>,
    lifetime: u32,
}

impl TimedTickets {
    pub(super) fn new(keys: TicketKeys, lifetime: u32, bound_to: [u8; BOUND]) -> Self {
        Self { made_by: Arc::new(keys), lifetime, bound_to }
    }

    /// The same that are good for so long.
    pub(super) fn lasting(&self, lifetime: u32) -> Self {
        Self { made_by: self.made_by.clone(), lifetime, bound_to: self.bound_to }
    }

    /// With keys of their own, which change as often as the longest of sessions end.
    pub(super) fn with_own_keys(lifetime: u32) -> Result<Self, Error> {
        let keys = TicketRotator::new(lifetime.max(LATEST_LIFETIME), || {
            let keys = TicketKeys::random().ok_or(rustls::crypto::GetRandomFailed)?;
            Ok(Box::new(keys))
        });
        // Nobody else has them.
        Ok(Self { made_by: Arc::new(keys?), lifetime, bound_to: [0; BOUND] })
    }
}

impl ProducesTickets for TimedTickets {
    fn enabled(&self) -> bool {
        self.made_by.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.lifetime
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.made_by.encrypt(&[&self.bound_to[..], &dated(plain)].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let opened = self.made_by.decrypt(ticket)?;
        let (bound_to, session) = opened.split_first_chunk::<BOUND>()?;
        if *bound_to == self.bound_to { fresh(session, self.lifetime) } else { None }
    }
}

impl TimedSessions {
    pub(super) fn new(lifetime: u32) -> Self {
        Self { kept_by: ServerSessionMemoryCache::new(REMEMBERED), lifetime }
    }

    /// The same that are good for so long: there is room for one lot of them.
    pub(super) fn lasting(&self, lifetime: u32) -> Self {
        Self { kept_by: self.kept_by.clone(), lifetime }
    }
}

impl StoresServerSessions for TimedSessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.kept_by.put(key, dated(&value))
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        fresh(&self.kept_by.get(key)?, self.lifetime)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        fresh(&self.kept_by.take(key)?, self.lifetime)
    }

    fn can_cache(&self) -> bool {
        self.kept_by.can_cache()
    }
}

fn dated(session: &[u8]) -> Vec<u8> {
    [&UnixTime::now().as_secs().to_be_bytes()[..], &Witness::made_now().to_bytes(), session].concat()
}

/// The session, unless it is too old.
fn fresh(dated: &[u8], lifetime: u32) -> Option<Vec<u8>> {
    let (time, kept) = dated.split_first_chunk::<TIME>()?;
    let (made, session) = kept.split_first_chunk()?;
    let age = UnixTime::now().as_secs().saturating_sub(u64::from_be_bytes(*time));
    (age <= u64::from(lifetime)).then(|| {
        Witness::of_recalled(Made::of_bytes(*made));
        session.to_vec()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_until_it_is_too_old() {
        let tickets = TimedTickets::with_own_keys(60).unwrap();
        assert_eq!(
            (tickets.decrypt(&tickets.encrypt(b"a session").unwrap()), tickets.lifetime()),
            (Some(b"a session".to_vec()), 60)
        );
        let sessions = TimedSessions::new(60);
        assert!(sessions.put(b"a".to_vec(), b"session".to_vec()));
        assert_eq!(sessions.get(b"a"), Some(b"session".to_vec()));
        let at =
            |seconds_ago: u64| [&(UnixTime::now().as_secs() - seconds_ago).to_be_bytes()[..], &[0; 4], b"old"].concat();
        let ages = (fresh(&at(50), 60), fresh(&at(70), 60), fresh(&[0; 7], 60));
        assert_eq!(ages, (Some(b"old".to_vec()), None, None));
    }

    #[test]
    fn what_is_kept_says_how_it_was_made() {
        let made = Made {
            group: Some(rustls::NamedGroup::X25519),
            scheme: Some(rustls::SignatureScheme::ECDSA_NISTP256_SHA256),
        };
        let tickets = TimedTickets::with_own_keys(60).unwrap();
        Witness { made, ..Witness::default() }.give();
        let ticket = tickets.encrypt(b"a session").unwrap();
        assert_eq!(Witness::take().recalled, Made::default());
        tickets.decrypt(&ticket).unwrap();
        assert_eq!(Witness::take().recalled, made);
    }

    #[test]
    fn a_ticket_is_good_where_clients_are_held_against_the_same() {
        let keys: Arc<dyn ProducesTickets> = Arc::new(TicketKeys::random().unwrap());
        let with = |bound_to| TimedTickets { made_by: keys.clone(), lifetime: 60, bound_to };
        let [open, closed, same] = [[1; BOUND], [2; BOUND], [1; BOUND]].map(with);
        let ticket = open.encrypt(b"a session").unwrap();
        assert_eq!((same.decrypt(&ticket), closed.decrypt(&ticket)), (Some(b"a session".to_vec()), None));
    }
}
