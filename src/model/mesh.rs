//! The mesh configuration, as far as it is read: `MeshConfig` in the key
//! `mesh` of ConfigMap `istio` (or `istio-<revision>`).
//! <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/>

use std::sync::{Arc, LazyLock};

use crate::api::ObjectKey;
use crate::api::core::ConfigMap;
use crate::graph::{Collection, Ctx};

use super::Settings;

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

/// The mesh configuration in force: that of the process's own file, else that
/// of the ConfigMap, else the defaults.
pub fn config<'a>(
    cx: &Ctx<'a>,
    config_maps: Collection<ObjectKey, ConfigMap>,
    settings: &'a Settings,
) -> &'a MeshConfig {
    if let Some(given) = &settings.mesh_file {
        return given;
    }
    let map = cx.get(config_maps, &config_map(settings));
    map.and_then(|map| map.data.mesh.as_deref()).unwrap_or(&DEFAULT)
}
