//! What listeners ask of their sockets, by what the kernel says of them.

use crate::support::bootstrap::Pieces;
use crate::support::client::{Client, get};
use crate::support::ports::free_port;
use crate::support::proxy::{Running, proxy};
use crate::support::say;
use crate::support::split::Split;
use crate::support::upstream::http1;
use socket2::{Protocol, Socket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const TCP: &str = "name: main\n    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }";

/// The usual proxy, whose one listener has these further fields.
async fn listening(fields: &str) -> Running {
    let pieces = Pieces { listener: fields.to_owned(), ..Pieces::default() };
    proxy(pieces.yaml()).upstream(http1()).run().await
}

/// The same at another address.
async fn listening_at(address: &str, fields: &str) -> Running {
    let pieces = Pieces { listener: fields.to_owned(), ..Pieces::default() };
    let yaml = pieces.yaml().replacen(TCP, &format!("name: main\n    address: {{ socket_address: {address} }}"), 1);
    proxy(yaml).upstream(http1()).run().await
}

/// Descriptors of our own for all sockets of the proxy.
fn all_sockets(proxy: &Running) -> Vec<Socket> {
    let folder = format!("/proc/{}/fd", proxy.pid());
    let numbers = std::fs::read_dir(folder).expect("the process is there").flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    numbers.filter_map(|number| duplicate(proxy.pid(), number)).collect()
}

/// Those that are bound to this port, of which some listen.
fn sockets(proxy: &Running, port: u16, listens: bool) -> Vec<Socket> {
    let all = all_sockets(proxy).into_iter();
    let is_wanted = |socket: &Socket| {
        let local = socket.local_addr().ok().and_then(|address| address.as_socket());
        local.is_some_and(|address| address.port() == port) && socket.is_listener().unwrap_or(false) == listens
    };
    all.filter(is_wanted).collect()
}

/// A socket of another process, by its descriptor there.
fn duplicate(pid: u32, number: i32) -> Option<Socket> {
    // SAFETY: both calls take integers and give a descriptor that is nobody else's, or a negative number.
    let ours = unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        let process = OwnedFd::from_raw_fd(i32::try_from(process).ok().filter(|fd| *fd >= 0)?);
        let fd = libc::syscall(libc::SYS_pidfd_getfd, std::os::fd::AsRawFd::as_raw_fd(&process), number, 0);
        OwnedFd::from_raw_fd(i32::try_from(fd).ok().filter(|fd| *fd >= 0)?)
    };
    let socket = Socket::from(ours);
    socket.r#type().is_ok().then_some(socket)
}

fn listener(proxy: &Running) -> Socket {
    sockets(proxy, proxy.addr().port(), true).into_iter().next().expect("it listens")
}

#[tokio::test]
async fn a_listener_may_be_transparent() {
    assert!(!listener(&listening("").await).ip_transparent_v4().expect("it can be asked"));
    assert!(listener(&listening("transparent: true\n").await).ip_transparent_v4().expect("it can be asked"));
}

#[tokio::test]
async fn a_listener_may_be_at_an_address_that_is_not_there() {
    let proxy = listening_at("{ address: 198.51.100.1, port_value: 0 }", "freebind: true\n").await;
    let socket = listener(&proxy);
    assert!(socket.freebind_v4().expect("it can be asked"));
    assert_eq!(socket.local_addr().expect("it is bound").as_socket().map(|a| a.ip()), "198.51.100.1".parse().ok());
}

#[tokio::test]
async fn a_listener_may_take_data_with_the_first_packet() {
    let socket = listener(&listening("tcp_fast_open_queue_length: 17\n").await);
    assert_eq!(option(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN), 17);
}

#[tokio::test]
async fn accepted_connections_are_kept_alive() {
    let keepalive = "tcp_keepalive: { keepalive_probes: 3, keepalive_time: 7, keepalive_interval: 2 }\n";
    let proxy = listening(keepalive).await;
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    client.request(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("it answers");
    let accepted = sockets(&proxy, proxy.addr().port(), false).into_iter().next().expect("it is open");
    assert!(accepted.keepalive().expect("it can be asked"));
    assert_eq!(accepted.tcp_keepalive_time().expect("it can be asked"), Duration::from_secs(7));
    assert_eq!(accepted.tcp_keepalive_interval().expect("it can be asked"), Duration::from_secs(2));
    assert_eq!(accepted.tcp_keepalive_retries().expect("it can be asked"), 3);
}

#[tokio::test]
async fn any_option_may_be_set() {
    let options = "socket_options: [{ level: 1, name: 36, int_value: 5, state: STATE_PREBIND }, \
                   { level: 6, name: 9, int_value: 3, state: STATE_LISTENING }]\n";
    let socket = listener(&listening(options).await);
    assert_eq!(socket.mark().expect("it can be asked"), 5);
    assert_eq!(option(&socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT), 3);
}

#[tokio::test]
async fn connections_may_take_several_paths() {
    if std::fs::read_to_string("/proc/sys/net/mptcp/enabled").map_or(true, |enabled| enabled.trim() != "1") {
        return say("SKIPPED connections_may_take_several_paths: the kernel has no MPTCP");
    }
    let proxy = listening("enable_mptcp: true\n").await;
    assert_eq!(listener(&proxy).protocol().expect("it can be asked"), Some(Protocol::MPTCP));
    assert_eq!(get(proxy.addr(), "/").await.expect("it answers").status(), 200);
}

#[tokio::test]
async fn the_queue_of_a_listener_has_the_length_that_is_asked_for() {
    let proxy = listening("tcp_backlog_size: 33\n").await;
    let filter = format!("sport = :{}", proxy.addr().port());
    let Ok(shown) = Command::new("ss").args(["-Hltn", &filter]).output() else {
        return say("SKIPPED the_queue_of_a_listener_has_the_length_that_is_asked_for: there is no ss");
    };
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let fields: Vec<_> = text.split_whitespace().collect();
    assert_eq!(fields.get(..3), Some(&["LISTEN", "0", "33"][..]), "{text}");
}

/// A network namespace of its own, which lasts as long as this.
struct Namespace(Child);

impl Namespace {
    fn new() -> Option<Self> {
        let script = "ip link set lo up && echo up && exec sleep 600";
        let mut command = Command::new("unshare");
        let mut child = command.args(["-n", "sh", "-c", script]).stdout(Stdio::piped()).spawn().ok()?;
        let mut line = String::new();
        let read =
            child.stdout.take().map(|out| std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line));
        let namespace = Self(child);
        (read?.is_ok() && line == "up\n").then_some(namespace)
    }

    fn file(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    /// What a command in the namespace prints.
    fn run(&self, script: &str) -> String {
        let mut command = Command::new("nsenter");
        let out = command.arg(format!("--net={}", self.file())).args(["bash", "-c", script]).output();
        String::from_utf8_lossy(&out.expect("it can be run").stdout).into_owned()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_listener_may_be_in_another_network_namespace() {
    let Some(namespace) = Namespace::new() else {
        return say("SKIPPED a_listener_may_be_in_another_network_namespace: no namespace may be made");
    };
    let file = namespace.file();
    let address = format!("{{ address: 127.0.0.1, port_value: 0, network_namespace_filepath: {file} }}");
    let proxy = listening_at(&address, "").await;
    let port = proxy.addr().port();
    let request = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET / HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n' >&3; read line <&3; echo $line"
    );
    let status = tokio::task::spawn_blocking(move || namespace.run(&request)).await.expect("it does not panic");
    assert!(status.starts_with("HTTP/1.1 200"), "{status}");
    assert!(get(proxy.addr(), "/").await.is_err(), "nobody listens here");
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_told_of() {
    let address = "{ address: 127.0.0.1, port_value: 0, network_namespace_filepath: /nowhere }";
    let yaml = Pieces::default().yaml();
    let yaml = yaml.replacen(TCP, &format!("name: main\n    address: {{ socket_address: {address} }}"), 1);
    let error = proxy(yaml).upstream(http1()).start().await.err().expect("it does not start");
    assert!(error.log.contains("cannot enter the network namespace of 127.0.0.1:0"), "{}", error.log);
}

/// The usual proxy, whose cluster has these further fields, after it has asked its host; and the socket to the host.
async fn connected(fields: &str) -> (Running, Socket) {
    let pieces = Pieces { cluster: fields.to_owned(), ..Pieces::default() };
    let proxy = proxy(pieces.yaml()).upstream(http1()).run().await;
    assert_eq!(get(proxy.addr(), "/").await.expect("it answers").status(), 200);
    let host = proxy.upstream(0).port();
    let to_host = all_sockets(&proxy).into_iter().find(|socket| {
        let peer = socket.peer_addr().ok().and_then(|address| address.as_socket());
        peer.is_some_and(|peer| peer.port() == host)
    });
    (proxy, to_host.expect("it is kept"))
}

#[tokio::test]
async fn connections_to_hosts_are_kept_alive() {
    let keepalive = "tcp_keepalive: { keepalive_probes: 4, keepalive_time: 11, keepalive_interval: 5 }";
    let (_proxy, socket) = connected(&format!("upstream_connection_options: {{ {keepalive} }}\n")).await;
    assert!(socket.keepalive().expect("it can be asked"));
    assert_eq!(socket.tcp_keepalive_time().expect("it can be asked"), Duration::from_secs(11));
    assert_eq!(socket.tcp_keepalive_interval().expect("it can be asked"), Duration::from_secs(5));
    assert_eq!(socket.tcp_keepalive_retries().expect("it can be asked"), 4);
    let (_proxy, socket) = connected("").await;
    assert!(!socket.keepalive().expect("it can be asked"));
}

#[tokio::test]
async fn connections_to_hosts_have_the_source_and_the_mark_that_are_asked_for() {
    let mark = "socket_options: [{ level: 1, name: 36, int_value: 6, state: STATE_PREBIND }]";
    let source = "source_address: { address: 127.0.0.9, port_value: 0 }";
    let (_proxy, socket) = connected(&format!("upstream_bind_config: {{ {source}, freebind: true, {mark} }}\n")).await;
    assert_eq!(socket.mark().expect("it can be asked"), 6);
    assert!(socket.freebind_v4().expect("it can be asked"));
    assert_eq!(socket.local_addr().expect("it is bound").as_socket().map(|a| a.ip()), "127.0.0.9".parse().ok());
}

#[tokio::test]
async fn a_listener_of_datagrams_has_the_options_that_are_asked_for() {
    let listeners = "- name: u
  address: { socket_address: { protocol: UDP, address: 127.0.0.1, port_value: 0 } }
  freebind: true
  transparent: true
  socket_options: [{ level: 1, name: 36, int_value: 7, state: STATE_PREBIND }, { level: 0, name: 1, int_value: 16, state: STATE_BOUND }]
  listener_filters: [{ name: u, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig, stat_prefix: u, cluster: up } }]
";
    let pieces = Pieces { listeners: listeners.to_owned(), ..Pieces::default() };
    let proxy = proxy(pieces.yaml()).upstream(http1()).run().await;
    let port = proxy.listener("u").port();
    let socket = sockets(&proxy, port, false).into_iter().next().expect("it is bound");
    assert_eq!(socket.r#type().expect("it can be asked"), socket2::Type::DGRAM);
    assert_eq!(socket.mark().expect("it can be asked"), 7);
    assert!(socket.freebind_v4().expect("it can be asked"));
    assert!(socket.ip_transparent_v4().expect("it can be asked"));
    assert_eq!(option(&socket, libc::IPPROTO_IP, libc::IP_TOS), 16);
}

#[tokio::test]
async fn each_address_of_a_listener_has_options_of_its_own() {
    let mark = |mark: u32| format!("{{ level: 1, name: 36, int_value: {mark}, state: STATE_PREBIND }}");
    let port = free_port();
    let fields = format!(
        "socket_options: [{}]\nadditional_addresses: [{{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}, socket_options: {{ socket_options: [{}] }}, tcp_keepalive: {{ keepalive_time: 9 }} }}]\n",
        mark(8),
        mark(9)
    );
    let proxy = listening(&fields).await;
    assert_eq!(listener(&proxy).mark().expect("it can be asked"), 8);
    let other = sockets(&proxy, port, true).into_iter().next().expect("it listens");
    assert_eq!(other.mark().expect("it can be asked"), 9);
}

fn option(socket: &Socket, level: i32, name: i32) -> i32 {
    let (mut value, mut length) = (0_i32, 4);
    // SAFETY: the kernel writes no more than the four bytes that it is given.
    let failed = unsafe {
        let fd = std::os::fd::AsRawFd::as_raw_fd(socket);
        libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut length)
    };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
    value
}
