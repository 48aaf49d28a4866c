use super::*;
use crate::ca::handover::Pace;
use crate::ca::testing::*;

fn listed(names: &ServingNames<'_>) -> Vec<String> {
    names
        .list()
        .iter()
        .map(|name| match name {
            ServerName::Dns(name) => name.to_string(),
            ServerName::Ip(address) => address.to_string(),
        })
        .collect()
}

#[test]
fn the_names_are_istiods() {
    let plain = ServingNames { namespace: "istio-system", ..ServingNames::default() };
    let services = ["istio-pilot.istio-system.svc", "istiod-remote.istio-system.svc", "istiod.istio-system.svc"];
    assert_eq!(listed(&plain), services);
    assert_eq!(listed(&ServingNames { revision: "default", ..plain.clone() }), services);
    let all = ServingNames {
        revision: "1-29",
        discovery_host: "istiod.istio-system.svc",
        custom_hosts: "istiod.example.com, 10.0.0.1,,",
        local: true,
        ..plain
    };
    assert_eq!(
        listed(&all),
        [
            "istio-pilot.istio-system.svc",
            "istiod-1-29.istio-system.svc",
            "istiod-remote.istio-system.svc",
            "istiod.example.com",
            "istiod.istio-system.svc",
            "localhost",
            "10.0.0.1",
            "127.0.0.1",
            "::1",
        ]
    );
}

#[test]
fn flags_come_before_mounts_before_the_ca() {
    let dir = tempfile::tempdir().unwrap();
    let own = ServingSource::Authority { names: vec![] };
    let choose = |flags| ServingSource::choose(flags, dir.path(), vec![]);
    assert_eq!(choose(None), own);
    for name in ["tls/tls.crt", "tls/tls.key", "ca/root-cert.pem"] {
        assert_eq!(choose(None), own);
        std::fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        std::fs::write(dir.path().join(name), "x").unwrap();
        if name == "tls/tls.key" {
            assert!(matches!(choose(None), ServingSource::Files { roots: None, .. }));
            break;
        }
    }
    std::fs::create_dir_all(dir.path().join("ca")).unwrap();
    std::fs::write(dir.path().join("ca/root-cert.pem"), "x").unwrap();
    assert!(matches!(choose(None), ServingSource::Files { roots: Some(_), .. }));
    let flags = ServingSource::Files { cert: "c".into(), key: "k".into(), roots: None };
    assert_eq!(choose(Some(flags.clone())), flags);
}

fn own(authority: &Arc<Authority>) -> ServingCertificate {
    let names = ServingNames { namespace: "istio-system", ..ServingNames::default() }.list();
    ServingCertificate::new(ServingSource::Authority { names }, Some(authority.clone()), SslVersion::TLS1_2, now())
        .unwrap()
}

#[test]
fn it_is_replaced_at_half_its_life_and_when_the_ca_changes() {
    let files = root();
    let authority = Arc::new(Authority::new(CaBundle::verified(&files, now()).unwrap(), Pace::default()));
    let serving = own(&authority);
    let before = serving.acceptor();
    assert!(!serving.refresh(later(3 * 24 * 3600)).unwrap());
    assert!(Arc::ptr_eq(&before, &serving.acceptor()));
    assert!(serving.refresh(later(4 * 24 * 3600)).unwrap());
    assert!(!Arc::ptr_eq(&before, &serving.acceptor()));
    assert!(!serving.refresh(later(4 * 24 * 3600)).unwrap());
    let other = root();
    let grown = crate::ca::files::CaFiles { root: [files.root.as_ref(), other.root.as_ref()].concat().into(), ..other };
    authority.replace(CaBundle::verified(&grown, now()).unwrap(), now()).unwrap();
    assert!(serving.refresh(now()).unwrap());
}

#[test]
fn files_are_reloaded_and_bad_ones_ignored() {
    let dir = made("ec");
    let path = |name: &str| dir.path().join(name);
    let source = ServingSource::Files {
        cert: path("leaf/server-cert-chain.pem"),
        key: path("leaf/server-key.pem"),
        roots: Some(path("root/root-cert.pem")),
    };
    let serving = ServingCertificate::new(source, None, SslVersion::TLS1_2, now()).unwrap();
    assert!(!serving.refresh(now()).unwrap());
    let ended = |at| Sources(&serving.refresh(later(at)).unwrap_err()).to_string();
    assert!(ended(48 * 3600).contains("the serving certificate is valid from"));
    assert_eq!(ended(48 * 3600), ended(72 * 3600), "it is said once");
    let before = serving.acceptor();
    std::fs::copy(path("leaf/key.pem"), path("leaf/server-key.pem")).unwrap();
    let error = serving.refresh(now()).unwrap_err();
    assert!(Sources(&error).to_string().contains("does not belong"), "{error}");
    assert!(Arc::ptr_eq(&before, &serving.acceptor()), "the old one stays");
    std::fs::copy(path("leaf/cert-chain.pem"), path("leaf/server-cert-chain.pem")).unwrap();
    assert!(serving.refresh(now()).unwrap());
    std::fs::remove_file(path("leaf/server-key.pem")).unwrap();
    assert!(matches!(serving.refresh(now()), Err(ServingError::Missing(_))));
}

#[test]
fn without_a_file_or_a_ca_there_is_none() {
    let source = ServingSource::Authority { names: vec![] };
    assert!(matches!(ServingCertificate::new(source, None, SslVersion::TLS1_2, now()), Err(ServingError::NoAuthority)));
}
