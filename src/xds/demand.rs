//! Which scopes are asked for: those that have a proxy connected. Connecting
//! and going away are facts like any other; whoever works out configurations
//! follows them here.

use std::sync::Arc;

use tokio::sync::watch;

use crate::proxy::Scope;

/// The scopes with the number of streams of each.
pub type Wanted = imbl::OrdMap<Scope, usize>;

/// Counts the streams of each scope.
#[derive(Debug)]
pub struct Demand {
    wanted: watch::Sender<Wanted>,
}

impl Default for Demand {
    fn default() -> Self {
        Self { wanted: watch::Sender::new(Wanted::new()) }
    }
}

impl Demand {
    /// What is asked for, now and from now on.
    pub fn follow(&self) -> watch::Receiver<Wanted> {
        self.wanted.subscribe()
    }

    /// Asks for a scope until the result is dropped.
    pub fn hold(self: &Arc<Self>, scope: Scope) -> Held {
        self.wanted.send_if_modified(|wanted| {
            let streams = wanted.entry(scope.clone()).or_insert(0);
            *streams += 1;
            *streams == 1
        });
        Held { demand: self.clone(), scope }
    }
}

/// The demand of one stream.
#[derive(Debug)]
pub struct Held {
    demand: Arc<Demand>,
    scope: Scope,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.demand.wanted.send_if_modified(|wanted| match wanted.get_mut(&self.scope) {
            Some(streams) if *streams > 1 => {
                *streams -= 1;
                false
            }
            _ => wanted.remove(&self.scope).is_some(),
        });
    }
}
