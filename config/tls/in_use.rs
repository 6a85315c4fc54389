//! The contexts that are in use, for those who ask what certificates there are.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use nuncio_filter_api::Slots;
use nuncio_telemetry::CertificateInfo;

use super::certificate::Certificate;
use super::validation::Validation;

/// Seconds of a day.
const DAY: u64 = 24 * 60 * 60;

/// A certificate that is in use.
#[derive(Clone, Debug)]
pub struct CertificateInUse {
    /// Of the file that it comes from.
    pub path: Arc<str>,
    /// What it says.
    pub info: Arc<CertificateInfo>,
    /// From when and until when what its OCSP responder said of it holds, in seconds since 1970.
    pub ocsp: Option<(i64, Option<i64>)>,
}

/// The certificates of one context.
#[derive(Clone, Debug, Default)]
pub struct ContextInUse {
    /// Whom it trusts.
    pub authorities: Vec<CertificateInUse>,
    /// Those that it shows.
    pub own: Vec<CertificateInUse>,
}

/// What has certificates.
pub(super) trait HasCertificates: Send + Sync {
    /// `None` while secrets are missing.
    fn certificates(&self) -> Option<(Arc<Validation>, Vec<Arc<Certificate>>)>;
}

/// All that have, in the order in which they came; kept by each of them.
#[derive(Default)]
pub(super) struct Contexts(Mutex<Vec<Weak<dyn HasCertificates>>>);

impl Contexts {
    pub(super) fn of(slots: &Slots) -> Arc<Self> {
        slots.share("TLS contexts", Self::default)
    }

    pub(super) fn add(&self, context: Weak<dyn HasCertificates>) {
        // Taken when configuration is lowered and by admin, never on the data path. A poisoned lock has a whole list.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.strong_count() > 0);
        all.push(context);
    }

    fn all(&self) -> Vec<Arc<dyn HasCertificates>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).collect()
    }
}

/// The contexts that are in use.
pub fn contexts_in_use(slots: &Slots) -> Vec<ContextInUse> {
    let contexts = Contexts::of(slots).all();
    contexts.iter().filter_map(|context| context.certificates()).map(|(trust, own)| describe(&trust, &own)).collect()
}

/// Whole days until the first of all certificates ends; `None` where there is none.
pub fn days_until_first_end(contexts: &[ContextInUse]) -> Option<u64> {
    let all = contexts.iter().flat_map(|context| context.authorities.iter().chain(&context.own));
    all.map(|certificate| days_until(certificate.info.not_after)).min()
}

/// Seconds until the first OCSP response ends to hold; `None` where there is none.
pub fn seconds_until_first_response_ends(contexts: &[ContextInUse]) -> Option<u64> {
    let now = i64::try_from(seconds_since(SystemTime::now())).unwrap_or(i64::MAX);
    let responses = contexts.iter().flat_map(|context| &context.own).filter_map(|certificate| certificate.ocsp);
    responses.map(|(_, end)| u64::try_from(end.unwrap_or(0).saturating_sub(now)).unwrap_or(0)).min()
}

/// Whole days until `end`.
pub fn days_until(end: SystemTime) -> u64 {
    end.duration_since(SystemTime::now()).map_or(0, |left| left.as_secs() / DAY)
}

/// Seconds since 1970.
pub(super) fn seconds_since(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn describe(trust: &Validation, own: &[Arc<Certificate>]) -> ContextInUse {
    let of = |path: &Arc<str>, info: &Arc<CertificateInfo>| CertificateInUse {
        path: path.clone(),
        info: info.clone(),
        ocsp: None,
    };
    let authorities = trust.trusted();
    let authorities = authorities.iter().flat_map(|one| one.told().map(|info| of(&one.path, info))).collect();
    let own = own.iter().filter_map(|certificate| {
        let ocsp = certificate.ocsp.as_ref().map(|ocsp| (ocsp.valid_from, ocsp.expires));
        Some(CertificateInUse { ocsp, ..of(&certificate.path, certificate.info.as_ref()?) })
    });
    ContextInUse { authorities, own: own.collect() }
}
