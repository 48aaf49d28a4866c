//! Which lists of cipher suites Envoy takes. It hands them to BoringSSL, whose
//! reader is strict, and refuses the whole listener for what that does not take:
//! a name that is not known, a `|` outside of brackets, anything but plain names
//! within them, a sign in a list that has them, and a list that chooses nothing.
//! <https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/transport_sockets/tls/v3/common.proto>,
//! <https://commondatastorage.googleapis.com/chromium-boringssl-docs/ssl.h.html#Cipher-suite-configuration>

use std::collections::BTreeSet;

use super::Chosen;

/// Cipher suites of TLS 1.2 that Envoys have. Those of 1.3 are not chosen from.
const CIPHERS: [&str; 15] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
    "AES256-SHA",
    "AES128-SHA",
    "ECDHE-PSK-CHACHA20-POLY1305",
];

/// Every suite.
const ALL: &str = "ALL";

/// What is done with suites.
enum Entry<'a> {
    /// They are chosen, one or equals such as `[A|B]`.
    Add(Vec<&'a str>),
    /// One is not: `-A`, or for good `!A`; `+A` puts it last.
    Signed(char, &'a str),
}

/// The entries that are taken, and those that are left out.
pub(super) fn suites(texts: Vec<String>) -> Chosen {
    let (mut known, unknown): (Vec<_>, Vec<_>) = texts.into_iter().partition(|text| entry(text).is_some());
    let mut unfit = Vec::new();
    if known.iter().any(|text| text.starts_with('[')) {
        (known, unfit) = known.into_iter().partition(|text| matches!(entry(text), Some(Entry::Add(_))));
    }
    if !chooses(&known) {
        unfit.append(&mut known);
    }
    Chosen { known, unknown, unfit }
}

fn entry(text: &str) -> Option<Entry<'_>> {
    if let Some(group) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let names: Vec<_> = group.split('|').collect();
        return names.iter().all(|name| CIPHERS.contains(name)).then_some(Entry::Add(names));
    }
    let name = text.strip_prefix(['-', '!', '+']).unwrap_or(text);
    let known = CIPHERS.contains(&name) || name == ALL;
    known.then(|| match text.chars().next() {
        Some(sign @ ('-' | '!' | '+')) => Entry::Signed(sign, name),
        _ => Entry::Add(vec![name]),
    })
}

/// Whether anything is left in the end.
fn chooses(texts: &[String]) -> bool {
    let every = |name: &str| if name == ALL { CIPHERS.to_vec() } else { Vec::new() };
    let (mut chosen, mut gone): (BTreeSet<&str>, BTreeSet<&str>) = Default::default();
    for entry in texts.iter().filter_map(|text| entry(text)) {
        match entry {
            Entry::Add(names) => {
                let names = names.into_iter().flat_map(|name| every(name).into_iter().chain([name]));
                chosen.extend(names.filter(|name| *name != ALL && !gone.contains(name)));
            }
            Entry::Signed('+', _) => {}
            Entry::Signed(sign, name) => {
                for name in every(name).into_iter().chain([name]) {
                    chosen.remove(name);
                    if sign == '!' {
                        gone.insert(name);
                    }
                }
            }
        }
    }
    !chosen.is_empty()
}
