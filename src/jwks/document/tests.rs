use super::*;

#[test]
fn only_public_members_are_kept_in_one_order() {
    let one = r#"{"keys": [{"kid": "b", "kty": "RSA", "n": "1", "e": "AQAB", "d": "secret", "x5c": ["c"]},
                  {"kty": "EC", "kid": "a", "crv": "P-256", "x": "1", "y": "2", "use": "sig"}], "password": "secret"}"#;
    let other = r#"{"keys": [{"y": "2", "x": "1", "use": "sig", "kty": "EC", "crv": "P-256", "kid": "a"},
                    {"e": "AQAB", "n": "1", "kty": "RSA", "kid": "b"}]}"#;
    let keys = keys(one.as_bytes()).unwrap();
    assert_eq!(Ok(keys.clone()), super::keys(other.as_bytes()));
    assert!(!keys.contains("secret") && !keys.contains("x5c"), "{keys}");
    assert!(keys.find("\"kid\":\"a\"") < keys.find("\"kid\":\"b\""), "{keys}");
}

#[test]
fn what_is_no_set_of_keys() {
    let many = format!("{{\"keys\": [{}]}}", vec!["{\"kty\": \"oct\"}"; MOST_KEYS + 1].join(","));
    let long = format!("{{\"keys\": [{{\"kty\": \"RSA\", \"n\": \"{}\"}}]}}", "A".repeat(LONGEST));
    let encryption = r#"{"keys": [{"kty": "RSA", "use": "enc", "n": "1"}]}"#;
    for bad in
        ["", "<html>", "[]", "{}", r#"{"keys": {}}"#, r#"{"keys": []}"#, r#"{"keys": ["a"]}"#, encryption, &many, &long]
    {
        assert!(keys(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(60)]);
    }
}

#[test]
fn configurations() {
    assert_eq!(jwks_uri(br#"{"issuer": "a", "jwks_uri": "https://a/keys"}"#), Ok("https://a/keys".into()));
    assert!(jwks_uri(b"{}").is_err() && jwks_uri(b"[").is_err() && jwks_uri(br#"{"jwks_uri": 1}"#).is_err());
}
