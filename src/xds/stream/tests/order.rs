//! Make before break.

use super::*;

/// A client of both types that has acknowledged everything.
fn synced(resources: &[(&str, &str)]) -> Bench {
    let mut bench = Bench::new(Variant::Delta, resources);
    bench.request(delta(Address));
    bench.request(delta(Authorization));
    while bench.response().is_some() {}
    bench.ack(Address);
    bench.ack(Authorization);
    bench.expect(&[]);
    bench
}

#[test]
fn policy_goes_before_the_address_that_refers_to_it() {
    let mut bench = synced(&[("w1", "a")]);
    bench.publish(&[("w1", "b"), ("p1", "x")], &[]);
    bench.expect(&[(Authorization, &["p1=x"], &[]), (Address, &["w1=b"], &[])]);
}

#[test]
fn policy_leaves_after_the_address_that_referred_to_it() {
    let mut bench = synced(&[("w1", "a"), ("p1", "x")]);
    bench.publish(&[("w1", "b")], &["p1"]);
    bench.expect(&[(Address, &["w1=b"], &[]), (Authorization, &[], &["p1"])]);
}

#[test]
fn removal_waits_while_the_address_cannot_be_sent() {
    let mut bench = synced(&[("w1", "a"), ("p1", "x")]);
    bench.publish(&[("w1", "b")], &[]);
    bench.expect(&[(Address, &["w1=b"], &[])]);
    // The address that refers to p1 no longer is known only from the next view.
    bench.publish(&[("w1", "c")], &["p1"]);
    bench.expect(&[]);
    bench.publish(&[("p2", "y")], &[]);
    bench.expect(&[(Authorization, &["p2=y"], &[])]);
    bench.ack(Authorization);
    bench.expect(&[]);
    bench.ack(Address);
    bench.expect(&[(Address, &["w1=c"], &[]), (Authorization, &[], &["p1"])]);
}

#[test]
fn address_waits_for_a_policy_that_cannot_be_sent() {
    let mut bench = synced(&[("w1", "a")]);
    bench.publish(&[("p1", "x")], &[]);
    bench.expect(&[(Authorization, &["p1=x"], &[])]);
    bench.publish(&[("p2", "y"), ("w1", "needs p2")], &[]);
    bench.expect(&[]);
    bench.ack(Authorization);
    bench.expect(&[(Authorization, &["p2=y"], &[]), (Address, &["w1=needs p2"], &[])]);
}

#[test]
fn address_reaches_the_view_of_the_policies_under_churn() {
    let mut bench = synced(&[("w1", "a")]);
    bench.publish(&[("p1", "1"), ("w1", "1")], &[]);
    assert_eq!(bench.response().unwrap().0, Authorization);
    // A newer view arrives before the address had its turn: it still goes out,
    // as of the view the policies have reached.
    bench.publish(&[("p1", "2"), ("w1", "2")], &[]);
    bench.expect(&[(Address, &["w1=1"], &[])]);
    bench.ack(Address);
    bench.expect(&[]);
    bench.ack(Authorization);
    bench.expect(&[(Authorization, &["p1=2"], &[]), (Address, &["w1=2"], &[])]);
}

#[test]
fn waiting_for_an_acknowledgement_alone_blocks_nobody() {
    let mut bench = synced(&[("w1", "a")]);
    bench.publish(&[("p1", "1")], &[]);
    bench.expect(&[(Authorization, &["p1=1"], &[])]);
    bench.publish(&[("w1", "b")], &[]);
    bench.expect(&[(Address, &["w1=b"], &[])]);
}

#[test]
fn first_answer_does_not_wait() {
    let mut bench = Bench::new(Variant::Delta, &[("w1", "a"), ("p1", "x")]);
    bench.request(delta(Authorization));
    bench.expect(&[(Authorization, &["p1=x"], &[])]);
    bench.publish(&[("p1", "y")], &[]);
    bench.request(delta(Address));
    bench.expect(&[(Address, &["w1=a"], &[])]);
}

#[test]
fn types_that_are_not_subscribed_do_not_matter() {
    let mut bench = Bench::new(Variant::Delta, &[("w1", "a"), ("p1", "x")]);
    bench.request(delta(Authorization));
    bench.expect(&[(Authorization, &["p1=x"], &[])]);
    bench.ack(Authorization);
    bench.publish(&[("w1", "b")], &["p1"]);
    bench.expect(&[(Authorization, &[], &["p1"])]);
}

#[test]
fn reconnect_removes_gone_policies_after_the_addresses() {
    let mut bench = Bench::new(Variant::Delta, &[("w1", "a")]);
    for (ty, name) in [(Authorization, "p1"), (Address, "w1")] {
        let initial_versions = bench.held(ty, &[(name, "old")]);
        bench.request(DeltaRequest { initial_versions, ..delta(ty) });
    }
    bench.expect(&[(Authorization, &[], &[]), (Address, &["w1=a"], &[])]);
    bench.ack(Authorization);
    bench.expect(&[(Authorization, &[], &["p1"])]);
}

#[test]
fn sotw_keeps_a_removed_policy_until_the_addresses_are_sent() {
    let mut bench = Bench::new(Variant::Sotw, &[("w1", "a"), ("p1", "x"), ("p2", "x")]);
    bench.sotw_request(sotw(Authorization, &[]));
    bench.sotw_request(sotw(Address, &[]));
    bench.expect(&[(Authorization, &["p1=x", "p2=x"], &[]), (Address, &["w1=a"], &[])]);
    let reply = SotwRequest { response_nonce: bench.nonces[&Authorization].clone(), ..sotw(Authorization, &[]) };
    bench.sotw_request(reply);
    bench.publish(&[("w1", "b"), ("p2", "y")], &["p1"]);
    bench.expect(&[(Authorization, &["p1=x", "p2=y"], &[])]);
    for ty in [Authorization, Address] {
        bench.sotw_request(SotwRequest { response_nonce: bench.nonces[&ty].clone(), ..sotw(ty, &[]) });
    }
    bench.expect(&[(Address, &["w1=b"], &[]), (Authorization, &["p2=y"], &[])]);
}
