use proptest::prelude::*;

use super::*;

#[track_caller]
fn check(text: &str, good: bool) {
    assert_eq!(text.parse::<SpiffeId>().is_ok(), good, "{text:?}");
}

#[test]
fn only_istios_form_is_an_identity() {
    check("spiffe://cluster.local/ns/default/sa/default", true);
    check("spiffe://td-1_x.y/ns/a/sa/B.c_d-1", true);
    for text in [
        "",
        "spiffe://",
        "spiffe:///ns/a/sa/b",
        "spiffe://td/ns//sa/b",
        "spiffe://td/ns/a/sa/",
        "spiffe://td/ns/a/sa/b/",
        "spiffe://td/ns/a/sa/b/c",
        "spiffe://td/sa/b/ns/a",
        "spiffe://TD/ns/a/sa/b",
        "SPIFFE://td/ns/a/sa/b",
        "https://td/ns/a/sa/b",
        "spiffe://td:80/ns/a/sa/b",
        "spiffe://u@td/ns/a/sa/b",
        "spiffe://td/ns/a/sa/b?x",
        "spiffe://td/ns/a/sa/b#x",
        "spiffe://td/ns/a%2fb/sa/b",
        "spiffe://td/ns/../sa/b",
        "spiffe://td/ns/a/sa/b,URI:spiffe://td/ns/x/sa/y",
        "spiffe://td/ns/a/sa/b\n",
        "spiffe://td/ns/a/sa/b\0",
        "spiffe://td/ns/a/sa/ü",
    ] {
        check(text, false);
    }
    check(&format!("spiffe://td/ns/a/sa/{}", "b".repeat(65_536)), false);
}

#[test]
fn aliases_belong_to_the_mesh_until_they_are_taken_away() {
    let (own, alias): (TrustDomain, TrustDomain) = ("a".parse().unwrap(), "b".parse().unwrap());
    let domains = TrustDomains::new(own.clone(), vec![alias.clone()]);
    assert!(domains.contains(&own) && domains.contains(&alias) && domains.own() == own);
    domains.set(alias.clone(), vec![]);
    assert!(!domains.contains(&own) && domains.own() == alias);
}

proptest! {
    #[test]
    fn what_parses_prints_the_same(text in "(spiffe://)?[a-zA-Z0-9./_%-]{0,20}(/ns/[a-z.]{0,8}/sa/[a-z,%]{0,8})?") {
        if let Ok(identity) = text.parse::<SpiffeId>() {
            prop_assert_eq!(identity.to_string(), text);
        }
    }
}
