use super::*;
use crate::ca::authenticate::{PodBinding, Proof};
use crate::ca::testing::id as identity;

#[test]
fn the_newest_come_first_and_the_oldest_are_forgotten() {
    let denials = Denials::default();
    let peer = Peer { address: Some(([10, 0, 0, 1], 4711).into()), ..Peer::default() };
    let caller = Caller {
        identities: vec![identity("spiffe://cluster.local/ns/istio-system/sa/ztunnel")],
        proof: Proof::KubernetesToken,
        pod: Some(PodBinding { name: "ztunnel-a".into(), uid: "u".into() }),
    };
    let first = denials.note(&peer, Some(&caller), "no", &"not on this node");
    let found = serde_json::to_value(denials.list(Some(&first))).unwrap();
    assert_eq!(found[0]["reason"], "not on this node");
    assert_eq!(found[0]["peer"], "10.0.0.1:4711");
    assert_eq!(found[0]["caller"][0], "spiffe://cluster.local/ns/istio-system/sa/ztunnel");
    assert_eq!(found[0]["pod"], "ztunnel-a");
    for number in 0..=REMEMBERED {
        denials.note(&peer, None, "no", &number);
    }
    assert_eq!(denials.list(None).len(), REMEMBERED + 1);
    assert_eq!(denials.list(Some(&first)).len(), 1, "strangers do not push out what is known of others");
    for number in 0..REMEMBERED {
        denials.note(&peer, Some(&caller), "no", &format!("{number} {}", "ü".repeat(MAX_REASON)));
    }
    assert!(denials.list(Some(&first)).is_empty());
    let all = denials.list(None);
    assert_eq!(all.len(), 2 * REMEMBERED);
    assert!(all[0].reason.starts_with("511 ü") && all[0].reason.len() <= MAX_REASON, "{}", all[0].reason);
}
