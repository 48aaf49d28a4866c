//! The environment variables of istiod that Fairway reads, and those it knows
//! of and does not.

use std::collections::BTreeMap;
use std::time::Duration;

use super::duration;
use super::traces::Traces;

/// What the environment says.
#[derive(Clone, Debug)]
pub struct Environment {
    /// `PILOT_ENABLE_AMBIENT`: whether ztunnels are served. On by default:
    /// they are what Fairway is for.
    pub ambient: bool,
    /// `CA_TRUSTED_NODE_ACCOUNTS`: who may ask for certificates of the pods on
    /// its node.
    pub trusted_node_accounts: Vec<String>,
    /// `PILOT_DEBOUNCE_AFTER` and `PILOT_DEBOUNCE_MAX`, if either is set.
    pub debounce: Option<(Duration, Duration)>,
    /// `ISTIO_GPRC_MAXSTREAMS` (sic).
    pub max_streams: u32,
    /// `ISTIO_GPRC_MAXRECVMSGSIZE` (sic), if set: the longest request of
    /// authenticated callers. Ours is larger than istiod's, because at istiod's
    /// 4 MiB a ztunnel in a large mesh cannot reconnect.
    pub max_message: Option<usize>,
    /// `XDS_AUTH`: whether callers on TLS must authenticate.
    pub xds_auth: bool,
    /// `PILOT_ENABLE_XDS_IDENTITY_CHECK`.
    pub xds_identity_check: bool,
    /// `XDS_AUTH_PLAINTEXT`.
    pub xds_auth_plaintext: bool,
    /// `ENABLE_CA_SERVER`.
    pub ca_server: bool,
    /// `DEFAULT_WORKLOAD_CERT_TTL`.
    pub default_ttl: Duration,
    /// `MAX_WORKLOAD_CERT_TTL`.
    pub max_ttl: Duration,
    /// `CITADEL_SELF_SIGNED_CA_CERT_TTL`.
    pub root_ttl: Duration,
    /// `CITADEL_SELF_SIGNED_ROOT_CERT_CHECK_INTERVAL`.
    pub root_check_interval: Duration,
    /// `CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE`.
    pub root_grace_percent: u8,
    /// `CITADEL_SELF_SIGNED_CA_RSA_KEY_SIZE`, if set: an RSA root is wanted.
    pub root_rsa_bits: Option<u32>,
    /// `ROOT_CA_DIR`.
    pub root_ca_dir: String,
    /// `USE_CACERTS_FOR_SELF_SIGNED_CA`.
    pub cacerts_for_self_signed: bool,
    /// `FAIRWAY_CA_SPREAD`: by how much replicas may differ in when they learn
    /// of new CA key material.
    pub ca_spread: Duration,
    /// `PILOT_CA_CERT_CONFIGMAP`.
    pub root_config_map: String,
    /// `JWT_RULE`: JSON of an issuer whose tokens are accepted.
    pub jwt_rule: Option<String>,
    /// `TOKEN_AUDIENCES` (or `AUDIENCE`).
    pub audiences: Vec<String>,
    /// `PILOT_CERT_PROVIDER`.
    pub cert_provider: String,
    /// `ISTIOD_CUSTOM_HOST`.
    pub custom_host: String,
    /// `CLUSTER_ID`.
    pub cluster: String,
    /// `REVISION`.
    pub revision: String,
    /// `POD_NAME`.
    pub pod_name: String,
    /// `POD_NAMESPACE`.
    pub pod_namespace: String,
    /// `KUBECONFIG`.
    pub kubeconfig: String,
    /// `AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY`.
    pub dry_run_policies: bool,
    /// `PILOT_JWT_ENABLE_REMOTE_JWKS`: who fetches the keys of token issuers.
    pub keys_fetched_by: KeysFetchedBy,
    /// `PILOT_SCOPE_GATEWAY_TO_NAMESPACE`.
    pub gateways_in_own_namespace: bool,
    /// `K8S_INGRESS_NS`: the namespace of the proxies that Ingresses are for.
    pub ingress_namespace: String,
    /// `PILOT_FILTER_GATEWAY_CLUSTER_CONFIG`: whether gateways are told of
    /// services only if routes lead there. On unless turned off, unlike in
    /// istiod.
    pub filter_gateway_clusters: bool,
    /// `PILOT_JWT_PUB_KEY_REFRESH_INTERVAL`.
    pub key_refresh: Duration,
    /// `BLOCKED_CIDRS_IN_JWKS_URIS`: where such keys must not be.
    pub blocked_key_networks: Vec<ipnet::IpNet>,
    /// `PILOT_ENABLE_PERSISTENT_SESSION_FILTER`: whether services may ask by label
    /// that sessions are kept.
    pub persistent_sessions: bool,
    /// `DEBUG_ENDPOINT_AUTH_ALLOWED_NAMESPACES`: whose accounts see all debug pages,
    /// besides those of the control plane's own namespace.
    pub debug_namespaces: Vec<String>,
    /// `PILOT_HTTP10`: whether all Envoys take HTTP/1.0.
    pub http10: bool,
    /// `METRICS_LOCALHOST_ACCESS_ONLY`.
    pub metrics_local_only: bool,
    /// `PROXY_IMAGE`, if set: the image of waypoints, whatever the installer's
    /// values say.
    pub proxy_image: Option<String>,
    /// `PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER`.
    pub deploy_gateways: bool,
    /// `PILOT_WAYPOINT_PROGRAMMED`: `istio` for a waypoint that is programmed
    /// as soon as it has an address.
    pub programmed_by_address: bool,
    /// `PILOT_ENABLE_IP_AUTOALLOCATE`, `PILOT_IP_AUTOALLOCATE_IPV4_PREFIX` and
    /// `PILOT_IP_AUTOALLOCATE_IPV6_PREFIX`: where ServiceEntries without
    /// addresses get some from, if they do.
    pub auto_allocation: Option<(ipnet::Ipv4Net, ipnet::Ipv6Net)>,
    /// Where traces go.
    pub traces: Traces,
}

/// Who fetches the keys of token issuers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeysFetchedBy {
    /// The control plane.
    ControlPlane,
    /// Proxies what is in the mesh, else the control plane.
    Either,
    /// Proxies.
    Envoy,
}

/// Beginnings of names that only istiod's settings have.
const ISTIOD_PREFIXES: &[&str] = &[
    "PILOT_",
    "CITADEL_",
    "AMBIENT_",
    "ISTIOD_",
    "ISTIO_GPRC_",
    "ISTIO_DELTA_XDS",
    "UNSAFE_",
    "EXTERNAL_",
    "K8S_SIGNER",
    "CERT_SIGNER_",
    "ENABLE_",
    "INJECT",
    "VALIDATION_WEBHOOK",
    "JWKS_RESOLVER_",
    "DEBUG_ENDPOINT_",
    "COMPLIANCE_POLICY",
    "TRUSTED_GATEWAY_CIDR",
    "TOKEN_ISSUER",
    "USE_REMOTE_CERTS",
];

impl Environment {
    /// Reads variables. Returns also the names of istiod's settings that are
    /// set and have no effect. An error names the variable.
    pub fn read(variables: impl IntoIterator<Item = (String, String)>) -> Result<(Self, Vec<String>), String> {
        let mut reader = Reader { variables: variables.into_iter().collect(), read: Vec::new() };
        let environment = Self::from_reader(&mut reader)?;
        let ignored = reader.variables.keys().filter(|name| {
            let istiods = ISTIOD_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            // Kubernetes sets service addresses that look alike.
            let service = ["_SERVICE_HOST", "_PORT", "_PROTO", "_ADDR"].iter().any(|part| name.contains(part));
            istiods && !service && !reader.read.contains(&name.as_str())
        });
        let mut ignored: Vec<_> = ignored.cloned().collect();
        if environment.cert_provider != "istiod" {
            ignored.push(format!("PILOT_CERT_PROVIDER={}", environment.cert_provider));
        }
        Ok((environment, ignored))
    }

    fn from_reader(reader: &mut Reader) -> Result<Self, String> {
        let debounce = (reader.duration_if_set("PILOT_DEBOUNCE_AFTER")?, reader.duration_if_set("PILOT_DEBOUNCE_MAX")?);
        let debounce = match debounce {
            (None, None) => None,
            (after, most) => {
                Some((after.unwrap_or(Duration::from_millis(100)), most.unwrap_or(Duration::from_secs(10))))
            }
        };
        let audience = reader.text("AUDIENCE", "istio-ca");
        let ca_server = reader.flag("ENABLE_CA_SERVER", true)?;
        if let Some(authority) = reader.value("EXTERNAL_CA")
            && ca_server
        {
            // A root of our own beside that one would divide the mesh.
            return Err(format!(
                "EXTERNAL_CA: {authority:?} cannot be asked for certificates; with ENABLE_CA_SERVER=false none are \
                 signed here"
            ));
        }
        Ok(Self {
            ambient: reader.flag("PILOT_ENABLE_AMBIENT", true)?,
            trusted_node_accounts: reader.list("CA_TRUSTED_NODE_ACCOUNTS", "istio-system/ztunnel"),
            debounce,
            max_streams: reader.number("ISTIO_GPRC_MAXSTREAMS", 100_000)?,
            max_message: reader.number_if_set("ISTIO_GPRC_MAXRECVMSGSIZE")?,
            xds_auth: reader.flag("XDS_AUTH", true)?,
            xds_identity_check: reader.flag("PILOT_ENABLE_XDS_IDENTITY_CHECK", true)?,
            xds_auth_plaintext: reader.flag("XDS_AUTH_PLAINTEXT", false)?,
            ca_server,
            default_ttl: reader.lifetime("DEFAULT_WORKLOAD_CERT_TTL", "24h")?,
            max_ttl: reader.lifetime("MAX_WORKLOAD_CERT_TTL", "2160h")?,
            root_ttl: reader.lifetime("CITADEL_SELF_SIGNED_CA_CERT_TTL", "87600h")?,
            root_check_interval: reader.duration("CITADEL_SELF_SIGNED_ROOT_CERT_CHECK_INTERVAL", "1h")?,
            root_grace_percent: reader.number("CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE", 20)?,
            root_rsa_bits: reader.number_if_set("CITADEL_SELF_SIGNED_CA_RSA_KEY_SIZE")?,
            root_ca_dir: reader.text("ROOT_CA_DIR", "./etc/cacerts"),
            cacerts_for_self_signed: reader.flag("USE_CACERTS_FOR_SELF_SIGNED_CA", false)?,
            ca_spread: reader.duration("FAIRWAY_CA_SPREAD", "5m")?,
            root_config_map: reader.text("PILOT_CA_CERT_CONFIGMAP", "istio-ca-root-cert"),
            jwt_rule: reader.value("JWT_RULE"),
            audiences: reader.list("TOKEN_AUDIENCES", &audience),
            cert_provider: reader.text("PILOT_CERT_PROVIDER", "istiod"),
            custom_host: {
                // A certificate with a name that is none is refused for all of them.
                let hosts = reader.list("ISTIOD_CUSTOM_HOST", "");
                if let Some(host) = hosts.iter().find(|host| !is_host(host)) {
                    return Err(format!("ISTIOD_CUSTOM_HOST: {host:?} is neither a host name nor an address"));
                }
                hosts.join(",")
            },
            cluster: reader.text("CLUSTER_ID", "Kubernetes"),
            revision: reader.text("REVISION", "default"),
            // Two processes on one machine must not pass for one replica.
            pod_name: reader.value("POD_NAME").unwrap_or_else(|| format!("fairway-{}", std::process::id())),
            pod_namespace: reader.text("POD_NAMESPACE", "istio-system"),
            kubeconfig: reader.text("KUBECONFIG", ""),
            dry_run_policies: reader.flag("AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY", false)?,
            keys_fetched_by: match reader.text("PILOT_JWT_ENABLE_REMOTE_JWKS", "false").as_str() {
                "istiod" | "false" => KeysFetchedBy::ControlPlane,
                "hybrid" | "true" => KeysFetchedBy::Either,
                "envoy" => KeysFetchedBy::Envoy,
                other => {
                    return Err(format!("PILOT_JWT_ENABLE_REMOTE_JWKS: {other:?} is not istiod, hybrid or envoy"));
                }
            },
            gateways_in_own_namespace: reader.flag("PILOT_SCOPE_GATEWAY_TO_NAMESPACE", false)?,
            ingress_namespace: reader.text("K8S_INGRESS_NS", "istio-system"),
            filter_gateway_clusters: reader.flag("PILOT_FILTER_GATEWAY_CLUSTER_CONFIG", true)?,
            key_refresh: match reader.duration("PILOT_JWT_PUB_KEY_REFRESH_INTERVAL", "20m")? {
                // More often than that would be an attack on the issuer.
                short if short < Duration::from_secs(1) => {
                    return Err("PILOT_JWT_PUB_KEY_REFRESH_INTERVAL: it is shorter than a second".into());
                }
                interval => interval,
            },
            blocked_key_networks: {
                let networks = reader.list("BLOCKED_CIDRS_IN_JWKS_URIS", "").into_iter();
                let parsed = networks.map(|text| {
                    text.parse().map_err(|_| format!("BLOCKED_CIDRS_IN_JWKS_URIS: {text:?} is no CIDR range"))
                });
                parsed.collect::<Result<_, _>>()?
            },
            persistent_sessions: reader.flag("PILOT_ENABLE_PERSISTENT_SESSION_FILTER", false)?,
            debug_namespaces: reader.list("DEBUG_ENDPOINT_AUTH_ALLOWED_NAMESPACES", ""),
            http10: reader.flag("PILOT_HTTP10", false)?,
            metrics_local_only: reader.flag("METRICS_LOCALHOST_ACCESS_ONLY", false)?,
            proxy_image: reader.value("PROXY_IMAGE"),
            deploy_gateways: reader.flag("PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER", true)?,
            programmed_by_address: match reader.text("PILOT_WAYPOINT_PROGRAMMED", "acknowledged").as_str() {
                "acknowledged" => false,
                "istio" => true,
                other => return Err(format!("PILOT_WAYPOINT_PROGRAMMED: {other:?} is not acknowledged or istio")),
            },
            auto_allocation: auto_allocation(reader)?,
            traces: Traces::read(reader)?,
        })
    }
}

/// Whether a server can be dialled by it.
fn is_host(text: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b'*');
    text.parse::<std::net::IpAddr>().is_ok() || (text.len() <= 253 && text.bytes().all(allowed))
}

/// The pools, unless none are to be used. What they are is not judged then, as
/// in istiod.
fn auto_allocation(reader: &mut Reader) -> Result<Option<(ipnet::Ipv4Net, ipnet::Ipv6Net)>, String> {
    const V4: &str = "PILOT_IP_AUTOALLOCATE_IPV4_PREFIX";
    const V6: &str = "PILOT_IP_AUTOALLOCATE_IPV6_PREFIX";
    let (v4, v6) = (reader.text(V4, "240.240.0.0/16"), reader.text(V6, "2001:2::/48"));
    if !reader.flag("PILOT_ENABLE_IP_AUTOALLOCATE", true)? {
        return Ok(None);
    }
    // Its first address is left out, so there must be a second one.
    let none = |name: &str, text: &str| format!("{name}: {text:?} has no address to allocate");
    let v4_range: ipnet::Ipv4Net = v4.parse().map_err(|_| format!("{V4}: {v4:?} is no CIDR range of IPv4"))?;
    let v6_range: ipnet::Ipv6Net = v6.parse().map_err(|_| format!("{V6}: {v6:?} is no CIDR range of IPv6"))?;
    match (v4_range.prefix_len(), v6_range.prefix_len()) {
        (32, _) => Err(none(V4, &v4)),
        (_, 128) => Err(none(V6, &v6)),
        _ => Ok(Some((v4_range.trunc(), v6_range.trunc()))),
    }
}

pub(super) struct Reader {
    pub(super) variables: BTreeMap<String, String>,
    pub(super) read: Vec<&'static str>,
}

impl Reader {
    /// A variable that is set and not empty.
    pub(super) fn value(&mut self, name: &'static str) -> Option<String> {
        self.read.push(name);
        self.variables.get(name).filter(|value| !value.is_empty()).cloned()
    }

    pub(super) fn text(&mut self, name: &'static str, default: &str) -> String {
        self.value(name).unwrap_or_else(|| default.to_string())
    }

    pub(super) fn list(&mut self, name: &'static str, default: &str) -> Vec<String> {
        let text = self.text(name, default);
        text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(ToString::to_string).collect()
    }

    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> Result<bool, String> {
        match self.value(name).as_deref() {
            None => Ok(default),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(format!("{name}: {other:?} is not true or false")),
        }
    }

    pub(super) fn number<T: std::str::FromStr>(&mut self, name: &'static str, default: T) -> Result<T, String> {
        Ok(self.number_if_set(name)?.unwrap_or(default))
    }

    pub(super) fn number_if_set<T: std::str::FromStr>(&mut self, name: &'static str) -> Result<Option<T>, String> {
        let value = self.value(name);
        value.map(|text| text.parse().map_err(|_| format!("{name}: {text:?} is not a number"))).transpose()
    }

    pub(super) fn duration(&mut self, name: &'static str, default: &str) -> Result<Duration, String> {
        duration::parse(&self.text(name, default)).map_err(|error| format!("{name}: {error}"))
    }

    /// How long a certificate lives.
    fn lifetime(&mut self, name: &'static str, default: &str) -> Result<Duration, String> {
        let lifetime = self.duration(name, default)?;
        if lifetime.is_zero() {
            return Err(format!("{name}: a certificate has to live for some time"));
        }
        Ok(lifetime)
    }

    pub(super) fn duration_if_set(&mut self, name: &'static str) -> Result<Option<Duration>, String> {
        let value = self.value(name);
        value.map(|text| duration::parse(&text).map_err(|error| format!("{name}: {error}"))).transpose()
    }
}
