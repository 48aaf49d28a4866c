use super::*;

fn bench(resources: &[(&str, &str)]) -> Bench {
    Bench::new(Variant::Sotw, resources)
}

impl Bench {
    fn sotw_ack(&mut self, ty: ResourceType, names: &[&str]) -> Received {
        self.sotw_request(SotwRequest { response_nonce: self.nonces[&ty].clone(), ..sotw(ty, names) })
    }
}

#[test]
fn no_names_mean_everything_on_each_change() {
    let mut bench = bench(&[("w1", "a"), ("s1", "b")]);
    bench.sotw_request(sotw(Address, &[]));
    bench.expect(&[(Address, &["s1=b", "w1=a"], &[])]);
    assert_eq!(bench.sotw_ack(Address, &[]), Received::Request { ty: Address, reply: Reply::Ack });
    bench.expect(&[]);
    bench.publish(&[("w1", "c")], &[]);
    bench.expect(&[(Address, &["s1=b", "w1=c"], &[])]);
    bench.sotw_ack(Address, &[]);
    bench.publish(&[], &["s1"]);
    bench.expect(&[(Address, &["w1=c"], &[])]);
}

#[test]
fn empty_set_is_answered() {
    let mut bench = bench(&[]);
    bench.sotw_request(sotw(Authorization, &[]));
    bench.expect(&[(Authorization, &[], &[])]);
}

#[test]
fn changed_names_are_answered_with_all_of_them() {
    let mut bench = bench(&[("w1", "a"), ("w2", "b"), ("w3", "c")]);
    bench.sotw_request(sotw(Address, &["w1", "w9"]));
    bench.expect(&[(Address, &["w1=a"], &[])]);
    bench.sotw_ack(Address, &["w1", "w2"]);
    bench.expect(&[(Address, &["w1=a", "w2=b"], &[])]);
    bench.sotw_ack(Address, &["w1", "w2"]);
    bench.publish(&[("w3", "d")], &[]);
    bench.expect(&[]);
}

#[test]
fn no_names_after_names_mean_nothing() {
    let mut bench = bench(&[("w1", "a")]);
    bench.sotw_request(sotw(Address, &["w1"]));
    bench.expect(&[(Address, &["w1=a"], &[])]);
    bench.sotw_ack(Address, &[]);
    bench.publish(&[("w1", "b"), ("w2", "c")], &[]);
    bench.expect(&[]);
    bench.sotw_ack(Address, &["*"]);
    bench.expect(&[(Address, &["w1=b", "w2=c"], &[])]);
}

#[test]
fn no_names_after_a_legacy_wildcard_and_names_mean_nothing() {
    let mut bench = bench(&[("w1", "a"), ("w2", "b")]);
    bench.sotw_request(sotw(Address, &[]));
    bench.expect(&[(Address, &["w1=a", "w2=b"], &[])]);
    bench.sotw_ack(Address, &["w1"]);
    bench.expect(&[(Address, &["w1=a"], &[])]);
    bench.sotw_ack(Address, &[]);
    bench.publish(&[("w1", "c")], &[]);
    bench.expect(&[]);
}

#[test]
fn stale_nonce_is_ignored_altogether() {
    let mut bench = bench(&[("w1", "a"), ("w2", "b")]);
    bench.sotw_request(sotw(Address, &["w1"]));
    bench.expect(&[(Address, &["w1=a"], &[])]);
    let stale = SotwRequest { response_nonce: "7-0".into(), ..sotw(Address, &["w2"]) };
    assert_eq!(bench.sotw_request(stale), Received::Request { ty: Address, reply: Reply::Stale });
    bench.sotw_ack(Address, &["w1"]);
    bench.expect(&[]);
}

#[test]
fn rejection_is_not_answered() {
    let mut bench = bench(&[("w1", "bad")]);
    bench.sotw_request(sotw(Address, &[]));
    bench.expect(&[(Address, &["w1=bad"], &[])]);
    let rejection = Some(Rejection { message: "no".into() });
    let nonce = bench.nonces[&Address].clone();
    let reply = bench.sotw_request(SotwRequest { response_nonce: nonce, rejection, ..sotw(Address, &[]) });
    assert_eq!(reply, Received::Request { ty: Address, reply: Reply::Nack("no".into()) });
    bench.expect(&[]);
    bench.publish(&[("w1", "good")], &[]);
    bench.expect(&[(Address, &["w1=good"], &[])]);
}

#[test]
fn a_client_may_come_with_something() {
    for holds in [false, true] {
        let mut bench = bench(&[("w1", "a")]);
        bench.sotw_request(SotwRequest { holds, ..sotw(Address, &[]) });
        bench.expect(&[(Address, &["w1=a"], &[])]);
        // To acknowledge is not to have come with it.
        bench.sotw_request(SotwRequest {
            holds: true,
            response_nonce: bench.nonces[&Address].clone(),
            ..sotw(Address, &[])
        });
        assert_eq!(bench.stream.verdict(Address, None).unwrap().blank, !holds);
    }
}
