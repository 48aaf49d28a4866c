//! The end of HBONE at a pod that is captured.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use crate::echo::Echo;
use crate::identity::Identity;

/// A tunnel that somebody asks for.
pub struct Asked {
    /// The identity of who asks.
    pub peer: String,
    /// The address and port it is to lead to.
    pub destination: String,
}

/// Carries a tunnel to where it leads, until its end.
pub type Carry = Box<dyn FnOnce(Upgraded) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// Takes HBONE on a connection until its end. `open` says of every tunnel who
/// carries it, or with which status it is refused.
pub async fn serve<F>(stream: TcpStream, identity: &Identity, open: impl Fn(Asked) -> F)
where
    F: Future<Output = Result<Carry, StatusCode>> + Send + 'static,
{
    let _ = stream.set_nodelay(true);
    let Ok((stream, peer)) = identity.accept(stream).await else { return };
    let service = service_fn(|request: Request<Incoming>| {
        let authority = request.uri().authority().map(ToString::to_string);
        let opening = match (request.method(), authority) {
            (&Method::CONNECT, Some(destination)) => Some(open(Asked { peer: peer.clone(), destination })),
            _ => None,
        };
        async move {
            let result = match opening {
                Some(opening) => opening.await,
                None => Err(StatusCode::METHOD_NOT_ALLOWED),
            };
            let mut response = Response::new(Empty::<Bytes>::new());
            match result {
                Ok(carry) => drop(tokio::spawn(async move {
                    if let Ok(tunnel) = hyper::upgrade::on(request).await {
                        carry(tunnel).await;
                    }
                })),
                Err(status) => *response.status_mut() = status,
            }
            Ok::<_, Infallible>(response)
        }
    });
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

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
                    let open = |asked: Asked| {
                        opened.lock().unwrap().push((asked.peer, asked.destination));
                        let echo = echo.clone();
                        let carry: Carry = Box::new(move |tunnel| Box::pin(async move { echo.serve(tunnel).await }));
                        std::future::ready(Ok(carry))
                    };
                    serve(stream, &identity, open).await;
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
