use openssl::asn1::Asn1Time;
use proptest::prelude::*;

use super::*;
use crate::ca::testing::root_bundle;
use crate::ca::timestamp;

#[test]
fn times_are_what_openssl_reads() {
    for seconds in [0, 946_684_799, 1_795_370_000, 2_524_607_999, 2_524_608_000, 4_102_444_800] {
        let at = Timestamp::from_second(seconds).unwrap();
        let encoded = time(at);
        let text = std::str::from_utf8(&encoded[2..]).unwrap();
        let century = if encoded[0] == UTC_TIME { if &text[..2] < "50" { "20" } else { "19" } } else { "" };
        let read = Asn1Time::from_str(&format!("{century}{text}")).unwrap();
        assert_eq!(timestamp(&read).unwrap(), at);
    }
}

#[test]
fn pem_is_openssls() {
    let bundle = root_bundle();
    let der = bundle.certificate().to_der().unwrap();
    assert_eq!(pem(&der), *bundle.root_pem().as_ref());
}

proptest! {
    #[test]
    fn what_is_written_is_read(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..4)) {
        let written: Vec<u8> = parts.iter().flat_map(|part| element(SEQUENCE, &[part])).collect();
        let read: Vec<Vec<u8>> = elements(&written).map(|element| element.content.to_vec()).collect();
        prop_assert_eq!(read, parts);
    }

    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>) {
        let read: usize = elements(&bytes).map(|element| element.whole.len()).sum();
        prop_assert!(read <= bytes.len());
    }
}
