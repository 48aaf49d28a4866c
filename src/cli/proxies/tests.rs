use serde_json::json;

use super::*;

const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

fn row(name: &str, listener: Value) -> Value {
    json!({
        "proxy": name, "proxy_type": "waypoint", "istio_version": "1.30.4", "revision": 12, "settled": 12,
        "resources": { LISTENER: listener, CLUSTER: { "sent": "1", "acked": "1" } },
        "types": {}, "rejected": [],
    })
}

#[test]
fn the_worst_type_is_the_state_and_what_was_rejected_is_below() {
    let mut bad = row("b.shop", json!({ "sent": "3", "acked": "2", "lastError": "no such thing" }));
    bad["rejected"] = json!([{
        "type": "LDS", "name": "main", "message": "no such thing", "objects": ["VirtualService shop/web"],
    }]);
    let mut late = row("c.shop", json!({ "sent": "3", "acked": "2" }));
    late["types"] = json!({ "LDS": { "waiting_seconds": 12.3 }, "CDS": {} });
    late["settled"] = json!(10);
    let good = row("a.shop", json!({ "sent": "3", "acked": "3" }));
    let proxies: Vec<_> = [good, bad, late].iter().map(|row| proxy("istiod-1", row)).collect();
    let expected = "\
NAME     TYPE       VERSION   REPLICA    STATE    LAG   TYPES
a.shop   waypoint   1.30.4    istiod-1   SYNCED   -     CDS LDS
b.shop   waypoint   1.30.4    istiod-1   ERROR    -     LDS ERROR, CDS
c.shop   waypoint   1.30.4    istiod-1   STALE    12s   LDS STALE, CDS

b.shop rejected:
  LDS main: no such thing
    from VirtualService shop/web
";
    assert_eq!(shown(Style::PLAIN, &proxies), expected);
}

#[test]
fn what_istiod_says_is_understood() {
    // Without the fields that only we have.
    let row = json!({
        "proxy": "ztunnel-x.istio-system", "proxy_type": "ztunnel",
        "resources": { "type.googleapis.com/istio.workload.Address": { "sent": "a", "acked": "b" } },
    });
    let proxy = proxy("istiod-1", &row);
    assert_eq!((proxy.state, proxy.behind, proxy.settled), (State::Stale, None, None));
    assert_eq!(types(&proxy.types), "Address STALE");
    // One that has just connected is not behind by all there ever was.
    let mut new = self::row("new.shop", json!({ "sent": "3" }));
    new["settled"] = json!(0);
    let new = super::proxy("istiod-1", &new);
    assert_eq!((new.state, new.behind, new.settled), (State::Stale, None, None));
}
