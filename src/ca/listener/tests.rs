use fairway_proto::auth::IstioCertificateRequest;
use fairway_proto::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use hyper_util::rt::TokioIo;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslConnector, SslMethod, SslVersion};
use openssl::x509::X509;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint, Server};

use super::*;
use crate::ca::authenticate::AuthenticatorChain;
use crate::ca::authority::Authority;
use crate::ca::bundle::CaBundle;
use crate::ca::csr::Csr;
use crate::ca::metrics::CaMetrics;
use crate::ca::service::CertificateService;
use crate::ca::serving::{ServingNames, ServingSource};
use crate::ca::testing::*;

const ALICE: &str = "spiffe://cluster.local/ns/default/sa/alice";
const HOST: &str = "istiod.istio-system.svc";

struct Ends {
    authority: Arc<Authority>,
    serving: Arc<ServingCertificate>,
    listener: TcpListener,
    address: SocketAddr,
}

async fn ends(bundle: CaBundle) -> Ends {
    ends_since(SslVersion::TLS1_2, bundle).await
}

async fn ends_since(oldest: SslVersion, bundle: CaBundle) -> Ends {
    let authority = Arc::new(Authority::new(bundle, AT_ONCE));
    let names = ServingNames { namespace: "istio-system", local: true, ..ServingNames::default() }.list();
    let source = ServingSource::Authority { names };
    let serving = Arc::new(ServingCertificate::new(source, Some(authority.clone()), oldest, now()).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    Ends { authority, serving, listener, address }
}

/// A certificate for a client, with its key and intermediates.
fn client_pair(bundle: &CaBundle, identity: &str) -> (Vec<X509>, PKey<Private>) {
    let key = p256();
    let parsed = Csr::parse(&csr(&key)).unwrap();
    let chain = bundle.workload_chain(&parsed, &id(identity), 600, Default::default(), now()).unwrap();
    (chain[..chain.len() - 1].iter().map(|pem| X509::from_pem(pem.as_bytes()).unwrap()).collect(), key)
}

type Pair = (Vec<X509>, PKey<Private>);

/// A client like a ztunnel built with OpenSSL: TLS 1.3, P-256 and P-384.
async fn dial(
    address: SocketAddr,
    roots: &CaBundle,
    host: &str,
    pair: Option<&Pair>,
    configure: impl FnOnce(&mut openssl::ssl::SslConnectorBuilder),
) -> Result<SslStream<TcpStream>, openssl::ssl::Error> {
    let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
    builder.set_cert_store(roots.trust_store().unwrap());
    builder.set_min_proto_version(Some(SslVersion::TLS1_3)).unwrap();
    builder.set_groups_list("P-256:P-384").unwrap();
    builder.set_alpn_protos(b"\x02h2").unwrap();
    if let Some((chain, key)) = pair {
        builder.set_certificate(&chain[0]).unwrap();
        builder.set_private_key(key).unwrap();
        for cert in &chain[1..] {
            builder.add_extra_chain_cert(cert.clone()).unwrap();
        }
    }
    configure(&mut builder);
    let ssl = builder.build().configure().unwrap().into_ssl(host).unwrap();
    let mut stream = SslStream::new(ssl, TcpStream::connect(address).await.unwrap()).unwrap();
    Pin::new(&mut stream).connect().await?;
    Ok(stream)
}

#[tokio::test]
async fn a_handshake_tells_who_the_client_is() {
    let ends = ends(made_bundle("ec")).await;
    let bundle = ends.authority.bundle();
    let mut accepted = tls(ends.listener, ends.serving.clone());
    for (pair, identities) in [(None, vec![]), (Some(client_pair(&bundle, ALICE)), vec![id(ALICE)])] {
        let mut client = dial(ends.address, &bundle, HOST, pair.as_ref(), |_| {}).await.unwrap();
        assert_eq!(client.ssl().selected_alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(client.ssl().version2(), Some(SslVersion::TLS1_3));
        let cert = client.ssl().peer_certificate().unwrap();
        assert_eq!(
            names(&cert),
            [
                "DNS:istio-pilot.istio-system.svc",
                "DNS:istiod-remote.istio-system.svc",
                "DNS:istiod.istio-system.svc",
                "DNS:localhost",
                "IP:127.0.0.1",
                "IP:0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1",
            ]
        );
        let mut server = accepted.next().await.unwrap().unwrap();
        let peer = server.connect_info();
        assert_eq!(peer.address, Some(client.get_ref().local_addr().unwrap()));
        assert!(peer.encrypted && *peer.certificate == *identities);
        // Bytes go both ways.
        client.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        server.read_exact(&mut bytes).await.unwrap();
        server.write_all(&bytes).await.unwrap();
        client.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
    }
}

#[tokio::test]
async fn it_can_be_dialled_by_address_and_with_tls_1_2_but_not_less() {
    let ends = ends(root_bundle()).await;
    let bundle = ends.authority.bundle();
    let _accepted = tls(ends.listener, ends.serving.clone());
    for host in ["127.0.0.1", "localhost", "istio-pilot.istio-system.svc"] {
        dial(ends.address, &bundle, host, None, |_| {}).await.unwrap();
    }
    assert!(dial(ends.address, &bundle, "evil.example", None, |_| {}).await.is_err());
    assert!(dial(ends.address, &root_bundle(), HOST, None, |_| {}).await.is_err(), "another mesh");
    let version = |version| {
        move |builder: &mut openssl::ssl::SslConnectorBuilder| {
            builder.set_min_proto_version(Some(version)).unwrap();
            builder.set_max_proto_version(Some(version)).unwrap();
            builder.set_cipher_list("ALL:@SECLEVEL=0").unwrap();
        }
    };
    dial(ends.address, &bundle, HOST, None, version(SslVersion::TLS1_2)).await.unwrap();
    assert!(dial(ends.address, &bundle, HOST, None, version(SslVersion::TLS1_1)).await.is_err());
    let p384 = |builder: &mut openssl::ssl::SslConnectorBuilder| builder.set_groups_list("P-384").unwrap();
    dial(ends.address, &bundle, HOST, None, p384).await.unwrap();
}

#[tokio::test]
async fn the_newest_tls_can_be_the_oldest_that_is_spoken() {
    let ends = ends_since(SslVersion::TLS1_3, root_bundle()).await;
    let bundle = ends.authority.bundle();
    let _accepted = tls(ends.listener, ends.serving.clone());
    let old = |builder: &mut openssl::ssl::SslConnectorBuilder| {
        builder.set_min_proto_version(Some(SslVersion::TLS1_2)).unwrap();
        builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    };
    assert!(dial(ends.address, &bundle, HOST, None, old).await.is_err());
    dial(ends.address, &bundle, HOST, None, |_| {}).await.unwrap();
}

#[tokio::test]
async fn a_bad_client_certificate_fails_the_handshake() {
    let ends = ends(root_bundle()).await;
    let bundle = ends.authority.bundle();
    let mut accepted = tls(ends.listener, ends.serving.clone());
    let stranger = client_pair(&root_bundle(), ALICE);
    // With TLS 1.3 the client is done before the server has looked at its
    // certificate: the refusal comes with the first read.
    if let Ok(mut client) = dial(ends.address, &bundle, HOST, Some(&stranger), |_| {}).await {
        assert!(client.read_u8().await.is_err());
    }
    // A server's certificate is not a client's.
    let (cert, key) = bundle.serving_pair(&[], Duration::from_secs(60), now()).unwrap();
    if let Ok(mut client) = dial(ends.address, &bundle, HOST, Some(&(vec![cert], key)), |_| {}).await {
        assert!(client.read_u8().await.is_err());
    }
    // Neither reached the server: what comes out is the good one behind them.
    dial(ends.address, &bundle, HOST, Some(&client_pair(&bundle, ALICE)), |_| {}).await.unwrap();
    assert_eq!(*accepted.next().await.unwrap().unwrap().connect_info().certificate, [id(ALICE)]);
}

#[tokio::test]
async fn the_certificate_is_swapped_under_open_connections() {
    let files = root();
    let ends = ends(CaBundle::verified(&files, now()).unwrap()).await;
    let old = ends.authority.bundle();
    let mut accepted = tls(ends.listener, ends.serving.clone());
    let mut first = dial(ends.address, &old, HOST, None, |_| {}).await.unwrap();
    let mut server = accepted.next().await.unwrap().unwrap();

    let other = root();
    let grown = crate::ca::files::CaFiles { root: [files.root.as_ref(), other.root.as_ref()].concat().into(), ..other };
    ends.authority.replace(CaBundle::verified(&grown, now()).unwrap(), now()).unwrap();
    assert!(ends.serving.refresh(now()).unwrap());
    let new = ends.authority.bundle();

    let second = dial(ends.address, &new, HOST, None, |_| {}).await.unwrap();
    let serial = |stream: &SslStream<TcpStream>| {
        let cert = stream.ssl().peer_certificate().unwrap();
        cert.serial_number().to_bn().unwrap().to_hex_str().unwrap().to_string()
    };
    assert_ne!(serial(&first), serial(&second));
    assert!(dial(ends.address, &old, HOST, None, |_| {}).await.is_err(), "signed by the new root");
    // Clients certified before the change are still clients.
    dial(ends.address, &new, HOST, Some(&client_pair(&old, ALICE)), |_| {}).await.unwrap();
    first.write_all(b"x").await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn silent_clients_do_not_stop_others_and_dropping_closes() {
    let ends = ends(root_bundle()).await;
    let bundle = ends.authority.bundle();
    let mut accepted = tls(ends.listener, ends.serving.clone());
    let mut silent = vec![];
    for _ in 0..200 {
        silent.push(TcpStream::connect(ends.address).await.unwrap());
    }
    let mut garbage = TcpStream::connect(ends.address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    dial(ends.address, &bundle, HOST, None, |_| {}).await.unwrap();
    assert!(accepted.next().await.unwrap().is_ok());
    drop(accepted);
    // The task notices on its own; until then the kernel still accepts.
    for _ in 0..100 {
        if TcpStream::connect(ends.address).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the listener is still open");
}

#[tokio::test]
async fn plaintext_connections_are_marked_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut accepted = plain(listener);
    let client = TcpStream::connect(address).await.unwrap();
    let peer = accepted.next().await.unwrap().unwrap().connect_info();
    assert_eq!(peer.address, Some(client.local_addr().unwrap()));
    assert!(!peer.encrypted && peer.certificate.is_empty());
}

async fn channel(address: SocketAddr, roots: Arc<CaBundle>, pair: Option<Pair>) -> Channel {
    let connector = tower::service_fn(move |_: http::Uri| {
        let (roots, pair) = (roots.clone(), pair.clone());
        async move {
            let stream = dial(address, &roots, HOST, pair.as_ref(), |_| {}).await;
            stream.map(TokioIo::new).map_err(io::Error::other)
        }
    });
    Endpoint::from_static("http://istiod.istio-system.svc:15012").connect_with_connector(connector).await.unwrap()
}

/// The whole way: a real gRPC client with a certificate of the mesh renews it.
#[tokio::test]
async fn a_certificate_is_renewed_over_mutual_tls() {
    let ends = ends(made_bundle("ec")).await;
    let bundle = ends.authority.bundle();
    let chain = Arc::new(AuthenticatorChain::new(trust_domains(), vec![]));
    let (metrics, denials) = (CaMetrics::default(), Default::default());
    let service = CertificateService::new(ends.authority.clone(), chain, None, Default::default(), metrics, denials);
    let incoming = tls(ends.listener, ends.serving.clone());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        Server::builder().add_service(service.into_server()).serve_with_incoming_shutdown(incoming, stopped).await
    });

    let ask = |csr: String| IstioCertificateRequest { csr, validity_duration: 60, metadata: None };
    let pair = client_pair(&bundle, ALICE);
    let mut client = IstioCertificateServiceClient::new(channel(ends.address, bundle.clone(), Some(pair)).await);
    let answer = client.create_certificate(ask(csr(&p256()))).await.unwrap().into_inner();
    assert_eq!(answer.cert_chain.len(), 3);
    let leaf = verify(&answer.cert_chain, openssl::x509::X509PurposeId::SSL_CLIENT, now());
    assert_eq!(names(&leaf), [format!("URI:{ALICE}")]);
    let huge = client.create_certificate(ask("x".repeat(1 << 20))).await.unwrap_err();
    assert_eq!(huge.code(), tonic::Code::OutOfRange, "{huge}");

    let mut anonymous = IstioCertificateServiceClient::new(channel(ends.address, bundle, None).await);
    let status = anonymous.create_certificate(ask(csr(&p256()))).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
    assert!(status.message().starts_with("request authenticate failure (id "), "{status}");
    drop((client, anonymous));
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}

/// What is handed over in parts arrives in order and in full, also when the
/// socket has no room for a while; parts that fit in a record are one.
#[tokio::test]
async fn parts_become_records() {
    // More than sockets hold.
    const FRAMES: usize = 2400;
    let ends = ends(made_bundle("ec")).await;
    let bundle = ends.authority.bundle();
    let mut connections = tls(ends.listener, ends.serving.clone());
    let (client, server) = tokio::join!(dial(ends.address, &bundle, HOST, None, |_| {}), connections.next());
    let (mut client, mut server) = (client.unwrap(), server.unwrap().unwrap());
    let frame = |at: usize| (vec![at as u8; 9], vec![!at as u8; [16_375, 100, 0, 20_000][at % 4]]);
    let send = async {
        for at in 0..FRAMES {
            let (head, payload) = frame(at);
            let mut sent = 0;
            while sent < head.len() + payload.len() {
                let (head, payload) = (&head[sent.min(9)..], &payload[sent.saturating_sub(9)..]);
                let written = server.write_vectored(&[head, payload].map(io::IoSlice::new)).await.unwrap();
                let whole = (head.len() + payload.len()).min(MAX_RECORD);
                assert_eq!(written, whole, "one record for what fits in one");
                sent += written;
            }
        }
        server.shutdown().await.unwrap();
    };
    let receive = async {
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        received
    };
    let mut send = std::pin::pin!(send);
    assert!(futures::poll!(&mut send).is_pending(), "nobody has read yet");
    let both = async { tokio::join!(send, receive) };
    let ((), received) = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
    let expected: Vec<u8> = (0..FRAMES).map(frame).flat_map(|(head, payload)| [head, payload].concat()).collect();
    assert!(received == expected, "{} bytes of {}", received.len(), expected.len());
}
