//! A workload's certificate, as an agent or a ztunnel gets it, and the mutual
//! TLS of HBONE that it is for.

use std::path::Path;
use std::pin::Pin;
use std::process::Command;

use fairway_proto::auth::IstioCertificateResponse;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{
    SslAcceptor, SslConnector, SslContextBuilder, SslMethod, SslRef, SslVerifyMode, SslVersion, select_next_proto,
};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_openssl::SslStream;
use tonic::transport::Channel;

use crate::certificate::{Csr, check_chain, create, create_over, p256};
use crate::fairway::{self, Fairway};
use crate::ztunnel::{Options, Tls};

/// The only protocol of HBONE, as ALPN writes it.
const H2: &[u8] = b"\x02h2";

/// Who a workload is, and the proof.
pub struct Identity {
    /// Its SPIFFE ID.
    pub name: String,
    key: PKey<Private>,
    /// The leaf and what is between it and a root.
    chain: Vec<X509>,
    /// Whom it trusts.
    pub roots: Vec<X509>,
}

/// A workload that asks for its next certificate again and again: with one key
/// and one request, so that asking costs it little.
pub struct Applicant {
    /// Its SPIFFE ID.
    pub name: String,
    key: PKey<Private>,
    csr: String,
}

impl Applicant {
    /// One with a key and a signed request.
    pub fn new(name: String) -> Self {
        let key = p256();
        let csr = Csr::new(key.clone()).uri(&name).pem();
        Self { name, key, csr }
    }

    /// Asks for a certificate that lives for some seconds, over a connection that
    /// is there.
    pub async fn ask(&self, channel: Channel, options: &Options, seconds: i64) -> Result<Identity, String> {
        let response = create_over(channel, options, self.csr.clone(), None, seconds).await;
        Identity::answered(&self.name, self.key.clone(), &response.map_err(|status| format!("{status:?}"))?)
    }
}

/// A token of the development issuer, for a control plane without a cluster.
pub fn token(state: &Path, namespace: &str, account: &str) -> String {
    let mut command = Command::new(fairway::binary());
    command.arg("token").arg("--stateDir").arg(state);
    let output = command.args(["--namespace", namespace, "--serviceAccount", account]).output().unwrap();
    assert!(output.status.success(), "fairway token: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Identity {
    /// That of a service account, of a control plane without a cluster, which
    /// has its files in `state`.
    pub async fn of(fairway: &Fairway, state: &Path, namespace: &str, account: &str) -> Self {
        let roots = std::fs::read_to_string(state.join("root-cert.pem")).unwrap();
        let options = Options {
            tls: Some(Tls::istiod(roots.clone())),
            token: Some(token(state, namespace, account)),
            ..Options::plaintext(fairway.secure_grpc)
        };
        let name = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
        Self::issued(&options, &name, None).await.unwrap_or_else(|reason| panic!("{name}: {reason}"))
    }

    /// That of a workload, asked for by its node's ztunnel.
    pub async fn impersonated(options: &Options, name: &str) -> Result<Self, String> {
        Self::issued(options, name, Some(name)).await
    }

    /// Asks for a certificate. Whom to trust is what the answer ends with.
    async fn issued(options: &Options, name: &str, impersonated: Option<&str>) -> Result<Self, String> {
        let key = p256();
        let response = create(options, Csr::new(key.clone()).uri(name).pem(), impersonated).await;
        Self::answered(name, key, &response.map_err(|status| format!("{status:?}"))?)
    }

    fn answered(name: &str, key: PKey<Private>, response: &IstioCertificateResponse) -> Result<Self, String> {
        check_chain(response, name)?;
        let certificates = |pem: &String| X509::stack_from_pem(pem.as_bytes()).unwrap_or_default();
        let (roots, chain) = response.cert_chain.split_last().ok_or("an empty chain")?;
        let chain = chain.iter().flat_map(certificates).collect();
        Ok(Self { name: name.into(), key, chain, roots: certificates(roots) })
    }

    /// Its certificate.
    pub fn certificate(&self) -> &X509 {
        &self.chain[0]
    }

    fn present(&self, context: &mut SslContextBuilder) -> Result<(), openssl::error::ErrorStack> {
        context.set_min_proto_version(Some(SslVersion::TLS1_3))?;
        context.set_certificate(&self.chain[0])?;
        for intermediate in &self.chain[1..] {
            context.add_extra_chain_cert(intermediate.clone())?;
        }
        context.set_private_key(&self.key)?;
        let mut roots = X509StoreBuilder::new()?;
        for root in &self.roots {
            roots.add_cert(root.clone())?;
        }
        context.set_cert_store(roots.build());
        Ok(())
    }

    /// Opens mutual TLS to a peer, whose identity is returned too.
    pub async fn connect<S>(&self, stream: S) -> Result<(SslStream<S>, String), String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let shake = async {
            let mut builder = SslConnector::builder(SslMethod::tls_client())?;
            self.present(&mut builder)?;
            builder.set_alpn_protos(H2)?;
            let mut configuration = builder.build().configure()?;
            // Peers have identities, not names.
            configuration.set_use_server_name_indication(false);
            configuration.set_verify_hostname(false);
            let mut stream = SslStream::new(configuration.into_ssl("")?, stream)?;
            Pin::new(&mut stream).connect().await?;
            Ok::<_, openssl::ssl::Error>(stream)
        };
        let stream = shake.await.map_err(|error| error.to_string())?;
        let peer = peer(stream.ssl())?;
        Ok((stream, peer))
    }

    /// Takes mutual TLS from a peer, whose identity is returned too.
    pub async fn accept<S>(&self, stream: S) -> Result<(SslStream<S>, String), String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let shake = async {
            let mut builder = SslAcceptor::mozilla_modern_v5(SslMethod::tls_server())?;
            self.present(&mut builder)?;
            builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
            builder.set_alpn_select_callback(|_, offered| {
                select_next_proto(H2, offered).ok_or(openssl::ssl::AlpnError::ALERT_FATAL)
            });
            let mut stream = SslStream::new(openssl::ssl::Ssl::new(builder.build().context())?, stream)?;
            Pin::new(&mut stream).accept().await?;
            Ok::<_, openssl::ssl::Error>(stream)
        };
        let stream = shake.await.map_err(|error| error.to_string())?;
        let peer = peer(stream.ssl())?;
        Ok((stream, peer))
    }
}

/// The one URI of a peer's certificate.
fn peer(ssl: &SslRef) -> Result<String, String> {
    let leaf = ssl.peer_certificate().ok_or("the peer has no certificate")?;
    let names = leaf.subject_alt_names().ok_or("the peer's certificate has no names")?;
    let uris: Vec<_> = names.iter().filter_map(|name| name.uri()).collect();
    match uris.as_slice() {
        [one] => Ok((*one).to_owned()),
        other => Err(format!("the peer's names are {other:?}")),
    }
}
