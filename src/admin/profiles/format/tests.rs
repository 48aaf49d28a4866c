//! Profiles as those see them who read the format.

use std::collections::BTreeSet;

use super::proto::Profile;
use super::*;

fn frame(name: &str, line: i64) -> Frame {
    Frame { name: name.into(), linked: format!("_{name}"), file: format!("{name}.rs"), line }
}

fn sampled(stacks: &[(&str, &[Frame], i64)]) -> Sampled {
    Sampled {
        stacks: stacks
            .iter()
            .map(|(thread, frames, count)| Stack { thread: (*thread).into(), frames: frames.to_vec(), count: *count })
            .collect(),
        since: SystemTime::UNIX_EPOCH + Duration::from_secs(7),
        duration: Duration::from_millis(1500),
        program: "fairway".into(),
        period: Duration::from_millis(10),
        comment: "how it was".into(),
    }
}

fn decoded(sampled: &Sampled) -> Profile {
    Profile::decode(encode(sampled).as_slice()).expect("a profile")
}

/// The stack of each sample as text, with what it counts.
fn readable(profile: &Profile) -> BTreeSet<(String, Vec<i64>)> {
    let text = |number: i64| profile.string_table[number as usize].as_str();
    let samples = profile.sample.iter().map(|sample| {
        let mut stack = format!("{}={}", text(sample.label[0].key), text(sample.label[0].str));
        for id in &sample.location_id {
            let line = profile.location.iter().find(|one| one.id == *id).expect("a location").line[0];
            let function = profile.function.iter().find(|one| one.id == line.function_id).expect("a function");
            let (name, linked) = (text(function.name), text(function.system_name));
            stack += &format!(" < {name} {linked} {}:{}", text(function.filename), line.line);
        }
        (stack, sample.value.clone())
    });
    samples.collect()
}

#[test]
fn stacks_can_be_read_again() {
    let profile =
        decoded(&sampled(&[("edge-0", &[frame("push", 3), frame("run", 9)], 4), ("edge-1", &[frame("run", 8)], 1)]));
    let expected = [
        ("thread=edge-0 < push _push push.rs:3 < run _run run.rs:9", vec![4, 40_000_000]),
        ("thread=edge-1 < run _run run.rs:8", vec![1, 10_000_000]),
    ];
    assert_eq!(readable(&profile), expected.map(|(stack, value)| (stack.to_string(), value)).into());
    let text = |number: i64| profile.string_table[number as usize].as_str();
    let types: Vec<_> = profile.sample_type.iter().map(|one| (text(one.r#type), text(one.unit))).collect();
    assert_eq!(types, [("samples", "count"), ("cpu", "nanoseconds")]);
    let period = profile.period_type.map(|one| (text(one.r#type), text(one.unit)));
    assert_eq!((period, profile.period), (Some(("cpu", "nanoseconds")), 10_000_000));
    assert_eq!((profile.time_nanos, profile.duration_nanos), (7_000_000_000, 1_500_000_000));
    assert_eq!(profile.comment.iter().map(|one| text(*one)).collect::<Vec<_>>(), ["how it was"]);
    assert_eq!(profile.mapping.iter().map(|one| text(one.filename)).collect::<Vec<_>>(), ["fairway"]);
    assert!(profile.location.iter().all(|one| one.mapping_id == profile.mapping[0].id));
}

#[test]
fn numbers_are_dense_and_nothing_is_said_twice() {
    let frames = [frame("a", 1), frame("a", 2), frame("b", 1)];
    let profile = decoded(&sampled(&[("t", &frames, 1), ("t", &frames[1..], 2), ("t", &frames, 5)]));
    assert_eq!(profile.string_table[0], "");
    let distinct: BTreeSet<_> = profile.string_table.iter().collect();
    assert_eq!(distinct.len(), profile.string_table.len());
    assert_eq!(profile.function.iter().map(|one| one.id).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(profile.location.iter().map(|one| one.id).collect::<Vec<_>>(), [1, 2, 3]);
    // Equal stacks of equal threads are one sample.
    assert_eq!(profile.sample.iter().map(|one| one.value[0]).collect::<BTreeSet<_>>(), [2, 6].into());
}

#[test]
fn the_order_of_stacks_makes_no_difference() {
    let (one, two, three) = ([frame("a", 1)], [frame("b", 2), frame("a", 1)], [frame("c", 0)]);
    let mut stacks = [("x", &one[..], 1), ("y", &two[..], 2), ("x", &three[..], 3)];
    let bytes = encode(&sampled(&stacks));
    stacks.reverse();
    assert_eq!(bytes, encode(&sampled(&stacks)));
    stacks.swap(0, 1);
    assert_eq!(bytes, encode(&sampled(&stacks)));
}

#[test]
fn a_process_that_did_nothing_has_a_profile() {
    let profile = decoded(&sampled(&[]));
    assert!(profile.sample.is_empty() && profile.location.is_empty());
    assert_eq!(profile.sample_type.len(), 2);
}
