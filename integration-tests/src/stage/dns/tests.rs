use std::net::Ipv4Addr;

use super::answer;

fn question(name: &str, kind: u8) -> Vec<u8> {
    let mut message = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, kind, 0, 1]);
    message
}

fn known(name: &str) -> Option<Vec<Ipv4Addr>> {
    (name == "a.b").then(|| vec![Ipv4Addr::new(10, 96, 0, 1)])
}

#[test]
fn a_name_has_addresses() {
    let asked = question("A.b", 1);
    let answered = answer(&asked, known).unwrap();
    assert_eq!(answered[..8], [7, 9, 0x85, 0x80, 0, 1, 0, 1]);
    assert_eq!(answered[12..asked.len()], asked[12..]);
    assert_eq!(answered[asked.len()..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 96, 0, 1]);
}

#[test]
fn a_name_without_such_addresses_exists() {
    let answered = answer(&question("a.b", 28), known).unwrap();
    assert_eq!((answered[3], &answered[6..8]), (0x80, &[0, 0][..]));
}

#[test]
fn another_name_does_not() {
    assert_eq!(answer(&question("a.c", 1), known).unwrap()[3], 0x83);
    assert_eq!(answer(b"nonsense", known), None);
    assert_eq!(answer(&question("a.b", 1)[..15], known), None);
}
