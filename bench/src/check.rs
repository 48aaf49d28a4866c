//! The checking client: decodes everything it is sent, applies it, and
//! compares what it then holds with what the objects mean. A run that it
//! disagrees with is void.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use fairway_proto::security::Authorization;
use fairway_proto::workload::{Address, WorkloadStatus, address};
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::{Credentials, Hello, begin, place, printable};
use crate::http2::{Receiver, Target, grpc};
use crate::mesh::Expected;
use crate::message::{Message, Walker};
use crate::world::World;

/// How many updates are kept to be sent by a limit server.
const KEPT: usize = 400;

/// What an address is, as far as it is compared.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A workload.
    Workload(Expected),
    /// The address of a service.
    Service(Ipv4Addr),
}

/// What is held under a name.
struct Held {
    version: String,
    /// Of the payload.
    hash: [u8; 32],
    fact: Fact,
}

/// Something that happened to a workload.
pub struct Event {
    /// When its last byte was read.
    pub at: Instant,
    /// The workload.
    pub name: String,
    /// Whether it was said to be healthy; none if it was removed.
    pub healthy: Option<bool>,
}

/// What the checking client was told.
#[derive(Default)]
pub struct Table {
    addresses: HashMap<String, Held>,
    policies: HashMap<String, String>,
    /// Messages until everything was there.
    pub first: Vec<Vec<u8>>,
    /// Some of the messages after that.
    pub updates: Vec<Vec<u8>>,
    /// How many there were.
    pub messages: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Bytes of resources and removed names after that.
    pub resource_bytes: usize,
    /// The same without those that said what was known.
    pub needed_bytes: usize,
    /// What happened to workloads after that.
    pub events: Vec<Event>,
    synced: bool,
    failure: Option<String>,
}

impl Table {
    /// Names and versions of everything that is held.
    pub fn versions(&self) -> [Vec<(String, String)>; 2] {
        let addresses = self.addresses.iter().map(|(name, held)| (name.clone(), held.version.clone()));
        [addresses.collect(), self.policies.iter().map(|(name, version)| (name.clone(), version.clone())).collect()]
    }

    /// A kept update of about the mean size.
    pub fn typical_update(&self) -> Option<Vec<u8>> {
        let mean = self.bytes.checked_div(self.messages)?;
        self.updates.iter().min_by_key(|update| update.len().abs_diff(mean)).cloned()
    }

    fn apply(&mut self, message: &Message, at: Instant) -> anyhow::Result<()> {
        let response = DeltaDiscoveryResponse::decode(message.bytes.as_slice())?;
        let (walked, decoded) = (message.resources, response.resources.len());
        ensure!(walked == decoded, "{walked} resources were counted and {decoded} decoded");
        ensure!(response.nonce.as_bytes() == message.nonce, "the nonce was not read right");
        let is_policy = place(&message.type_url)? == 1;
        if self.synced {
            self.messages += 1;
            self.bytes += message.bytes.len();
            if self.updates.len() < KEPT && !response.resources.is_empty() {
                self.updates.push(message.bytes.clone());
            }
        } else {
            self.first.push(message.bytes.clone());
        }
        for resource in response.resources {
            let (name, size) = (resource.name.clone(), resource.encoded_len());
            let payload = resource.resource.with_context(|| format!("{name} is empty"))?.value;
            let known = if is_policy {
                let policy = Authorization::decode(payload.as_slice())?;
                ensure!(format!("{}/{}", policy.namespace, policy.name) == name, "a policy was sent as {name}");
                self.policies.insert(name, resource.version.clone()).is_some_and(|version| version == resource.version)
            } else {
                self.hold(name, resource.version, &payload, at)?
            };
            self.count(size, !known);
        }
        for name in response.removed_resources {
            let known = match is_policy {
                true => self.policies.remove(&name).is_some(),
                false => self.addresses.remove(&name).is_some(),
            };
            self.count(name.len(), known);
            if self.synced && !is_policy {
                self.events.push(Event { at, name, healthy: None });
            }
        }
        Ok(())
    }

    fn count(&mut self, size: usize, needed: bool) {
        if self.synced {
            self.resource_bytes += size;
            self.needed_bytes += if needed { size } else { 0 };
        }
    }

    /// Keeps an address and says whether it was known already.
    fn hold(&mut self, name: String, version: String, payload: &[u8], at: Instant) -> anyhow::Result<bool> {
        let fact = fact(&name, payload)?;
        if let (true, Fact::Workload(workload)) = (self.synced, &fact) {
            self.events.push(Event { at, name: name.clone(), healthy: Some(workload.healthy) });
        }
        let held = Held { version, hash: openssl::sha::sha256(payload), fact };
        let hash = held.hash;
        Ok(self.addresses.insert(name, held).is_some_and(|held| held.hash == hash))
    }

    /// Compares with what the objects mean.
    pub fn compare(&self, world: &World) -> anyhow::Result<()> {
        let workloads = world.mesh.workloads().into_iter().map(|(name, expected)| (name, Fact::Workload(expected)));
        let services = world.mesh.services().into_iter().map(|(name, address)| (name, Fact::Service(address)));
        let extra =
            world.extra_services().iter().map(|(name, address)| ((*name).into(), Fact::Service((*address).into())));
        let mut count = 0;
        for (name, expected) in workloads.chain(services).chain(extra) {
            count += 1;
            let held = self.addresses.get(&name).with_context(|| format!("{name} is missing"))?;
            ensure!(held.fact == expected, "{name}: {:?}, not {expected:?}", held.fact);
        }
        ensure!(self.addresses.len() == count, "{} addresses are held, {count} expected", self.addresses.len());
        let expected: BTreeSet<_> = world.mesh.policies().into_iter().collect();
        let held: BTreeSet<_> = self.policies.keys().cloned().collect();
        ensure!(held == expected, "policies differ: {:?}", held.symmetric_difference(&expected).next());
        Ok(())
    }
}

fn fact(name: &str, payload: &[u8]) -> anyhow::Result<Fact> {
    let ip = |bytes: Option<&[u8]>| -> anyhow::Result<Ipv4Addr> {
        let octets: [u8; 4] = bytes.context("no address")?.try_into().context("not an IPv4 address")?;
        Ok(octets.into())
    };
    match Address::decode(payload)?.r#type {
        Some(address::Type::Workload(workload)) => {
            ensure!(workload.uid == name, "{} was sent as {name}", workload.uid);
            Ok(Fact::Workload(Expected {
                address: ip(workload.addresses.first().map(|bytes| &**bytes))?,
                service: workload.services.keys().next().cloned(),
                healthy: workload.status() == WorkloadStatus::Healthy,
                waypoint: workload.waypoint.is_some(),
                node: workload.node,
                revision: workload.canonical_revision,
            }))
        }
        Some(address::Type::Service(service)) => {
            ensure!(format!("{}/{}", service.namespace, service.hostname) == name, "a service was sent as {name}");
            Ok(Fact::Service(ip(service.addresses.first().map(|address| &*address.address))?))
        }
        None => bail!("{name} is neither workload nor service"),
    }
}

/// One stream of the checking client.
struct Checking {
    walker: Walker,
    table: Rc<RefCell<Table>>,
    complete: [usize; 2],
    had: [bool; 2],
}

impl Receiver for Checking {
    fn data(&mut self, bytes: &[u8], reply: &mut Vec<u8>) -> anyhow::Result<()> {
        let Self { walker, table, complete, had } = self;
        walker.read(bytes, |message| {
            reply.extend(grpc(&message.ack()));
            let mut table = table.borrow_mut();
            table.apply(&message, Instant::now())?;
            had[place(&message.type_url)?] = true;
            let counts = [table.addresses.len(), table.policies.len()];
            table.synced |= *had == [true; 2] && counts.iter().zip(&*complete).all(|(count, least)| count >= least);
            Ok(())
        })
    }

    fn ended(&mut self, headers: &[u8]) -> anyhow::Result<()> {
        bail!("the server ended the stream: {}", printable(headers))
    }
}

/// How a checking client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As soon as it can.
    Full,
    /// So many bytes a second.
    Bytes(usize),
    /// Not at all.
    Stopped,
}

/// A checking client that is connected.
pub struct Checker {
    /// What it holds.
    pub table: Rc<RefCell<Table>>,
    pace: watch::Sender<Pace>,
    task: JoinHandle<()>,
}

impl Checker {
    /// Connects with nothing. To be called within a `LocalSet`.
    pub fn start(target: &Target, credentials: &Credentials, hello: &Hello) -> Self {
        Self::resume(target, credentials, hello, Rc::default())
    }

    /// Connects with what is held.
    pub fn resume(target: &Target, credentials: &Credentials, hello: &Hello, table: Rc<RefCell<Table>>) -> Self {
        {
            let mut table = table.borrow_mut();
            // Whoever held it before may have seen its connection end.
            (table.synced, table.failure) = (false, None);
        }
        let (target, credentials, hello) = (target.clone(), credentials.clone(), hello.clone());
        let sink = table.clone();
        let (pace, mut paced) = watch::channel(Pace::Full);
        let task = tokio::task::spawn_local(async move {
            let run = async {
                let mut connection = begin(&target, &credentials, &hello).await?;
                let mut checking = Checking {
                    walker: Walker::new(true),
                    table: sink.clone(),
                    complete: hello.complete,
                    had: [false; 2],
                };
                loop {
                    let pace = *paced.borrow_and_update();
                    // What is waited for is always something to read, which
                    // can be left and taken up again.
                    match pace {
                        Pace::Full => tokio::select! {
                            exchanged = connection.exchange(&mut checking) => exchanged?,
                            _ = paced.changed() => {}
                        },
                        Pace::Stopped => paced.changed().await?,
                        Pace::Bytes(rate) => {
                            connection.read_at_most = rate / 10;
                            tokio::select! {
                                exchanged = connection.exchange(&mut checking) => exchanged?,
                                _ = paced.changed() => {}
                            }
                            connection.read_at_most = usize::MAX;
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                    }
                }
            };
            let ended: anyhow::Result<()> = run.await;
            if let Err(error) = ended {
                sink.borrow_mut().failure = Some(format!("{error:#}"));
            }
        });
        Self { table, pace, task }
    }

    /// Has it read in another way from now on.
    pub fn set_pace(&self, pace: Pace) {
        self.pace.send_replace(pace);
    }

    /// Waits until it has everything that it was told to wait for.
    pub async fn synced(&self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            {
                let table = self.table.borrow();
                if let Some(failure) = &table.failure {
                    bail!("void: the checking client failed: {failure}");
                }
                if table.synced {
                    return Ok(());
                }
                let count = table.addresses.len();
                ensure!(Instant::now() < deadline, "void: the checking client has {count} addresses after {limit:?}");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until it holds what the objects mean, which makes a run count.
    pub async fn agrees(&self, world: &World, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        self.synced(limit).await?;
        loop {
            let compared = self.table.borrow().compare(world);
            match compared {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context("void: the checking client disagrees"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
            self.synced(limit).await?;
        }
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests;
