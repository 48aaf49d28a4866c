use super::*;
use crate::mesh::mark;

/// A response with a type, a nonce and one resource, as gRPC has it.
fn response(resource: &[u8]) -> Vec<u8> {
    let mut message = vec![0x12, 0x80 | (resource.len() & 0x7f) as u8, (resource.len() >> 7) as u8];
    message.extend_from_slice(resource);
    message.extend(b"\x22\x04type\x2a\x01n");
    crate::http2::grpc(&message)
}

#[test]
fn marks_are_found_wherever_a_message_is_divided() {
    let resource = format!("{}{}..{} bench-r12 {}", mark(7), mark(3), mark(7), mark(123)).into_bytes();
    let both = [response(&resource), response(&[b'.'; 200])].concat();
    for size in 1..both.len() {
        let mut walker = Walker::scanning(false);
        let mut found = Vec::new();
        for part in both.chunks(size) {
            walker
                .read(part, |message| {
                    found.push((message.marks, message.resources, message.type_url));
                    Ok(())
                })
                .unwrap();
        }
        let expected = [vec![3, 7, 123], vec![]].map(|marks| (marks, 1, b"type".to_vec()));
        assert_eq!(found, expected, "in pieces of {size}");
    }
}
