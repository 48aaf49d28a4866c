//! The names of Services, for the pods: as much of a cluster's DNS as an IPv4
//! mesh asks for. <https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/>

use std::net::Ipv4Addr;

use serde_json::Value;
use tokio::net::UdpSocket;

use super::network::DNS;
use crate::watch::Watch;

const DOMAIN: &str = "svc.cluster.local";
const TTL: u32 = 5;
const A: u16 = 1;
const IN: u16 = 1;
const NO_SUCH_NAME: u8 = 3;

/// Answers until it is dropped.
pub(super) async fn serve(services: Watch, slices: Watch) {
    let socket = UdpSocket::bind((DNS, 53)).await.unwrap_or_else(|error| panic!("DNS: {error}"));
    let mut question = [0; 512];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut question).await else { continue };
        if let Some(answer) = answer(&question[..length], |name| addresses(&services, &slices, name)) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

/// The addresses of a name; `None` if there is no such name.
fn addresses(services: &Watch, slices: &Watch, name: &str) -> Option<Vec<Ipv4Addr>> {
    let (service, namespace) = name.strip_suffix(DOMAIN)?.trim_end_matches('.').split_once('.')?;
    let object = services.get(namespace, service)?;
    let ips = object["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if ips.clone().any(|ip| ip != "None") {
        return Some(ips.filter_map(|ip| ip.parse().ok()).collect());
    }
    let of_service = |slice: &Value| {
        let labels = &slice["metadata"]["labels"];
        slice["metadata"]["namespace"] == namespace && labels["kubernetes.io/service-name"] == service
    };
    let slices = slices.all();
    let endpoints = slices.iter().filter(|slice| of_service(slice)).flat_map(|slice| slice["endpoints"].as_array());
    let ready = endpoints.flatten().filter(|endpoint| endpoint["conditions"]["ready"] != false);
    Some(ready.filter_map(|endpoint| endpoint["addresses"][0].as_str()?.parse().ok()).collect())
}

/// The answer to a message with one question; `None` if it is no such message.
fn answer(message: &[u8], addresses: impl Fn(&str) -> Option<Vec<Ipv4Addr>>) -> Option<Vec<u8>> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let (mut name, mut at) = (vec![], 12);
    loop {
        match usize::from(*message.get(at)?) {
            0 => break,
            length => name.push(std::str::from_utf8(message.get(at + 1..at + 1 + length)?).ok()?.to_ascii_lowercase()),
        }
        at += 1 + usize::from(message[at]);
    }
    let question = message.get(12..at + 5)?;
    let asks_for = u16::from_be_bytes([message[at + 1], message[at + 2]]);
    let found = addresses(&name.join("."));
    let code = if found.is_some() { 0 } else { NO_SUCH_NAME };
    // What has no such addresses exists all the same.
    let found = found.filter(|_| asks_for == A).unwrap_or_default();
    let mut answer = message[..2].to_vec();
    // An authoritative answer; recursion, if it was wanted, is available.
    answer.extend([0x84 | message[2] & 1, 0x80 | code]);
    answer.extend([0, 1]);
    answer.extend((found.len() as u16).to_be_bytes());
    answer.extend([0, 0, 0, 0]);
    answer.extend(question);
    for ip in found {
        // The name is that of the question, at byte 12.
        answer.extend([0xc0, 12]);
        answer.extend(A.to_be_bytes());
        answer.extend(IN.to_be_bytes());
        answer.extend(TTL.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(ip.octets());
    }
    Some(answer)
}

#[cfg(test)]
mod tests;
