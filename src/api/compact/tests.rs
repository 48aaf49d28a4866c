use super::*;

#[test]
fn uids_say_what_they_were_made_from() {
    let uuid = "0b6a2c3d-1111-4222-8333-0123456789af";
    assert!(matches!(uuid.into(), Uid::Uuid(_)));
    let shifted = "0b6a2c3d1-111-4222-8333-0123456789af";
    for text in [uuid, "", "u-a", &uuid.to_uppercase(), shifted, &uuid[1..], "é6a2c3d-1111-4222-8333-0123456789af"] {
        assert_eq!(Uid::from(text).to_string(), text);
        assert_eq!(Uid::from(text).is_empty(), text.is_empty());
    }
    assert_ne!(Uid::from(uuid), Uid::from(&*uuid.replace('f', "e")));
}

#[test]
fn null_is_nothing_and_addresses_are_parsed() {
    let parse = |json| serde_json::from_str::<Address>(json).unwrap();
    assert_eq!(parse("\"10.0.0.1\""), Address::Ip([10, 0, 0, 1].into()));
    assert_eq!(parse("\"10.0.0.300\""), Address::Text("10.0.0.300".into()));
    assert_eq!(parse("null"), Address::default());
    assert!(serde_json::from_str::<Uid>("null").unwrap().is_empty());
}

#[test]
fn addresses_are_told_in_their_order() {
    for texts in [&[][..], &["10.0.0.1"], &["fd00::1"], &["no address"], &["10.0.0.1", "fd00::1"]] {
        let addresses: Vec<Address> = texts.iter().copied().map(Address::from).collect();
        assert!(Addresses::from(addresses.clone()).iter().eq(addresses), "{texts:?}");
    }
    assert_eq!(Addresses::default().iter().count(), 0);
}
