//! Arguments, files and sockets in; files, streams and processes out.

mod bootstrap;
mod certificate;
mod node;
mod process;
mod renewal;
mod sds;
mod server;
mod status;
mod xds_proxy;

use std::path::Path;

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, PKeyRef, Private, Public};
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509Builder};

use super::settings::Settings;
use crate::config::agent::AgentEnvironment;
use crate::config::{self, Command};

fn environment(variables: &[(&str, &str)]) -> AgentEnvironment {
    let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    AgentEnvironment::read(variables).unwrap().0
}

/// The settings of a command line, with everything below a folder.
fn settings(folder: &Path, line: &str, variables: &[(&str, &str)]) -> (Settings, Vec<String>) {
    let folder = folder.display().to_string();
    let words = line.replace("{}", &folder);
    let words = words.split_whitespace().map(|word| word.trim_matches('\'').to_string());
    let (cli, unknown) = config::parse(["fairway".to_string(), "agent".to_string()].into_iter().chain(words)).unwrap();
    let Command::Agent(mut flags) = cli.command else { panic!("{line}") };
    flags.pod_info_path = Path::new(&folder).join("pod");
    flags.mesh_config = Path::new(&folder).join("mesh");
    // Without an address of its own, a pod would have to look for one.
    let variables: Vec<_> = [("INSTANCE_IP", "127.0.0.1")].iter().chain(variables).copied().collect();
    let (settings, ignored) = Settings::new(*flags, environment(&variables)).unwrap();
    (settings, unknown.into_iter().chain(ignored).collect())
}

fn key() -> PKey<Private> {
    PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap()).unwrap()).unwrap()
}

/// A certificate of a key, signed by another, in PEM.
fn certificate(
    public: &PKeyRef<Public>,
    signer: &PKey<Private>,
    name: impl Fn(&mut SubjectAlternativeName),
    seconds: u32,
) -> String {
    let mut builder = X509Builder::new().unwrap();
    builder.set_version(2).unwrap();
    builder.set_pubkey(public).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    let end = jiff::Timestamp::now().as_second() + i64::from(seconds);
    builder.set_not_after(&Asn1Time::from_unix(end).unwrap()).unwrap();
    let mut names = SubjectAlternativeName::new();
    name(&mut names);
    let names = names.critical().build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(names).unwrap();
    builder.sign(signer, MessageDigest::sha256()).unwrap();
    pem(&builder.build())
}

fn pem(certificate: &X509) -> String {
    String::from_utf8(certificate.to_pem().unwrap()).unwrap()
}

/// A certificate that signed itself, and its key, in PEM.
fn own_certificate(name: &str) -> (String, String) {
    let key = key();
    let public = PKey::public_key_from_pem(&key.public_key_to_pem().unwrap()).unwrap();
    let certificate = certificate(&public, &key, |names| _ = names.dns(name), 3600);
    (certificate, String::from_utf8(key.private_key_to_pem_pkcs8().unwrap()).unwrap())
}
