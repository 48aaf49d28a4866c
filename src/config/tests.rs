use super::*;

fn discovery(arguments: &str) -> (Discovery, Vec<String>) {
    let arguments = ["fairway"].into_iter().chain(arguments.split_whitespace()).map(ToString::to_string);
    let (cli, unknown) = parse(arguments).unwrap();
    match cli.command {
        Command::Discovery(flags) => (*flags, unknown),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_arguments_of_istiods_chart_start_it() {
    let (flags, unknown) = discovery(
        "discovery --monitoringAddr=:15014 --log_output_level=default:info --domain cluster.local \
         --keepaliveMaxServerConnectionAge 30m --log_as_json",
    );
    assert!(unknown.is_empty(), "{unknown:?}");
    assert_eq!(flags.keepalive_max_server_connection_age, Duration::from_secs(1800));
    assert_eq!((flags.domain.as_str(), flags.log_as_json), ("cluster.local", true));
    assert_eq!(address("grpcAddr", &flags.grpc_addr), Ok(Some("[::]:15010".parse().unwrap())));
}

#[test]
fn flags_of_istiod_that_are_not_ours_are_named_with_their_values_gone() {
    let (flags, unknown) = discovery(
        "serve --ctrlz_port 9876 --registries=Kubernetes --clusterAliases a=b --domain x.example --tls-cipher-suites=A,B",
    );
    assert_eq!(unknown, ["--ctrlz_port", "--registries", "--clusterAliases", "--tls-cipher-suites"]);
    assert_eq!(flags.domain, "x.example");
}

#[test]
fn the_oldest_tls_is_one_of_two() {
    assert_eq!(discovery("discovery").0.tls_min_version, "1.2");
    assert_eq!(discovery("discovery --tls-min-version=1.3").0.tls_min_version, "1.3");
    let old = ["fairway", "discovery", "--tls-min-version=1.1"].map(String::from);
    assert!(parse(old).unwrap_err().to_string().contains("--tls-min-version"));
}

#[test]
fn the_last_of_several_flags_counts() {
    let (flags, _) = discovery(
        "discovery --log_output_level=default:info --log_as_json --keepaliveMaxServerConnectionAge 30m \
         --log_output_level default:debug --log_as_json --keepaliveMaxServerConnectionAge=10m",
    );
    assert_eq!((flags.log_output_level.as_str(), flags.log_as_json), ("default:debug", true));
    assert_eq!(flags.keepalive_max_server_connection_age, Duration::from_secs(600));
}

#[test]
fn profiles_are_there_unless_somebody_says_no() {
    for (line, expected) in [("", true), (" --profile", true), (" --profile=true", true), (" --profile=false", false)] {
        let (flags, unknown) = discovery(&format!("discovery{line} --domain x.example"));
        assert!(unknown.is_empty(), "{unknown:?}");
        assert_eq!((flags.profile, flags.domain.as_str()), (expected, "x.example"), "{line}");
    }
}

#[test]
fn a_broken_value_is_an_error_that_names_the_flag() {
    let error =
        parse(["fairway", "discovery", "--shutdownDuration", "soon"].map(String::from)).unwrap_err().to_string();
    assert!(error.contains("shutdownDuration") && error.contains("not a duration"), "{error}");
    assert!(address("grpcAddr", "nowhere").unwrap_err().contains("--grpcAddr"));
}

#[test]
fn other_commands_refuse_what_they_do_not_know() {
    assert!(parse(["fairway", "token", "--nonsense"].map(String::from)).is_err());
}

fn environment(variables: &[(&str, &str)]) -> Result<(Environment, Vec<String>), String> {
    Environment::read(variables.iter().map(|(name, value)| (name.to_string(), value.to_string())))
}

#[test]
fn settings_of_istiod_without_effect_are_named() {
    let (environment, ignored) = environment(&[
        ("PILOT_ENABLE_AMBIENT", "true"),
        ("PILOT_PUSH_THROTTLE", "100"),
        ("PILOT_TRACE_SAMPLING", "1"),
        ("COMPLIANCE_POLICY", "fips-140-2"),
        ("ENABLE_DEBUG_ON_HTTP", "true"),
        ("PILOT_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
        ("PILOT_DEBOUNCE_AFTER", "10ms"),
    ])
    .unwrap();
    assert_eq!(ignored, ["COMPLIANCE_POLICY", "ENABLE_DEBUG_ON_HTTP", "PILOT_PUSH_THROTTLE", "PILOT_TRACE_SAMPLING"]);
    assert_eq!(environment.debounce, Some((Duration::from_millis(10), Duration::from_secs(10))));
    assert_eq!(environment.trusted_node_accounts, ["istio-system/ztunnel"]);
}

#[test]
fn another_authority_is_not_replaced_in_silence() {
    let another = ("EXTERNAL_CA", "ISTIOD_RA_KUBERNETES_API");
    assert!(environment(&[another]).unwrap_err().starts_with("EXTERNAL_CA"));
    assert!(environment(&[another, ("ENABLE_CA_SERVER", "false")]).is_ok());
}

#[test]
fn names_of_the_control_plane_can_be_in_a_certificate() {
    let hosts = |text| environment(&[("ISTIOD_CUSTOM_HOST", text)]).map(|(environment, _)| environment.custom_host);
    assert_eq!(hosts(" a.example ,10.0.0.1,, ::1,*.b"), Ok("a.example,10.0.0.1,::1,*.b".into()));
    for wrong in ["a b", "[::1]", "münchen.example", "https://a", "a:15012"] {
        assert!(hosts(wrong).unwrap_err().starts_with("ISTIOD_CUSTOM_HOST"), "{wrong}");
    }
}

#[test]
fn a_broken_variable_is_named() {
    assert!(environment(&[("DEFAULT_WORKLOAD_CERT_TTL", "0s")]).unwrap_err().starts_with("DEFAULT_WORKLOAD_CERT_TTL"));
    let error = environment(&[("MAX_WORKLOAD_CERT_TTL", "long")]).unwrap_err();
    assert!(error.starts_with("MAX_WORKLOAD_CERT_TTL: \"long\""), "{error}");
    assert!(environment(&[("XDS_AUTH", "maybe")]).unwrap_err().starts_with("XDS_AUTH"));
}

#[test]
fn pools_of_addresses_are_checked_while_they_are_used() {
    const V4: &str = "PILOT_IP_AUTOALLOCATE_IPV4_PREFIX";
    const V6: &str = "PILOT_IP_AUTOALLOCATE_IPV6_PREFIX";
    let pools = |variables: &[(&str, &str)]| {
        let (environment, ignored) = environment(variables)?;
        assert!(ignored.is_empty(), "{ignored:?}");
        Ok(environment.auto_allocation.map(|(v4, v6)| format!("{v4} {v6}")))
    };
    assert_eq!(pools(&[]), Ok(Some("240.240.0.0/16 2001:2::/48".into())));
    assert_eq!(pools(&[(V4, "10.9.8.7/24"), (V6, "fd00::/64")]), Ok(Some("10.9.8.0/24 fd00::/64".into())));
    for (name, value) in
        [(V4, "nowhere"), (V4, "2001:2::/48"), (V4, "10.0.0.1/32"), (V6, "240.240.0.0/16"), (V6, "::1/128")]
    {
        let error: String = pools(&[(name, value)]).unwrap_err();
        assert!(error.starts_with(&format!("{name}: {value:?}")), "{error}");
        assert_eq!(pools(&[("PILOT_ENABLE_IP_AUTOALLOCATE", "false"), (name, value)]), Ok(None));
    }
}

#[test]
fn durations_are_gos() {
    for (text, wanted) in [
        ("300ms", Some(Duration::from_millis(300))),
        ("1h30m", Some(Duration::from_secs(5400))),
        ("1.5s", Some(Duration::from_millis(1500))),
        ("0", Some(Duration::ZERO)),
        ("infinite", Some(Duration::MAX)),
        ("10", None),
        ("", None),
        ("s", None),
        ("-1s", None),
        ("1s2", None),
    ] {
        assert_eq!(duration::parse(text).ok(), wanted, "{text}");
    }
}

#[test]
fn log_scopes_of_istiod_are_understood() {
    let (flags, _) = discovery("discovery --log_output_level=default:warn,ads:debug,ca:none");
    assert!(flags.log_filter().ends_with("warn,fairway::xds=debug,fairway::ca=off"), "{}", flags.log_filter());
}
