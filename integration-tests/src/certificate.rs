//! Certificate signing requests as ztunnel makes them, and worse ones; and
//! what ztunnel checks of the answer.

use fairway_proto::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use fairway_proto::auth::{IstioCertificateRequest, IstioCertificateResponse};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::stack::Stack;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::{X509, X509Extension, X509NameBuilder, X509Req, X509ReqBuilder, X509StoreContext};
use prost_types::value::Kind;
use tonic::transport::Channel;

use crate::ztunnel::{self, Options};

/// A key of a kind.
pub fn p256() -> PKey<Private> {
    ec(Nid::X9_62_PRIME256V1)
}

/// A key of a kind.
pub fn p384() -> PKey<Private> {
    ec(Nid::SECP384R1)
}

/// A key of a kind.
pub fn ec(curve: Nid) -> PKey<Private> {
    let group = openssl::ec::EcGroup::from_curve_name(curve).unwrap();
    PKey::from_ec_key(openssl::ec::EcKey::generate(&group).unwrap()).unwrap()
}

/// A key of a kind.
pub fn rsa(bits: u32) -> PKey<Private> {
    PKey::from_rsa(openssl::rsa::Rsa::generate(bits).unwrap()).unwrap()
}

/// A request of which a test decides the details.
pub struct Csr {
    builder: X509ReqBuilder,
    extensions: Stack<X509Extension>,
    key: PKey<Private>,
}

impl Csr {
    /// A request for a key, without names.
    pub fn new(key: PKey<Private>) -> Self {
        let mut builder = X509ReqBuilder::new().unwrap();
        builder.set_pubkey(&key).unwrap();
        Self { builder, extensions: Stack::new().unwrap(), key }
    }

    /// As ztunnel asks: one critical URI.
    pub fn uri(self, uri: &str) -> Self {
        self.names(|names| {
            names.critical().uri(uri);
        })
    }

    /// With alternative names.
    pub fn names(mut self, set: impl FnOnce(&mut SubjectAlternativeName)) -> Self {
        let mut names = SubjectAlternativeName::new();
        set(&mut names);
        let names = names.build(&self.builder.x509v3_context(None)).unwrap();
        self.extensions.push(names).unwrap();
        self
    }

    /// With the wish to be a CA.
    pub fn ca(mut self) -> Self {
        self.extensions.push(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        self
    }

    /// With a subject.
    pub fn common_name(mut self, name: &str) -> Self {
        let mut subject = X509NameBuilder::new().unwrap();
        subject.append_entry_by_text("CN", name).unwrap();
        self.builder.set_subject_name(&subject.build()).unwrap();
        self
    }

    /// The signed request in PEM.
    pub fn pem(self) -> String {
        String::from_utf8(self.sign().to_pem().unwrap()).unwrap()
    }

    /// The request in PEM, with a signature that does not fit.
    pub fn pem_with_bad_signature(self) -> String {
        let mut der = self.sign().to_der().unwrap();
        // The signature is what a request ends with.
        *der.last_mut().unwrap() ^= 1;
        let body = openssl::base64::encode_block(&der).replace('\n', "");
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
    }

    fn sign(mut self) -> X509Req {
        self.builder.add_extensions(&self.extensions).unwrap();
        self.builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        self.builder.build()
    }
}

/// Asks for a certificate.
pub async fn create(
    options: &Options,
    csr: String,
    impersonated: Option<&str>,
) -> Result<IstioCertificateResponse, tonic::Status> {
    create_over(ztunnel::channel(options).await?, options, csr, impersonated, 86400).await
}

/// Asks for a certificate that lives for some seconds, over a connection that is
/// there.
pub async fn create_over(
    channel: Channel,
    options: &Options,
    csr: String,
    impersonated: Option<&str>,
    seconds: i64,
) -> Result<IstioCertificateResponse, tonic::Status> {
    let mut client = IstioCertificateServiceClient::new(channel);
    let metadata = impersonated.map(|identity| {
        let identity = prost_types::Value { kind: Some(Kind::StringValue(identity.into())) };
        prost_types::Struct { fields: [("ImpersonatedIdentity".to_string(), identity)].into() }
    });
    let mut request = tonic::Request::new(IstioCertificateRequest { csr, validity_duration: seconds, metadata });
    ztunnel::authorize(options, request.metadata_mut());
    request.set_timeout(crate::PATIENCE);
    Ok(client.create_certificate(request).await?.into_inner())
}

/// Checks a chain as ztunnel does, and a little more, and returns the leaf:
/// one certificate in each element but the last, which holds the roots; a
/// leaf that verifies, is no CA and has exactly one name, the identity.
pub fn check_chain(response: &IstioCertificateResponse, identity: &str) -> Result<X509, String> {
    let [leaf, intermediates @ .., roots] = response.cert_chain.as_slice() else {
        return Err(format!("a chain of {} elements", response.cert_chain.len()));
    };
    let parse = |pem: &String| X509::stack_from_pem(pem.as_bytes()).map_err(|error| format!("{error}: {pem}"));
    let one = |pem: &String| match parse(pem)?.as_slice() {
        [one] => Ok(one.clone()),
        several => Err(format!("{} certificates in one element", several.len())),
    };
    let leaf = one(leaf)?;
    let mut untrusted = Stack::new().unwrap();
    for intermediate in intermediates {
        untrusted.push(one(intermediate)?).unwrap();
    }
    let mut store = X509StoreBuilder::new().unwrap();
    let roots = parse(roots)?;
    if roots.is_empty() {
        return Err("no root certificate present".into());
    }
    roots.into_iter().for_each(|root| store.add_cert(root).unwrap());
    let mut context = X509StoreContext::new().unwrap();
    let verified = context.init(&store.build(), &leaf, &untrusted, |context| {
        Ok(context.verify_cert()?.then_some(()).ok_or(context.error()))
    });
    verified.unwrap().map_err(|error| error.error_string().to_string())?;
    let names = leaf.subject_alt_names().ok_or("no names")?;
    let uris: Vec<_> = names.iter().map(|name| name.uri().unwrap_or("<not a URI>")).collect();
    if uris != [identity] {
        return Err(format!("the names are {uris:?}, not {identity}"));
    }
    if leaf.subject_name().entries().count() > 0 {
        return Err("the subject is not empty".into());
    }
    let text = String::from_utf8(leaf.to_text().unwrap()).unwrap();
    let wanted = [
        "CA:FALSE",
        "TLS Web Server Authentication",
        "TLS Web Client Authentication",
        "Subject Alternative Name: critical",
    ];
    if let Some(missing) = wanted.into_iter().find(|wanted| !text.contains(wanted)) {
        return Err(format!("{missing:?} is not in the certificate:\n{text}"));
    }
    Ok(leaf)
}
