//! What is asked for: the scopes that have a proxy connected, and what proxies
//! need to be looked up for them. Connecting and going away are facts like any
//! other; whoever works things out follows them here.

use std::sync::Arc;

use smallvec::SmallVec;
use tokio::sync::watch;

use crate::proxy::Scope;

/// What is asked for with the number of streams that do.
pub type Wanted<K = Scope> = imbl::OrdMap<K, usize>;

/// Counts the streams that ask for each thing.
#[derive(Debug)]
pub struct Demand<K: Ord + Clone = Scope> {
    wanted: watch::Sender<Wanted<K>>,
}

impl<K: Ord + Clone> Default for Demand<K> {
    fn default() -> Self {
        Self { wanted: watch::Sender::new(Wanted::new()) }
    }
}

impl<K: Ord + Clone> Demand<K> {
    /// What is asked for, now and from now on.
    pub fn follow(&self) -> watch::Receiver<Wanted<K>> {
        self.wanted.subscribe()
    }

    /// Asks for things until the result is dropped.
    pub fn hold(self: &Arc<Self>, keys: impl IntoIterator<Item = K>) -> Held<K> {
        let keys: SmallVec<[K; 1]> = keys.into_iter().collect();
        self.wanted.send_if_modified(|wanted| {
            let mut modified = false;
            for key in &keys {
                let streams = wanted.entry(key.clone()).or_insert(0);
                *streams += 1;
                modified |= *streams == 1;
            }
            modified
        });
        Held { demand: self.clone(), keys }
    }
}

/// The demand of one stream.
#[derive(Debug)]
pub struct Held<K: Ord + Clone = Scope> {
    demand: Arc<Demand<K>>,
    keys: SmallVec<[K; 1]>,
}

impl<K: Ord + Clone> Drop for Held<K> {
    fn drop(&mut self) {
        self.demand.wanted.send_if_modified(|wanted| {
            let mut modified = false;
            for key in &self.keys {
                match wanted.get_mut(key) {
                    Some(streams) if *streams > 1 => *streams -= 1,
                    _ => modified |= wanted.remove(key).is_some(),
                }
            }
            modified
        });
    }
}
