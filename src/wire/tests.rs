use proptest::prelude::*;
use prost::encoding::{encode_key, encode_varint};

use super::*;

/// A field of any of the forms that are read.
#[derive(Clone, Debug)]
enum Field {
    Varint(u64),
    Bytes(Vec<u8>),
    Fixed32(u32),
    Fixed64(u64),
}

impl Field {
    fn encode(&self, number: u32, to: &mut Vec<u8>) {
        let mut key = |wire_type| encode_key(number, wire_type, to);
        match self {
            Self::Varint(value) => {
                key(WireType::Varint);
                encode_varint(*value, to);
            }
            Self::Bytes(bytes) => {
                key(WireType::LengthDelimited);
                encode_varint(bytes.len() as u64, to);
                to.extend_from_slice(bytes);
            }
            Self::Fixed32(value) => {
                key(WireType::ThirtyTwoBit);
                to.extend(value.to_le_bytes());
            }
            Self::Fixed64(value) => {
                key(WireType::SixtyFourBit);
                to.extend(value.to_le_bytes());
            }
        }
    }

    fn value(&self) -> Value<'_> {
        match self {
            Self::Varint(value) => Value::Varint(*value),
            Self::Bytes(bytes) => Value::Bytes(bytes),
            Self::Fixed32(_) | Self::Fixed64(_) => Value::Fixed,
        }
    }
}

fn field() -> impl Strategy<Value = (u32, Field)> {
    let bytes = prop_oneof![3 => 0..20usize, 1 => 120..300usize].prop_flat_map(|length| vec![any::<u8>(); length]);
    let value = prop_oneof![
        any::<u64>().prop_map(Field::Varint),
        (0..200u64).prop_map(Field::Varint),
        bytes.prop_map(Field::Bytes),
        any::<u32>().prop_map(Field::Fixed32),
        any::<u64>().prop_map(Field::Fixed64),
    ];
    (prop_oneof![1..20u32, 1..1u32 << 29], value)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fields_are_what_was_encoded(fields in prop::collection::vec(field(), 0..8)) {
        let mut message = Vec::new();
        fields.iter().for_each(|(number, field)| field.encode(*number, &mut message));
        let expected: Vec<_> = fields.iter().map(|(number, field)| (*number, field.value())).collect();
        let found: Result<Vec<_>, _> = Fields::new(&message).collect();
        prop_assert_eq!(found, Ok(expected));

        // One by one, as far as they have one number.
        let mut walk = Fields::new(&message);
        for (number, field) in &fields {
            prop_assert_eq!(walk.clone().next_if(number ^ 1), None);
            prop_assert_eq!(walk.next_if(*number), Some(Ok(field.value())));
        }
        prop_assert_eq!(walk.next(), None);
    }

    /// What is cut off is not a field, and is the end of all.
    #[test]
    fn a_part_of_a_field_is_none((number, field) in field(), cut in any::<prop::sample::Index>()) {
        let mut message = Vec::new();
        field.encode(number, &mut message);
        prop_assert_eq!(first(&message), Some((number, field.value(), message.len())));
        let part = &message[..cut.index(message.len())];
        prop_assert_eq!(first(part), None);
        if !part.is_empty() {
            prop_assert_eq!(Fields::new(part).collect::<Vec<_>>(), [Err(Malformed)]);
        }
        // Where it begins can be known before.
        if let Field::Bytes(bytes) = &field {
            let before = message.len() - bytes.len();
            let known = (part.len() >= before).then_some((number, bytes.len(), before));
            prop_assert_eq!(head(part), Ok(known));
        }
    }

    #[test]
    fn any_bytes_are_read_to_their_end(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut walk = Fields::new(&bytes);
        for _ in 0..=bytes.len() {
            if walk.next().is_none_or(|field| field.is_err()) {
                break;
            }
        }
        prop_assert_eq!(walk.next(), None);
    }
}

#[test]
fn groups_and_number_zero_are_malformed() {
    for bytes in [&[0x0b][..], &[0x0c], &[0x02, 0], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]]
    {
        assert_eq!(first(bytes), None, "{bytes:?}");
    }
    // A number is no field of variable length.
    assert_eq!(head(&[0x08; 15]), Err(Malformed));
}
