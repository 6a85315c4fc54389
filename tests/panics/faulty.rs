//! nuncio with one more filter, which panics where a request asks it to: a process of its own, though of the same binary
//! as the tests.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use nuncio::Extensions;
use nuncio_filter_api::{
    Body, BodyError, HttpFilter, HttpFilterConfig, HttpFilterRow, Request, RequestHead, Response, Sides, Step, StreamCx,
};

/// Configured by a message that no filter of nuncio has yet.
static ROWS: &[HttpFilterRow] = &[HttpFilterRow {
    name: "test.panics",
    config: "envoy.extensions.filters.http.wasm.v3.Wasm",
    lower: |_, _| Ok(Arc::new(Panics(None))),
    per_route: None,
    sides: Sides::Downstream,
}];

/// Where the request of one stream wants the panic.
struct Panics(Option<String>);

impl HttpFilterConfig for Panics {
    fn instantiate(self: Arc<Self>, _name: &Arc<str>, _cx: &StreamCx) -> Box<dyn HttpFilter> {
        Box::new(Panics(None))
    }
}

impl Panics {
    fn wanted(&self, place: &str) -> bool {
        self.0.as_deref() == Some(place)
    }

    fn at(&self, place: &str) {
        assert!(!self.wanted(place), "injected: {place}");
    }
}

impl HttpFilter for Panics {
    fn request<'a>(&'a mut self, request: &'a mut Request, _cx: &'a mut StreamCx) -> Step<'a> {
        self.0 = request.head.headers.get("x-panic").and_then(|v| v.to_str().ok()).map(str::to_owned);
        self.at("request");
        if self.wanted("task") {
            tokio::task::spawn_local(async { panic!("injected: task") });
        }
        if !self.wanted("timer") {
            return Step::CONTINUE;
        }
        Step::Wait(Box::pin(async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            panic!("injected: timer");
        }))
    }

    fn response<'a>(&'a mut self, response: &'a mut Response, _: &'a RequestHead, _: &'a mut StreamCx) -> Step<'a> {
        self.at("response");
        if self.wanted("body") {
            response.body = Body::stream(Broken);
        }
        Step::CONTINUE
    }

    fn complete(&mut self, _cx: &StreamCx) {
        self.at("complete");
    }
}

/// A body that panics in the hands of the codec.
struct Broken;

impl HttpBody for Broken {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        panic!("injected: body")
    }
}

/// A program that takes nuncio's arguments, written into `dir`.
pub(super) fn program(dir: &Path) -> PathBuf {
    let program = dir.join("faulty");
    let tests = std::env::current_exe().expect("the system knows what runs");
    let script = format!(
        "#!/bin/sh\nNUNCIO_ARGUMENTS=\"$*\" exec {} --exact panics::faulty::process --ignored --nocapture\n",
        tests.display()
    );
    std::fs::write(&program, script).expect("the test's folder is writable");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("the file is ours");
    program
}

#[test]
#[ignore = "a process of its own, which the tests of panics start"]
fn process() {
    let arguments = std::env::var("NUNCIO_ARGUMENTS").unwrap_or_default();
    let argv = ["nuncio"].into_iter().chain(arguments.split_whitespace()).map(Into::into);
    nuncio::run_with(argv, Extensions { http: ROWS, ..Extensions::default() });
}
