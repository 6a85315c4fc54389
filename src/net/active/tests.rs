use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use nuncio_config::address::ListenAddress;
use nuncio_config::listener::{
    ConnectionBalance, DrainType, FilterChainConfig, FilterChains, ListenSocket, ListenerConfig, TrafficDirection,
};
use nuncio_filter_api::{DrainState, Flow, NetworkCx, NetworkFilter, Rng};
use nuncio_telemetry::stats::Store;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;

use super::*;
use crate::ConnectionIds;

/// Answers each byte: `p` with a panic, `d` with whether the listener drains, any other with itself.
struct Script;

impl NetworkFilter for Script {
    fn run(self: Arc<Self>, mut connection: Connection, cx: NetworkCx) -> LocalBoxFuture<'static, Flow> {
        Box::pin(async move {
            while let Ok(byte) = connection.io.read_u8().await {
                let answer = match byte {
                    b'p' => panic!("injected"),
                    b'd' => b'0' + u8::from(cx.drain.is_draining()),
                    other => other,
                };
                let _ = connection.io.write_u8(answer).await;
            }
            Flow::Done
        })
    }

    fn is_terminal(&self) -> bool {
        true
    }
}

/// Hands on, and notes that it ran.
struct Passes(Arc<AtomicBool>);

impl NetworkFilter for Passes {
    fn run(self: Arc<Self>, connection: Connection, _: NetworkCx) -> LocalBoxFuture<'static, Flow> {
        self.0.store(true, Ordering::Relaxed);
        Box::pin(async move { Flow::Next(connection) })
    }

    fn is_terminal(&self) -> bool {
        false
    }
}

fn config(store: &Store, filters: Vec<Arc<dyn NetworkFilter>>) -> ListenerConfig {
    let address = Address::Ip(([127, 0, 0, 1], 0).into());
    ListenerConfig {
        internal: None,
        name: "l".into(),
        sockets: vec![ListenSocket {
            address: ListenAddress {
                sends: nuncio_config::address::Sends::Streams,
                address,
                ipv4_compat: false,
                mode: None,
                namespace: None,
            },
            options: vec![],
            keepalive: None,
            backlog: None,
            mptcp: false,
        }],
        scope: store.scope("listener.l"),
        listener_filters: nuncio_config::listener::ListenerFilters::default(),
        filter_chains: FilterChains::only(FilterChainConfig {
            tap: None,
            name: "c".into(),
            filters: filters.into(),
            tls: None,
            tcp_stats: None,
            handshake_timeout: None,
            metadata: None,
            waits_for: Vec::new(),
            fingerprint: 0,
        }),
        udp: None,
        access_logs: Arc::default(),
        buffer_limit: 1024,
        balance: ConnectionBalance::Kernel,
        reuse_port: true,
        accept_batch: None,
        drain_type: DrainType::Default,
        direction: TrafficDirection::Unspecified,
        limits: Default::default(),
        origin: Default::default(),
        metadata: None,
        waits_for: Vec::new(),
        shape: 0,
        use_original_dst: false,
        unbound: Box::default(),
    }
}

fn bound(config: ListenerConfig, concurrency: usize) -> Arc<Listener> {
    let listener = Listener::bind(Arc::new(config), concurrency, ConnectionIds::default()).unwrap();
    listener.listen().unwrap();
    Arc::new(listener)
}

fn worker(index: usize) -> Rc<Worker> {
    Rc::new(Worker::new(index, Rng::seeded(1), Arc::default()))
}

async fn connect(listener: &Listener) -> TcpStream {
    let Address::Ip(address) = listener.addresses()[0] else { panic!("an IP address was bound") };
    TcpStream::connect(address).await.unwrap()
}

async fn ask(client: &mut TcpStream, byte: u8) -> std::io::Result<u8> {
    client.write_u8(byte).await?;
    client.read_u8().await
}

/// Waits for what the listener does in its own time.
async fn until(condition: impl Fn() -> bool) {
    tokio::time::timeout(Duration::from_secs(10), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("it happens");
}

/// Runs `test` with a listener of the scripted filter on one worker.
fn serving<F: Future<Output = ()>>(test: impl FnOnce(Arc<Listener>, ActiveListener) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let store = Store::new();
        let listener = bound(config(&store, vec![Arc::new(Script)]), 1);
        let active = ActiveListener::start(listener.clone(), worker(0), Rc::default(), None).unwrap();
        test(listener, active).await;
    });
}

#[test]
fn a_panic_ends_its_own_connection_and_no_other() {
    serving(|listener, active| async move {
        let (mut one, mut other) = (connect(&listener).await, connect(&listener).await);
        assert_eq!(ask(&mut one, b'x').await.unwrap(), b'x');
        assert_eq!(ask(&mut other, b'x').await.unwrap(), b'x');
        assert!(ask(&mut one, b'p').await.is_err());
        assert_eq!(ask(&mut other, b'x').await.unwrap(), b'x');
        until(|| active.connections() == 1).await;
        assert_eq!(listener.connections(), 1);
        assert_eq!(listener.stats.downstream_cx_destroy().value(), 1);
        assert_eq!(ask(&mut connect(&listener).await, b'x').await.unwrap(), b'x');
    });
}

#[test]
fn filters_run_in_order_until_one_serves_the_connection() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let ran = Arc::new(AtomicBool::new(false));
        let config = config(&Store::new(), vec![Arc::new(Passes(ran.clone())), Arc::new(Script)]);
        let listener = bound(config, 1);
        let _active = ActiveListener::start(listener.clone(), worker(0), Rc::default(), None).unwrap();
        assert_eq!(ask(&mut connect(&listener).await, b'x').await.unwrap(), b'x');
        assert!(ran.load(Ordering::Relaxed));
    });
}

#[test]
fn a_chain_without_filters_closes_what_it_accepts() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let listener = bound(config(&Store::new(), vec![]), 1);
        let _active = ActiveListener::start(listener.clone(), worker(0), Rc::default(), None).unwrap();
        assert_eq!(connect(&listener).await.read(&mut [0; 1]).await.unwrap_or(0), 0);
    });
}

#[test]
fn a_listener_that_stops_refuses_connections_and_keeps_those_it_has() {
    serving(|listener, mut active| async move {
        let mut client = connect(&listener).await;
        assert_eq!(ask(&mut client, b'x').await.unwrap(), b'x');
        listener.close();
        active.stop_accepting().await;
        let Address::Ip(address) = listener.addresses()[0] else { panic!("an IP address was bound") };
        assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(ask(&mut client, b'x').await.unwrap(), b'x');
        active.close_connections();
        assert!(ask(&mut client, b'x').await.is_err());
        until(|| active.connections() == 0).await;
    });
}

#[test]
fn connections_learn_that_their_listener_drains() {
    serving(|listener, active| async move {
        let mut client = connect(&listener).await;
        assert_eq!(ask(&mut client, b'd').await.unwrap(), b'0');
        listener.set_drain(DrainState::Immediate);
        assert_eq!(ask(&mut client, b'd').await.unwrap(), b'1');
        listener.set_drain(DrainState::Serving);
        assert_eq!(ask(&mut client, b'd').await.unwrap(), b'0');
        assert_eq!(active.connections(), 1);
    });
}

#[test]
fn connections_waiting_for_a_worker_survive_its_restart() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = Store::new();
    let listener = bound(config(&store, vec![Arc::new(Script)]), 1);
    let first = LocalSet::new();
    first.block_on(&runtime, async {
        drop(ActiveListener::start(listener.clone(), worker(0), Rc::default(), None).unwrap());
    });
    drop(first);
    LocalSet::new().block_on(&runtime, async {
        let mut waiting = connect(&listener).await;
        let _active = ActiveListener::start(listener.clone(), worker(0), Rc::default(), None).unwrap();
        assert_eq!(ask(&mut waiting, b'x').await.unwrap(), b'x');
    });
}

#[test]
fn exact_balance_spreads_connections_that_one_worker_accepts() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let store = Store::new();
        let config = ListenerConfig {
            balance: ConnectionBalance::Exact,
            reuse_port: false,
            ..config(&store, vec![Arc::new(Script)])
        };
        let listener = bound(config, 2);
        let workers =
            [0, 1].map(|index| ActiveListener::start(listener.clone(), worker(index), Rc::default(), None).unwrap());
        let mut clients = Vec::new();
        for _ in 0..6 {
            let mut client = connect(&listener).await;
            assert_eq!(ask(&mut client, b'x').await.unwrap(), b'x');
            clients.push(client);
        }
        assert_eq!(workers.each_ref().map(ActiveListener::connections), [3, 3]);
        drop(clients);
        until(|| listener.connections() == 0).await;
    });
}

#[test]
fn ports_of_all_workers_are_the_same_and_a_taken_one_is_named() {
    let listener = bound(config(&Store::new(), vec![]), 3);
    assert_eq!(listener.sockets_of(0).unwrap()[0].local_addr().unwrap().as_socket(), {
        let last = &listener.sockets_of(2).unwrap()[0];
        last.local_addr().unwrap().as_socket()
    });
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(&Store::new(), vec![]);
    config.sockets[0].address.address = taken.local_addr().unwrap().into();
    let error = Listener::bind(Arc::new(config), 2, ConnectionIds::default()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot bind {}: ", taken.local_addr().unwrap())), "{error}");
}

#[test]
fn chains_that_stay_keep_their_connections_and_those_that_go_drain() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let store = Store::new();
        let first = bound(config(&store, vec![Arc::new(Script)]), 1);
        let mut old = ActiveListener::start(first.clone(), worker(0), Rc::default(), None).unwrap();
        let mut client = connect(&first).await;
        assert_eq!(ask(&mut client, b'd').await.unwrap(), b'0');

        let same = Arc::new(config(&store, vec![Arc::new(Script)]).inheriting(&first.config));
        let ids = ConnectionIds::default();
        let second = Arc::new(Listener::succeed(same, 1, ids.clone(), Some(&first), &[]).unwrap());
        let mut next = ActiveListener::start(second.clone(), worker(0), Rc::default(), Some(&mut old)).unwrap();
        assert_eq!(first.drain_chains_gone_in(&second), 0);
        drop((old, first));
        assert_eq!(ask(&mut client, b'd').await.unwrap(), b'0');
        assert_eq!(next.connections(), 1);

        let mut other = config(&store, vec![]);
        let chain = FilterChainConfig { fingerprint: 1, ..(*other.filter_chains.all()[0]).clone() };
        other.filter_chains = FilterChains::only(chain);
        let third = other.inheriting(&second.config);
        let third = Arc::new(Listener::succeed(Arc::new(third), 1, ids, Some(&second), &[]).unwrap());
        let last = ActiveListener::start(third.clone(), worker(0), Rc::default(), Some(&mut next)).unwrap();
        assert_eq!(second.drain_chains_gone_in(&third), 1);
        assert_eq!(ask(&mut client, b'd').await.unwrap(), b'1');
        assert_eq!((next.connections(), last.connections()), (1, 0));
        drop(next);
        assert!(ask(&mut client, b'x').await.is_err());
    });
}
