//! The stage with Fairway on it, which its tests share; and what the stage
//! itself promises.

pub mod pods;
pub mod walkthrough;

use fairway_integration_tests::runner;
use fairway_integration_tests::stage::Stage;
use tokio::sync::OnceCell;

const MESH: &str = include_str!("../../stage/mesh.yaml");

static SHARED: OnceCell<Stage> = OnceCell::const_new();

/// A stage with a control plane and ztunnels.
async fn shared() -> &'static Stage {
    let stage = SHARED.get_or_init(|| async {
        let stage = Stage::start().await;
        runner::show_on_failure("stage", stage.log_path());
        stage.apply(MESH).await;
        stage.ready_pod("istio-system", "app=istiod").await;
        stage.ztunnels().await;
        stage
    });
    let stage = stage.await;
    runner::show_on_failure("stage", stage.log_path());
    let istiod = stage.ready_pod("istio-system", "app=istiod").await;
    runner::show_on_failure("the stage's fairway", stage.pod_log("istio-system", &istiod).unwrap());
    stage
}

/// Ends what is shared.
pub async fn stop() {
    if let Some(stage) = SHARED.get() {
        stage.stop().await;
    }
}
