use super::{Budget, Report, Round, Sample, table};

fn sample(values: &[(&str, f64)]) -> Sample {
    Sample(values.iter().map(|(what, value)| (what.to_string(), *value, "ms")).collect())
}

fn report(rounds: &[(f64, f64, f64)]) -> Report {
    let round = |(plane, peer, limit): &(f64, f64, f64)| Round {
        plane: sample(&[("cpu", *plane), ("only ours", 1.0)]),
        peer: Some(sample(&[("cpu", *peer)])),
        limit: Some(sample(&[("cpu", *limit)])),
    };
    Report {
        scenario: "s0 (test)".into(),
        setting: "nothing".into(),
        limit: "none",
        rounds: rounds.iter().map(round).collect(),
        budgets: vec![
            ("cpu", Budget::TimesLimit(2.0)),
            ("cpu", Budget::AtMost(100.0)),
            ("only ours", Budget::AtLeast(2.0)),
        ],
        noise: (String::new(), 0.0),
        seconds: 1.0,
    }
}

#[test]
fn a_line_has_ratios_and_verdicts() {
    let line: serde_json::Value = serde_json::from_str(&report(&[(30.0, 60.0, 20.0)]).json()).expect("JSON");
    let row = &line["findings"][0];
    assert_eq!(row["times_limit"], 1.5);
    assert_eq!(row["times_peer"], 0.5);
    assert_eq!(row["budgets"][0]["met"], true);
    assert_eq!(line["findings"][1]["budgets"][0]["met"], false);
    assert_eq!(line["rounds"][0]["limit"]["cpu"], 20.0);
}

#[test]
fn a_budget_is_met_by_the_worse_end_of_the_interval() {
    let rounds = [(30.0, 1.0, 20.0), (30.0, 1.0, 20.0), (50.0, 1.0, 20.0)];
    let line: serde_json::Value = serde_json::from_str(&report(&rounds).json()).expect("JSON");
    assert_eq!(line["findings"][0]["times_limit"], 1.5);
    assert_eq!(line["findings"][0]["budgets"][0]["met"], false);
}

#[test]
fn a_table_leaves_out_columns_without_content() {
    let mut report = report(&[(30.0, 60.0, 20.0)]);
    assert!(table(std::slice::from_ref(&report)).contains("times peer"));
    report.rounds[0].peer = None;
    let text = table(&[report]);
    assert!(!text.contains("times peer") && text.contains("1.50") && text.contains("**no**"), "{text}");
}
