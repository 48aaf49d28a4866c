use openssl::pkey::Id;

use super::*;
use crate::ca::testing::*;

fn at(days: i64) -> Timestamp {
    later(days * 24 * 3600)
}

#[test]
fn the_root_looks_like_istiods() {
    for (key, id) in [(RootKey::P256, Id::EC), (RootKey::Rsa(2048), Id::RSA)] {
        let policy = RootPolicy { key, ..RootPolicy::default() };
        let files = create(&trust_domain(), policy, Timestamp::now()).unwrap();
        let bundle = CaBundle::verified(&files, now()).unwrap();
        assert_eq!(bundle.key.id(), id);
        let text = text(&bundle.certificate().to_owned());
        for line in [
            "Subject: O=cluster.local\n",
            "X509v3 Basic Constraints: critical\n                CA:TRUE",
            "X509v3 Key Usage: critical\n                Certificate Sign, CRL Sign\n",
            "X509v3 Subject Key Identifier",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
        let days = bundle.not_after().duration_since(Timestamp::now()).as_hours() / 24;
        assert!((3648..=3650).contains(&days), "{days}");
        assert!(bundle.intermediates().is_empty());
    }
}

#[test]
fn a_long_trust_domain_still_has_a_root() {
    let long = format!("{}.example", "a".repeat(200)).parse().unwrap();
    assert!(create(&long, RootPolicy::default(), now()).is_ok());
}

#[test]
fn the_last_fifth_of_a_lifetime_is_time_for_renewal() {
    let bundle = root_bundle();
    let needs = |days| needs_renewal(&bundle, RootPolicy::default(), at(days)).unwrap();
    assert!(!needs(0) && !needs(3650 * 79 / 100) && needs(3650 * 81 / 100) && needs(4000));
}

#[test]
fn a_renewed_root_and_the_old_one_verify_the_same_leaves() {
    let old = root_bundle();
    let new = CaBundle::verified(&renewed(&old, RootPolicy::default(), Timestamp::now()).unwrap(), now()).unwrap();
    assert_ne!(old.root_pem(), new.root_pem());
    let parsed = crate::ca::csr::Csr::parse(&csr(&p256())).unwrap();
    let identity = id("spiffe://cluster.local/ns/a/sa/b");
    for (signer, truster) in [(&old, &new), (&new, &old)] {
        let mut chain = signer.workload_chain(&parsed, &identity, 0, Default::default(), now()).unwrap();
        *chain.last_mut().unwrap() = truster.root_pem().to_string();
        verify(&chain, openssl::x509::X509PurposeId::SSL_CLIENT, now());
    }
}

#[test]
fn roots_that_somebody_has_added_stay_when_it_is_renewed() {
    let (own, other) = (root(), root());
    let both = CaFiles { root: [own.root.as_ref(), other.root.as_ref()].concat().into(), ..own };
    let old = CaBundle::verified(&both, now()).unwrap();
    let new = CaBundle::verified(&renewed(&old, RootPolicy::default(), Timestamp::now()).unwrap(), now()).unwrap();
    assert_eq!(new.roots().len(), 2);
    assert_eq!(new.roots()[1].to_pem().unwrap(), other.root.as_ref());
}
