use super::*;
use crate::ca::handover::Pace;
use crate::ca::testing::root_bundle;

#[test]
fn the_names_are_istiods() {
    let mut registry = Registry::default();
    let metrics = CaMetrics::new(&mut registry);
    register_expiry(&mut registry, Arc::new(Authority::new(root_bundle(), Pace::default())));
    metrics.requests.inc();
    metrics.sign_errors.get_or_create(&SignErrorLabels { error: "CSR_ERROR" }).inc();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "\ncitadel_server_csr_count 1\n",
        "\ncitadel_server_authentication_failure_count 0\n",
        "\ncitadel_server_csr_parsing_err_count 0\n",
        "\ncitadel_server_id_extraction_err_count 0\n",
        "\ncitadel_server_csr_sign_err_count{error=\"CSR_ERROR\"} 1\n",
        "\ncitadel_server_success_cert_issuance_count 0\n",
        "\ncitadel_server_root_cert_expiry_timestamp ",
        "\ncitadel_server_root_cert_expiry_seconds 31",
        "\ncitadel_server_cert_chain_expiry_timestamp ",
        "\ncitadel_server_cert_chain_expiry_seconds 31",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    assert!(!text.contains("BEGIN"));
}
