//! What conditions can be about.

use super::matcher::{self, Refusal};

/// Attributes of who asks.
pub enum Who<'a> {
    /// The peer's identity.
    Principal,
    /// Its namespace.
    Namespace,
    /// Its service account.
    ServiceAccount,
    /// Its trust domain.
    TrustDomain,
    /// The peer's address.
    SourceIp,
    /// The first client's address.
    RemoteIp,
    /// The identity in a token.
    RequestPrincipal,
    /// A claim of a token, by its path.
    Claim(Vec<&'a str>),
    /// A header.
    Header(&'a str),
}

/// Attributes of what is asked.
pub enum What<'a> {
    /// The host.
    Host,
    /// The method.
    Method,
    /// The path, without a query.
    Path,
    /// The port.
    Port,
    /// The address.
    DestinationIp,
    /// The SNI.
    ServerName,
    /// Metadata that a filter left.
    Metadata {
        /// The filter.
        filter: &'a str,
        /// The key.
        key: &'a str,
    },
}

/// Either.
pub enum Attribute<'a> {
    /// Of who asks.
    Who(Who<'a>),
    /// Of what is asked.
    What(What<'a>),
}

/// The attribute that a condition's key names.
/// <https://istio.io/latest/docs/reference/config/security/conditions/>
pub fn attribute(key: &str) -> Result<Attribute<'_>, Refusal> {
    let malformed = || Refusal::invalid(format!("{key:?} has no name in brackets"));
    Ok(match key {
        "source.ip" => Attribute::Who(Who::SourceIp),
        "remote.ip" => Attribute::Who(Who::RemoteIp),
        "source.namespace" => Attribute::Who(Who::Namespace),
        "source.serviceAccount" => Attribute::Who(Who::ServiceAccount),
        "source.principal" => Attribute::Who(Who::Principal),
        "source.trustDomain" => Attribute::Who(Who::TrustDomain),
        "request.auth.principal" => Attribute::Who(Who::RequestPrincipal),
        "request.auth.audiences" => Attribute::Who(Who::Claim(vec!["aud"])),
        "request.auth.presenter" => Attribute::Who(Who::Claim(vec!["azp"])),
        "destination.ip" => Attribute::What(What::DestinationIp),
        "destination.port" => Attribute::What(What::Port),
        "connection.sni" => Attribute::What(What::ServerName),
        _ => {
            if let Some(name) = key.strip_prefix("request.headers") {
                let name = bracketed(name).filter(|name| matcher::is_header_name(name)).ok_or_else(malformed)?;
                Attribute::Who(Who::Header(name))
            } else if let Some(path) = key.strip_prefix("request.auth.claims") {
                Attribute::Who(Who::Claim(nested(path).ok_or_else(malformed)?))
            } else if let Some(rest) = key.strip_prefix("experimental.").filter(|key| key.starts_with("envoy.filters."))
            {
                let (filter, key) = rest.split_once('[').ok_or_else(malformed)?;
                let key = key.strip_suffix(']').filter(|key| !key.is_empty()).ok_or_else(malformed)?;
                Attribute::What(What::Metadata { filter, key })
            } else {
                return Err(Refusal::unsupported(format!("{key:?} is not a known attribute")));
            }
        }
    })
}

fn bracketed(text: &str) -> Option<&str> {
    text.strip_prefix('[')?.strip_suffix(']').filter(|name| !name.is_empty())
}

/// `[a][b]` is a path; brackets that do not pair like this are part of a name.
fn nested(text: &str) -> Option<Vec<&str>> {
    let whole = bracketed(text)?;
    let path: Vec<_> = whole.split("][").collect();
    let plain = path.iter().all(|name| !name.is_empty() && !name.contains(['[', ']']));
    Some(if plain { path } else { vec![whole] })
}
