use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use nuncio_config::cluster::{CircuitBreakers, Thresholds, UpstreamHttp, UpstreamProtocol};
use nuncio_filter_api::{Body, RequestHead, Scheme};
use nuncio_telemetry::stats::catalogue::ClusterStats;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::attempt::{Answered, Attempt};
use crate::failure::Failure;
use crate::lb::PickContext;
use crate::testing::{OneCluster, cluster_config, fixed, on_worker, until};

/// What the upstream does with a request.
#[derive(Clone, Copy)]
enum Act {
    Answer,
    /// Answers with the request's body and trailers.
    Echo,
    /// Answers, and says with it that it takes no more.
    AnswerAndGoAway,
    Reset(h2::Reason),
    Hang,
}

struct Fixture {
    cluster: OneCluster,
    stats: ClusterStats,
    listener: TcpListener,
}

impl Fixture {
    async fn new(change: impl FnOnce(&mut UpstreamHttp)) -> Rc<Self> {
        Self::limited(Thresholds::default(), change).await
    }

    async fn limited(thresholds: Thresholds, change: impl FnOnce(&mut UpstreamHttp)) -> Rc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = cluster_config("c", vec![fixed(listener.local_addr().unwrap())]);
        let mut http = UpstreamHttp { protocol: UpstreamProtocol::Http2, ..UpstreamHttp::default() };
        change(&mut http);
        config.http = Arc::new(http);
        config.circuit_breakers = CircuitBreakers::new(thresholds, Thresholds::default());
        let cluster = OneCluster::new(config);
        let stats = cluster.stats();
        Rc::new(Self { cluster, stats, listener })
    }

    /// Serves as many connections as there are scripts, each of `max_streams` at once: one act for each request.
    fn serve(self: &Rc<Self>, max_streams: u32, scripts: Vec<Vec<Act>>) {
        let f = self.clone();
        tokio::task::spawn_local(async move {
            for acts in scripts {
                let (socket, _) = f.listener.accept().await.unwrap();
                tokio::task::spawn_local(serve_connection(socket, max_streams, acts));
            }
        });
    }

    async fn send(&self, mut body: Body) -> Result<(u16, Body), Failure> {
        let cluster = self.cluster.worker.get(0).unwrap();
        let host = cluster.pick(&PickContext::default()).unwrap();
        let priority = Priority::Default;
        let attempt = Attempt { host: &host, priority, info: None, informational: None };
        let head = RequestHead::new(Method::GET, Scheme::Http, "a.test".into(), "/".into());
        let Answered { response, active } = attempt.run(&head, &mut body).await?;
        active.end();
        Ok((response.head.status.as_u16(), response.body))
    }

    async fn get(&self) -> Result<u16, Failure> {
        self.send(Body::empty()).await.map(|(status, _)| status)
    }
}

async fn serve_connection(socket: TcpStream, max_streams: u32, acts: Vec<Act>) {
    let mut builder = h2::server::Builder::new();
    let mut connection = builder.max_concurrent_streams(max_streams).handshake::<_, Bytes>(socket).await.unwrap();
    let mut acts = acts.into_iter();
    let mut hanging = Vec::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let ok = || http::Response::new(());
        match acts.next().unwrap_or(Act::Hang) {
            Act::Answer => drop(respond.send_response(ok(), true)),
            Act::Echo => {
                let stream = respond.send_response(ok(), false).unwrap();
                tokio::task::spawn_local(echo(request.into_body(), stream));
            }
            Act::AnswerAndGoAway => {
                respond.send_response(ok(), true).unwrap();
                connection.graceful_shutdown();
            }
            Act::Reset(reason) => respond.send_reset(reason),
            Act::Hang => hanging.push(respond),
        }
    }
}

async fn echo(mut body: h2::RecvStream, mut stream: h2::SendStream<Bytes>) {
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        stream.send_data(data, false).unwrap();
    }
    let trailers = body.trailers().await.unwrap().unwrap_or_default();
    stream.send_trailers(trailers).unwrap();
}

#[test]
fn requests_share_a_connection() {
    on_worker(async {
        let f = Fixture::new(|_| ()).await;
        f.serve(100, vec![vec![Act::Answer; 20]]);
        let all: Vec<_> = (0..20).map(|_| f.get()).collect();
        for result in futures_util::future::join_all(all).await {
            assert_eq!(result.unwrap(), 200);
        }
        let stats = &f.stats;
        assert_eq!((stats.upstream_cx_total().value(), stats.upstream_cx_http2_total().value()), (1, 1));
        assert_eq!((stats.upstream_rq_total().value(), stats.upstream_rq_active().value()), (20, 0));
        assert_eq!(stats.upstream_rq_tx_reset().value(), 0);
    });
}

#[test]
fn bodies_and_trailers_pass_both_ways() {
    on_worker(async {
        let f = Fixture::new(|_| ()).await;
        f.serve(100, vec![vec![Act::Echo]]);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-t", "1".parse().unwrap());
        let data = Bytes::from(vec![7; 300_000]);
        let (status, mut body) = f.send(Body::with_trailers(data.clone(), trailers.clone())).await.unwrap();
        let (mut got, mut got_trailers) = (Vec::new(), None);
        while let Some(frame) = body.next().await {
            match frame.unwrap().into_data() {
                Ok(data) => got.extend_from_slice(&data),
                Err(frame) => got_trailers = frame.into_trailers().ok(),
            }
        }
        assert_eq!((status, got.len(), got_trailers), (200, data.len(), Some(trailers)));
    });
}

#[test]
fn a_full_connection_is_joined_by_another() {
    on_worker(async {
        let f = Fixture::new(|_| ()).await;
        f.serve(1, vec![vec![Act::Answer, Act::Hang], vec![Act::Answer]]);
        assert_eq!(f.get().await.unwrap(), 200);
        let hanging = tokio::task::spawn_local({
            let f = f.clone();
            async move { f.get().await }
        });
        until(|| f.stats.upstream_rq_active().value() == 1).await;
        assert_eq!(f.get().await.unwrap(), 200);
        assert_eq!(f.stats.upstream_cx_total().value(), 2);
        hanging.abort();
        until(|| f.stats.upstream_rq_active().value() == 0).await;
        assert_eq!(f.stats.upstream_rq_tx_reset().value(), 1);
    });
}

#[test]
fn a_connection_that_goes_away_is_replaced() {
    on_worker(async {
        let f = Fixture::new(|_| ()).await;
        f.serve(100, vec![vec![Act::AnswerAndGoAway], vec![Act::Answer]]);
        assert_eq!(f.get().await.unwrap(), 200);
        until(|| f.stats.upstream_cx_active().value() == 0).await;
        assert_eq!(f.stats.upstream_cx_destroy_with_active_rq().value(), 0);
        assert_eq!(f.get().await.unwrap(), 200);
        assert_eq!(f.stats.upstream_cx_total().value(), 2);
    });
}

#[test]
fn all_who_wait_end_with_a_connection_that_ends_before_it_carries_anything() {
    on_worker(async {
        let f = Fixture::new(|_| ()).await;
        let served = f.clone();
        tokio::task::spawn_local(async move {
            loop {
                drop(served.listener.accept().await.unwrap());
            }
        });
        let all: Vec<_> = (0..4).map(|_| f.get()).collect();
        for result in futures_util::future::join_all(all).await {
            assert!(matches!(result, Err(Failure::ConnectionTermination)), "{result:?}");
        }
        until(|| f.stats.upstream_cx_active().value() == 0).await;
        assert_eq!((f.stats.upstream_cx_total().value(), f.stats.upstream_rq_total().value()), (1, 4));
        assert_eq!(f.stats.upstream_rq_pending_failure_eject().value(), 4);
    });
}

#[test]
fn a_host_that_goes_away_at_once_is_not_connected_to_again_and_again() {
    on_worker(async {
        let f = Fixture::new(|_| ()).await;
        let served = f.clone();
        tokio::task::spawn_local(async move {
            loop {
                let (socket, _) = served.listener.accept().await.unwrap();
                let mut connection = h2::server::handshake(socket).await.unwrap();
                connection.abrupt_shutdown(h2::Reason::NO_ERROR);
                while connection.accept().await.is_some() {}
            }
        });
        for number in 1..=3 {
            let failure = f.get().await.unwrap_err();
            assert!(matches!(failure, Failure::RefusedStream | Failure::ConnectionTermination), "{failure:?}");
            assert_eq!(f.stats.upstream_cx_total().value(), number);
        }
    });
}

#[test]
fn a_stream_that_is_reset_fails_alone() {
    on_worker(async {
        let f = Fixture::new(|_| ()).await;
        let resets = [h2::Reason::INTERNAL_ERROR, h2::Reason::REFUSED_STREAM];
        f.serve(100, vec![resets.map(Act::Reset).into_iter().chain([Act::Answer]).collect()]);
        assert!(matches!(f.get().await, Err(Failure::RemoteReset)));
        assert!(matches!(f.get().await, Err(Failure::RefusedStream)));
        assert_eq!(f.get().await.unwrap(), 200);
        // Envoy: a request that was refused was none.
        assert_eq!((f.stats.upstream_cx_total().value(), f.stats.upstream_rq_rx_reset().value()), (1, 1));
    });
}

#[test]
fn an_idle_connection_is_closed() {
    on_worker(async {
        let f = Fixture::new(|http| http.common.idle_timeout = Some(Duration::from_millis(5))).await;
        f.serve(100, vec![vec![Act::Answer]]);
        assert_eq!(f.get().await.unwrap(), 200);
        until(|| f.stats.upstream_cx_active().value() == 0).await;
        assert_eq!((f.stats.upstream_cx_idle_timeout().value(), f.stats.upstream_cx_destroy_local().value()), (1, 1));
    });
}

#[test]
fn a_connection_retires_after_its_requests() {
    on_worker(async {
        let f = Fixture::new(|http| http.common.max_requests_per_connection = Some(2)).await;
        f.serve(100, vec![vec![Act::Answer; 2]; 2]);
        for _ in 0..3 {
            assert_eq!(f.get().await.unwrap(), 200);
        }
        assert_eq!((f.stats.upstream_cx_max_requests().value(), f.stats.upstream_cx_total().value()), (1, 2));
        until(|| f.stats.upstream_cx_active().value() == 1).await;
        assert_eq!(f.stats.upstream_cx_destroy_local().value(), 1);
    });
}

#[test]
fn a_connection_that_answers_no_ping_is_closed() {
    on_worker(async {
        let f = Fixture::new(|http| {
            http.http2.keepalive = Some(nuncio_config::protocol::Keepalive {
                interval: Some(Duration::from_millis(5)),
                timeout: Duration::from_millis(50),
                interval_jitter: 0.0,
                connection_idle_interval: None,
            });
        })
        .await;
        let server = f.clone();
        tokio::task::spawn_local(async move {
            let (mut socket, _) = server.listener.accept().await.unwrap();
            // Empty SETTINGS, and then nothing.
            socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            let mut sink = [0; 1024];
            while socket.read(&mut sink).await.is_ok_and(|n| n > 0) {}
        });
        assert!(matches!(f.get().await, Err(Failure::ConnectionTermination)));
        let share = f.cluster.worker.get(0).unwrap().shared.clone();
        assert_eq!(share.http2_stats().keepalive_timeout().value(), 1);
        until(|| f.stats.upstream_cx_active().value() == 0).await;
        assert_eq!(f.stats.upstream_cx_destroy_local_with_active_rq().value(), 1);
    });
}

#[test]
fn an_upstream_that_speaks_no_http2_is_a_protocol_error() {
    on_worker(async {
        let f = Fixture::new(|_| ()).await;
        let server = f.clone();
        tokio::task::spawn_local(async move {
            let (mut socket, _) = server.listener.accept().await.unwrap();
            socket.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            let _ = socket.read(&mut [0; 1024]).await;
        });
        assert!(matches!(f.get().await, Err(Failure::Protocol)));
        until(|| f.stats.upstream_cx_active().value() == 0).await;
        assert_eq!(f.stats.upstream_cx_protocol_error().value(), 1);
    });
}

#[test]
fn a_cluster_that_is_gone_closes_its_connections() {
    on_worker(async {
        let f = Fixture::new(|_| ()).await;
        f.serve(100, vec![vec![Act::Answer]]);
        assert_eq!(f.get().await.unwrap(), 200);
        assert!(f.cluster.clusters.remove("c"));
        assert!(f.cluster.worker.get(0).is_none());
        until(|| f.stats.upstream_cx_active().value() == 0).await;
    });
}

#[test]
fn a_raised_limit_of_streams_serves_those_who_wait() {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    let max_streams = |n: u8| [0, 0, 6, SETTINGS, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, n];
    on_worker(async move {
        let f = Fixture::limited(Thresholds { max_connections: 1, ..Thresholds::default() }, |_| ()).await;
        let begin = |f: Rc<Fixture>| tokio::task::spawn_local(async move { drop(f.get().await) });
        let first = begin(f.clone());
        let (mut socket, _) = f.listener.accept().await.unwrap();
        socket.write_all(&max_streams(1)).await.unwrap();
        socket.read_exact(&mut [0; b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()]).await.unwrap();
        // Its own settings and the acknowledgement of ours.
        while read_frame(&mut socket).await != (SETTINGS, 1) {}
        let second = begin(f.clone());
        until(|| f.stats.upstream_rq_pending_active().value() == 1).await;
        socket.write_all(&max_streams(2)).await.unwrap();
        while read_frame(&mut socket).await.0 != HEADERS {}
        assert_eq!(f.stats.upstream_rq_total().value(), 2);
        first.abort();
        second.abort();
    });
}

/// Type and flags of the next frame.
async fn read_frame(socket: &mut TcpStream) -> (u8, u8) {
    let mut head = [0; 9];
    socket.read_exact(&mut head).await.unwrap();
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    socket.read_exact(&mut vec![0; length]).await.unwrap();
    (head[3], head[4])
}

#[test]
fn an_idle_connection_closes_at_once_when_its_host_fails() {
    on_worker(async {
        let f = Fixture::new(|_| ()).await;
        f.serve(100, vec![vec![Act::Answer], vec![Act::Answer]]);
        assert_eq!(f.get().await.unwrap(), 200);
        assert_eq!(f.stats.upstream_cx_active().value(), 1);
        f.cluster.host().host.give_up_connections();
        until(|| f.stats.upstream_cx_active().value() == 0).await;
        assert_eq!(f.cluster.host().pools.count(), 0);
        assert_eq!(f.get().await.unwrap(), 200);
        assert_eq!(f.stats.upstream_cx_total().value(), 2);
    });
}
