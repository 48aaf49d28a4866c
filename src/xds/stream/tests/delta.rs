use super::*;
use crate::xds::stream::subscription::MAX_NAMES;

fn bench(resources: &[(&str, &str)]) -> Bench {
    Bench::new(Variant::Delta, resources)
}

/// A stream that has been sent everything and acknowledged it.
fn synced(resources: &[(&str, &str)]) -> Bench {
    let mut bench = bench(resources);
    bench.request(delta(Address));
    bench.response().unwrap();
    bench.ack(Address);
    bench.expect(&[]);
    bench
}

#[test]
fn first_request_must_have_a_node() {
    let mut stream = Stream::new(Variant::Delta, 0);
    let status = stream.on_delta_request(delta(Address)).unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    for id in ["", "ztunnel", "ztunnel~1.1.1.1~zt.ns", "what~1.1.1.1~zt.ns~ns.svc", "ztunnel~1.1.1.1~zt~x~y~z"] {
        let node = Some(WireNode { id: id.into(), ..Default::default() });
        let status = stream.on_delta_request(DeltaRequest { node, ..delta(Address) }).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{id}");
    }
}

#[test]
fn node_may_be_repeated_but_not_changed() {
    let mut bench = bench(&[]);
    bench.request(delta(Address));
    bench.request(DeltaRequest { node: Some(node()), ..delta(Authorization) });
    let node = Some(WireNode { id: node().id.replace("zt.", "other."), ..Default::default() });
    assert!(bench.stream.on_delta_request(DeltaRequest { node, ..delta(Address) }).is_err());
}

#[test]
fn empty_first_request_is_a_wildcard() {
    let mut bench = bench(&[("w1", "a"), ("s1", "b")]);
    bench.request(delta(Address));
    bench.expect(&[(Address, &["s1=b", "w1=a"], &[])]);
    assert_eq!(bench.ack(Address), Received::Request { ty: Address, reply: Reply::Ack });
    bench.expect(&[]);
    bench.publish(&[("w1", "c"), ("w2", "d")], &["s1"]);
    bench.expect(&[(Address, &["w1=c", "w2=d"], &["s1"])]);
}

#[test]
fn star_is_a_wildcard() {
    let mut bench = bench(&[("w1", "a")]);
    bench.request(sub(Address, &["*"]));
    bench.expect(&[(Address, &["w1=a"], &[])]);
}

#[test]
fn star_again_sends_everything_again() {
    let mut bench = synced(&[("w1", "a"), ("w2", "b")]);
    bench.publish(&[], &["w2"]);
    bench.request(sub(Address, &["*"]));
    bench.expect(&[(Address, &["w1=a"], &["w2"])]);
}

#[test]
fn first_response_comes_even_if_empty() {
    let mut bench = bench(&[]);
    bench.request(delta(Address));
    bench.request(delta(Authorization));
    bench.expect(&[(Authorization, &[], &[]), (Address, &[], &[])]);
    bench.ack(Address);
    bench.ack(Authorization);
    bench.expect(&[]);
}

#[test]
fn star_both_ways_is_nothing() {
    let mut bench = bench(&[("w1", "a")]);
    bench.request(DeltaRequest { subscribe: names(&["*"]), ..unsub(Address, &["*"]) });
    bench.expect(&[]);
    bench.publish(&[("w1", "b")], &[]);
    bench.expect(&[]);
}

#[test]
fn later_empty_request_is_no_wildcard() {
    let mut bench = bench(&[("w1", "a"), ("w2", "b")]);
    bench.request(sub(Address, &["w1"]));
    bench.expect(&[(Address, &["w1=a"], &[])]);
    bench.request(unsub(Address, &["w1"]));
    bench.ack(Address);
    bench.request(delta(Address));
    bench.publish(&[("w1", "c")], &[]);
    bench.expect(&[]);
}

#[test]
fn legacy_wildcard_lasts_until_star_is_unsubscribed() {
    let mut bench = synced(&[("w1", "a"), ("w2", "b")]);
    bench.request(sub(Address, &["w1"]));
    bench.expect(&[(Address, &["w1=a"], &[])]);
    bench.ack(Address);
    bench.request(unsub(Address, &["*"]));
    // The client forgets w2 by itself.
    bench.expect(&[]);
    bench.publish(&[("w1", "c"), ("w2", "d")], &[]);
    bench.expect(&[(Address, &["w1=c"], &[])]);
}

#[test]
fn subscribing_again_is_always_answered() {
    let mut bench = bench(&[("w1", "a")]);
    bench.request(sub(Address, &["w1"]));
    bench.expect(&[(Address, &["w1=a"], &[])]);
    bench.ack(Address);
    bench.request(sub(Address, &["w1"]));
    bench.expect(&[(Address, &["w1=a"], &[])]);
}

#[test]
fn unsubscribing_an_unknown_name_does_nothing() {
    let mut bench = synced(&[("w1", "a")]);
    bench.request(unsub(Address, &["w1", "w9"]));
    bench.expect(&[]);
    bench.publish(&[("w1", "b")], &[]);
    bench.expect(&[(Address, &["w1=b"], &[])]);
}

#[test]
fn unsubscribing_a_name_under_a_wildcard_is_answered() {
    let mut bench = bench(&[("w1", "a")]);
    bench.request(sub(Address, &["*", "w1", "w9"]));
    bench.expect(&[(Address, &["w1=a"], &["w9"])]);
    bench.ack(Address);
    bench.request(unsub(Address, &["w1", "w9"]));
    bench.expect(&[(Address, &["w1=a"], &["w9"])]);
}

#[test]
fn stale_nonce_still_changes_the_subscription() {
    let mut bench = bench(&[("w1", "a"), ("w2", "b")]);
    bench.request(sub(Address, &["w1"]));
    bench.expect(&[(Address, &["w1=a"], &[])]);
    let stale = DeltaRequest { response_nonce: "7-0".into(), ..sub(Address, &["w2"]) };
    assert_eq!(bench.request(stale), Received::Request { ty: Address, reply: Reply::Stale });
    // The first response was not acknowledged by that.
    bench.expect(&[]);
    bench.ack(Address);
    bench.expect(&[(Address, &["w2=b"], &[])]);
}

#[test]
fn nonce_of_an_earlier_stream_is_ignored() {
    let mut bench = bench(&[("w1", "a")]);
    let reply = bench.request(DeltaRequest { response_nonce: "6-3".into(), ..delta(Address) });
    assert_eq!(reply, Received::Request { ty: Address, reply: Reply::Nothing });
    bench.expect(&[(Address, &["w1=a"], &[])]);
}

#[test]
fn missing_name_is_removed_at_once_and_pushed_later() {
    let mut bench = bench(&[]);
    bench.request(sub(Authorization, &["p1"]));
    bench.expect(&[(Authorization, &[], &["p1"])]);
    bench.ack(Authorization);
    bench.publish(&[("p1", "a"), ("p2", "b")], &[]);
    bench.expect(&[(Authorization, &["p1=a"], &[])]);
    bench.ack(Authorization);
    bench.publish(&[], &["p1"]);
    bench.expect(&[(Authorization, &[], &["p1"])]);
}

#[test]
fn reconnect_sends_only_differences() {
    let mut bench = bench(&[("w1", "a"), ("w2", "b"), ("w3", "c"), ("w4", "d")]);
    let version = |name: &str, content: &str| resource(name, content).version().to_string();
    let (v1, v2, v4) = (version("w1", "a"), version("w2", "old"), version("w4", "d"));
    for held in [&[("w1", &*v1), ("w2", &v2), ("w4", &v4), ("w9", ""), ("w0", "x")][..], &[("w1", &v1)]] {
        bench.stream = Stream::new(Variant::Delta, 8);
        let initial_versions = bench.held(Address, held);
        bench.request(DeltaRequest { initial_versions, ..delta(Address) });
        match held.len() {
            1 => bench.expect(&[(Address, &["w2=b", "w3=c", "w4=d"], &[])]),
            _ => bench.expect(&[(Address, &["w2=b", "w3=c"], &["w0", "w9"])]),
        }
        bench.ack(Address);
        bench.expect(&[]);
    }
}

#[test]
fn reconnect_with_nothing_new_gets_an_empty_response() {
    let mut bench = bench(&[("w1", "a"), ("s1", "b")]);
    let version = |name: &str, content: &str| resource(name, content).version().to_string();
    let (w1, s1) = (version("w1", "a"), version("s1", "b"));
    for (ty, held) in [(Address, &[("w1", &*w1), ("s1", &s1)][..]), (Workload, &[("w1", &w1)])] {
        bench.stream = Stream::new(Variant::Delta, 8);
        let initial_versions = bench.held(ty, held);
        bench.request(DeltaRequest { initial_versions, ..delta(ty) });
        bench.expect(&[(ty, &[], &[])]);
        bench.stream = Stream::new(Variant::Delta, 8);
        let initial_versions = bench.held(ty, held);
        bench.request(DeltaRequest { initial_versions, ..sub(ty, &["w1", "w9"]) });
        bench.expect(&[(ty, &[], &["w9"])]);
    }
}

#[test]
fn rejected_resource_is_not_repeated_until_it_changes() {
    let mut bench = synced(&[("w1", "a"), ("p1", "x")]);
    bench.publish(&[("w1", "bad")], &[]);
    bench.expect(&[(Address, &["w1=bad"], &[])]);
    assert_eq!(bench.nack(Address), Received::Request { ty: Address, reply: Reply::Nack("bad".into()) });
    bench.expect(&[]);
    assert_eq!(bench.stream.progress().next().unwrap().error.as_deref(), Some("bad"));
    // Neither its neighbours nor other types are affected.
    bench.publish(&[("w2", "b")], &[]);
    bench.request(delta(Authorization));
    bench.expect(&[(Authorization, &["p1=x"], &[]), (Address, &["w2=b"], &[])]);
    bench.ack(Address);
    assert_eq!(bench.stream.progress().nth(1).unwrap().error, None);
    bench.publish(&[("w1", "good")], &[]);
    bench.expect(&[(Address, &["w1=good"], &[])]);
}

#[test]
fn acknowledgement_may_carry_new_names() {
    let mut bench = bench(&[("w1", "a"), ("w2", "b")]);
    bench.request(sub(Address, &["w1"]));
    bench.expect(&[(Address, &["w1=a"], &[])]);
    let response_nonce = bench.nonces[&Address].clone();
    bench.request(DeltaRequest { response_nonce, ..sub(Address, &["w2"]) });
    bench.expect(&[(Address, &["w2=b"], &[])]);
}

#[test]
fn cve_2026_31838_debug_types_are_no_resources() {
    let mut bench = synced(&[("w1", "a")]);
    // istiod has served the second kind to whoever reached its port, and the
    // third, by which it gives away objects as they are. What a server answers
    // callers who are known does not come this far.
    for type_url in [
        "type.googleapis.com/what",
        "istio.io/debug",
        "istio.io/debug/syncz",
        "istio.io/debug/config_dump",
        "istio.io/connections",
        "networking.istio.io/v1/Gateway",
        "core/v1/Secret",
    ] {
        let request = DeltaRequest { type_url: type_url.into(), ..Default::default() };
        assert_eq!(bench.request(request), Received::UnknownType(type_url.into()));
        bench.expect(&[]);
    }
    bench.publish(&[("w1", "b")], &[]);
    bench.expect(&[(Address, &["w1=b"], &[])]);
}

#[test]
fn one_outstanding_response_and_views_coalesce() {
    let mut bench = bench(&[("w1", "a")]);
    bench.request(delta(Address));
    bench.expect(&[(Address, &["w1=a"], &[])]);
    bench.publish(&[("w1", "b"), ("w2", "x")], &[]);
    bench.publish(&[("w1", "c")], &["w2"]);
    bench.expect(&[]);
    bench.ack(Address);
    bench.expect(&[(Address, &["w1=c"], &[])]);
}

#[test]
fn nothing_is_sent_when_nothing_changed() {
    let mut bench = synced(&[("w1", "a")]);
    bench.publish(&[("w1", "a"), ("p1", "x")], &[]);
    bench.expect(&[]);
    // There and back while nobody looked.
    bench.publish(&[("w1", "b")], &[]);
    bench.publish(&[("w1", "a")], &[]);
    bench.expect(&[]);
}

#[test]
fn on_demand_answers_the_very_key() {
    let mut bench = bench(&[("w1", "s1"), ("w2", "s1"), ("w3", "s2"), ("s1", "x")]);
    bench.request(DeltaRequest { subscribe: names(&["*"]), ..unsub(Address, &["*"]) });
    bench.expect(&[]);
    for (key, sent, removed) in [
        ("/vip-s1", &["s1=x", "w1=s1", "w2=s1"][..], &["/vip-s1"][..]),
        ("/ip-w3", &["w3=s2"], &["/ip-w3"]),
        ("w1", &["w1=s1"], &[]),
        ("/nobody", &[], &["/nobody"]),
    ] {
        bench.request(sub(Address, &[key]));
        bench.expect(&[(Address, sent, removed)]);
        assert_eq!(bench.last.as_ref().unwrap().framing, Framing::DeltaWithAliases);
        bench.ack(Address);
    }
    // Workloads that join the service, and those that leave it.
    bench.publish(&[("w4", "s1"), ("w2", "s9"), ("w5", "s9")], &[]);
    bench.expect(&[(Address, &["w4=s1"], &["w2"])]);
    bench.ack(Address);
    bench.publish(&[], &["s1"]);
    // w1 is wanted for itself; w4 only was of use with the service.
    bench.expect(&[(Address, &[], &["s1", "w4"])]);
}

#[test]
fn on_demand_pushes_the_workloads_of_the_node() {
    let mut bench = bench(&[("w1", "s1,n1"), ("w2", "s1,n2")]);
    bench.request(DeltaRequest { subscribe: names(&["*"]), ..unsub(Address, &["*"]) });
    bench.expect(&[(Address, &["w1=s1,n1"], &[])]);
    bench.ack(Address);
    bench.publish(&[("w3", "s1,n1")], &["w1"]);
    bench.expect(&[(Address, &["w3=s1,n1"], &["w1"])]);
}

#[test]
fn on_demand_reconnect_keeps_the_keys() {
    let mut bench = bench(&[("w1", "s1"), ("s1", "x")]);
    let v1 = resource("w1", "s1").version().to_string();
    let held = [("w1", &*v1), ("s1", "old"), ("/vip-s1", ""), ("w9", "")];
    let initial_versions = bench.held(Address, &held);
    bench.request(DeltaRequest { initial_versions, subscribe: names(&["*"]), ..unsub(Address, &["*"]) });
    bench.expect(&[(Address, &["s1=x"], &["/vip-s1", "w9"])]);
    bench.ack(Address);
    bench.publish(&[("w9", "s9"), ("w1", "s2"), ("w8", "s8")], &[]);
    bench.expect(&[(Address, &["w1=s2", "w9=s9"], &[])]);
}

#[test]
fn wildcard_does_not_list_aliases() {
    let mut bench = bench(&[("w1", "a")]);
    bench.request(delta(Address));
    bench.response().unwrap();
    assert_eq!(bench.last.as_ref().unwrap().framing, Framing::Delta);
}

#[test]
fn workload_type_has_no_services() {
    let mut bench = bench(&[("w1", "a"), ("s1", "b")]);
    bench.request(delta(Workload));
    bench.expect(&[(Workload, &["w1=a"], &[])]);
    bench.ack(Workload);
    bench.publish(&[("s1", "c"), ("s2", "d")], &[]);
    bench.expect(&[]);
    bench.publish(&[("w2", "reused")], &["s1", "w1"]);
    bench.expect(&[(Workload, &["w2=reused"], &["w1"])]);
}

#[test]
fn names_are_limited() {
    let mut bench = bench(&[]);
    let subscribe = (0..MAX_NAMES).map(|n| format!("w{n}").into()).collect();
    bench.request(DeltaRequest { subscribe, ..delta(Address) });
    let status = bench.stream.on_delta_request(sub(Address, &["one-more"])).unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
}

#[test]
fn star_after_names_sends_the_rest() {
    let mut bench = bench(&[("w1", "a"), ("w2", "b")]);
    bench.request(sub(Address, &["w1"]));
    bench.expect(&[(Address, &["w1=a"], &[])]);
    bench.ack(Address);
    bench.request(sub(Address, &["*"]));
    bench.expect(&[(Address, &["w2=b"], &[])]);
}
