//! Words that nobody knows, and values that cannot be: what Istio's definitions
//! and its webhook would not have let in. Ours let everything in, so nothing of
//! it may go by in silence, and nothing beside it may suffer.

use std::collections::BTreeSet;

use super::*;

/// The kind of an object, its spec, and what is said of it: fields with reasons.
/// Services `a` and `b` are there; `b.x` is no name of a service.
const CASES: &[(Kind, &str, &[&str])] = &[
    // DestinationRule.
    (Kind::DestinationRule, "{host: a, trafficPolice: {}}", &["spec.trafficPolice UnknownField"]),
    (Kind::DestinationRule, "{host: a, exportto: ['*']}", &["spec.exportto UnknownField"]),
    (
        Kind::DestinationRule,
        "{host: a, trafficPolicy: {loadBalancer: {simpel: RANDOM, consistentHash: {ringHash: {size: 1}}}}}",
        &[
            "spec.trafficPolicy.loadBalancer.consistentHash.ringHash.size UnknownField",
            "spec.trafficPolicy.loadBalancer.simpel UnknownField",
        ],
    ),
    (
        Kind::DestinationRule,
        "{host: a, trafficPolicy: {outlierDetection: {consecutive5XXErrors: 1}, conectionPool: {}}}",
        &["spec.trafficPolicy.conectionPool UnknownField", "spec.trafficPolicy.outlierDetection.consecutive5XXErrors UnknownField"],
    ),
    (
        Kind::DestinationRule,
        "{host: a, trafficPolicy: {portLevelSettings: [{port: {number: 80}}, {port: {nummer: 80}}]}}",
        &["spec.trafficPolicy.portLevelSettings[1].port.nummer UnknownField"],
    ),
    (
        Kind::DestinationRule,
        "{host: a, trafficPolicy: {tls: {mod: SIMPLE}, portLevelSettings: [{port: {number: 80}, tls: {sny: b}}]},
          subsets: [{name: v1, labels: {v: a}, trafficPolicy: {tls: {mode: DISABLE, sny: b}}}]}",
        &[
            "spec.subsets[0].trafficPolicy.tls.sny UnknownField",
            "spec.trafficPolicy.portLevelSettings[0].tls.sny UnknownField",
            "spec.trafficPolicy.tls.mod UnknownField",
        ],
    ),
    // A field of Istio's that nobody reads any more is no unknown word.
    (
        Kind::DestinationRule,
        "{host: a, trafficPolicy: {outlierDetection: {consecutiveErrors: 1}}}",
        &["spec.trafficPolicy.outlierDetection.consecutiveErrors UnsupportedValue"],
    ),
    (Kind::DestinationRule, "{host: a, workloadSelector: {labels: {a: b}}}", &["spec.workloadSelector.labels UnknownField"]),
    (Kind::DestinationRule, "{host: a, subsets: [{name: v1, labls: {v: a}}]}", &["spec.subsets[0] UnknownField"]),
    (
        Kind::DestinationRule,
        "{host: a, subsets: [{name: v1, labels: {v: a}, policy: {}, trafficPolicy: {tsl: {}}}]}",
        &["spec.subsets[0].policy UnknownField", "spec.subsets[0].trafficPolicy.tsl UnknownField"],
    ),
    // What is written as null, or twice as deep, or for people, is no word.
    (Kind::DestinationRule, "{host: a, trafficPolicy: null, subsets: [{name: v1, labels: {simpel: a}}]}", &[]),
    // ServiceEntry.
    (Kind::ServiceEntry, "{hosts: [e.com], resoluton: DNS}", &["spec.resoluton UnknownField"]),
    (Kind::ServiceEntry, "{hosts: [e.com], resolution: DNSS}", &["spec.resolution UnsupportedValue"]),
    (Kind::ServiceEntry, "{hosts: [e.com], location: MESH_EXTERNL}", &["spec.location UnsupportedValue"]),
    (
        Kind::ServiceEntry,
        "{hosts: [e.com], resolution: STATIC, endpoints: [{address: 10.1.0.1}, {adress: 10.1.0.2}]}",
        &["spec.endpoints[1].adress UnknownField"],
    ),
    (Kind::ServiceEntry, "{hosts: [e.com], resolution: STATIC, workloadSelector: {lables: {a: b}}}", &["spec.workloadSelector.lables UnknownField"]),
    (
        Kind::ServiceEntry,
        "{hosts: [e.com], ports: [{number: 80, name: a, protcol: TCP}, {number: 81, name: b, protocol: FOO}]}",
        &["spec.ports[0].protcol UnknownField", "spec.ports[1].protocol UnsupportedValue"],
    ),
    (
        Kind::ServiceEntry,
        "{hosts: [e.com], ports: [{name: a}, {number: 81, name: b}, {number: 81, name: c}, {number: 82, name: d}]}",
        &["spec.ports[0].number InvalidValue", "spec.ports[2].number InvalidValue"],
    ),
    (
        Kind::ServiceEntry,
        "{hosts: [e.com], resolution: STATIC, ports: [{number: 80, name: a}, {number: 81, name: a}]}",
        &["spec.ports[1].name InvalidValue"],
    ),
    (
        Kind::ServiceEntry,
        "{hosts: [e.com], resolution: STATIC, endpoints: [{address: 10.1.0.1}], workloadSelector: {labels: {a: b}}}",
        &["spec.workloadSelector InvalidValue"],
    ),
    (
        Kind::ServiceEntry,
        "{hosts: [e.com], ports: [{number: 80, name: a}], endpoints: [{address: 10.1.0.1, ports: {a: 1}}]}",
        &["spec.endpoints UnsupportedValue"],
    ),
    (
        Kind::ServiceEntry,
        "{hosts: [e.com], resolution: STATIC, ports: [{number: 80, name: a}], endpoints: [{address: 10.1.0.1, ports: {b: 1}}]}",
        &["spec.endpoints[0].ports InvalidValue"],
    ),
    (
        Kind::ServiceEntry,
        "{hosts: ['*.e.com', e.com], resolution: DYNAMIC_DNS, ports: [{number: 80, name: a, protocol: HTTP}], workloadSelector: {labels: {a: b}}}",
        &["spec.hosts[1] InvalidValue", "spec.workloadSelector UnsupportedValue"],
    ),
    (Kind::ServiceEntry, "{ports: [{number: 80, name: a}]}", &["spec.hosts InvalidValue"]),
    (Kind::ServiceEntry, "{hosts: ['*', e.com]}", &["spec.hosts[0] InvalidValue"]),
    (Kind::ServiceEntry, "{hosts: ['*.e.com'], resolution: DNS}", &["spec.hosts[0] UnsupportedValue"]),
    (Kind::ServiceEntry, "{hosts: ['*.e.com'], resolution: DNS, endpoints: [{address: e.com}]}", &[]),
    (
        Kind::ServiceEntry,
        "{hosts: [e.com], location: MESH_INTERNAL, ports: [{number: 1, name: a, protocol: MySQL}, {number: 2, name: b, protocol: grpc-web}]}",
        &[],
    ),
    // WorkloadEntry.
    (Kind::WorkloadEntry, "{address: 10.1.0.1, label: {a: b}}", &["spec.label UnknownField"]),
    (Kind::WorkloadEntry, "{address: 10.1.0.1, labels: {label: b}, ports: {label: 1}}", &[]),
    // Telemetry.
    (Kind::Telemetry, "{accesLogging: []}", &["spec.accesLogging UnknownField"]),
    (Kind::Telemetry, "{selector: {labels: {a: b}}}", &["spec.selector.labels UnknownField"]),
    (
        Kind::Telemetry,
        "{tracing: [{randomSamplingPercentag: 1, customTags: {mine: {literl: {}}}}], targetRefs: [{kind: Service, nam: a}]}",
        &[
            "spec.targetRefs[0].nam UnknownField",
            "spec.tracing[0].customTags[mine].literl UnknownField",
            "spec.tracing[0].randomSamplingPercentag UnknownField",
        ],
    ),
    // VirtualService.
    (
        Kind::VirtualService,
        "{hosts: [a], gateway: [g], exportto: [.], tlss: []}",
        &["spec.exportto UnknownField", "spec.gateway UnknownField", "spec.tlss UnknownField"],
    ),
    (
        Kind::VirtualService,
        "{hosts: [a], http: [{route: [{destination: {host: a, prt: {number: 80}}, weigth: 1}]}]}",
        &["spec.http[0].route[0].destination.prt UnknownField", "spec.http[0].route[0].weigth UnknownField"],
    ),
    // What a rule or a match does not know is said once.
    (
        Kind::VirtualService,
        "{hosts: [a], http: [{novel: 1, match: [{clientIp: a}, {headers: {h: {suffix: b}}}], route: [{destination: {host: a}}]}]}",
        &["spec.http[0].match[0].clientIp UnknownField", "spec.http[0].match[1].headers[h] UnknownField", "spec.http[0].novel UnknownField"],
    ),
    (
        Kind::VirtualService,
        "{hosts: [a], http: [{retries: {attempts: 2, retryOn: 'bogus-thing,5xx'}, route: [{destination: {host: a}}]}]}",
        &["spec.http[0].retries.retryOn UnsupportedValue"],
    ),
    (
        Kind::VirtualService,
        "{hosts: [a], http: [{retries: {retryOn: 5xx}, route: [{destination: {host: a}}]}]}",
        &["spec.http[0].retries.attempts InvalidValue"],
    ),
    (Kind::VirtualService, "{hosts: [a], http: [{retries: {attempts: 0}, route: [{destination: {host: a}}]}]}", &[]),
    (
        Kind::VirtualService,
        "{hosts: [a], http: [{fault: {abort: {httpStatus: 500, percentage: {value: 200}}}, mirror: {host: b}, mirrorPercentage: {value: -1},
          mirrors: [{destination: {host: b}, percentage: {value: 100}}, {destination: {host: b}, percentage: {value: 0.00001}}], route: [{destination: {host: a}}]}]}",
        &["spec.http[0].fault.abort.percentage.value InvalidValue", "spec.http[0].mirrorPercentage.value InvalidValue", "spec.http[0].mirrors[1].percentage.value InvalidValue"],
    ),
    (
        Kind::VirtualService,
        "{hosts: [a], http: [{route: [{destination: {host: a}, weight: -1}]}]}",
        &["spec.http[0].route[0].weight InvalidValue"],
    ),
    (
        Kind::VirtualService,
        "{hosts: [a], tcp: [{route: [{destination: {host: a}, weight: -1}, {destination: {host: b}, weight: 1}]}]}",
        &["spec.tcp[0].route[0].weight InvalidValue"],
    ),
];

fn object(kind: Kind, name: &str, spec: &str) -> String {
    let info = kind.info();
    format!(
        "apiVersion: {}\nkind: {}\nmetadata: {{name: {name}, namespace: x}}\nspec: {spec}\n",
        info.api_version(),
        info.kind
    )
}

/// One good object of each kind.
fn neighbours() -> String {
    let good = [
        (Kind::DestinationRule, "{host: b, trafficPolicy: {loadBalancer: {simple: RANDOM}}}"),
        (Kind::ServiceEntry, "{hosts: [good.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}"),
        (Kind::WorkloadEntry, "{address: 10.1.0.9, labels: {a: b}}"),
        (Kind::Telemetry, "{accessLogging: [{disabled: true}]}"),
        (Kind::VirtualService, "{hosts: [b], http: [{route: [{destination: {host: b}, weight: 1}]}]}"),
    ];
    good.map(|(kind, spec)| object(kind, "good", spec) + "---\n").concat()
}

impl World {
    /// What is said of objects, each by kind and name.
    fn findings(&self) -> BTreeSet<(&'static str, String, String)> {
        let all = self.translation.graph.diagnostics().into_iter();
        all.map(|one| (one.subject.kind, one.subject.name.to_string(), format!("{} {}", one.field, one.reason)))
            .collect()
    }
}

#[test]
fn nothing_goes_by_in_silence() {
    for (kind, spec, expected) in CASES {
        let mut world = World::new(&neighbours());
        assert_eq!(world.findings(), BTreeSet::new());
        world.put(&object(*kind, "bad", spec));
        let expected =
            expected.iter().map(|line| (kind.info().subject, "bad".to_owned(), (*line).to_owned())).collect();
        assert_eq!(world.findings(), expected, "{spec}");
        world.put(&object(*kind, "good", spec));
        world.translation.apply(Change::Delete(*kind, ObjectKey::new("x", "bad")));
        world.put(&neighbours());
        assert_eq!(world.findings(), BTreeSet::new(), "{spec}");
    }
}

/// The words of all objects, in one mesh.
#[test]
fn the_order_of_objects_does_not_matter() {
    let words = |world: &World| {
        let of_words = |line: &(_, _, String)| line.2.ends_with("UnknownField");
        world.findings().into_iter().filter(of_words).collect::<BTreeSet<_>>()
    };
    let objects: Vec<_> =
        CASES.iter().enumerate().map(|(at, (kind, spec, _))| object(*kind, &format!("bad-{at}"), spec)).collect();
    let (mut forth, mut back) = (World::new(""), World::new(""));
    objects.iter().for_each(|object| forth.put(object));
    objects.iter().rev().for_each(|object| back.put(object));
    let expected = CASES.iter().enumerate().flat_map(|(at, (kind, _, lines))| {
        let words = lines.iter().filter(|line| line.ends_with("UnknownField"));
        words.map(move |line| (kind.info().subject, format!("bad-{at}"), (*line).to_owned()))
    });
    assert_eq!(words(&forth), expected.collect());
    assert_eq!(words(&forth), words(&back));
}

/// A subset whose labels were misspelt would be all of the host.
#[test]
fn a_subset_with_a_word_for_its_labels_is_none() {
    let route =
        |subset: &str| format!("{{hosts: [a], http: [{{route: [{{destination: {{host: a, subset: {subset}}}}}]}}]}}");
    let subsets = "[{name: v1, labls: {v: a}}, {name: v2}, {name: v3, labels: {v: a}, labls: {}}]";
    let rule = object(Kind::DestinationRule, "rule", &format!("{{host: a, subsets: {subsets}}}"));
    for (subset, expected) in
        [("v1", "spec.http[0].route[0].destination.subset ReferencedResourceNotFound"), ("v2", ""), ("v3", "")]
    {
        let world = World::new(&(rule.clone() + "---\n" + &object(Kind::VirtualService, "to", &route(subset))));
        let said: Vec<_> = world.findings().into_iter().filter(|(_, name, _)| name == "to").map(|one| one.2).collect();
        assert_eq!(said.join("; "), expected, "{subset}");
    }
}

#[test]
fn a_condition_says_it() {
    let world = World::new(&object(Kind::ServiceEntry, "entry", "{hosts: [e.com], resoluton: DNS}"));
    let said = world.lines(Kind::ServiceEntry, "entry");
    assert!(said["Accepted"].contains("UnknownField") && said["Accepted"].contains("resoluton"), "{said:?}");
}
