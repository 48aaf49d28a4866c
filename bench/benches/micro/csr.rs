//! A certificate for a workload, as the service signs it, beside what OpenSSL
//! alone needs for the two operations in it.

use criterion::Criterion;
use fairway::ca::bundle::CaBundle;
use fairway::ca::csr::Csr;
use fairway::ca::identity::SpiffeId;
use fairway::ca::issue::Lifetimes;
use fairway::ca::self_signed::{RootPolicy, create};
use jiff::Timestamp;
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::X509Req;

pub fn certificates(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("certificate");
    let now = Timestamp::now();
    let identity: SpiffeId = "spiffe://cluster.local/ns/payments-00/sa/orders-api".parse().expect("it is one");
    let files = create(&identity.trust_domain, RootPolicy::default(), now).expect("a root");
    let bundle = CaBundle::verified(&files, now).expect("the root can sign");

    let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).expect("the curve");
    let key = EcKey::generate(&curve).expect("a key");
    let pem = request(key.clone()).expect("a request");
    let sign = |csr: &Csr| bundle.workload_chain(csr, &identity, 86_400, Lifetimes::default(), now).expect("signed");
    group.bench_function("verify the request", |bencher| bencher.iter(|| Csr::parse(&pem).expect("it is right")));
    let csr = Csr::parse(&pem).expect("it is right");
    group.bench_function("sign the certificate", |bencher| bencher.iter(|| sign(&csr)));
    group.bench_function("verify and sign", |bencher| bencher.iter(|| sign(&Csr::parse(&pem).expect("it is right"))));

    let digest = openssl::sha::sha256(b"to be signed");
    let signature = EcdsaSig::sign(&digest, &key).expect("a signature");
    group.bench_function("OpenSSL alone: verify and sign", |bencher| {
        bencher.iter(|| {
            assert!(signature.verify(&digest, &key).expect("it can be verified"));
            EcdsaSig::sign(&digest, &key).expect("a signature")
        });
    });
    group.finish();
}

/// A request as proxies make it.
fn request(key: EcKey<openssl::pkey::Private>) -> Result<String, Box<dyn std::error::Error>> {
    let key = PKey::from_ec_key(key)?;
    let mut builder = X509Req::builder()?;
    builder.set_pubkey(&key)?;
    builder.sign(&key, MessageDigest::sha256())?;
    Ok(String::from_utf8(builder.build().to_pem()?)?)
}
