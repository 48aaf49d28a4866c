//! Many clients of several replicas, as a Service spreads them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::ztunnel::{Options, Ztunnel};

/// How many connect at the same time.
const AT_ONCE: usize = 20;

/// Clients, each as strict as a ztunnel. What they have is not sent to them
/// again, or they complain.
pub struct Crowd {
    clients: Vec<Ztunnel>,
    /// For each of them, where its history was when it was last marked.
    marks: Vec<usize>,
}

impl Crowd {
    /// Starts so many, spread over the replicas, and waits until they are ready.
    pub async fn start(count: usize, replicas: &[SocketAddr]) -> Self {
        let mut clients: Vec<Ztunnel> = vec![];
        for first in (0..count).step_by(AT_ONCE) {
            let next = (first..count.min(first + AT_ONCE)).map(|number| {
                let mut others = replicas.to_vec();
                others.rotate_left(number % replicas.len());
                let address = others.remove(0);
                Ztunnel::start(Options { others, ..Options::plaintext(address) })
            });
            let begun = clients.len();
            clients.extend(next);
            for client in &clients[begun..] {
                client.until_ready().await;
            }
        }
        let marks = vec![0; clients.len()];
        let mut crowd = Self { clients, marks };
        crowd.mark();
        crowd
    }

    /// One of them.
    pub fn first(&self) -> &Ztunnel {
        &self.clients[0]
    }

    /// From here on what is taken away counts.
    pub fn mark(&mut self) {
        self.marks = self.clients.iter().map(|client| client.read(|table| table.now())).collect();
    }

    /// What was taken away from anybody since.
    pub fn removed(&self) -> BTreeSet<String> {
        let of_client = |(client, mark): (&Ztunnel, &usize)| client.read(|table| table.removed_since(*mark));
        self.clients.iter().zip(&self.marks).flat_map(of_client).collect()
    }

    /// Waits until everybody is connected and has a resource that was updated
    /// since `since`, and returns how long that took.
    pub async fn until_all_have(&self, since: Instant, limit: Duration, name: &str) -> Duration {
        for client in &self.clients {
            let left = limit.saturating_sub(since.elapsed());
            client
                .until_within(left, &format!("everybody has {name}"), |table| {
                    let has = table.versions.values().any(|held| held.contains_key(name));
                    match table.connected && has {
                        true => Ok(()),
                        false => Err(format!("connected: {}, last error: {:?}", table.connected, table.last_error)),
                    }
                })
                .await;
        }
        since.elapsed()
    }

    /// Waits until everybody has what the first has.
    pub async fn until_all_agree(&self, limit: Duration) {
        let wanted = self.first().retained();
        for client in &self.clients {
            client
                .until_within(limit, "everybody has the same", |table| match table.versions == wanted {
                    true => Ok(()),
                    false => Err("it has something else".into()),
                })
                .await;
        }
    }

    /// How many are connected.
    pub fn connected(&self) -> usize {
        self.clients.iter().filter(|client| client.read(|table| table.connected)).count()
    }

    /// The longest time that any of them was without a stream.
    pub fn longest_absence(&self) -> Duration {
        self.clients.iter().map(|client| client.read(|table| table.absence())).max().unwrap_or_default()
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.clients.iter().map(|client| client.read(|table| table.connections)).sum()
    }

    /// Panics if a rule was broken, which includes that something was sent again.
    pub fn assert_correct(&self) {
        self.clients.iter().for_each(Ztunnel::assert_correct);
    }
}
