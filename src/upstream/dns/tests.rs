use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use nuncio_telemetry::stats::Store;
use tokio::net::UdpSocket;

use super::*;
use crate::testing::{NameServer, Zone};

/// A folder with the system's files, gone with its test.
struct Folder(PathBuf);

impl Folder {
    fn new(resolv_conf: &str, hosts: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("nuncio-dns-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let folder = Self(folder);
        folder.write("resolv.conf", resolv_conf);
        folder.write("hosts", hosts);
        folder
    }

    /// As an editor does it, so that the file is another one.
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join("new"), text).unwrap();
        std::fs::rename(self.0.join("new"), self.0.join(name)).unwrap();
    }

    fn resolver(&self, config: DnsResolverConfig) -> Resolver {
        let files = SystemFiles { resolv_conf: self.0.join("resolv.conf"), hosts: self.0.join("hosts") };
        let stats = CaresStats::new(&Store::new().scope("dns.cares"));
        Resolver::new(&config, files, Some(stats), Handle::current())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn asking(servers: &[SocketAddr]) -> DnsResolverConfig {
    DnsResolverConfig {
        servers: servers.to_vec(),
        timeout: Duration::from_millis(50),
        tries: 2,
        ..DnsResolverConfig::default()
    }
}

async fn one_server(server: &NameServer) -> DnsResolverConfig {
    let config = server.start(DnsFamily::V4Only).await.resolver.unwrap();
    DnsResolverConfig { no_search: false, ..(*config).clone() }
}

fn addresses(list: &[&str]) -> Zone {
    Zone::Addresses(list.iter().map(|ip| ip.parse().unwrap()).collect())
}

async fn found(resolver: &Resolver, name: &str) -> Vec<String> {
    let answer = resolver.resolve(name, DnsFamily::V4Only).await.unwrap();
    answer.addresses.iter().map(IpAddr::to_string).collect()
}

#[tokio::test]
async fn a_silent_server_is_passed_over_and_asked_last_from_then_on() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = NameServer::default();
    server.set("a.test", addresses(&["192.0.2.1"]));
    let second = one_server(&server).await.servers[0];
    let config = asking(&[silent.local_addr().unwrap(), second]).await;
    let resolver = Folder::new("", "").resolver(config);
    for _ in 0..2 {
        assert_eq!(found(&resolver, "a.test").await, ["192.0.2.1"]);
    }
    let failures = |at: usize| resolver.shared.servers.load().failures(at);
    assert_eq!((failures(0), failures(1)), (1, 0));
}

#[tokio::test]
async fn a_name_that_nobody_answers_times_out_after_its_tries() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let config = asking(&[silent.local_addr().unwrap()]).await;
    let resolver = Folder::new("", "").resolver(config);
    let error = resolver.resolve("a.test", DnsFamily::V4Only).await.unwrap_err();
    assert_eq!(error, ResolveError::Timeout);
    let stats = resolver.shared.stats.as_ref().unwrap();
    assert_eq!((stats.timeouts().value(), stats.resolve_total().value()), (2, 1));
    assert_eq!(stats.pending_resolutions().value(), 0);
}

#[tokio::test]
async fn addresses_localhost_and_bad_names_ask_nobody() {
    let resolver = Folder::new("", "").resolver(asking(&["192.0.2.1:53".parse().unwrap()]).await);
    assert_eq!(found(&resolver, "192.0.2.7").await, ["192.0.2.7"]);
    assert_eq!(found(&resolver, "LocalHost").await, ["127.0.0.1"]);
    let v6 = resolver.resolve("localhost.", DnsFamily::V6Only).await.unwrap();
    assert_eq!(v6.addresses, [IpAddr::from(Ipv6Addr::LOCALHOST)]);
    let literal = resolver.resolve("192.0.2.7", DnsFamily::All).await.unwrap();
    assert_eq!(literal.addresses.len(), 1);
    let long = "a".repeat(64);
    for name in ["", ".", "a..b", &long, &["abcdefgh"; 30].join(".")] {
        let error = resolver.resolve(name, DnsFamily::V4Only).await.unwrap_err();
        assert_eq!(error, ResolveError::BadName(name.to_owned()));
    }
}

#[tokio::test]
async fn short_names_are_searched_for_and_the_files_are_read_again() {
    let server = NameServer::default();
    server.set("a.one.test", addresses(&["192.0.2.1"]));
    server.set("a.two.test", addresses(&["192.0.2.2"]));
    server.set("a.b", addresses(&["192.0.2.3"]));
    let folder = Folder::new("search none.test one.test\n", "# nothing\n");
    let resolver = folder.resolver(one_server(&server).await);
    assert_eq!(found(&resolver, "a").await, ["192.0.2.1"]);
    assert_eq!(found(&resolver, "a.b").await, ["192.0.2.3"]);
    folder.write("resolv.conf", "search two.test\noptions ndots:2\n");
    assert_eq!(found(&resolver, "a").await, ["192.0.2.2"]);
    folder.write("hosts", "192.0.2.9 other A\n::1 a\n");
    assert_eq!(found(&resolver, "a").await, ["192.0.2.9"]);
    folder.write("hosts", "");
    assert_eq!(found(&resolver, "a").await, ["192.0.2.2"]);
    let names = resolver.shared.servers.load().full_names("x.y").unwrap();
    assert_eq!(names.iter().map(Name::to_string).collect::<Vec<_>>(), ["x.y.two.test.", "x.y."]);
}

#[tokio::test]
async fn servers_of_the_system_come_before_those_that_are_a_fallback() {
    let own: SocketAddr = "127.0.0.1:5353".parse().unwrap();
    let config = DnsResolverConfig { servers_are_fallback: true, ..asking(&[own]).await };
    let asked = |folder: &Folder, config: &DnsResolverConfig| {
        folder.resolver(config.clone()).shared.servers.load().addresses().collect::<Vec<_>>()
    };
    let folder = Folder::new("nameserver 192.0.2.1\nnameserver ::1\n", "");
    assert_eq!(asked(&folder, &config), ["192.0.2.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
    assert_eq!(asked(&folder, &DnsResolverConfig { servers_are_fallback: false, ..config.clone() }), [own]);
    assert_eq!(asked(&Folder::new("", ""), &config), [own]);
    assert_eq!(asked(&Folder::new("", ""), &DnsResolverConfig::default()), ["127.0.0.1:53".parse().unwrap()]);
}

#[tokio::test]
async fn an_answer_is_given_again_for_as_long_as_it_may() {
    let server = NameServer::default();
    server.set("a.test", addresses(&["192.0.2.1"]));
    let config = DnsResolverConfig { cache_ttl: Some(Duration::from_secs(5)), ..one_server(&server).await };
    let resolver = Folder::new("", "").resolver(config);
    assert_eq!(found(&resolver, "a.test").await, ["192.0.2.1"]);
    server.set("a.test", addresses(&["192.0.2.2"]));
    assert_eq!(found(&resolver, "a.test").await, ["192.0.2.1"]);
    let again = resolver.resolve("a.test", DnsFamily::V4Only).await.unwrap();
    assert!(again.ttl.unwrap() <= Duration::from_secs(5));
}

#[test]
fn a_cache_has_room_for_so_many_answers() {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let mut cache = Cache::new(Duration::from_secs(5));
        let name = |n: u32| Name::from_str_relaxed(format!("a{n}.test.")).unwrap();
        for n in 0..3000 {
            cache.put(name(n), Family::V4, Found::default(), Duration::from_secs(60));
        }
        let kept = (0..3000).filter(|n| cache.get(&name(*n), Family::V4).is_some()).count();
        assert_eq!(kept, 1024);
        cache.put(name(0), Family::V6, Found::default(), Duration::ZERO);
        assert!(cache.get(&name(0), Family::V6).is_none(), "an answer that is good for no time");
    });
}

#[tokio::test]
async fn whoever_asks_may_be_on_another_thread() {
    let server = NameServer::default();
    server.set("a.test", addresses(&["192.0.2.1"]));
    let resolver = Arc::new(Folder::new("", "").resolver(one_server(&server).await));
    let other = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(found(&resolver, "a.test"))
    });
    while !other.is_finished() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(other.join().unwrap(), ["192.0.2.1"]);
}

#[tokio::test]
async fn a_flood_of_questions_waits_for_its_turn() {
    let server = NameServer::default();
    let resolver = Arc::new(Folder::new("", "").resolver(one_server(&server).await));
    let mut questions = tokio::task::JoinSet::new();
    for n in 0..3000 {
        let name = format!("a{n}.test");
        server.set(&name, addresses(&["192.0.2.1"]));
        let resolver = resolver.clone();
        questions.spawn(async move { found(&resolver, &name).await });
    }
    while let Some(answer) = questions.join_next().await {
        assert_eq!(answer.unwrap(), ["192.0.2.1"]);
    }
}
