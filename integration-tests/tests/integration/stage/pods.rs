//! What the stage says of pods is true.

use std::collections::BTreeSet;

use fairway_integration_tests::eventually;
use fairway_integration_tests::stage::{Stage, is_ready};
use fairway_integration_tests::watch::Object;
use serde_json::Value;

use super::shared;

/// Waits for a pod whose status is as wanted.
async fn state(stage: &Stage, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Object {
    stage
        .wait_for(&format!("{name} {what}"), |stage| match stage.pods("life", &format!("app={name}")).as_slice() {
            [pod] if is(&pod["status"]) => Ok(pod.clone()),
            other => Err(format!("{:?}", other.iter().map(|pod| pod["status"].to_string()).collect::<Vec<_>>())),
        })
        .await
}

/// A pod waits for what it mounts, has it where it should be, and is restarted
/// or not as it wishes.
pub async fn life() {
    let stage = shared().await;
    stage.apply("{apiVersion: v1, kind: Namespace, metadata: {name: life}}").await;
    stage
        .apply(
            r#"
apiVersion: v1
kind: Pod
metadata: {name: waits, namespace: life, labels: {app: waits, of: words}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: c
      image: fairway.test/sleep:any
      env:
        - {name: WHO, value: "$(POD) at $(IP)"}
        - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: AGAIN, value: "$(POD) at $(IP)"}
      volumeMounts:
        - {name: map, mountPath: /etc/some/map}
        - {name: info, mountPath: /var/run/info}
        - {name: scratch, mountPath: /scratch}
  volumes:
    - {name: map, configMap: {name: late}}
    - {name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
    - {name: scratch, emptyDir: {}}
---
apiVersion: v1
kind: Pod
metadata: {name: fails, namespace: life, labels: {app: fails}}
spec:
  restartPolicy: Never
  containers: [{name: c, image: fairway.test/sleep, command: [sh, -c, "exit 7"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: again, namespace: life, labels: {app: again}}
spec:
  containers: [{name: c, image: fairway.test/sleep, command: [sh, -c, "exit 3"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: unknown, namespace: life, labels: {app: unknown}}
spec:
  containers: [{name: c, image: example.com/nobody/knows}]
"#,
        )
        .await;
    let container = |status: &Value| status["containerStatuses"][0].clone();
    state(stage, "waits", "waits", |status| {
        status["phase"] == "Pending" && container(status)["state"]["waiting"]["reason"] == "ContainerCreating"
    })
    .await;
    state(stage, "unknown", "has no image", |status| {
        status["phase"] == "Pending" && container(status)["state"]["waiting"]["reason"] == "ErrImagePull"
    })
    .await;
    state(stage, "fails", "has failed", |status| {
        status["phase"] == "Failed" && container(status)["state"]["terminated"]["exitCode"] == 7
    })
    .await;
    state(stage, "again", "is started again", |status| {
        let container = container(status);
        container["restartCount"].as_u64() >= Some(1) && container["lastState"]["terminated"]["exitCode"] == 3
    })
    .await;

    stage.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: late, namespace: life}, data: {key: value}}").await;
    let pod = state(stage, "waits", "runs", |status| status["phase"] == "Running").await;
    assert!(is_ready(&pod), "{}", pod["status"]);
    let ip = pod["status"]["podIP"].as_str().unwrap();
    let said = stage
        .exec("life", "waits", &["sh", "-ec", "echo $WHO; echo $AGAIN; cat /etc/some/map/key; echo; grep -E '^(app|of)=' /var/run/info/labels; touch /scratch/x; hostname"])
        .await;
    let wanted = format!("$(POD) at $(IP)\nwaits at {ip}\nvalue\napp=\"waits\"\nof=\"words\"\nwaits\n");
    assert_eq!((said.code, said.stdout.as_str()), (0, wanted.as_str()), "{}", said.stderr);
    // There is a network of its own, and no way out of it.
    let out = stage.exec("life", "waits", &["curl", "-sS", "-m", "5", "http://192.0.2.1/"]).await;
    assert_eq!(out.code, 7, "{out:?}");
    let names = stage.exec("life", "waits", &["getent", "ahostsv4", "istiod.istio-system"]).await;
    assert!(names.stdout.starts_with(&stage.service_ip("istio-system", "istiod").await.to_string()), "{names:?}");

    stage
        .apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: late, namespace: life}, data: {other: value}}")
        .await;
    eventually("the volume changes with its ConfigMap", || async {
        let files = stage.exec("life", "waits", &["ls", "/etc/some/map"]).await;
        if files.stdout == "other\n" { Ok(()) } else { Err(files) }
    })
    .await;

    stage.kubectl("delete namespace life --wait=false").await;
    stage
        .wait_for("all of it ends", |stage| {
            let left = stage.pods("life", "app=waits").len() + stage.pods("life", "app=again").len();
            if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
        })
        .await;
}

/// Services have names and addresses that lead to their pods, and only to those
/// that are ready.
pub async fn services() {
    let stage = shared().await;
    stage
        .apply(
            r"
apiVersion: v1
kind: Namespace
metadata: {name: serve}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: serve}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: c
          image: fairway.test/echo
          env: [{name: PORT, value: '8000'}]
          readinessProbe: {httpGet: {path: /, port: 8000}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: late, namespace: serve, labels: {app: web, late: late}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: c
      image: fairway.test/sleep
      readinessProbe: {tcpSocket: {port: 8000}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: serve}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 8000}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: serve}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 8000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: serve, labels: {app: client}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: fairway.test/sleep}]
",
        )
        .await;
    stage.ready_pod("serve", "app=client").await;
    let ips = stage
        .wait_for("two of three pods are ready", |stage| {
            let pods = stage.pods("serve", "app=web");
            let ready: BTreeSet<_> = pods.iter().filter(|pod| is_ready(pod)).map(|pod| ip(pod)).collect();
            if (pods.len(), ready.len()) == (3, 2) { Ok(ready) } else { Err(format!("{ready:?} of {}", pods.len())) }
        })
        .await;
    // It runs, and says that it is not ready.
    let late = stage.pods("serve", "late=late");
    assert_eq!((&late[0]["status"]["phase"], is_ready(&late[0])), (&Value::from("Running"), false));
    eventually("both answer at the Service's name, and nobody else", || async {
        let loops = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do curl -sS -m 5 http://web/; echo; done";
        let said = stage.exec("serve", "client", &["sh", "-c", loops]).await;
        let who = said.stdout.lines().map(|line| Ok(serde_json::from_str::<Value>(line)?["who"].to_string()));
        let who =
            who.collect::<Result<BTreeSet<_>, serde_json::Error>>().map_err(|error| format!("{error}: {said:?}"))?;
        if who.len() == 2 { Ok(()) } else { Err(format!("{who:?}")) }
    })
    .await;
    eventually("both are the headless Service's", || async {
        let said = stage.exec("serve", "client", &["getent", "ahostsv4", "headless.serve.svc.cluster.local"]).await;
        let found: BTreeSet<_> =
            said.stdout.lines().filter_map(|line| line.split(' ').next()).map(String::from).collect();
        if found == ips { Ok(()) } else { Err(format!("{found:?}, not {ips:?}")) }
    })
    .await;
    // From where the nodes are.
    let url = format!("http://{}/", stage.load_balancer_ip("serve", "web").await);
    eventually("an answer at the load balancer's address", || async {
        let output = tokio::process::Command::new("curl").args(["-sS", "-m", "5", &url]).output().await;
        let output = output.map_err(|error| error.to_string())?;
        if output.stdout.starts_with(b"{\"who\":\"web-") { Ok(()) } else { Err(format!("{output:?}")) }
    })
    .await;
    stage.kubectl("delete namespace serve --wait=false").await;
}

fn ip(pod: &Value) -> String {
    pod["status"]["podIP"].as_str().unwrap_or_default().to_owned()
}
