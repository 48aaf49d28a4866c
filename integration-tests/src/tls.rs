//! TLS that is not the mesh's: servers outside of it, with the files a proxy
//! needs to trust them and to be trusted by them, and what applications speak
//! with each other through it.

use std::path::{Path, PathBuf};
use std::pin::Pin;

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslAcceptor, SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::{X509, X509NameBuilder};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use crate::certificate::p256;

/// An authority of its own.
pub struct Authority {
    certificate: X509,
    key: PKey<Private>,
    folder: PathBuf,
}

/// A certificate with its key.
pub struct Certificate {
    certificate: X509,
    key: PKey<Private>,
    /// The file with the certificate.
    pub certificate_file: PathBuf,
    /// The file with the key.
    pub key_file: PathBuf,
}

impl Authority {
    /// One that writes its files into a folder.
    pub fn new(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let key = p256();
        let certificate = sign("authority", &key, None, &[]);
        std::fs::write(folder.join("roots.pem"), certificate.to_pem().unwrap()).unwrap();
        Self { certificate, key, folder: folder.to_owned() }
    }

    /// The file with its own certificate.
    pub fn roots(&self) -> PathBuf {
        self.folder.join("roots.pem")
    }

    /// A certificate for DNS names, of which the first is its own name.
    pub fn issue(&self, names: &[&str]) -> Certificate {
        let key = p256();
        let certificate = sign(names[0], &key, Some(self), names);
        let file = |kind: &str| self.folder.join(format!("{}-{kind}.pem", names[0]));
        let (certificate_file, key_file) = (file("certificate"), file("key"));
        std::fs::write(&certificate_file, certificate.to_pem().unwrap()).unwrap();
        std::fs::write(&key_file, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        Certificate { certificate, key, certificate_file, key_file }
    }

    /// Takes TLS with a certificate; with `mutual`, from those alone who have one
    /// of this authority.
    pub fn acceptor(&self, certificate: &Certificate, mutual: bool) -> SslAcceptor {
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
        builder.set_certificate(&certificate.certificate).unwrap();
        builder.set_private_key(&certificate.key).unwrap();
        if mutual {
            let mut roots = X509StoreBuilder::new().unwrap();
            roots.add_cert(self.certificate.clone()).unwrap();
            builder.set_cert_store(roots.build());
            builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        }
        builder.build()
    }
}

impl Certificate {
    /// The certificate in PEM.
    pub fn certificate(&self) -> String {
        std::fs::read_to_string(&self.certificate_file).unwrap()
    }

    /// The key in PEM.
    pub fn key(&self) -> String {
        std::fs::read_to_string(&self.key_file).unwrap()
    }
}

impl Authority {
    /// Opens TLS to a server of a name that it has to have from this authority,
    /// and presents a certificate, if one is given.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        name: &str,
        stream: S,
        own: Option<&Certificate>,
    ) -> Result<SslStream<S>, String> {
        let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(|error| error.to_string())?;
        let mut roots = X509StoreBuilder::new().unwrap();
        roots.add_cert(self.certificate.clone()).unwrap();
        builder.set_cert_store(roots.build());
        if let Some(Certificate { certificate, key, .. }) = own {
            builder.set_certificate(certificate).unwrap();
            builder.set_private_key(key).unwrap();
        }
        let ssl = builder.build().configure().and_then(|it| it.into_ssl(name)).map_err(|error| error.to_string())?;
        let mut stream = SslStream::new(ssl, stream).map_err(|error| error.to_string())?;
        Pin::new(&mut stream).connect().await.map_err(|error| error.to_string())?;
        Ok(stream)
    }
}

/// Takes TLS with a certificate that nobody has to trust.
pub fn self_signed() -> SslAcceptor {
    let key = p256();
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    builder.set_certificate(&sign("backend", &key, None, &[])).unwrap();
    builder.set_private_key(&key).unwrap();
    builder.build()
}

/// Opens TLS to a server, asking for a name and trusting whoever answers.
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

/// Takes TLS on a connection.
pub async fn accept(acceptor: &SslAcceptor, stream: TcpStream) -> Option<SslStream<TcpStream>> {
    let ssl = openssl::ssl::Ssl::new(acceptor.context()).ok()?;
    let mut stream = SslStream::new(ssl, stream).ok()?;
    Pin::new(&mut stream).accept().await.ok()?;
    Some(stream)
}

fn sign(name: &str, key: &PKey<Private>, by: Option<&Authority>, names: &[&str]) -> X509 {
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let serial = BigNum::from_u32(rand_serial(name)).unwrap().to_asn1_integer().unwrap();
    builder.set_serial_number(&serial).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(by.map_or(&*subject, |by| by.certificate.subject_name())).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    if by.is_none() {
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    }
    if !names.is_empty() {
        let mut extension = SubjectAlternativeName::new();
        for name in names {
            extension.dns(name);
        }
        let extension = extension.build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(extension).unwrap();
    }
    builder.sign(by.map_or(key, |by| &by.key), MessageDigest::sha256()).unwrap();
    builder.build()
}

/// Certificates of one authority have numbers of their own.
fn rand_serial(name: &str) -> u32 {
    name.bytes().fold(1, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) >> 1
}
