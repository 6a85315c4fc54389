use bytes::Bytes;

use super::*;

async fn client(hcm: &Arc<Hcm>) -> h2::client::SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(connect(hcm)).await.unwrap();
    tokio::task::spawn_local(async move { drop(connection.await) });
    client
}

fn get(path: &str) -> http::Request<()> {
    http::Request::get(format!("http://x{path}")).body(()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn streams_are_answered_at_the_same_time() {
    local(async {
        let mut client = client(&lower(message())).await;
        let (hanging, _) = client.send_request(get("/hang"), true).unwrap();
        let (response, mut body) = client.send_request(get("/a"), false).unwrap();
        body.send_data(Bytes::from_static(b"hi"), true).unwrap();
        let mut response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["server"], "envoy");
        assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "GET /a hi");
        drop(hanging);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reset_stream_is_given_up_and_the_connection_goes_on() {
    local(async {
        let hcm = lower(message());
        let mut client = client(&hcm).await;
        let (hanging, mut stream) = client.send_request(get("/hang"), false).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(hcm.stats.http.downstream_rq_active().value(), 1);
        stream.send_reset(h2::Reason::CANCEL);
        drop(hanging);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(hcm.stats.http.downstream_rq_active().value(), 0);
        assert_eq!(client.send_request(get("/a"), true).unwrap().0.await.unwrap().status(), 200);
    })
    .await;
}
