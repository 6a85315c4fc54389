//! SETTINGS that the user has the proxy send, to hosts and to clients.

use crate::support::bootstrap::Pieces;
use crate::support::client::get;
use crate::support::frames::{Frame, Frames, SETTINGS, encode};
use crate::support::proxy::proxy;
use crate::support::split::Split;
use crate::support::upstream::http1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const OPTIONS: &str = "http2_protocol_options: { custom_settings_parameters: [{ identifier: 16, value: 3 }, \
                       { identifier: 43981, value: 4 }, { identifier: 4, value: 70000 }] }\n";

fn parameters(payload: &[u8]) -> Vec<(u16, u32)> {
    let parameter = |p: &[u8]| (u16::from_be_bytes([p[0], p[1]]), u32::from_be_bytes([p[2], p[3], p[4], p[5]]));
    payload.chunks(6).map(parameter).collect()
}

#[track_caller]
fn are_said(payload: &[u8]) {
    let said = parameters(payload);
    for parameter in [(16, 3), (43_981, 4), (4, 70_000)] {
        assert!(said.contains(&parameter), "{parameter:?} is not in {said:?}");
    }
}

#[tokio::test]
async fn hosts_are_told_of_custom_settings() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let endpoint = format!("{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}");
    let pieces = Pieces {
        routes: "- match: { prefix: / }\n  route: { cluster: told }\n".to_owned(),
        clusters: format!(
            "- name: told\n  {OPTIONS}  load_assignment: {{ cluster_name: told, endpoints: [{{ lb_endpoints: [{{ \
             endpoint: {{ address: {endpoint} }} }}] }}] }}\n"
        ),
        ..Pieces::default()
    };
    let proxy = proxy(pieces.yaml()).upstream(http1()).run().await;
    let host = async {
        let (mut proxy, _) = listener.accept().await.expect("the proxy connects");
        let mut head = [0; 24 + 9];
        proxy.read_exact(&mut head).await.expect("it speaks HTTP/2");
        assert_eq!(head[24 + 3], SETTINGS);
        let mut payload = vec![0; usize::from(head[24 + 2])];
        proxy.read_exact(&mut payload).await.expect("a whole frame");
        let ok = encode(1, 5, 1, &[0x88]);
        proxy
            .write_all(&[encode(SETTINGS, 0, 0, &[]), encode(SETTINGS, 1, 0, &[]), ok].concat())
            .await
            .expect("it reads");
        tokio::spawn(async move { while proxy.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {} });
        payload
    };
    let (response, payload) = tokio::join!(get(proxy.addr(), "/"), host);
    are_said(&payload);
    assert_eq!(response.expect("the proxy answers").status(), 200);
}

#[tokio::test]
async fn clients_are_told_of_custom_settings() {
    let pieces = Pieces { hcm: OPTIONS.to_owned(), ..Pieces::default() };
    let proxy = proxy(pieces.yaml()).upstream(http1()).run().await;
    let mut frames = Frames::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    let settings: Option<Frame> = frames.until(SETTINGS, Some(0)).await.expect("the proxy speaks");
    are_said(&settings.expect("it says its settings").payload);
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    frames.headers(1, 1, &fields).await.expect("the proxy reads");
    assert!(frames.until(1, Some(1)).await.expect("the proxy speaks").is_some());
}
