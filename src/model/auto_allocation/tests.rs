use super::*;

fn read(yaml: &str) -> ServiceEntry {
    crate::api::yaml(yaml).expect("a ServiceEntry")
}

#[track_caller]
fn check(yaml: &str, wanted: &[&str]) {
    let found = entry(&read(yaml), &Pools::default());
    let hosts: Vec<&str> = found.iter().flat_map(|entry| entry.hosts.iter().map(|host| &**host)).collect();
    assert_eq!(hosts, wanted, "{yaml}");
}

fn labelled(value: &str) -> String {
    format!(
        "{{metadata: {{labels: {{networking.istio.io/enable-autoallocate-ip: '{value}'}}}}, \
         spec: {{hosts: [a.example.com], resolution: DNS}}}}"
    )
}

#[test]
fn hosts_want_addresses_where_proxies_can_honour_them() {
    check("spec: {hosts: [a.example.com], resolution: DNS}", &["a.example.com"]);
    check("spec: {hosts: [a.example.com], resolution: STATIC}", &["a.example.com"]);
    check("spec: {hosts: [a.example.com]}", &[]);
    check("spec: {hosts: [a.example.com], resolution: NONE}", &[]);
    check("spec: {hosts: [a.example.com], resolution: DNS, addresses: [10.0.0.1]}", &[]);
    check("spec: {hosts: [b, a, b, '*.c'], resolution: DNS_ROUND_ROBIN}", &["b", "a"]);
    check("spec: {hosts: ['*.c', a], resolution: DYNAMIC_DNS}", &["*.c", "a"]);
    for opted_out in ["false", "False", "FALSE"] {
        check(&labelled(opted_out), &[]);
    }
    for not in ["true", "", "no", "falsehood"] {
        check(&labelled(not), &["a.example.com"]);
    }
}

#[test]
fn what_users_chose_is_known_where_it_may_be_in_the_way() {
    let chosen = |addresses: &str| {
        let yaml = format!("spec: {{hosts: [a], resolution: DNS, addresses: [{addresses}]}}");
        entry(&read(&yaml), &Pools::default()).map(|entry| entry.chosen.iter().map(ToString::to_string).collect())
    };
    assert_eq!(chosen("10.0.0.1"), None::<Vec<_>>, "it has nothing to do with us");
    assert_eq!(chosen("10.0.0.1, 240.240.1.1, 240.240.1.2/32"), Some(vec!["240.240.1.1".into(), "240.240.1.2".into()]));
    assert_eq!(chosen("'2001:2::7', '::ffff:240.240.0.9'"), Some(vec!["2001:2::7".into(), "240.240.0.9".into()]));
    assert_eq!(chosen("240.240.0.0/24, nonsense"), None);
}

#[test]
fn who_has_addresses_is_known_though_none_are_wanted() {
    let found = entry(
        &read("{spec: {hosts: [a]}, status: {addresses: [{host: a, value: 240.240.0.1}], conditions: []}}"),
        &Pools::default(),
    );
    let found = found.expect("it is to lose them");
    assert_eq!((found.hosts.len(), found.allocated.len()), (0, 1));
}
