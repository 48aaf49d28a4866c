//! Issuers of certificates that an operator plugs in.

use std::os::unix::fs::symlink;
use std::path::Path;

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{AuthorityKeyIdentifier, BasicConstraints, KeyUsage, SubjectKeyIdentifier};
use openssl::x509::{X509, X509NameBuilder};

use crate::certificate::p256;

/// A root, or an intermediate.
pub struct Issuer {
    /// Its certificate.
    pub certificate: X509,
    key: PKey<Private>,
    /// What is above it, without the root.
    above: Vec<X509>,
}

impl Issuer {
    /// A root of its own.
    pub fn root(name: &str) -> Self {
        let key = p256();
        Self { certificate: certificate(name, &key, None), key, above: vec![] }
    }

    /// One below it.
    pub fn intermediate(&self, name: &str) -> Self {
        let key = p256();
        let certificate = certificate(name, &key, Some(self));
        let below_root = self.certificate.subject_name().try_cmp(self.certificate.issuer_name()).unwrap().is_ne();
        let above = below_root.then(|| self.certificate.clone()).into_iter().chain(self.above.clone()).collect();
        Self { certificate, key, above }
    }
}

fn certificate(name: &str, key: &PKey<Private>, issuer: Option<&Issuer>) -> X509 {
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("O", "integration tests").unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, MsbOption::MAYBE_ZERO, false).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(issuer.map_or(&*subject, |issuer| issuer.certificate.subject_name())).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(365).unwrap()).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build().unwrap()).unwrap();
    let above = issuer.map(|issuer| &*issuer.certificate);
    let id = SubjectKeyIdentifier::new().build(&builder.x509v3_context(above, None)).unwrap();
    builder.append_extension(id).unwrap();
    if above.is_some() {
        let id = AuthorityKeyIdentifier::new().keyid(true).build(&builder.x509v3_context(above, None)).unwrap();
        builder.append_extension(id).unwrap();
    }
    builder.sign(issuer.map_or(key, |issuer| &issuer.key), MessageDigest::sha256()).unwrap();
    builder.build()
}

/// Puts a signer and the roots of the mesh into a folder as a kubelet projects a
/// Secret: all files change at once. Each content has a name of its own.
pub fn plug_in(folder: &Path, content: &str, signer: &Issuer, roots: &[&Issuer]) {
    let pem = |certificate: &X509| String::from_utf8(certificate.to_pem().unwrap()).unwrap();
    let chain: Vec<_> = [&signer.certificate].into_iter().chain(&signer.above).map(pem).collect();
    let files = [
        ("ca-cert.pem", pem(&signer.certificate)),
        ("ca-key.pem", String::from_utf8(signer.key.private_key_to_pem_pkcs8().unwrap()).unwrap()),
        ("cert-chain.pem", chain.concat()),
        ("root-cert.pem", roots.iter().map(|root| pem(&root.certificate)).collect()),
    ];
    let data = folder.join(content);
    std::fs::create_dir_all(&data).unwrap();
    for (name, text) in files {
        std::fs::write(data.join(name), text).unwrap();
        let link = folder.join(name);
        if !link.is_symlink() {
            symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
    symlink(content, folder.join("..data_tmp")).unwrap();
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}
