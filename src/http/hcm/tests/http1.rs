use super::*;

#[tokio::test(start_paused = true)]
async fn requests_are_answered_one_after_another() {
    local(async {
        let mut client = connect(&lower(message()));
        for _ in 0..2 {
            let answer = talk(&mut client, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\ncontent-length: 7\r\ndate: "), "{answer}");
            assert!(answer.ends_with("\r\nserver: envoy\r\n\r\nGET /a "), "{answer}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_and_bodies_are_answered_in_order() {
    local(async {
        let mut client = connect(&lower(message()));
        let post = "POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
        let answer = talk(&mut client, &format!("{post}GET /c HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let bodies: Vec<&str> = answer.split("\r\n\r\n").skip(1).collect();
        assert!(bodies[0].starts_with("POST /b hi") && bodies[1].starts_with("GET /c "), "{answer}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_the_codec_refuses_is_answered_and_closed() {
    local(async {
        let mut client = connect(&lower(message()));
        let answer = talk(&mut client, "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n").await;
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\ncontent-length: 11\r\ncontent-type: text/plain"),
            "{answer}"
        );
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_without_host_is_refused() {
    local(async {
        let mut client = connect(&lower(message()));
        let answer = talk(&mut client, "GET / HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_progress_times_out() {
    local(async {
        let hcm = lower(message());
        let mut client = connect(&hcm);
        client.write_all(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 12];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 504");
        assert_eq!(hcm.stats.http.downstream_rq_idle_timeout().value(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_its_stream() {
    local(async {
        let hcm = lower(message());
        let mut client = connect(&hcm);
        client.write_all(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(hcm.stats.http.downstream_rq_active().value(), 1);
        drop(client);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(hcm.stats.http.downstream_rq_active().value(), 0);
        assert_eq!(hcm.stats.http.downstream_cx_active().value(), 0);
    })
    .await;
}
