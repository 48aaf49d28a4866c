//! What a gateway's own `ProxyConfig` says, which its agent puts together from
//! that of the mesh, its environment and its pod's annotations and sends in the
//! metadata `PROXY_CONFIG`. It counts before that of the mesh, of which it may
//! hold an older state, for what it says and no more.
//! <https://istio.io/latest/docs/ops/configuration/traffic-management/network-topologies/>

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node as WireNode;
use envoy_types::pb::google::protobuf::value::Kind;
use serde::de::DeserializeOwned;
use serde_json::{Number, Value};

use crate::api::mesh::{GatewayTopology, ProxyHeaders};

/// What a gateway's own configuration says of HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnConfig {
    /// What is in front of it.
    pub topology: Option<GatewayTopology>,
    /// Headers that it sets or leaves out.
    pub headers: Option<ProxyHeaders>,
}

impl OwnConfig {
    /// Reads it off the node of a first request; none if it says nothing.
    pub(super) fn of(node: &WireNode) -> Option<Arc<Self>> {
        let config = node.metadata.as_ref()?.fields.get("PROXY_CONFIG")?;
        Self::read(&json(config.kind.as_ref()?))
    }

    /// Reads it in JSON. What does not decode says nothing.
    pub fn read(config: &Value) -> Option<Arc<Self>> {
        fn field<T: DeserializeOwned>(config: &Value, name: &str) -> Option<T> {
            config.get(name).filter(|value| !value.is_null()).and_then(|value| T::deserialize(value).ok())
        }
        let own = Self { topology: field(config, "gatewayTopology"), headers: field(config, "proxyHeaders") };
        (own != Self::default()).then(|| Arc::new(own))
    }

    /// The same without what the mesh says as well, so that proxies share what
    /// they are told whether they say it or not.
    pub fn beside(own: &Option<Arc<Self>>, topology: &GatewayTopology, headers: &ProxyHeaders) -> Option<Arc<Self>> {
        let own = own.as_ref()?;
        let left = Self {
            topology: own.topology.clone().filter(|one| one != topology),
            headers: own.headers.clone().filter(|one| one != headers),
        };
        (left != Self::default()).then(|| Arc::new(left))
    }
}

/// A value of the node's metadata. Whole numbers are such.
fn json(kind: &Kind) -> Value {
    let of = |value: &envoy_types::pb::google::protobuf::Value| value.kind.as_ref().map_or(Value::Null, json);
    match kind {
        Kind::NullValue(_) => Value::Null,
        Kind::BoolValue(value) => Value::Bool(*value),
        Kind::StringValue(text) => Value::String(text.clone()),
        Kind::NumberValue(number) if number.fract() == 0.0 && number.abs() < f64::from(u32::MAX) => {
            Value::from(*number as i64)
        }
        Kind::NumberValue(number) => Number::from_f64(*number).map_or(Value::Null, Value::Number),
        Kind::StructValue(fields) => {
            Value::Object(fields.fields.iter().map(|(name, value)| (name.clone(), of(value))).collect())
        }
        Kind::ListValue(list) => Value::Array(list.values.iter().map(of).collect()),
    }
}
