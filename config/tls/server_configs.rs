//! The configurations that a server's side has for rustls: what a client says in its hello tells which one is for it.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, ServerConfig};

use super::parameters::{Version, is_chacha};

/// Configurations that differ by whose order of cipher suites counts, and by how long sessions last.
#[derive(Clone, Debug)]
pub(super) struct ServerConfigs {
    /// For TLS 1.2.
    plain: Arc<ServerConfig>,
    /// The same for clients that would rather have ChaCha20, where that is as good to us.
    chacha: Option<Arc<ServerConfig>>,
    /// The suites that have another place there.
    choices: Box<[CipherSuite]>,
    /// For TLS 1.3: BoringSSL takes the suite that the client likes best.
    latest: Option<Arc<ServerConfig>>,
}

impl ServerConfigs {
    /// `make` makes one of a provider.
    pub(super) fn new<E>(
        provider: &Arc<CryptoProvider>,
        chacha: Option<&Arc<CryptoProvider>>,
        make: impl Fn(&Arc<CryptoProvider>) -> Result<ServerConfig, E>,
    ) -> Result<Self, E> {
        let all = |provider: &Arc<CryptoProvider>| provider.cipher_suites.clone();
        let pairs = chacha.into_iter().flat_map(|chacha| all(provider).into_iter().zip(all(chacha)));
        let choices = pairs.filter(|(plain, chacha)| plain != chacha).map(|(plain, _)| plain.suite()).collect();
        let plain = Arc::new(make(provider)?);
        let chacha = chacha.map(&make).transpose()?.map(Arc::new);
        Ok(Self { plain, chacha, choices, latest: None })
    }

    /// What handshakes of TLS 1.2 are made with.
    #[cfg(test)]
    pub(super) fn plain(&self) -> &Arc<ServerConfig> {
        &self.plain
    }

    /// Whether TLS 1.3 is spoken.
    pub(super) fn speaks_latest(&self) -> bool {
        self.latest.is_some()
    }

    /// Gives those for TLS 1.2 the same sessions.
    pub(super) fn share(&mut self, keep: impl FnOnce(&mut ServerConfig)) {
        let mut plain = ServerConfig::clone(&self.plain);
        keep(&mut plain);
        if let Some(chacha) = &mut self.chacha {
            let mut changed = ServerConfig::clone(chacha);
            changed.session_storage = plain.session_storage.clone();
            changed.ticketer = plain.ticketer.clone();
            *chacha = changed.into();
        }
        self.plain = plain.into();
    }

    /// The same with a configuration of its own for TLS 1.3.
    pub(super) fn with_latest(mut self, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let mut latest = ServerConfig::clone(&self.plain);
        latest.ignore_client_order = false;
        change(&mut latest);
        self.latest = Some(latest.into());
        self
    }

    /// The same, each changed in this way.
    pub(super) fn changed(&self, change: impl Fn(&mut ServerConfig)) -> Self {
        let change = |config: &Arc<ServerConfig>| {
            let mut config = ServerConfig::clone(config);
            change(&mut config);
            Arc::new(config)
        };
        Self {
            plain: change(&self.plain),
            chacha: self.chacha.as_ref().map(change),
            choices: self.choices.clone(),
            latest: self.latest.as_ref().map(change),
        }
    }

    /// The one for a client that speaks no later version, and offers these suites.
    pub(super) fn for_client(&self, suites: &[CipherSuite], version: Version) -> &Arc<ServerConfig> {
        if let (Some(latest), Version::Tls13) = (&self.latest, version) {
            return latest;
        }
        let first = || suites.iter().find(|suite| self.choices.contains(suite));
        match &self.chacha {
            Some(chacha) if first().is_some_and(|suite| is_chacha(*suite)) => chacha,
            _ => &self.plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::server::{ResolvesServerCertUsingSni, WebPkiClientVerifier};

    #[test]
    fn what_a_client_offers_tells_whose_order_counts() {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let mut swapped = provider.clone();
        let place = |wanted| provider.cipher_suites.iter().position(|suite| suite.suite() == wanted).unwrap();
        let [aes, chacha, best, unknown, latest] = [
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            CipherSuite::TLS_RSA_WITH_AES_128_CBC_SHA,
            CipherSuite::TLS13_AES_256_GCM_SHA384,
        ];
        swapped.cipher_suites.swap(place(aes), place(chacha));
        let make = |provider: &Arc<CryptoProvider>| {
            let builder =
                ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
            let builder = builder.with_client_cert_verifier(WebPkiClientVerifier::no_client_auth());
            Ok::<_, rustls::Error>(builder.with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new())))
        };
        let configs = ServerConfigs::new(&provider.into(), Some(&swapped.into()), make).unwrap();
        let check_of = |configs: &ServerConfigs, offered: &[CipherSuite], version, expected: &Arc<ServerConfig>| {
            assert!(Arc::ptr_eq(configs.for_client(offered, version), expected), "{offered:?}");
        };
        let check = |configs: &ServerConfigs, offered: &[CipherSuite], expected: &Arc<ServerConfig>| {
            check_of(configs, offered, Version::Tls12, expected);
        };
        let of_chacha = configs.chacha.clone().unwrap();
        check(&configs, &[unknown, aes, chacha], configs.plain());
        check(&configs, &[unknown, best, chacha, aes], &of_chacha);
        check(&configs, &[], configs.plain());
        check_of(&configs, &[latest, aes], Version::Tls13, configs.plain());
        let configs = configs.with_latest(|server| server.max_early_data_size = 7);
        check_of(&configs, &[latest, chacha], Version::Tls13, configs.latest.as_ref().unwrap());
        // Whoever lists a suite of TLS 1.3 need not speak it.
        check(&configs, &[latest, chacha], &of_chacha);
        check(&configs, &[chacha], &of_chacha);
        assert_eq!(configs.changed(|server| server.send_tls13_tickets = 9).latest.unwrap().max_early_data_size, 7);
    }
}
