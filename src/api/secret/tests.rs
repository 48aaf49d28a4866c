use super::*;
use crate::api::{Kind, Object, yaml};

fn read(json: &serde_json::Value) -> Secret {
    match Kind::Secret.decode_json(&json.to_string()) {
        Ok(Object::Secret(secret)) => (*secret).clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn known_entries_are_kept_and_others_dropped() {
    let secret = read(&serde_json::json!({
        "metadata": {"name": "n", "namespace": "ns"}, "type": "kubernetes.io/tls",
        "data": {"tls.crt": "Y2VydA==", "tls.key": "a2V5", "password": "aHVudGVyMg==", "ca.crt": "", "ca.crl": null},
    }));
    let text = |entry| secret.get(entry).map(|value| String::from_utf8_lossy(value).into_owned());
    assert_eq!(text(Entry::TlsCert).as_deref(), Some("cert"));
    assert_eq!(text(Entry::TlsKey).as_deref(), Some("key"));
    assert_eq!(text(Entry::TlsCaCert), None, "it is empty");
    assert!(secret.has(Entry::TlsCaCert) && !secret.has(Entry::Cert));
    let shown = format!("{secret:?}");
    assert!(shown.contains("tls.key"), "{shown}");
    for hidden in ["password", "hunter2", "a2V5", "\"key\"", "107"] {
        assert!(!shown.contains(hidden), "{hidden} in {shown}");
    }
}

#[test]
fn people_write_text() {
    let secret: Secret = yaml(
        "metadata: {name: n}\ndata:\n  tls.crt: |\n    Y2Vy\n    dA==\nstringData:\n  tls.key: |\n    a key\n  tls.crt: beats it\n",
    )
    .expect("YAML");
    assert_eq!(secret.get(Entry::TlsKey).map(|value| &value[..]), Some(&b"a key\n"[..]));
    assert_eq!(secret.get(Entry::TlsCert).map(|value| &value[..]), Some(&b"beats it"[..]));
}

#[test]
fn errors_do_not_quote_what_is_secret() {
    for value in ["\"hunter2!\"", "\"a===\"", "\"YQ==YQ==\"", "\"hunter\"", "4711", "true", "1.5"] {
        let json = format!(r#"{{"metadata": {{"name": "n"}}, "data": {{"tls.key": {value}}}}}"#);
        let error = Kind::Secret.decode_json(&json).expect_err(value);
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("tls.key"), "{shown}");
        assert!(!shown.contains(value.trim_matches('"')), "{shown}");
        let error = yaml::<Secret>(&json).expect_err(value).without_snippet().to_string();
        assert!(!error.contains(value.trim_matches('"')), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn base64_is_that_of_openssl(bytes: Vec<u8>, noise in "[A-Za-z0-9+/=\n ]{0,20}") {
        let encoded = openssl::base64::encode_block(&bytes);
        proptest::prop_assert_eq!(base64(&encoded), Some(bytes));
        // Whatever is read as base64 is what its writer would have written.
        let plain: String = noise.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        if let Some(decoded) = base64(&noise) {
            proptest::prop_assert_eq!(openssl::base64::encode_block(&decoded).len(), plain.len());
        }
    }
}
