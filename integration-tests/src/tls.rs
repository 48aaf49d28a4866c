//! TLS that applications speak with each other, through the mesh: nothing in
//! between can read it.

use std::pin::Pin;

use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::ssl::{Ssl, SslAcceptor, SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::{X509Builder, X509NameBuilder};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_openssl::SslStream;

use crate::certificate::p256;

/// The end of a server, with a new certificate of its own making.
pub fn acceptor() -> SslAcceptor {
    let key = p256();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "backend").unwrap();
    let name = name.build();
    let mut certificate = X509Builder::new().unwrap();
    certificate.set_version(2).unwrap();
    certificate.set_subject_name(&name).unwrap();
    certificate.set_issuer_name(&name).unwrap();
    certificate.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    certificate.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    certificate.set_pubkey(&key).unwrap();
    certificate.sign(&key, MessageDigest::sha256()).unwrap();
    let mut builder = SslAcceptor::mozilla_modern_v5(SslMethod::tls_server()).unwrap();
    builder.set_certificate(&certificate.build()).unwrap();
    builder.set_private_key(&key).unwrap();
    builder.build()
}

/// Takes TLS from a client.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    acceptor: &SslAcceptor,
    stream: S,
) -> Result<SslStream<S>, openssl::ssl::Error> {
    let mut stream = SslStream::new(Ssl::new(acceptor.context())?, stream)?;
    Pin::new(&mut stream).accept().await?;
    Ok(stream)
}

/// Opens TLS to a server, asking for a name.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    name: &str,
    stream: S,
) -> Result<SslStream<S>, openssl::ssl::Error> {
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    builder.set_verify(SslVerifyMode::NONE);
    let mut configuration = builder.build().configure()?;
    configuration.set_verify_hostname(false);
    let mut stream = SslStream::new(configuration.into_ssl(name)?, stream)?;
    Pin::new(&mut stream).connect().await?;
    Ok(stream)
}
