//! What a pod says of itself.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{One, Running, State, now};

/// Remembers what was said, because conditions have the time of their last
/// change, and so that nothing is said twice.
pub(super) struct Reporter {
    host: Ipv4Addr,
    started: String,
    conditions: BTreeMap<&'static str, (bool, String)>,
    sent: Value,
}

impl Reporter {
    pub(super) fn new(host: Ipv4Addr) -> Self {
        Self { host, started: now(), conditions: BTreeMap::new(), sent: Value::Null }
    }

    /// The status, if it is not what was sent last.
    pub(super) fn status(&mut self, pod: &Value, ip: Option<Ipv4Addr>, containers: &[One]) -> Option<Value> {
        let statuses: Vec<_> = containers.iter().map(container).collect();
        let ready = statuses.iter().all(|status| status["ready"] == true);
        let conditions = [
            ("PodReadyToStartContainers", ip.is_some()),
            ("Initialized", true),
            ("Ready", ready),
            ("ContainersReady", ready),
            ("PodScheduled", true),
        ];
        let conditions: Vec<_> = conditions.into_iter().map(|(name, is)| self.condition(name, is)).collect();
        let mut status = json!({
            "phase": phase(containers),
            "hostIP": self.host,
            "hostIPs": [{ "ip": self.host }],
            "startTime": self.started,
            "observedGeneration": pod["metadata"]["generation"],
            "conditions": conditions,
            "containerStatuses": statuses,
        });
        if let Some(ip) = ip {
            status["podIP"] = json!(ip);
            status["podIPs"] = json!([{ "ip": ip }]);
        }
        (status != self.sent).then_some(status)
    }

    pub(super) fn sent(&mut self, status: Value) {
        self.sent = status;
    }

    fn condition(&mut self, name: &'static str, is: bool) -> Value {
        let entry = self.conditions.entry(name).or_insert_with(|| (is, now()));
        if entry.0 != is {
            *entry = (is, now());
        }
        json!({ "type": name, "status": if is { "True" } else { "False" }, "lastTransitionTime": entry.1 })
    }
}

fn phase(containers: &[One]) -> &'static str {
    let ended = containers.iter().filter_map(|one| match one.state {
        State::Terminated(code, ..) => Some(code),
        _ => None,
    });
    let ended: Vec<_> = ended.collect();
    if ended.len() == containers.len() {
        return if ended.iter().all(|code| *code == 0) { "Succeeded" } else { "Failed" };
    }
    // One that was started once has begun, whatever it is doing now.
    let begun = |one: &One| one.restarts > 0 || !matches!(one.state, State::Waiting(..));
    if containers.iter().all(begun) { "Running" } else { "Pending" }
}

pub(super) fn terminated(code: i32, since: &str, until: &str) -> Value {
    let reason = if code == 0 { "Completed" } else { "Error" };
    json!({ "exitCode": code, "reason": reason, "startedAt": since, "finishedAt": until })
}

fn container(one: &One) -> Value {
    let succeeded = |probe: &Option<super::Probe>| probe.as_ref().is_none_or(|probe| probe.result == Some(true));
    let (started, ready) = match &one.state {
        State::Running(Running::Process(_), _) => {
            let started = succeeded(&one.startup);
            (started, started && succeeded(&one.readiness))
        }
        State::Running(Running::Ztunnel(proxy), _) => (true, proxy.is_ready()),
        _ => (false, false),
    };
    let state = match &one.state {
        State::Waiting(reason, message) if message.is_empty() => json!({ "waiting": { "reason": reason } }),
        State::Waiting(reason, message) => json!({ "waiting": { "reason": reason, "message": message } }),
        State::Running(_, since) => json!({ "running": { "startedAt": since } }),
        State::Terminated(code, since, until) => json!({ "terminated": terminated(*code, since, until) }),
    };
    json!({
        "name": one.spec["name"],
        "image": one.spec["image"],
        "imageID": "",
        "restartCount": one.restarts,
        "started": started,
        "ready": ready,
        "state": state,
        "lastState": one.last.clone().unwrap_or_else(|| json!({})),
    })
}
