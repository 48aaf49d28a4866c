//! How a cluster finds its endpoints.
//! <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/service_discovery>

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, DiscoveryType, DnsLookupFamily, EdsClusterConfig, LbConfig, LbPolicy,
    OriginalDstLbConfig,
};
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::endpoint::v3::LocalityLbEndpoints;
use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3::ClusterConfig;
use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3::cluster_config::ClusterImplementationSpecifier;
use envoy_types::pb::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use envoy_types::pb::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;

use crate::api::mesh::MeshConfig;
use crate::envoy::encode::{any, duration, uint32};
use crate::envoy::endpoint::assignment;
use crate::envoy::tls;
use crate::model::destination_rule::Policy;
use crate::model::service::{Resolution, Service};
use crate::proxy::scope::Families;

/// How a cluster finds its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// They are sent by themselves.
    Eds,
    /// They are in the cluster, with names that are to be resolved. `logical`
    /// says that there is one, of which new connections take the newest answer;
    /// `race`, that all answers are tried.
    Dns {
        /// Whether there is one endpoint.
        logical: bool,
        /// Whether all answers are tried.
        race: bool,
    },
    /// They are the addresses that connections were for, at another port if one
    /// is given.
    OriginalDst(Option<u16>),
    /// They are the hosts that requests are for.
    DynamicDns,
}

impl Discovery {
    /// That of a port of a service.
    pub fn of(service: &Service, port: u16, policy: &Policy<'_>) -> Self {
        let target = |port: u16| {
            let port = service.ports.iter().find(|one| one.number == port)?;
            match port.target {
                crate::api::core::TargetPort::Number(target) if target != port.number => Some(target),
                _ => None,
            }
        };
        match service.resolution {
            // That is how it finds them, whatever a rule says.
            Resolution::DynamicDns => Self::DynamicDns,
            Resolution::Passthrough => Self::OriginalDst(target(port)),
            _ if policy.passthrough() => Self::OriginalDst(None),
            Resolution::Static => Self::Eds,
            Resolution::Dns => Self::Dns { logical: false, race: false },
            Resolution::DnsRoundRobin => Self::Dns { logical: true, race: false },
            Resolution::DnsRace => Self::Dns { logical: true, race: true },
        }
    }

    /// Whether endpoints have a choice of weight and priority.
    pub const fn balances(self) -> bool {
        matches!(self, Self::Eds | Self::Dns { .. })
    }

    /// Sets it. `endpoints` are those in the cluster.
    pub(super) fn apply(
        self,
        cluster: &mut Cluster,
        service: &Service,
        endpoints: Vec<LocalityLbEndpoints>,
        mesh: &MeshConfig,
        families: Families,
        insecure: bool,
    ) {
        match self {
            Self::Eds => {
                let service_name = cluster.name.clone();
                cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
                cluster.eds_cluster_config = Some(EdsClusterConfig { eds_config: Some(tls::ads(true)), service_name });
            }
            Self::Dns { logical, race } => {
                let ty = if logical { DiscoveryType::LogicalDns } else { DiscoveryType::StrictDns };
                cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(ty.into()));
                cluster.load_assignment = Some(assignment(&cluster.name, endpoints));
                dns(cluster, mesh, if race { DnsLookupFamily::All } else { lookup_family(families) });
            }
            Self::OriginalDst(port) => {
                cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into()));
                cluster.lb_policy = LbPolicy::ClusterProvided.into();
                cluster.lb_config = port.map(|port| {
                    LbConfig::OriginalDstLbConfig(OriginalDstLbConfig {
                        upstream_port_override: uint32(port.into()),
                        ..Default::default()
                    })
                });
            }
            Self::DynamicDns => {
                let config = ClusterConfig {
                    allow_insecure_cluster_options: insecure,
                    cluster_implementation_specifier: Some(ClusterImplementationSpecifier::DnsCacheConfig(dns_cache(
                        service, families,
                    ))),
                    ..Default::default()
                };
                cluster.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
                    name: "envoy.clusters.dynamic_forward_proxy".into(),
                    typed_config: Some(any(&config)),
                }));
                cluster.lb_policy = LbPolicy::ClusterProvided.into();
                cluster.lb_config = None;
            }
        }
    }
}

/// The answers of DNS for the hosts below a service's, which its cluster and
/// its filter share by name: both have to be configured alike.
pub fn dns_cache(service: &Service, families: Families) -> DnsCacheConfig {
    DnsCacheConfig {
        name: format!("{}_dfp_dns_cache", service.key.hostname),
        dns_lookup_family: lookup_family(families).into(),
        ..Default::default()
    }
}

/// How often a name is resolved again, unless its answers or the mesh say.
const DNS_REFRESH: Duration = Duration::from_secs(60);
/// Keeps proxies from asking all at once.
const DNS_JITTER: Duration = Duration::from_millis(100);
/// How many questions share a socket, and with it a source port.
const UDP_MAX_QUERIES: u32 = 100;

#[expect(deprecated, reason = "what takes their place is not in every proxy of Istio")]
fn dns(cluster: &mut Cluster, mesh: &MeshConfig, family: DnsLookupFamily) {
    let resolver = CaresDnsResolverConfig { udp_max_queries: uint32(UDP_MAX_QUERIES), ..Default::default() };
    cluster.dns_lookup_family = family.into();
    cluster.typed_dns_resolver_config = Some(TypedExtensionConfig {
        name: "envoy.network.dns_resolver.cares".into(),
        typed_config: Some(any(&resolver)),
    });
    cluster.dns_jitter = duration(DNS_JITTER);
    cluster.dns_refresh_rate = duration(mesh.dns_refresh_rate.unwrap_or(DNS_REFRESH));
    cluster.respect_dns_ttl = true;
}

/// Which answers a proxy can use.
fn lookup_family(families: Families) -> DnsLookupFamily {
    match families {
        Families::V4 => DnsLookupFamily::V4Only,
        Families::V6 => DnsLookupFamily::V6Only,
        Families::Dual => DnsLookupFamily::V4Preferred,
    }
}
