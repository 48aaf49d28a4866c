//! The end of HBONE at a pod that is captured.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::echo::Echo;
use crate::identity::Identity;

/// Takes HBONE for a pod, as its ztunnel would, with the application in it. It
/// ends when it is dropped.
pub struct Server {
    tunnels: Arc<Mutex<Vec<(String, String)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Takes tunnels at an address. What they carry is answered by `echo`.
    pub async fn start(address: SocketAddr, identity: Identity, echo: &Echo) -> Self {
        let listener = TcpListener::bind(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        let tunnels = Arc::new(Mutex::new(vec![]));
        let (identity, echo, opened) = (Arc::new(identity), echo.clone(), tunnels.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (identity, echo, opened) = (identity.clone(), echo.clone(), opened.clone());
                tokio::spawn(async move {
                    let Ok((stream, peer)) = identity.accept(stream).await else { return };
                    let service = service_fn(|request: Request<Incoming>| {
                        let response = connect(request, &peer, &echo, &opened);
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { tunnels, task }
    }

    /// The tunnels that were opened: who by, and where to.
    pub fn tunnels(&self) -> Vec<(String, String)> {
        self.tunnels.lock().unwrap().clone()
    }
}

fn connect(
    request: Request<Incoming>,
    peer: &str,
    echo: &Echo,
    opened: &Mutex<Vec<(String, String)>>,
) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    let authority = request.uri().authority().map(ToString::to_string);
    let (&Method::CONNECT, Some(authority)) = (request.method(), authority) else {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        return response;
    };
    opened.lock().unwrap().push((peer.to_owned(), authority));
    let echo = echo.clone();
    tokio::spawn(async move {
        if let Ok(tunnel) = hyper::upgrade::on(request).await {
            echo.serve(tunnel).await;
        }
    });
    response
}
