//! What is answered without a profile.

use super::*;

fn asked(query: &str) -> Result<u64, u16> {
    let uri = format!("/debug/pprof/profile{query}").parse().expect("a path");
    seconds(&uri).map(|duration| duration.as_secs()).map_err(|(status, _)| status.as_u16())
}

#[test]
fn a_profile_takes_between_a_second_and_five_minutes() {
    assert_eq!(asked(""), Ok(30));
    assert_eq!(asked("?debug=0"), Ok(30));
    assert_eq!((asked("?seconds=1"), asked("?seconds=300")), (Ok(1), Ok(300)));
    for wrong in ["", "0", "301", "-1", "1.5", "ten", "18446744073709551616", "%201"] {
        assert_eq!(asked(&format!("?seconds={wrong}")), Err(400), "{wrong}");
    }
    let uri = "/debug/pprof/profile?seconds=ten".parse().expect("a path");
    let (_, reason) = seconds(&uri).expect_err("no number");
    assert_eq!(reason, "seconds: \"ten\" is not a number from 1 to 300");
}

#[test]
fn every_page_is_answered() {
    for row in PAGES {
        assert!(row.what.ends_with('.'), "{}", row.name);
        assert!(!OF_GO.contains(&row.name), "{}", row.name);
    }
}

#[tokio::test]
async fn what_is_of_go_says_so() {
    let uri = Uri::from_static("/");
    for name in OF_GO {
        let (status, reason) = show(name, &uri, &CancellationToken::new()).await.expect_err("no such page");
        assert_eq!(status, 404);
        assert!(reason.starts_with(name) && reason.contains("/metrics"), "{reason}");
    }
    let (status, reason) = show("nothing", &uri, &CancellationToken::new()).await.expect_err("no such page");
    assert_eq!(status, 404);
    assert!(reason.ends_with("profile, cmdline, symbol"), "{reason}");
}
