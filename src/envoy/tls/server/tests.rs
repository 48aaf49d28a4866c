use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use prost::Message;

use super::*;

fn own(name: &str) -> ServerCertificate {
    ServerCertificate::Secret(name.into())
}

fn server(mode: TlsMode) -> ServerTls {
    ServerTls { mode, certificates: Box::new([own("kubernetes://own")]), ..ServerTls::default() }
}

fn mutual(mode: TlsMode) -> ServerTls {
    ServerTls { client_ca: Some(ClientCa::Secret("kubernetes://own-cacert".into())), ..server(mode) }
}

fn context(tls: &ServerTls) -> (DownstreamTlsContext, Vec<(&'static str, Flaw)>) {
    within(tls, true, &MeshConfig::default())
}

fn within(tls: &ServerTls, http: bool, mesh: &MeshConfig) -> (DownstreamTlsContext, Vec<(&'static str, Flaw)>) {
    let Terminated { socket, problems } =
        downstream(tls, http, mesh).unwrap_or_else(|(field, flaw)| panic!("{field}: {flaw:?}"));
    let Some(ConfigType::TypedConfig(any)) = socket.config_type else { panic!("a configuration") };
    assert_eq!(socket.name, "envoy.transport_sockets.tls");
    (DownstreamTlsContext::decode(&any.value[..]).unwrap(), problems)
}

/// `name by ads`, or by which cluster, for each secret that is asked for.
fn by(secrets: &[SdsSecretConfig]) -> Vec<String> {
    let source = |secret: &SdsSecretConfig| match &secret.sds_config.as_ref().unwrap().config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(_)) => "ads",
        Some(ConfigSourceSpecifier::ApiConfigSource(_)) => "agent",
        other => panic!("{other:?}"),
    };
    secrets.iter().map(|secret| format!("{} by {}", secret.name, source(secret))).collect()
}

fn presented(context: &DownstreamTlsContext) -> Vec<String> {
    by(&context.common_tls_context.as_ref().unwrap().tls_certificate_sds_secret_configs)
}

fn validated(context: &DownstreamTlsContext) -> Option<(Vec<String>, CertificateValidationContext)> {
    match context.common_tls_context.clone().unwrap().validation_context_type? {
        ValidationContextType::CombinedValidationContext(combined) => {
            let authority = combined.validation_context_sds_secret_config.unwrap();
            Some((by(&[authority]), combined.default_validation_context.unwrap()))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_presents_what() {
    let table: [(ServerTls, bool, &[&str], Option<&str>); 5] = [
        (server(TlsMode::Simple), false, &["kubernetes://own by ads"], None),
        (mutual(TlsMode::Mutual), true, &["kubernetes://own by ads"], Some("kubernetes://own-cacert by ads")),
        (mutual(TlsMode::OptionalMutual), false, &["kubernetes://own by ads"], Some("kubernetes://own-cacert by ads")),
        (
            ServerTls { mode: TlsMode::IstioMutual, ..ServerTls::default() },
            true,
            &["default by agent"],
            Some("ROOTCA by agent"),
        ),
        (
            ServerTls {
                certificates: Box::new([ServerCertificate::Files {
                    certificate: "/c".into(),
                    private_key: "/k".into(),
                }]),
                client_ca: Some(ClientCa::File("/ca".into())),
                ..server(TlsMode::Mutual)
            },
            true,
            &["file-cert:/c~/k by agent"],
            Some("file-root:/ca by agent"),
        ),
    ];
    for (tls, required, certificates, authority) in table {
        let (context, problems) = context(&tls);
        assert_eq!(context.require_client_certificate.unwrap().value, required, "{:?}", tls.mode);
        assert_eq!(presented(&context), certificates, "{:?}", tls.mode);
        assert_eq!(validated(&context).map(|(by, _)| by.concat()).as_deref(), authority, "{:?}", tls.mode);
        assert_eq!(problems, []);
    }
}

#[test]
fn several_certificates_are_presented_by_kind_of_key() {
    let certificates = Box::new([own("kubernetes-gateway://ns/rsa"), own("kubernetes-gateway://ns/ecdsa")]);
    let (context, _) = context(&ServerTls { certificates, ..server(TlsMode::Simple) });
    assert_eq!(presented(&context), ["kubernetes-gateway://ns/rsa by ads", "kubernetes-gateway://ns/ecdsa by ads"]);
}

#[test]
fn what_would_let_more_in_is_refused() {
    let refused = |tls: ServerTls| match downstream(&tls, true, &MeshConfig::default()) {
        Ok(_) => panic!("{tls:?}"),
        Err((field, flaw)) => (field, flaw.reason),
    };
    assert_eq!(refused(server(TlsMode::Mutual)), ("caCertificates", "NoAuthority"));
    assert_eq!(refused(server(TlsMode::OptionalMutual)), ("caCertificates", "NoAuthority"));
    let file = |file: &str| Some(ClientCa::File(file.into()));
    assert_eq!(
        refused(ServerTls { client_ca: file(""), ..server(TlsMode::Mutual) }),
        ("caCertificates", "NoAuthority")
    );
    let none = ServerTls { certificates: Box::default(), ..server(TlsMode::Simple) };
    assert_eq!(refused(none), ("credentialName", "NoCertificate"));
    for name in ["invalid://", "", "x", "kubernetes://own-cacert", "configmap://ns/a"] {
        let tls = ServerTls { certificates: Box::new([own(name)]), ..server(TlsMode::Simple) };
        assert_eq!(refused(tls), ("credentialName", "InvalidCredentialName"), "{name}");
    }
    let spki = ServerTls { verify_certificate_spki: Box::new(["x".into()]), ..mutual(TlsMode::Mutual) };
    assert_eq!(refused(spki), ("verifyCertificateSpki", "UnsupportedValue"));
    let hash = ServerTls { verify_certificate_hash: Box::new(["x".into()]), ..mutual(TlsMode::Mutual) };
    assert_eq!(refused(hash), ("verifyCertificateHash", "UnsupportedValue"));
}

#[test]
fn clients_are_compared_with_what_is_asked_for() {
    let spki: Arc<str> = openssl::base64::encode_block(&[7; 32]).into();
    let hash: Arc<str> = "ab".repeat(32).into();
    let tls = ServerTls {
        subject_alt_names: Box::new(["client.example.com".into()]),
        verify_certificate_spki: Box::new([spki.clone()]),
        verify_certificate_hash: Box::new([hash.clone()]),
        crl_file: "/revoked".into(),
        accept_untrusted: true,
        ..mutual(TlsMode::OptionalMutual)
    };
    let (_, validation) = validated(&context(&tls).0).unwrap();
    assert_eq!(validation.match_typed_subject_alt_names.len(), 4);
    assert_eq!(validation.verify_certificate_spki, [spki.to_string()]);
    assert_eq!(validation.verify_certificate_hash, [hash.to_string()]);
    assert!(validation.crl.is_some());
    assert_eq!(validation.trust_chain_verification(), TrustChainVerification::AcceptUntrusted);
    let (_, validation) = validated(&context(&mutual(TlsMode::Mutual)).0).unwrap();
    assert_eq!(validation.trust_chain_verification(), TrustChainVerification::VerifyTrustChain);
    // In mode SIMPLE there is nobody to compare.
    let simple = ServerTls { subject_alt_names: Box::new(["a".into()]), ..server(TlsMode::Simple) };
    let (context, problems) = context(&simple);
    assert!(validated(&context).is_none());
    assert_eq!(problems.iter().map(|(field, _)| *field).collect::<Vec<_>>(), ["subjectAltNames"]);
}

#[test]
fn versions_and_ciphers_are_the_servers_or_the_meshs() {
    let mesh = MeshConfig::from_yaml(
        "tlsDefaults: {minProtocolVersion: TLSV1_3, cipherSuites: [ECDHE-RSA-AES256-GCM-SHA384], ecdhCurves: [P-256]}",
    )
    .unwrap();
    let parameters = |tls: &ServerTls, mesh: &MeshConfig| {
        let (context, problems) = within(tls, true, mesh);
        (context.common_tls_context.unwrap().tls_params, problems)
    };
    assert_eq!(parameters(&server(TlsMode::Simple), &MeshConfig::default()).0, None);
    let of_mesh = parameters(&server(TlsMode::Simple), &mesh).0.unwrap();
    assert_eq!(of_mesh.tls_minimum_protocol_version(), TlsProtocol::TlSv13);
    assert_eq!(of_mesh.cipher_suites, ["ECDHE-RSA-AES256-GCM-SHA384"]);
    assert_eq!(of_mesh.ecdh_curves, ["P-256"]);
    let own = ServerTls {
        minimum: Some(TlsVersion::V1_0),
        maximum: Some(TlsVersion::V1_2),
        cipher_suites: [
            "ECDHE-RSA-AES128-GCM-SHA256",
            "NULL-MD5",
            "[AES128-SHA|AES256-SHA]",
            "ECDHE-RSA-AES128-GCM-SHA256",
        ]
        .map(Into::into)
        .into(),
        ..server(TlsMode::Simple)
    };
    let (own, problems) = parameters(&own, &mesh);
    let own = own.unwrap();
    assert_eq!(own.tls_minimum_protocol_version(), TlsProtocol::TlSv10);
    assert_eq!(own.tls_maximum_protocol_version(), TlsProtocol::TlSv12);
    assert_eq!(own.cipher_suites, ["ECDHE-RSA-AES128-GCM-SHA256", "[AES128-SHA|AES256-SHA]"]);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].0 == "cipherSuites" && problems[0].1.message.contains("NULL-MD5"), "{problems:?}");
    // The mesh's own TLS is not to be chosen.
    let mesh_own = ServerTls { mode: TlsMode::IstioMutual, ..ServerTls::default() };
    assert_eq!(parameters(&mesh_own, &mesh).0, None);
}

#[test]
fn protocols_are_offered() {
    let alpn =
        |tls: &ServerTls, http| within(tls, http, &MeshConfig::default()).0.common_tls_context.unwrap().alpn_protocols;
    let mesh_own = ServerTls { mode: TlsMode::IstioMutual, ..ServerTls::default() };
    assert_eq!(alpn(&server(TlsMode::Simple), true), ["h2", "http/1.1"]);
    assert_eq!(alpn(&server(TlsMode::Simple), false), ["h2", "http/1.1"]);
    assert_eq!(alpn(&mesh_own, true), ["h2", "http/1.1"]);
    assert_eq!(alpn(&mesh_own, false), ["istio-peer-exchange", "h2", "http/1.1"]);
}

/// The list that Envoy gets for a list of suites. What it would not take costs
/// the whole listener.
#[test]
fn lists_of_suites_are_such_as_envoy_takes() {
    const A: &str = "AES128-SHA";
    const B: &str = "AES256-SHA";
    let taken = |texts: &[&str]| {
        let tls =
            ServerTls { cipher_suites: texts.iter().map(|text| (*text).into()).collect(), ..server(TlsMode::Simple) };
        let (context, problems) = context(&tls);
        let suites = context.common_tls_context.unwrap().tls_params.map_or(Vec::new(), |params| params.cipher_suites);
        assert_eq!(problems.is_empty(), suites.len() == texts.len(), "{texts:?}");
        suites
    };
    let group = format!("[{A}|{B}]");
    for all in [vec![A, B], vec![&group], vec![A, "-AES256-SHA"], vec!["ALL", "!AES128-SHA"], vec![A, B, "+AES128-SHA"]]
    {
        assert_eq!(taken(&all), all);
    }
    assert_eq!(taken(&[&group, "-ECDHE-RSA-AES128-SHA"]), [&*group]);
    assert_eq!(taken(&["-ECDHE-RSA-AES128-SHA", &group]), [&*group]);
    assert_eq!(
        taken(&[A, &format!("{A}|{B}"), "[AES128-SHA|-AES256-SHA]", "[]", "[ALL]", "[[AES128-SHA]]", "NULL"]),
        [A]
    );
    for nothing in [
        vec!["-AES128-SHA"],
        vec!["!AES128-SHA"],
        vec!["+ALL"],
        vec![A, "-AES128-SHA"],
        vec!["!AES128-SHA", A],
        vec!["ALL", "!ALL", A],
    ] {
        assert_eq!(taken(&nothing), Vec::<String>::new(), "{nothing:?}");
    }
}
