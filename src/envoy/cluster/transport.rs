//! What a DestinationRule has spoken on the connections of a cluster: TLS, and
//! a PROXY header before it. A waypoint speaks it inside of HBONE where the
//! endpoint is reached by that. `ISTIO_MUTUAL` is what HBONE does already.
//! <https://istio.io/latest/docs/reference/config/networking/destination-rule/#ClientTLSSettings>

use envoy_types::pb::envoy::config::core::v3::proxy_protocol_config::Version;
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, ProxyProtocolConfig, TransportSocket, UpstreamHttpProtocolOptions, data_source,
};
use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SdsSecretConfig, TlsParameters, UpstreamTlsContext,
};

use crate::api::destination_rule::ClientTlsSettings;
use crate::api::mesh::MeshConfig;
use crate::credential::{Asked, Part, Provider, sds_name};
use crate::envoy::tls;
use crate::model::destination_rule::Policy;
use crate::model::service::{Resolution, Service};

/// What is spoken; bytes as they are, unless something is said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Transport<'a> {
    tls: Option<Tls<'a>>,
    proxy_protocol: Option<Version>,
}

/// TLS that is not the mesh's own.
#[derive(Clone, Copy, Debug)]
struct Tls<'a> {
    settings: &'a ClientTlsSettings,
    /// Names of which the server has to have one.
    names: &'a [std::sync::Arc<str>],
    /// Whether each host is its own server: its certificate is always compared.
    dynamic: bool,
}

/// What cannot be done.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// The field of the policy.
    pub field: &'static str,
    /// A CamelCase reason.
    pub reason: &'static str,
    /// The same for a person.
    pub message: String,
}

impl<'a> Transport<'a> {
    /// What a policy asks for. What cannot be done is not left out: there are
    /// no connections then.
    pub fn of(policy: &Policy<'a>, service: &'a Service) -> Result<Self, Refused> {
        let proxy_protocol = match policy.proxy_protocol.map(|header| &*header.version) {
            None => None,
            Some("" | "V1") => Some(Version::V1),
            Some("V2") => Some(Version::V2),
            Some(other) => {
                let message = format!("{other:?} is not a version of the PROXY protocol");
                return Err(refused("proxyProtocol.version", message));
            }
        };
        let tls = match policy.tls {
            Some(settings) => Tls::of(settings, service)?,
            None => None,
        };
        Ok(Self { tls, proxy_protocol })
    }

    /// Whether bytes are sent as they are.
    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// What HTTP has to do with it: the server's name, and the name that its
    /// certificate is compared with, come from each request.
    pub fn http(&self) -> Option<UpstreamHttpProtocolOptions> {
        let tls = self.tls?;
        let (auto_sni, auto_san_validation) = (tls.auto_sni(), tls.auto_san());
        (auto_sni || auto_san_validation).then(|| UpstreamHttpProtocolOptions {
            auto_sni,
            auto_san_validation,
            ..Default::default()
        })
    }

    /// Whether a cluster whose endpoints are the hosts of requests is to be
    /// taken by Envoy although it does not compare each with its certificate.
    pub fn insecure(&self) -> bool {
        self.tls.is_none_or(|tls| !(tls.auto_sni() && tls.auto_san()))
    }

    /// The credentials that the control plane is asked for, by name.
    pub fn credentials(&self) -> impl Iterator<Item = String> {
        let tls = self.tls.into_iter();
        let asked = tls.flat_map(|tls| [tls.certificate(), tls.authority().filter(|_| !tls.insecure())]);
        asked.flatten().map(|secret| secret.name).filter(|name| Asked::parse(name, "any").is_some())
    }

    /// The socket; `http2` says that HTTP/2 is spoken in any case.
    pub fn socket(&self, mesh: &MeshConfig, http2: bool) -> TransportSocket {
        let inner = self.tls.map_or_else(tls::raw_buffer, |tls| tls.socket(mesh, http2));
        let Some(version) = self.proxy_protocol else { return inner };
        let header = ProxyProtocolUpstreamTransport {
            config: Some(ProxyProtocolConfig { version: version.into(), ..Default::default() }),
            transport_socket: Some(inner),
            ..Default::default()
        };
        tls::named("envoy.transport_sockets.upstream_proxy_protocol", &header)
    }
}

impl<'a> Tls<'a> {
    fn of(settings: &'a ClientTlsSettings, service: &'a Service) -> Result<Option<Self>, Refused> {
        let mutual = match &*settings.mode {
            // It may be meant for a mode that asks for TLS.
            "" if !settings.unknown.is_empty() => false,
            "" | "DISABLE" | "ISTIO_MUTUAL" => return Ok(None),
            "SIMPLE" => false,
            "MUTUAL" => true,
            other => return Err(refused("tls.mode", format!("{other:?} is not a mode of TLS"))),
        };
        if !settings.unknown.is_empty() {
            let names: Vec<_> = settings.unknown.names().collect();
            return Err(refused("tls", format!("{} is not known to this version", names.join(", "))));
        }
        let credential = &*settings.credential_name;
        let needed = mutual || !settings.insecure();
        match sds_name(credential) {
            _ if credential.is_empty() || !needed => {}
            (_, Provider::Nobody) => {
                let message = format!("{credential:?} is not the name of a credential");
                return Err(Refused { field: "tls.credentialName", reason: "InvalidCredentialName", message });
            }
            // Envoy would take nothing else of the cluster either.
            (name, _) if mutual && name.starts_with("configmap://") => {
                return Err(refused("tls.credentialName", "a ConfigMap has no key to present"));
            }
            _ => {}
        }
        if mutual
            && credential.is_empty()
            && (settings.client_certificate.is_empty() || settings.private_key.is_empty())
        {
            return Err(refused("tls", "mode MUTUAL needs clientCertificate and privateKey"));
        }
        // What a service says of itself counts where the rule says nothing.
        let names = if settings.subject_alt_names.is_empty() {
            &service.subject_alt_names
        } else {
            &settings.subject_alt_names
        };
        Ok(Some(Self { settings, names, dynamic: service.resolution == Resolution::DynamicDns }))
    }

    fn insecure(&self) -> bool {
        self.settings.insecure()
    }

    /// What is presented, by whom, if anything is.
    fn certificate(&self) -> Option<SdsSecretConfig> {
        let ClientTlsSettings { credential_name, client_certificate, private_key, .. } = self.settings;
        match (&*self.settings.mode, &**credential_name) {
            ("MUTUAL", "") => Some(tls::file_secret(format!("file-cert:{client_certificate}~{private_key}"))),
            ("MUTUAL", name) => tls::named_credential(name, Part::Certificate),
            _ => None,
        }
    }

    /// Who is trusted. A credential comes before files, and these before the
    /// roots of the proxy's system.
    fn authority(&self) -> Option<SdsSecretConfig> {
        let ClientTlsSettings { credential_name, ca_certificates, .. } = self.settings;
        match (&**credential_name, &**ca_certificates) {
            ("", "") => Some(tls::file_secret("file-root:system".into())),
            ("", file) => Some(tls::file_secret(format!("file-root:{file}"))),
            (name, _) => tls::named_credential(name, Part::Authority),
        }
    }

    fn auto_sni(&self) -> bool {
        self.settings.sni.is_empty()
    }

    fn auto_san(&self) -> bool {
        !self.insecure() && (self.dynamic || (self.auto_sni() && self.names.is_empty()))
    }

    fn socket(&self, mesh: &MeshConfig, http2: bool) -> TransportSocket {
        let settings = self.settings;
        let validation = match self.insecure() {
            true => ValidationContextType::ValidationContext(CertificateValidationContext::default()),
            false => ValidationContextType::CombinedValidationContext(self.validation()),
        };
        let (cipher_suites, ecdh_curves) = tls::server::known(&mesh.tls_defaults);
        let common = CommonTlsContext {
            alpn_protocols: if http2 { vec!["h2".into()] } else { Vec::new() },
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: TlsProtocol::TlSv12.into(),
                tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
                cipher_suites,
                ecdh_curves,
                ..Default::default()
            }),
            tls_certificate_sds_secret_configs: self.certificate().into_iter().collect(),
            validation_context_type: Some(validation),
            ..Default::default()
        };
        let context = UpstreamTlsContext {
            common_tls_context: Some(common),
            sni: settings.sni.to_string(),
            ..Default::default()
        };
        tls::named("envoy.transport_sockets.tls", &context)
    }

    fn validation(&self) -> CombinedCertificateValidationContext {
        let settings = self.settings;
        let crl = (!settings.ca_crl.is_empty()).then(|| DataSource {
            specifier: Some(data_source::Specifier::Filename(settings.ca_crl.to_string())),
            ..Default::default()
        });
        CombinedCertificateValidationContext {
            default_validation_context: Some(CertificateValidationContext {
                match_typed_subject_alt_names: self.names.iter().flat_map(|name| tls::any_name(name)).collect(),
                crl,
                ..Default::default()
            }),
            validation_context_sds_secret_config: self.authority(),
            ..Default::default()
        }
    }
}

fn refused(field: &'static str, message: impl Into<String>) -> Refused {
    Refused { field, reason: "UnsupportedValue", message: message.into() }
}
