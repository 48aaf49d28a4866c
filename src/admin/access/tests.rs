use super::*;
use crate::ca::authenticate::Proof;

fn caller(identities: &[&str]) -> Caller {
    let identities = identities.iter().map(|one| format!("spiffe://cluster.local/{one}").parse().unwrap());
    Caller { identities: identities.collect(), proof: Proof::Jwt, pod: None }
}

#[test]
fn the_namespace_of_the_control_plane_sees_everything_and_others_their_own() {
    let system = BTreeSet::from(["istio-system".into()]);
    let of = |identities: &[&str]| Viewer::of(&caller(identities), &system);
    assert_eq!(of(&["ns/istio-system/sa/default"]), Some(Viewer::Everything));
    let own = of(&["ns/shop/sa/web"]).unwrap();
    assert!(own.sees("shop") && !own.sees("istio-system") && !own.sees("sho"));
    assert_eq!(of(&["ns/shop/sa/web", "ns/istio-system/sa/default"]), None, "who is more than one is nobody");
    assert_eq!(of(&[]), None);
}

#[test]
fn a_page_in_a_browser_cannot_name_us() {
    let named = |host: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        is_named_by_address(&headers, None)
    };
    for host in ["localhost", "LOCALHOST:15014", "127.0.0.1:15014", "[::1]:15014", "10.0.0.7:15014"] {
        assert!(named(host), "{host}");
    }
    for host in ["evil.example:15014", "localhost.evil.example", "istiod.istio-system.svc:15014", ""] {
        assert!(!named(host), "{host}");
    }
}

#[test]
fn a_token_comes_through_a_proxy_that_takes_the_usual_header() {
    let mut headers = HeaderMap::new();
    assert!(with_token(&headers).get(header::AUTHORIZATION).is_none());
    headers.insert(TOKEN_HEADER, "abc".parse().unwrap());
    headers.insert(header::AUTHORIZATION, "Bearer somebody-else".parse().unwrap());
    assert_eq!(with_token(&headers)[header::AUTHORIZATION], "Bearer abc");
}
