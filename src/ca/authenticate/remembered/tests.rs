use super::*;

#[tokio::test(start_paused = true)]
async fn an_answer_is_remembered_for_its_time_and_no_longer() {
    let mut known = Remembered::new();
    known.insert(token_hash("a"), 1, Duration::from_secs(10));
    known.insert(token_hash("b"), 2, Duration::ZERO);
    assert_eq!((known.get(&token_hash("a")), known.get(&token_hash("b"))), (Some(1), None));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(known.get(&token_hash("a")), None);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_tokens_has_its_bounds() {
    let mut known = Remembered::new();
    for number in 0..MAX_ENTRIES + 10 {
        known.insert(token_hash(&number.to_string()), number, Duration::from_secs(30));
    }
    assert_eq!(known.entries.len(), MAX_ENTRIES);
    assert_eq!(known.get(&token_hash(&(MAX_ENTRIES + 9).to_string())), None);
    tokio::time::advance(Duration::from_secs(31)).await;
    known.insert(token_hash("new"), 1, Duration::from_secs(30));
    assert_eq!((known.entries.len(), known.get(&token_hash("new"))), (1, Some(1)));
}

#[test]
fn nothing_is_remembered_past_its_end() {
    let claims = |json: &str| serde_json::from_str::<Claims>(json).unwrap();
    let now = Timestamp::from_second(1000).unwrap();
    assert_eq!(lifetime(&claims(r#"{"exp": 1020}"#), now), Duration::from_secs(20));
    assert_eq!(lifetime(&claims(r#"{"exp": 99999}"#), now), REMEMBERED);
    assert_eq!(lifetime(&claims(r#"{"exp": 990}"#), now), Duration::ZERO);
    assert_eq!(lifetime(&claims("{}"), now), Duration::ZERO);
}
