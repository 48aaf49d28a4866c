use super::*;
use crate::api::mesh::ProxyConfig;

fn mesh(text: &str) -> MeshConfig {
    MeshConfig::from_yaml(text).unwrap()
}

fn settings(mesh: &MeshConfig) -> HttpSettings<'_> {
    let ProxyConfig { proxy_headers: headers, gateway_topology: topology, .. } = &mesh.default_config;
    HttpSettings { mesh, headers, topology, http10: false }
}

fn manager(text: &str) -> HttpConnectionManager {
    let given = HttpConnectionManager {
        server_name: "istio-envoy".into(),
        normalize_path: boolean(true),
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::KeepUnchanged.into(),
        ..Default::default()
    };
    let mesh = mesh(text);
    with_settings(given, settings(&mesh))
}

#[test]
fn paths() {
    for (normalization, normalized, merged, unescaped) in [
        ("DEFAULT", true, false, false),
        ("BASE", true, false, false),
        ("FROM_THE_FUTURE", true, false, false),
        ("NONE", false, false, false),
        ("MERGE_SLASHES", true, true, false),
        ("DECODE_AND_MERGE_SLASHES", true, true, true),
    ] {
        let manager = manager(&format!("{{pathNormalization: {{normalization: {normalization}}}}}"));
        assert_eq!(manager.normalize_path, boolean(normalized), "{normalization}");
        assert_eq!(manager.merge_slashes, merged, "{normalization}");
        let action = PathWithEscapedSlashesAction::UnescapeAndForward;
        assert_eq!(manager.path_with_escaped_slashes_action() == action, unescaped, "{normalization}");
    }
}

#[test]
fn headers() {
    let plain = manager("{}");
    assert_eq!(plain.server_name, "istio-envoy");
    assert_eq!(plain.generate_request_id, None);
    assert!(!plain.append_x_forwarded_port && plain.http_protocol_options.is_none());
    let changed = manager(
        "{defaultConfig: {proxyHeaders: {server: {value: mine}, requestId: {disabled: true}, \
         xForwardedPort: {enabled: true}, preserveHttp1HeaderCase: true}}}",
    );
    assert_eq!(changed.server_name, "mine");
    assert_eq!(changed.generate_request_id, boolean(false));
    assert!(changed.append_x_forwarded_port && changed.http_protocol_options.is_some());
    let passed = manager("{defaultConfig: {proxyHeaders: {server: {disabled: true, value: mine}}}}");
    assert_eq!(passed.server_name, "");
    assert_eq!(passed.server_header_transformation(), ServerHeaderTransformation::PassThrough);
}

#[test]
fn certificates_are_forwarded_as_the_mesh_says() {
    let of = |mode: &str| {
        let mesh = mesh(&format!("{{defaultConfig: {{proxyHeaders: {{forwardedClientCert: {mode}}}}}}}"));
        forwarded_client_certificate(&mesh.default_config.proxy_headers)
    };
    assert_eq!(of("UNDEFINED"), ForwardClientCertDetails::AppendForward);
    assert_eq!(of("SANITIZE"), ForwardClientCertDetails::Sanitize);
    assert_eq!(of("SANITIZE_SET"), ForwardClientCertDetails::SanitizeSet);
    assert_eq!(of("ALWAYS_FORWARD_ONLY"), ForwardClientCertDetails::AlwaysForwardOnly);
}
