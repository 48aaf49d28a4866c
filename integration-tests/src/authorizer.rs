//! External authorizers, over HTTP and over gRPC. Both let in whoever says
//! `x-let-in: please`, and tell the service that they were asked.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::body::Body;

use crate::accept::each_connection;

/// How many questions are remembered: more than any test asks.
const KEPT: usize = 1000;

/// A running authorizer. It ends when it is dropped.
pub struct Authorizer {
    /// The paths it was asked about.
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Authorizer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Authorizer {
    /// One that is asked over HTTP.
    pub async fn http(address: SocketAddr) -> Self {
        Self::serve(address, |stream, asked| async move {
            let service = service_fn(|request: Request<Incoming>| {
                let path = request.uri().path().to_owned();
                let please = request.headers().get("x-let-in").and_then(|value| value.to_str().ok());
                let response = Response::builder().header("x-asked", "over HTTP");
                let status = if note(&asked, path, please) { StatusCode::OK } else { StatusCode::FORBIDDEN };
                let response = response.status(status).body(Full::new(Bytes::from_static(b"not without asking")));
                ready(Ok::<_, Infallible>(response.unwrap()))
            });
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        })
        .await
    }

    /// One that is asked over gRPC.
    pub async fn grpc(address: SocketAddr) -> Self {
        Self::serve(address, |stream, asked| async move {
            let service = service_fn(|request: Request<Incoming>| {
                let asked = asked.clone();
                async move {
                    let codec = tonic_prost::ProstCodec::<CheckResponse, CheckRequest>::default();
                    Ok::<Response<Body>, Infallible>(tonic::server::Grpc::new(codec).unary(Check(asked), request).await)
                }
            });
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        })
        .await
    }

    async fn serve<F: Future<Output = ()> + Send + 'static>(
        address: SocketAddr,
        serve: impl Fn(tokio::net::TcpStream, Arc<Mutex<Vec<String>>>) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let of_task = asked.clone();
        let serve = move |stream| serve(stream, of_task.clone());
        Self { asked, task: tokio::spawn(each_connection(listener, serve)) }
    }

    /// The paths it was asked about, in order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Whether whoever says this is let in.
fn note(asked: &Mutex<Vec<String>>, path: String, please: Option<&str>) -> bool {
    let mut asked = asked.lock().unwrap();
    if asked.len() < KEPT {
        asked.push(path);
    }
    please == Some("please")
}

struct Check(Arc<Mutex<Vec<String>>>);

impl tonic::server::UnaryService<CheckRequest> for Check {
    type Response = CheckResponse;
    type Future = Ready<Result<tonic::Response<CheckResponse>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<CheckRequest>) -> Self::Future {
        let http = request.into_inner().attributes.and_then(|attributes| attributes.request?.http).unwrap_or_default();
        let please = http.headers.get("x-let-in").map(String::as_str);
        let (code, ok, denied) = match note(&self.0, http.path.clone(), please) {
            true => {
                let header = HeaderValue { key: "x-asked".into(), value: "over gRPC".into() };
                (0, Some(OkResponse { headers: vec![HeaderOption { header: Some(header) }] }), None)
            }
            false => {
                let status = Some(HttpStatus { code: 403 });
                (7, None, Some(DeniedResponse { status, body: "not without asking".into() }))
            }
        };
        ready(Ok(tonic::Response::new(CheckResponse { status: Some(Status { code }), denied, ok })))
    }
}

// What is used of `envoy.service.auth.v3`, with its numbers.

#[derive(Clone, PartialEq, prost::Message)]
struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    attributes: Option<Attributes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Attributes {
    #[prost(message, optional, tag = "4")]
    request: Option<AttributesRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AttributesRequest {
    #[prost(message, optional, tag = "2")]
    http: Option<HttpRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HttpRequest {
    #[prost(map = "string, string", tag = "3")]
    headers: HashMap<String, String>,
    #[prost(string, tag = "4")]
    path: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(message, optional, tag = "2")]
    denied: Option<DeniedResponse>,
    #[prost(message, optional, tag = "3")]
    ok: Option<OkResponse>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DeniedResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<HttpStatus>,
    #[prost(string, tag = "3")]
    body: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HttpStatus {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OkResponse {
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderOption>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeaderOption {
    #[prost(message, optional, tag = "1")]
    header: Option<HeaderValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeaderValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}
