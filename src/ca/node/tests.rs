use super::*;
use crate::ca::authenticate::{PodBinding, Proof};
use crate::ca::testing::{id, trust_domains};

/// One ztunnel on n1, beside a pod of default/alice; another on n2.
struct Cluster;

impl Pods for Cluster {
    fn pod(&self, namespace: &str, name: &str) -> Option<PodFacts> {
        let (service_account, node, terminal) = match (namespace, name) {
            ("istio-system", "zt-1") => ("ztunnel", "n1", false),
            ("istio-system", "zt-2") => ("ztunnel", "n2", false),
            ("istio-system", "zt-ended") => ("ztunnel", "n1", true),
            ("istio-system", "zt-pending") => ("ztunnel", "", false),
            ("istio-system", "other") => ("other", "n1", false),
            _ => return None,
        };
        let uid = format!("uid-{name}").into();
        Some(PodFacts { uid, service_account: service_account.into(), node: node.into(), terminal })
    }

    fn runs_on(&self, node: &str, namespace: &str, service_account: &str) -> bool {
        (node, namespace, service_account) == ("n1", "default", "alice")
    }
}

fn ztunnel(pod: &str, uid: &str) -> Caller {
    Caller {
        identities: vec![id("spiffe://cluster.local/ns/istio-system/sa/ztunnel")],
        proof: Proof::KubernetesToken,
        pod: Some(PodBinding { name: pod.into(), uid: uid.into() }),
    }
}

fn decide(caller: &Caller, requested: &str) -> Result<(), Denial> {
    let trusted = vec!["istio-system/ztunnel".parse().unwrap()];
    NodeAuthorizer::new(trusted, trust_domains(), Arc::new(Cluster)).authorize(caller, &id(requested))
}

#[track_caller]
fn denied(caller: &Caller, requested: &str, why: &str) {
    let Denial(reason) = decide(caller, requested).unwrap_err();
    assert!(reason.contains(why), "{reason:?} does not say {why:?}");
}

const ALICE: &str = "spiffe://cluster.local/ns/default/sa/alice";

#[test]
fn a_node_gets_the_identities_of_its_pods() {
    decide(&ztunnel("zt-1", "uid-zt-1"), ALICE).unwrap();
    decide(&ztunnel("zt-1", "uid-zt-1"), "spiffe://old.example/ns/default/sa/alice").unwrap();
}

#[test]
fn and_no_others() {
    let good = ztunnel("zt-1", "uid-zt-1");
    denied(&ztunnel("zt-2", "uid-zt-2"), ALICE, "no instances of \"default/alice\" found on node \"n2\"");
    denied(&good, "spiffe://cluster.local/ns/default/sa/bob", "no instances of \"default/bob\"");
    denied(&good, "spiffe://cluster.local/ns/other/sa/alice", "no instances of \"other/alice\"");
    denied(&good, "spiffe://evil.example/ns/default/sa/alice", "trust domain");
    denied(&ztunnel("zt-1", "uid-of-an-earlier-pod"), ALICE, "has UID uid-zt-1");
    denied(&ztunnel("zt-gone", "uid-zt-gone"), ALICE, "not found");
    denied(&ztunnel("zt-ended", "uid-zt-ended"), ALICE, "has ended");
    denied(&ztunnel("zt-pending", "uid-zt-pending"), ALICE, "not on a node");
    denied(&ztunnel("other", "uid-other"), ALICE, "service account other");
    denied(&Caller { pod: None, ..good.clone() }, ALICE, "not bound to a pod");
    denied(&Caller { identities: vec![id(ALICE)], ..good.clone() }, ALICE, "not allowed to impersonate");
    denied(&Caller { identities: vec![id(ALICE), good.identities[0].clone()], ..good }, ALICE, "2 identities");
}

#[test]
fn accounts_are_namespace_and_name() {
    assert!(" istio-system/ztunnel ".parse::<NodeAccount>().is_ok());
    for bad in ["", "ztunnel", "/ztunnel", "istio-system/", "a/b/c"] {
        assert!(bad.parse::<NodeAccount>().is_err(), "{bad}");
    }
}
