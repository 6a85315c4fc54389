use std::time::Duration;

use futures_util::FutureExt;
use nuncio_config::cluster::{CircuitBreakers, ClusterConfig, Thresholds, UpstreamHttp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::testing::{OneCluster, cluster_config, fixed, on_worker, until};

struct Fixture {
    cluster: OneCluster,
    listener: TcpListener,
    pool: Rc<Http1Pool>,
}

impl Fixture {
    async fn new(change: impl FnOnce(&mut ClusterConfig)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = cluster_config("c", vec![fixed(listener.local_addr().unwrap())]);
        change(&mut config);
        let cluster = OneCluster::new(config);
        let pool = cluster.http1();
        Self { cluster, listener, pool }
    }

    async fn accept(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    /// A connection of the pool that is idle, and its other end.
    async fn idle(&self) -> TcpStream {
        let lease = self.pool.acquire().await.unwrap();
        let accepted = self.accept().await;
        drop(lease);
        assert_eq!(self.pool.idle.borrow().len(), 1);
        accepted
    }

    fn limit(change: impl FnOnce(&mut Thresholds)) -> impl FnOnce(&mut ClusterConfig) {
        move |config| {
            let mut thresholds = Thresholds::default();
            change(&mut thresholds);
            config.circuit_breakers = CircuitBreakers::new(thresholds, Thresholds::default());
        }
    }
}

#[test]
fn an_idle_connection_is_lent_again() {
    on_worker(async {
        let f = Fixture::new(|_| ()).await;
        let _other_end = f.idle().await;
        let id = f.pool.idle.borrow()[0].member.record.id;
        let lease = f.pool.acquire().now_or_never().expect("at once").unwrap();
        assert_eq!(lease.record().id, id);
        assert!(f.pool.idle.borrow().is_empty());
        let stats = f.cluster.stats();
        assert_eq!((stats.upstream_cx_total().value(), stats.upstream_rq_pending_total().value()), (1, 1));
        assert_eq!(stats.upstream_rq_pending_active().value(), 0);
    });
}

#[test]
fn an_idle_connection_that_the_host_closes_goes_at_once() {
    on_worker(async {
        let f = Fixture::new(|_| ()).await;
        drop(f.idle().await);
        let stats = f.cluster.stats();
        until(|| stats.upstream_cx_active().value() == 0).await;
        assert_eq!(stats.upstream_cx_destroy_remote().value(), 1);
        assert_eq!(stats.upstream_cx_destroy_with_active_rq().value(), 0);
        assert_eq!(f.cluster.host().host.stats.cx_active.get(), 0);
    });
}

#[test]
fn what_the_host_sends_unasked_reaches_no_request() {
    on_worker(async {
        let f = Fixture::new(|_| ()).await;
        let mut other_end = f.idle().await;
        other_end.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let closed = other_end.read(&mut [0; 8]).await;
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
        assert!(f.pool.idle.borrow().is_empty());
    });
}

#[test]
fn an_idle_connection_is_closed_after_the_idle_timeout() {
    on_worker(async {
        let f = Fixture::new(|config| {
            let mut http = UpstreamHttp::default();
            http.common.idle_timeout = Some(Duration::from_millis(5));
            config.http = Arc::new(http);
        })
        .await;
        let mut other_end = f.idle().await;
        assert_eq!(other_end.read(&mut [0; 8]).await.unwrap(), 0);
        let stats = f.cluster.stats();
        assert_eq!((stats.upstream_cx_idle_timeout().value(), stats.upstream_cx_destroy_local().value()), (1, 1));
    });
}

#[test]
fn a_connection_retires_after_its_requests_or_its_time() {
    on_worker(async {
        let f = Fixture::new(|config| {
            let mut http = UpstreamHttp::default();
            http.common.max_requests_per_connection = Some(1);
            config.http = Arc::new(http);
        })
        .await;
        let lease = f.pool.acquire().await.unwrap();
        lease.record().begin();
        lease.record().begin();
        drop(lease);
        let stats = f.cluster.stats();
        assert_eq!((stats.upstream_cx_max_requests().value(), stats.upstream_cx_active().value()), (1, 0));
    });
}

#[test]
fn a_full_queue_overflows_and_one_who_gives_up_leaves_it() {
    on_worker(async {
        let f = Fixture::new(Fixture::limit(|t| t.max_pending_requests = 1)).await;
        let mut first = Box::pin(f.pool.acquire());
        assert!((&mut first).now_or_never().is_none());
        let second = f.pool.acquire().now_or_never();
        assert!(matches!(second, Some(Err(PoolFailure::Overflow))));
        let stats = f.cluster.stats();
        assert_eq!(stats.upstream_rq_pending_overflow().value(), 1);
        assert_eq!(stats.default_rq_pending_open().value(), 1);
        drop(first);
        assert_eq!((stats.upstream_rq_cancelled().value(), stats.upstream_rq_pending_active().value()), (1, 0));
        assert_eq!(stats.default_rq_pending_open().value(), 0);
        // The connection that was on its way is not lost.
        until(|| f.pool.idle.borrow().len() == 1).await;
    });
}

#[test]
fn beyond_the_limit_requests_wait_for_a_connection_to_become_free() {
    on_worker(async {
        let f = Fixture::new(Fixture::limit(|t| t.max_connections = 1)).await;
        let lease = f.pool.acquire().await.unwrap();
        let mut waits = Box::pin(f.pool.acquire());
        assert!((&mut waits).now_or_never().is_none());
        let stats = f.cluster.stats();
        assert_eq!((stats.upstream_cx_overflow().value(), stats.upstream_cx_total().value()), (1, 1));
        assert_eq!(stats.default_cx_open().value(), 1);
        drop(lease);
        assert!(waits.await.is_ok());
        assert_eq!(stats.upstream_cx_total().value(), 1);
    });
}

#[test]
fn a_connection_that_closes_makes_room_for_one_that_waits() {
    on_worker(async {
        let f = Fixture::new(Fixture::limit(|t| t.max_connections = 1)).await;
        let mut lease = f.pool.acquire().await.unwrap();
        let mut waits = Box::pin(f.pool.acquire());
        assert!((&mut waits).now_or_never().is_none());
        drop(lease.connection.take());
        drop(lease);
        assert!(waits.await.is_ok());
        assert_eq!(f.cluster.stats().upstream_cx_total().value(), 2);
    });
}

#[test]
fn a_pool_without_connection_gets_one_beyond_the_limit() {
    on_worker(async {
        let f = Fixture::new(Fixture::limit(|t| t.max_connections = 0)).await;
        assert!(f.pool.acquire().await.is_ok());
        assert_eq!(f.cluster.stats().upstream_cx_overflow().value(), 1);
    });
}

#[test]
fn a_failed_connection_fails_all_who_wait() {
    on_worker(async {
        let f = Fixture::new(|_| ()).await;
        let Fixture { cluster, listener, pool } = f;
        drop(listener);
        let (a, b) = tokio::join!(pool.acquire(), pool.acquire());
        for result in [a, b] {
            let Err(PoolFailure::Remote(reason)) = result else { panic!("a refused connection") };
            assert_eq!(&*reason, "delayed connect error: Connection refused");
        }
        let stats = cluster.stats();
        assert_eq!(stats.upstream_rq_pending_failure_eject().value(), 2);
        until(|| stats.upstream_cx_active().value() == 0).await;
        assert_eq!(stats.upstream_cx_connect_fail().value(), stats.upstream_cx_destroy_remote().value());
        assert_eq!(stats.upstream_rq_pending_active().value(), 0);
    });
}

#[test]
fn a_cluster_that_is_gone_closes_its_connections() {
    on_worker(async {
        let f = Fixture::new(|_| ()).await;
        let mut other_end = f.idle().await;
        let Fixture { cluster, pool, listener: _listener } = f;
        let stats = cluster.stats();
        drop(pool);
        assert!(cluster.clusters.remove("c"));
        assert!(cluster.worker.get(0).is_none());
        assert_eq!(other_end.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(stats.upstream_cx_active().value(), 0);
    });
}

#[test]
fn a_worker_can_end_while_requests_wait() {
    on_worker(async {
        let f = Rc::new(Fixture::new(Fixture::limit(|t| t.max_connections = 1)).await);
        let mut lease = f.pool.acquire().await.unwrap();
        let connection = lease.connection.take();
        // When the worker ends, a connection goes that another task waits for: none may be dialled any more.
        tokio::task::spawn_local(async move {
            let _held = (connection, lease);
            std::future::pending::<()>().await;
        });
        for _ in 0..2 {
            let f = f.clone();
            tokio::task::spawn_local(async move { f.pool.acquire().await.map(drop) });
        }
        until(|| f.pool.queue.len() == 2).await;
    });
}

#[test]
fn a_pool_goes_with_its_last_connection() {
    on_worker(async {
        let f = Fixture::new(|_| ()).await;
        let other_end = f.idle().await;
        assert_eq!(f.cluster.host().pools.count(), 1);
        let gone = Rc::downgrade(&f.pool);
        let Fixture { cluster, listener: _listener, pool } = f;
        drop(pool);
        drop(other_end);
        until(|| gone.strong_count() == 0).await;
        assert_eq!(cluster.host().pools.count(), 0);
    });
}

#[test]
fn ten_thousand_hosts_that_were_used_once_keep_no_pool() {
    on_worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let mut config = cluster_config("c", vec![fixed(at); 10_000]);
        let mut http = UpstreamHttp::default();
        http.common.idle_timeout = Some(Duration::from_millis(1));
        config.http = Arc::new(http);
        let cluster = OneCluster::new(config);
        let stats = cluster.stats();
        let mut hosts = Vec::new();
        for _ in 0..100 {
            let mut open = Vec::new();
            for _ in 0..100 {
                let pool = cluster.http1();
                let (lease, accepted) = tokio::join!(pool.acquire(), listener.accept());
                drop(lease.unwrap());
                open.push(accepted.unwrap());
                hosts.push(Rc::downgrade(&pool));
            }
            until(|| stats.upstream_cx_active().value() == 0).await;
        }
        assert!(hosts.iter().all(|pool| pool.strong_count() == 0));
    });
}
