use super::*;

#[test]
fn durations_are_exact_or_refused() {
    let nanoseconds = |text: &str| parse(text).map(|duration| duration.as_nanos());
    for (text, wanted) in [
        ("0", 0),
        ("0s", 0),
        ("1.5s", 1_500_000_000),
        ("0.000000001s", 1),
        (".5s", 500_000_000),
        ("5.s", 5_000_000_000),
        ("1h30m", 5_400_000_000_000),
        ("2m3.5s", 123_500_000_000),
        ("300ms", 300_000_000),
        ("10us", 10_000),
        ("10µs", 10_000),
        ("7ns", 7),
        ("0.1h", 360_000_000_000),
        ("315576000000s", 315_576_000_000_000_000_000),
    ] {
        assert_eq!(nanoseconds(text), Some(wanted), "{text}");
    }
    let refused = ["", "5", "s", ".s", "1.2.3s", "-1s", "1 s", "1d", "1h30", "315576000001s", "99999999999999999999s"];
    for text in refused {
        assert_eq!(nanoseconds(text), None, "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "[0-9.hmsunµ]{0,30}") {
        let _ = parse(&text);
    }
}
