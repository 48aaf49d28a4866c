use super::*;

/// Short expressions can take all of the memory of whoever compiles them, and
/// long ones all of its time: istiod's webhook did. Nothing is compiled here, and
/// nothing is sent that would cost an Envoy more than its own limit.
#[test]
fn cve_2022_39278_expressions_have_bounds() {
    for text in [
        "a".repeat(1025),
        "a{1001}".into(),
        "((((a{10}){10}){10}){10})".into(),
        "(a{100}){100}".into(),
        r"\pL{100}".into(),
        r"(?:[^a]{40}){25}x(?:[^a]{40}){25}".into(),
        "(".repeat(500) + &")".repeat(500),
        "(?:".repeat(300) + "a" + &")".repeat(300),
    ] {
        assert!(check(&text).is_err(), "{text}");
    }
    for text in ["a{1000}".into(), "(a{10}){10}".into(), r"\pL+".into(), "(".repeat(100) + "a" + &")".repeat(100)] {
        assert_eq!(check(&text), Ok(()), "{text}");
    }
}
