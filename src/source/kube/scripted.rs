//! An API server that does nothing by itself: a test takes each request, and
//! says what the answer is.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

type Answer = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>>;

/// The requests that have come, in their order.
pub struct Script(mpsc::UnboundedReceiver<Call>);

/// A client, and the script of its API server.
pub fn server() -> (kube::Client, Script) {
    let (sender, calls) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: Request<Body>| {
        let sender = sender.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.expect("requests have a body").to_bytes();
            let (answer, answered) = oneshot::channel();
            let uri = parts.uri;
            let call = Call {
                method: parts.method,
                path: uri.path().to_owned(),
                query: uri.query().unwrap_or_default().to_owned(),
                accept: parts.headers.get(header::ACCEPT).map_or("", |value| value.to_str().unwrap_or("")).to_owned(),
                body,
                answer,
            };
            let _ = sender.send(call);
            answered.await.map_err(|_| std::io::Error::other("connection refused"))
        }
    });
    (kube::Client::new(service, "default"), Script(calls))
}

impl Script {
    /// The next request. Time passes if there is none.
    pub async fn next(&mut self) -> Call {
        let call = tokio::time::timeout(Duration::from_secs(600), self.0.recv()).await;
        call.expect("a request within ten minutes").expect("the client is there")
    }

    /// Answers all requests until the client is gone.
    pub async fn serve(mut self, mut answer: impl FnMut(Call)) {
        while let Some(call) = self.0.recv().await {
            answer(call);
        }
    }

    /// The next request, which must be of a watch from a version.
    #[track_caller]
    pub fn watch(&mut self, version: u64) -> impl Future<Output = Stream> {
        let caller = std::panic::Location::caller();
        async move {
            let call = self.next().await;
            let wanted = format!("&resourceVersion={version}&");
            assert!(call.query.contains("watch=true") && call.query.contains(&wanted), "{caller}: {call}");
            call.stream()
        }
    }

    /// Fails if there is a request within a time.
    pub async fn quiet(&mut self, time: Duration) {
        if let Ok(Some(call)) = tokio::time::timeout(time, self.0.recv()).await {
            panic!("there is a request: {call}");
        }
    }
}

/// A request that waits for its answer. Dropping it breaks the connection.
#[derive(Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: String,
    /// The query.
    pub query: String,
    /// What the answer may be in.
    pub accept: String,
    /// The body.
    pub body: Bytes,
    answer: oneshot::Sender<Answer>,
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}?{} {}", self.method, self.path, self.query, String::from_utf8_lossy(&self.body))
    }
}

impl Call {
    /// Answers with a document.
    pub fn json(self, status: u16, value: &Value) {
        let body = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {}).boxed_unsync();
        self.respond(Response::builder().status(status).body(body).expect("a valid answer"));
    }

    /// Answers with a list of objects at a version.
    #[track_caller]
    pub fn list(self, version: u64, token: &str, items: &[Value]) {
        assert!(!self.query.contains("watch="), "{self}");
        self.json(
            200,
            &json!({"metadata": {"resourceVersion": version.to_string(), "continue": token}, "items": items}),
        );
    }

    /// Answers with an error.
    pub fn refuse(self, code: u16, message: &str) {
        self.json(code, &status(code, message));
    }

    /// Answers with an error that says when to ask again.
    pub fn throttle(self, seconds: u64) {
        let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
        let answer = Response::builder().status(429).header("retry-after", seconds).body(body);
        self.respond(answer.expect("a valid answer"));
    }

    /// Begins an answer that goes on.
    pub fn stream(self) -> Stream {
        self.begin("application/json")
    }

    /// The same in protobuf.
    pub fn protobuf(self) -> Stream {
        assert!(self.accept.starts_with(PROTOBUF), "{self}");
        self.begin(PROTOBUF)
    }

    fn begin(self, content_type: &str) -> Stream {
        let (sender, receiver) = mpsc::channel(1024);
        let frames = ReceiverStream::new(receiver).map(|chunk: Result<Bytes, _>| chunk.map(http_body::Frame::data));
        let answer = Response::builder().header(header::CONTENT_TYPE, content_type);
        self.respond(answer.body(StreamBody::new(frames).boxed_unsync()).expect("a valid answer"));
        Stream { sender, protobuf: content_type == PROTOBUF }
    }

    /// Answers with bytes that are said to be protobuf.
    pub fn refuse_in_protobuf(self, code: u16, bytes: &'static [u8]) {
        let body = Full::new(Bytes::from_static(bytes)).map_err(|never| match never {}).boxed_unsync();
        let answer = Response::builder().status(code).header(header::CONTENT_TYPE, PROTOBUF).body(body);
        self.respond(answer.expect("a valid answer"));
    }

    fn respond(self, answer: Answer) {
        // Whoever asked may have given up.
        let _ = self.answer.send(answer);
    }
}

/// An answer that goes on until it is dropped.
pub struct Stream {
    sender: mpsc::Sender<Result<Bytes, std::io::Error>>,
    protobuf: bool,
}

impl Stream {
    /// Says bytes.
    pub fn bytes(&self, bytes: impl AsRef<[u8]>) {
        // Whoever read may have gone.
        let _ = self.sender.try_send(Ok(Bytes::copy_from_slice(bytes.as_ref())));
    }

    /// Says an event of a watch.
    pub fn event(&self, kind: &str, object: &Value) {
        match self.protobuf {
            true => self.bytes(protobuf::event(kind, object)),
            false => self.bytes(format!("{}\n", json!({"type": kind, "object": object}))),
        }
    }

    /// Says a bookmark.
    pub fn bookmark(&self, version: u64) {
        self.event("BOOKMARK", &json!({"metadata": {"resourceVersion": version.to_string()}}));
    }

    /// Breaks the connection.
    pub fn break_off(self) {
        let _ = self.sender.try_send(Err(std::io::Error::other("connection reset")));
    }
}

/// A status document.
pub fn status(code: u16, message: &str) -> Value {
    let reason = if code == 404 { "NotFound" } else { "" };
    json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message})
}

/// What API servers say of pods in protobuf.
pub mod protobuf {
    use super::{Value, json, status};
    use crate::api::Kind;
    use crate::api::protobuf::testing::{envelope, list_meta, message, put_bytes, status as encode_status};

    /// A list at a version.
    pub fn list(version: u64, pods: &[Value]) -> Vec<u8> {
        let mut list = Vec::new();
        put_bytes(&mut list, 1, &list_meta(&json!({"resourceVersion": version.to_string()})));
        pods.iter().for_each(|pod| put_bytes(&mut list, 2, &message(Kind::Pod, pod)));
        envelope(&list)
    }

    /// An event of a watch.
    pub fn event(kind: &str, pod: &Value) -> Vec<u8> {
        frame(kind, &message(Kind::Pod, pod))
    }

    /// An error inside a watch.
    pub fn error(code: u16, text: &str) -> Vec<u8> {
        frame("ERROR", &encode_status(&status(code, text)))
    }

    fn frame(kind: &str, message: &[u8]) -> Vec<u8> {
        let (mut object, mut event) = (Vec::new(), Vec::new());
        put_bytes(&mut object, 1, &envelope(message));
        put_bytes(&mut event, 1, kind.as_bytes());
        put_bytes(&mut event, 2, &object);
        let mut frame = (event.len() as u32).to_be_bytes().to_vec();
        frame.extend(event);
        frame
    }
}
