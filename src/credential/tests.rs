use super::*;

#[track_caller]
fn check(name: &str, expected: Option<(Scheme, Part, &[&str])>) {
    let asked = Asked::parse(name, "own");
    let places = |asked: &Asked| asked.places.iter().map(ToString::to_string).collect::<Vec<_>>();
    let found = asked.as_ref().map(|asked| (asked.scheme, asked.part, places(asked)));
    let expected = expected
        .map(|(scheme, part, places)| (scheme, part, places.iter().map(ToString::to_string).collect::<Vec<_>>()));
    assert_eq!(found, expected, "{name}");
}

#[test]
fn names_lead_to_objects() {
    use Part::{Authority, Certificate};
    let s = Scheme::Kubernetes;
    check("kubernetes://a", Some((s, Certificate, &["Secret own/a"])));
    check("kubernetes://ns/a", Some((s, Certificate, &["Secret ns/a"])));
    check("kubernetes://a-cacert", Some((s, Authority, &["Secret own/a-cacert", "Secret own/a"])));
    check("kubernetes://ns/a.b-cacert", Some((s, Authority, &["Secret ns/a.b-cacert", "Secret ns/a.b"])));
    let g = Scheme::Gateway;
    check("kubernetes-gateway://ns/a", Some((g, Certificate, &["Secret ns/a"])));
    check("kubernetes-gateway://ns/a-cacert", Some((g, Authority, &["Secret ns/a-cacert", "Secret ns/a"])));
    let c = Scheme::ConfigMap;
    check("configmap://ns/a", Some((c, Authority, &["ConfigMap ns/a"])));
    check("configmap://ns/a-cacert", Some((c, Authority, &["ConfigMap ns/a"])));
}

#[test]
fn other_names_lead_nowhere() {
    let wrong = [
        "",
        "a",
        "default",
        "ROOTCA",
        "file-cert:/a~/b",
        "builtin://",
        "invalid://",
        "kubernetes://",
        "kubernetes:///a",
        "kubernetes://ns/",
        "kubernetes://a/b/c",
        "kubernetes://../a",
        "kubernetes://ns/../../nodes",
        "kubernetes://a b",
        "kubernetes://a%2f",
        "kubernetes://A",
        "kubernetes://-a",
        "kubernetes://a?watch=true",
        "kubernetes://a\n",
        "kubernetes-gateway://a",
        "kubernetes-gateway://",
        "configmap://a",
        "kubernetes://-cacert",
        "KUBERNETES://a",
    ];
    for name in wrong {
        check(name, None);
    }
    check(&format!("kubernetes://{}", "a".repeat(254)), None);
}

#[test]
fn an_object_is_found_by_all_its_names() {
    for place in [Place::secret("own", "a"), Place::config_map("ns", "b")] {
        for name in place.names() {
            let asked = Asked::parse(&name, "own");
            assert!(asked.is_some_and(|asked| asked.places.contains(&place)), "{name}");
        }
    }
}

#[test]
fn what_users_write_is_what_proxies_ask_for() {
    let cases = [
        ("cred", "kubernetes://cred", Provider::ControlPlane),
        ("ns/cred", "kubernetes://ns/cred", Provider::ControlPlane),
        ("kubernetes://ns/cred", "kubernetes://ns/cred", Provider::ControlPlane),
        ("kubernetes-gateway://ns/cred", "kubernetes-gateway://ns/cred", Provider::ControlPlane),
        ("configmap://ns/ca", "configmap://ns/ca", Provider::ControlPlane),
        ("sds://cred", "kubernetes://cred", Provider::ControlPlane),
        ("builtin://", "default", Provider::Workload),
        ("invalid://x", "invalid://", Provider::Nobody),
        ("vault://x", "invalid://", Provider::Nobody),
        ("", "invalid://", Provider::Nobody),
    ];
    for (user, name, provider) in cases {
        assert_eq!(sds_name(user), (name.to_owned(), provider), "{user}");
    }
}
