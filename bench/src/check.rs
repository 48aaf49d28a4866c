//! The checking client: decodes everything it is sent and compares it with
//! what was generated. A run it disagrees with is void.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use fairway_proto::security::Authorization;
use fairway_proto::workload::{Address, address};
use prost::Message as _;

use crate::client::{Credentials, first_responses};
use crate::http2::Target;
use crate::mesh::{Expected, Mesh};
use crate::message::Message;

/// Connects, compares both first responses with the mesh, and returns them.
pub async fn check(target: &Target, credentials: &Credentials, mesh: &Mesh) -> anyhow::Result<(Message, Message)> {
    let (addresses, policies) = first_responses(target, credentials, Duration::from_secs(60)).await?;
    compare_addresses(&addresses, mesh).context("void: the checking client disagrees about addresses")?;
    compare_policies(&policies, mesh).context("void: the checking client disagrees about policies")?;
    Ok((addresses, policies))
}

fn decode(message: &Message) -> anyhow::Result<DeltaDiscoveryResponse> {
    let response = DeltaDiscoveryResponse::decode(message.bytes.as_slice())?;
    let (walked, decoded) = (message.resources, response.resources.len());
    ensure!(walked == decoded, "{walked} resources were counted and {decoded} decoded");
    ensure!(response.removed_resources.is_empty(), "something is removed in a first response");
    ensure!(response.nonce.as_bytes() == message.nonce, "the nonce was not read right");
    Ok(response)
}

fn compare_addresses(message: &Message, mesh: &Mesh) -> anyhow::Result<()> {
    let (mut workloads, mut services) = (mesh.workloads(), mesh.services());
    for resource in decode(message)?.resources {
        let name = resource.name;
        let payload = resource.resource.with_context(|| format!("{name} is empty"))?.value;
        match Address::decode(payload.as_slice())?.r#type {
            Some(address::Type::Workload(workload)) => {
                ensure!(workload.uid == name, "{} was sent as {name}", workload.uid);
                let expected = workloads.remove(&name).with_context(|| format!("{name} is unknown or came twice"))?;
                let sent = Expected {
                    address: ip(workload.addresses.first().map(|bytes| &**bytes))?,
                    service: workload.services.keys().next().cloned(),
                    node: workload.node,
                };
                ensure!(sent == expected, "{name}: {sent:?}, not {expected:?}");
            }
            Some(address::Type::Service(service)) => {
                ensure!(format!("{}/{}", service.namespace, service.hostname) == name, "a service was sent as {name}");
                let expected = services.remove(&name).with_context(|| format!("{name} is unknown or came twice"))?;
                let sent = ip(service.addresses.first().map(|address| &*address.address))?;
                ensure!(sent == expected, "{name}: {sent}, not {expected}");
            }
            None => bail!("{name} is neither workload nor service"),
        }
    }
    let missing = workloads.keys().chain(services.keys()).next();
    ensure!(
        missing.is_none(),
        "{} and {} others are missing",
        missing.map_or("", String::as_str),
        workloads.len() + services.len()
    );
    Ok(())
}

fn compare_policies(message: &Message, mesh: &Mesh) -> anyhow::Result<()> {
    let mut expected = mesh.policies();
    expected.sort();
    let mut sent = Vec::new();
    for resource in decode(message)?.resources {
        let payload = resource.resource.context("a policy is empty")?.value;
        let policy = Authorization::decode(payload.as_slice())?;
        ensure!(format!("{}/{}", policy.namespace, policy.name) == resource.name, "sent as {}", resource.name);
        sent.push(resource.name);
    }
    sent.sort();
    ensure!(sent == expected, "{} policies were sent, {} expected: {sent:?}", sent.len(), expected.len());
    Ok(())
}

fn ip(bytes: Option<&[u8]>) -> anyhow::Result<Ipv4Addr> {
    let octets: [u8; 4] = bytes.context("no address")?.try_into().context("not an IPv4 address")?;
    Ok(octets.into())
}
