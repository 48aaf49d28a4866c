//! What the stage says of pods is true.

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
    fairway_integration_tests::eventually("the volume changes with its ConfigMap", || async {
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
