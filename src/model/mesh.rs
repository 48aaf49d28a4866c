//! The mesh configuration, as far as it is read: `MeshConfig` in the key
//! `mesh` of ConfigMap `istio` (or `istio-<revision>`).
//! <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/>

use std::sync::{Arc, LazyLock};

use crate::api::ObjectKey;
use crate::api::core::ConfigMap;
use crate::graph::{Collection, Ctx, Diagnostic, Graph, Severity};

use super::{Settings, problem};

pub use crate::api::mesh::MeshConfig;

static DEFAULT: LazyLock<MeshConfig> = LazyLock::new(MeshConfig::default);

/// The name of the ConfigMap with the mesh configuration.
pub fn config_map(settings: &Settings) -> ObjectKey {
    let name: Arc<str> = match &*settings.revision {
        "default" | "" => "istio".into(),
        revision => format!("istio-{revision}").into(),
    };
    ObjectKey { namespace: settings.system_namespace.clone(), name }
}

/// What objects say of the mesh, as far as it is read: a change of all else is
/// none.
pub fn said(
    graph: &mut Graph,
    config_maps: Collection<ObjectKey, ConfigMap>,
    settings: &Settings,
) -> Collection<(), MeshConfig> {
    let named = config_map(settings);
    graph.derive("mesh_config", config_maps, move |cx, key: &ObjectKey, map| {
        let said = map.data.mesh.as_deref().filter(|_| *key == named)?;
        for word in said.words() {
            let found = problem("ConfigMap", &map.meta, format!("data.mesh.{}", word.field), word.reason, word.message);
            cx.diagnose(Diagnostic { severity: Severity::Warning, ..found });
        }
        Some(((), MeshConfig { given: Arc::default(), ..said.clone() }))
    })
}

/// The mesh configuration in force: that of the process's own file, else what
/// objects say, else the defaults.
pub fn config<'a>(cx: &Ctx<'a>, said: Collection<(), MeshConfig>, settings: &'a Settings) -> &'a MeshConfig {
    settings.mesh_file.as_deref().or_else(|| cx.get(said, &())).unwrap_or(&DEFAULT)
}
