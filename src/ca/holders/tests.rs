use super::*;
use crate::ca::testing::*;

#[test]
fn certificates_of_old_issuers_are_named_until_they_are_renewed_or_end() {
    let (old, new) = (root_bundle(), root_bundle());
    let holders = Holders::default();
    let (alice, bob) = (id("spiffe://cluster.local/ns/a/sa/alice"), id("spiffe://cluster.local/ns/a/sa/bob"));
    holders.issued(&old, &alice, 1, later(100));
    holders.issued(&old, &alice, 2, later(200));
    holders.issued(&old, &bob, 1, later(50));
    let say = |at: i64| {
        let say =
            |issuer: IssuerReport| format!("{}:{}:{}", issuer.signs, issuer.certificates, issuer.workloads.join(" "));
        holders.report(&new, later(at)).into_iter().map(say).collect::<Vec<_>>()
    };
    assert_eq!(say(0), [format!("false:3:{alice} {bob}")]);
    holders.issued(&new, &alice, 1, later(300));
    assert_eq!(say(0), ["true:1:".to_owned(), format!("false:2:{alice} {bob}")]);
    assert_eq!(say(60), ["true:1:".to_owned(), format!("false:1:{alice}")]);
    holders.sweep(later(250));
    assert_eq!(say(0), ["true:1:"], "an issuer without certificates is forgotten");
    assert_eq!(holders.last_end(), later(300));
}

#[test]
fn a_long_list_is_cut() {
    let (old, new, holders) = (root_bundle(), root_bundle(), Holders::default());
    for number in 0..SHOWN + 7 {
        holders.issued(&old, &id(&format!("spiffe://cluster.local/ns/a/sa/s{number}")), 1, later(100));
    }
    let issuers = holders.report(&new, now());
    assert_eq!((issuers[0].workloads.len(), issuers[0].more_workloads), (SHOWN, 7));
    assert_eq!(issuers[0].certificates, SHOWN + 7);
}
