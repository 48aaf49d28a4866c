//! What of a `MeshConfig` is not as its author meant: words that nobody knows,
//! settings that have no effect here, values that there are not. None of it is in
//! the way of the rest, so it is reported and not refused.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::MeshConfig;
use crate::api::schema;

/// What is wrong with a field.
#[derive(Debug, PartialEq, Eq)]
pub struct Word {
    /// Its path in the mesh configuration, such as `defaultConfig.tracing.sampling`.
    pub field: String,
    /// Fit for a condition.
    pub reason: &'static str,
    /// For a person.
    pub message: String,
}

/// Fields of Istio's `MeshConfig` that the model does not read, although what they
/// are for is here.
/// <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#MeshConfig>
const WITHOUT_EFFECT: &[&str] = &[
    "ca",
    "caCertificates",
    "certificates",
    "configSources",
    "enableEnvoyAccessLogService",
    "inboundClusterStatName",
    "meshMTLS",
    "outboundClusterStatName",
    "serviceEntryVisibility",
    "serviceSettings",
];

/// Those that are about sidecars or several clusters, which there are not, or for
/// the proxy's own container: charts and profiles set them, and nobody misses
/// anything.
const NOT_OURS: &[&str] = &[
    "enablePrometheusMerge",
    "inboundTrafficPolicy",
    "outboundTrafficPolicy",
    "protocolDetectionTimeout",
    "proxyHttpPort",
    "proxyInboundListenPort",
    "proxyListenPort",
    "serviceScopeConfigs",
    "verifyCertificateAtClient",
];

/// Fields of `ProxyConfig` that the model does not read: they are for the bootstrap
/// of a proxy, which its agent makes.
/// <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#ProxyConfig>
const OF_PROXIES: &[&str] = &[
    "availabilityZone",
    "binaryPath",
    "caCertificatesPem",
    "concurrency",
    "configPath",
    "connectionSettings",
    "controlPlaneAuthPolicy",
    "customConfigFile",
    "discoveryRefreshDelay",
    "drainDuration",
    "envoyAccessLogService",
    "envoyMetricsService",
    "envoyMetricsServiceAddress",
    "extraStatTags",
    "fileFlushInterval",
    "fileFlushMinSizeKb",
    "holdApplicationUntilProxyStarts",
    "image",
    "interceptionMode",
    "meshId",
    "privateKeyProvider",
    "proxyAdminPort",
    "proxyBootstrapTemplatePath",
    "proxyMetadata",
    "proxyStatsMatcher",
    "readinessProbe",
    "runtimeValues",
    "sds",
    "serviceCluster",
    "statNameLength",
    "statsCompression",
    "statsdUdpAddress",
    "statusPort",
    "terminationDrainDuration",
    "tracingServiceName",
    "zipkinAddress",
];

/// The values that there are.
const VALUES: &[(&str, &[&str])] = &[
    ("/accessLogEncoding", &["TEXT", "JSON"]),
    ("/h2UpgradePolicy", &["DO_NOT_UPGRADE", "UPGRADE"]),
    ("/ingressControllerMode", &["UNSPECIFIED", "OFF", "DEFAULT", "STRICT"]),
    ("/pathNormalization/normalization", &["DEFAULT", "NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"]),
    ("/tlsDefaults/minProtocolVersion", &["TLS_AUTO", "TLSV1_2", "TLSV1_3"]),
];

/// The names of fields that models read, of the mesh and of its proxies.
static READ: LazyLock<(BTreeSet<String>, BTreeSet<String>)> = LazyLock::new(|| {
    let schema = schema::of_model::<MeshConfig>().unwrap_or_default();
    let names = |pointer: &str| {
        let fields = schema.pointer(pointer).and_then(Value::as_object);
        fields.into_iter().flat_map(Map::keys).cloned().collect()
    };
    (names("/properties"), names("/properties/defaultConfig/properties"))
});

impl MeshConfig {
    /// What of it is not as its author meant, in no order that matters.
    pub fn words(&self) -> Vec<Word> {
        let mut words = Vec::new();
        let (read, read_of_proxies) = &*READ;
        for name in self.given.keys().filter(|name| !read.contains(*name) && !NOT_OURS.contains(&name.as_str())) {
            words.push(match WITHOUT_EFFECT.contains(&name.as_str()) {
                true => word(name, "NoEffect", "has no effect here"),
                false => unknown(name),
            });
        }
        let proxies = self.given.get("defaultConfig").and_then(Value::as_object);
        let known = |name: &String| read_of_proxies.contains(name) || OF_PROXIES.contains(&name.as_str());
        let fields = proxies.into_iter().flat_map(Map::keys).filter(|name| !known(name));
        words.extend(fields.map(|name| unknown(&format!("defaultConfig.{name}"))));
        let given = |pointer: &str| {
            let mut path = pointer.split('/').skip(1);
            let first = path.next().and_then(|name| self.given.get(name));
            path.try_fold(first?, |value, name| value.get(name))
        };
        for (pointer, values) in VALUES {
            let value = given(pointer).and_then(Value::as_str).filter(|value| !value.is_empty());
            if let Some(value) = value.filter(|value| !values.contains(value)) {
                let field = pointer[1..].replace('/', ".");
                let message = format!("{value:?} is none of {}", values.join(", "));
                words.push(word(&field, "UnsupportedValue", &message));
            }
        }
        let sampling = given("/defaultConfig/tracing/sampling").and_then(Value::as_f64);
        if let Some(sampling) = sampling.filter(|sampling| !(0.0..=100.0).contains(sampling)) {
            let message = format!("{sampling} is no percentage: 0 to 100");
            words.push(word("defaultConfig.tracing.sampling", "UnsupportedValue", &message));
        }
        words
    }
}

fn unknown(field: &str) -> Word {
    word(field, "UnknownField", "is no field that is known; it has no effect")
}

fn word(field: &str, reason: &'static str, message: &str) -> Word {
    Word { field: field.to_owned(), reason, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(yaml: &str) -> Vec<String> {
        let words = MeshConfig::from_yaml(yaml).unwrap().words();
        words.into_iter().map(|word| format!("{} {}: {}", word.reason, word.field, word.message)).collect()
    }

    #[test]
    fn what_nobody_knows_is_said() {
        let said = words(
            "accessLogFil: /dev/stdout\ncaCertificates: []\nh2UpgradePolicy: FOO\n\
             defaultConfig: {holdAplicationUntilProxyStarts: true, tracing: {sampling: 500}}\n\
             pathNormalization: {normalization: ALL}\n",
        );
        assert_eq!(
            said,
            [
                "UnknownField accessLogFil: is no field that is known; it has no effect",
                "NoEffect caCertificates: has no effect here",
                "UnknownField defaultConfig.holdAplicationUntilProxyStarts: is no field that is known; it has no effect",
                "UnsupportedValue h2UpgradePolicy: \"FOO\" is none of DO_NOT_UPGRADE, UPGRADE",
                "UnsupportedValue pathNormalization.normalization: \"ALL\" is none of DEFAULT, NONE, BASE, \
                 MERGE_SLASHES, DECODE_AND_MERGE_SLASHES",
                "UnsupportedValue defaultConfig.tracing.sampling: 500 is no percentage: 0 to 100",
            ]
        );
    }

    /// As istiod's chart writes it.
    #[test]
    fn of_what_is_usual_nothing_is_said() {
        let usual = "accessLogFile: /dev/stdout\n\
             defaultConfig: {discoveryAddress: 'istiod.istio-system.svc:15012', proxyMetadata: {A: b}, tracing: {}}\n\
             defaultProviders: {metrics: [prometheus]}\nenablePrometheusMerge: true\nh2UpgradePolicy: UPGRADE\n\
             rootNamespace: istio-system\ntrustDomain: cluster.local\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}\n\
             serviceScopeConfigs: [{scope: GLOBAL}]\n\
             tlsDefaults: {minProtocolVersion: TLSV1_3}\n";
        assert_eq!(words(usual), [] as [&str; 0]);
        assert_eq!(words(""), [] as [&str; 0]);
    }

    #[test]
    fn no_field_is_in_two_lists() {
        let (read, of_proxies) = &*READ;
        assert!(read.contains("trustDomain") && of_proxies.contains("tracing"), "{READ:?}");
        let mut all: Vec<&str> = WITHOUT_EFFECT.iter().chain(NOT_OURS).copied().collect();
        assert!(all.iter().all(|name| !read.contains(*name)));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), WITHOUT_EFFECT.len() + NOT_OURS.len());
        assert!(OF_PROXIES.iter().all(|name| !of_proxies.contains(*name)));
    }
}
