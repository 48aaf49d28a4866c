//! The variables of OpenTelemetry that say where traces go.

use super::environment::Reader;

/// Where traces go, and how many there are.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT`, as
    /// `http://HOST:PORT`. Without one, or with `OTEL_SDK_DISABLED=true`, there
    /// are no traces.
    pub endpoint: Option<String>,
    /// `OTEL_SERVICE_NAME`.
    pub service: String,
    /// `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`: which share of all
    /// changes is traced. Nothing is above a change, so `parentbased_` means
    /// nothing.
    pub share: f64,
}

impl Traces {
    /// # Errors
    /// Names the variable that cannot be read, and what it may be.
    pub(super) fn read(reader: &mut Reader) -> Result<Self, String> {
        let mut endpoint = None;
        for name in ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"] {
            let Some(value) = reader.value(name) else { continue };
            if !value.starts_with("http://") {
                return Err(format!("{name}: {value:?} is not http://HOST:PORT; collectors are not told over TLS"));
            }
            endpoint = endpoint.or(Some(value));
        }
        if reader.flag("OTEL_SDK_DISABLED", false)? {
            endpoint = None;
        }
        let sampler = reader.text("OTEL_TRACES_SAMPLER", "parentbased_always_on");
        let share = match sampler.strip_prefix("parentbased_").unwrap_or(&sampler) {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => reader.number("OTEL_TRACES_SAMPLER_ARG", 1.0)?,
            _ => {
                return Err(format!(
                    "OTEL_TRACES_SAMPLER: {sampler:?} is not always_on, always_off or traceidratio, with or without \
                     parentbased_ in front"
                ));
            }
        };
        if !(0.0..=1.0).contains(&share) {
            return Err(format!("OTEL_TRACES_SAMPLER_ARG: {share} is not between 0 and 1"));
        }
        Ok(Self { endpoint, service: reader.text("OTEL_SERVICE_NAME", "istiod"), share })
    }
}
