//! Accepts connections and says who is at the other end: a stream of
//! connections that plugs into tonic or hyper, for TLS and for plaintext.
//!
//! Strangers connect here. A handshake has a task of its own, a deadline and a
//! place in a bounded number of handshakes; a client that says nothing costs
//! one of them for ten seconds.

mod records;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use openssl::ssl::{Ssl, SslRef};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_openssl::SslStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::authenticate::Peer;
use super::serving::ServingCertificate;
pub use records::MAX_RECORD;
use records::Records;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// OpenSSL holds some 40 KiB for a handshake.
const MAX_HANDSHAKES: usize = 2048;
/// How many connections wait for the server to take them.
const BACKLOG: usize = 64;

/// A connection whose TLS handshake is done.
pub struct TlsConnection {
    stream: Records,
    peer: Peer,
}

/// A connection without TLS.
pub struct PlainConnection {
    stream: TcpStream,
    peer: Peer,
}

/// Where connections come from.
pub enum Incoming {
    /// A listener of this runtime.
    Listener(TcpListener),
    /// The listener of another, which hands some of them over.
    Share(mpsc::Receiver<std::net::TcpStream>),
}

impl From<TcpListener> for Incoming {
    fn from(listener: TcpListener) -> Self {
        Self::Listener(listener)
    }
}

impl From<mpsc::Receiver<std::net::TcpStream>> for Incoming {
    fn from(share: mpsc::Receiver<std::net::TcpStream>) -> Self {
        Self::Share(share)
    }
}

/// Hands out the connections of a listener in turn, for as long as there is
/// somebody to take one.
pub async fn share(listener: TcpListener, takers: Vec<mpsc::Sender<std::net::TcpStream>>) {
    let mut incoming = Incoming::Listener(listener);
    for taker in takers.iter().cycle() {
        let Some((stream, address)) = accepted(&mut incoming, taker).await else { return };
        match stream.into_std() {
            Ok(stream) => {
                if taker.send(stream).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(peer = %address, %error, "connection lost before it was served"),
        }
    }
}

/// The TLS connections that come in. Each uses the certificate of its moment.
/// Dropping the stream closes the listener.
pub fn tls(
    incoming: impl Into<Incoming>,
    certificate: Arc<ServingCertificate>,
) -> ReceiverStream<io::Result<TlsConnection>> {
    let mut incoming = incoming.into();
    let (ready, connections) = mpsc::channel(BACKLOG);
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    tokio::spawn(async move {
        while let Some((stream, address)) = accepted(&mut incoming, &ready).await {
            // With all places taken, clients wait in the kernel's queue.
            let place = tokio::select! {
                place = handshakes.clone().acquire_owned() => place,
                () = ready.closed() => return,
            };
            let (certificate, ready) = (certificate.clone(), ready.clone());
            tokio::spawn(async move {
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(stream, address, &certificate)).await {
                    Ok(Ok(connection)) => {
                        drop(place);
                        // Fails when the server has ended.
                        let _ = ready.send(Ok(connection)).await;
                    }
                    Ok(Err(error)) => tracing::debug!(peer = %address, %error, "TLS handshake failed"),
                    Err(_) => tracing::debug!(peer = %address, "TLS handshake timed out"),
                }
            });
        }
    });
    ReceiverStream::new(connections)
}

/// The plaintext connections that come in. Dropping the stream closes the
/// listener.
pub fn plain(incoming: impl Into<Incoming>) -> ReceiverStream<io::Result<PlainConnection>> {
    let mut incoming = incoming.into();
    let (ready, connections) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        while let Some((stream, address)) = accepted(&mut incoming, &ready).await {
            let peer = Peer { address: Some(address), ..Peer::default() };
            if ready.send(Ok(PlainConnection { stream, peer })).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(connections)
}

/// The next TCP connection; `None` once nobody takes connections any more.
async fn accepted<T>(incoming: &mut Incoming, taker: &mpsc::Sender<T>) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            accepted = incoming.next() => accepted?,
            () = taker.closed() => return None,
        };
        match accepted {
            Ok((stream, address)) => {
                // Small messages that somebody waits for. If it cannot be set,
                // the connection is broken and will say so itself.
                let _ = stream.set_nodelay(true);
                return Some((stream, address));
            }
            // Either this one connection failed, or the process is out of file
            // descriptors: then it takes others to close before the next try.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

impl Incoming {
    /// The next connection; `None` once there will be no more.
    async fn next(&mut self) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        match self {
            Self::Listener(listener) => Some(listener.accept().await),
            Self::Share(share) => {
                let stream = share.recv().await?;
                Some(TcpStream::from_std(stream).and_then(|stream| {
                    let address = stream.peer_addr()?;
                    Ok((stream, address))
                }))
            }
        }
    }
}

async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    certificate: &ServingCertificate,
) -> Result<TlsConnection, HandshakeError> {
    let ssl = Ssl::new(certificate.acceptor().context())?;
    let mut stream = SslStream::new(ssl, stream)?;
    Pin::new(&mut stream).accept().await?;
    let certificate = identities(stream.ssl());
    let peer = Peer { address: Some(address), encrypted: true, certificate };
    Ok(TlsConnection { stream: Records(stream), peer })
}

#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error(transparent)]
    Setup(#[from] openssl::error::ErrorStack),
    #[error(transparent)]
    Handshake(#[from] openssl::ssl::Error),
}

/// The SPIFFE IDs of the client certificate, which the handshake verified.
/// URIs of other kinds are no identities here.
fn identities(ssl: &SslRef) -> Arc<[super::identity::SpiffeId]> {
    let names = ssl.peer_certificate().and_then(|cert| cert.subject_alt_names());
    names.iter().flatten().filter_map(|name| name.uri()?.parse().ok()).collect()
}

impl Connected for TlsConnection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl Connected for PlainConnection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// Both are their stream as far as bytes go.
macro_rules! delegate_io {
    ($connection:ty) => {
        impl AsyncRead for $connection {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.stream).poll_read(cx, buf)
            }
        }

        impl AsyncWrite for $connection {
            fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.stream).poll_write(cx, buf)
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.stream).poll_flush(cx)
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.stream).poll_shutdown(cx)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                self.stream.is_write_vectored()
            }
        }
    };
}

delegate_io!(TlsConnection);
delegate_io!(PlainConnection);

#[cfg(test)]
mod tests;
