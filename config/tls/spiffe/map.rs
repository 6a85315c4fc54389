//! A map of trust bundles, which may be a file that is followed.

use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use nuncio_filter_api::{Invalid, LowerCx, LowerEnv, Refused};
use nuncio_proto::envoy::config::core::v3::DataSource;
use nuncio_proto::envoy::config::core::v3::data_source::Specifier;
use serde_json::Value;

use super::bundles::Bundles;
use crate::followed::{FollowedFiles, FollowsFile, Trigger};
use crate::tls::authorities::{Authorities, MAX_PEM};
use crate::tls::certificate::path_of;
use crate::value::{self, data_source};

/// A map, one for all configuration that names the same.
#[derive(Debug)]
pub(in crate::tls) struct BundleMap {
    source: DataSource,
    /// What it is called where it is told of.
    path: String,
    current: ArcSwap<Bundles>,
    /// Where it is a file, what announces that it has another content.
    triggers: Vec<Trigger>,
    /// Kept so that it is found there.
    _files: Arc<FollowedFiles>,
}

impl BundleMap {
    pub(super) fn lower(mut source: DataSource, cx: &mut LowerCx<'_>) -> Result<Arc<Self>, Refused> {
        let key = format!("SPIFFE bundle map {source:?}");
        let folder = cx.opt("watched_directory", source.watched_directory.take(), value::existing_directory)?;
        let current = Arc::new(read(source.clone(), cx)?);
        let files = FollowedFiles::of(&cx.env.slots);
        let triggers = match &source.specifier {
            // Envoy sees writes alone, unless it is told to look at a folder, and then what moves there too.
            Some(Specifier::Filename(path)) => {
                std::iter::once(Trigger::of_file(path).or_write()).chain(folder).collect()
            }
            _ => Vec::new(),
        };
        let path = path_of(&source);
        let is_followed = !triggers.is_empty();
        let shared = cx.env.slots.share(&key, || Self {
            source,
            path,
            current: ArcSwap::new(current.clone()),
            triggers,
            _files: files.clone(),
        });
        // Where it was there before, it may not have been read since.
        shared.current.store(current);
        if is_followed {
            let follower: Arc<dyn FollowsFile> = shared.clone();
            files.add(Arc::downgrade(&follower) as Weak<dyn FollowsFile>);
        }
        Ok(shared)
    }

    /// As it was when it was last read and could be used.
    pub(super) fn current(&self) -> Arc<Bundles> {
        self.current.load_full()
    }
}

impl FollowsFile for BundleMap {
    fn triggers(&self) -> &[Trigger] {
        &self.triggers
    }

    fn read_again(&self, env: &LowerEnv) -> Result<bool, Vec<Invalid>> {
        let mut cx = LowerCx::new(env);
        let read = read(self.source.clone(), &mut cx).map_err(|Refused| cx.finish())?;
        if read.digest() == self.current().digest() {
            return Ok(false);
        }
        self.current.store(read.into());
        Ok(true)
    }

    fn path(&self) -> &str {
        &self.path
    }
}

/// Reads a map: `{"trust_domains": {"NAME": {"keys": [{"use": "x509-svid", "x5c": ["BASE64 OF DER"]}]}}}`
/// (SPIFFE Trust Domain and Bundle §4). Envoy, as here: a key for anything else is an error.
fn read(source: DataSource, cx: &mut LowerCx<'_>) -> Result<Bundles, Refused> {
    let origin = path_of(&source);
    let bytes = data_source(source, MAX_PEM, cx)?;
    let map: Value = serde_json::from_slice(&bytes).map_err(|e| cx.invalid(format!("is no JSON: {e}")))?;
    let domains = map.get("trust_domains").and_then(Value::as_object).filter(|domains| !domains.is_empty());
    let Some(domains) = domains else { return Err(cx.invalid("has no trust_domains")) };
    let mut all = Bundles::default();
    for (name, bundle) in domains {
        let pem = pem_of(bundle).map_err(|reason| cx.invalid(format!("{reason} for the trust domain {name:?}")))?;
        let pem = DataSource { specifier: Some(Specifier::InlineString(pem)), watched_directory: None };
        let mut authorities = Authorities::lower(pem, cx)?;
        authorities.path = origin.as_str().into();
        all.add(name.clone(), String::new(), authorities);
    }
    Ok(all)
}

/// All certificates of a bundle.
fn pem_of(bundle: &Value) -> Result<String, &'static str> {
    let list = |value: &Value, name: &str| value.get(name).and_then(Value::as_array).filter(|l| !l.is_empty()).cloned();
    let mut pem = String::new();
    for key in list(bundle, "keys").ok_or("has no keys")? {
        if key.get("use").and_then(Value::as_str) != Some("x509-svid") {
            return Err("has a key whose use is not x509-svid");
        }
        for certificate in list(&key, "x5c").ok_or("has a key without x5c")? {
            let base64 = certificate.as_str().ok_or("has an x5c that holds what is no text")?;
            pem.push_str(&format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n"));
        }
    }
    Ok(pem)
}
