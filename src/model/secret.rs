//! Credentials: which are needed, whether they are there and can be used, and
//! who may have them. What is in them is at the edges; here are the facts, from
//! which diagnostics and conditions are made.
//!
//! A credential is needed when an object refers to it by its full name, or when
//! a proxy that may have it asks for it. Nothing else is ever read: not from the
//! API server, and not by the graph.
//! <https://istio.io/latest/docs/tasks/traffic-management/ingress/secure-ingress/>

pub mod check;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::api::ObjectKey;
use crate::api::destination_rule::{ClientTlsSettings, DestinationRule, TrafficPolicy};
use crate::api::istio_gateway::IstioGateway;
use crate::api::secret::{Entry, Secret};
use crate::credential::{Asked, CA_SUFFIX, Grant, Part, Place, Provider, Scheme, Store, sds_name};
use crate::graph::{Collection, Ctx, Graph};

use super::Scope;
use super::gateway::GatewayKey;
use super::gateway::credential::Led;
pub use check::{Authority, Certificate, Flaw};

/// The tables of credentials.
#[derive(Clone, Copy)]
pub struct Credentials {
    /// What proxies ask for that may have it: an input.
    pub asked: Collection<Place, ()>,
    /// Where it is known what is there: an input, for sources that look only
    /// where they are told to.
    pub sought: Collection<Place, ()>,
    /// The time, of which only the last minute counts: an input. Nothing is
    /// old where there is none.
    pub clock: Collection<(), Timestamp>,
    /// What is needed, and what may be done with it.
    pub needed: Collection<Place, Needed>,
    /// What was found.
    pub found: Collection<Place, Found>,
}

/// Why something is needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum By {
    /// A proxy asks for it.
    Proxy,
    /// A DestinationRule refers to it.
    DestinationRule(ObjectKey),
    /// One of Istio's Gateways does.
    IstioGateway(ObjectKey),
    /// Proxies behind a Service will ask for it, as one of Istio's Gateways says.
    Led(Led),
    /// A gateway of the Gateway API does.
    Gateway(GatewayKey),
    /// A TLS policy for backends does.
    BackendTLSPolicy(ObjectKey),
}

/// A reference to a credential.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// What refers to it.
    pub by: By,
    /// Where it is.
    pub place: Place,
}

/// What is needed of a place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Needed {
    /// Who may have it by reference.
    pub grants: Arc<[Grant]>,
}

/// What was found in a place.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Nobody has looked yet.
    Unknown,
    /// There is no such object.
    Missing,
    /// It is there.
    There(Arc<Held>),
}

/// What an object holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// A certificate and its key.
    pub certificate: Result<Certificate, Flaw>,
    /// Who is trusted.
    pub authority: Result<Authority, Flaw>,
}

/// What is known of one part of a credential.
#[derive(Debug, PartialEq)]
pub enum Known<'g, T> {
    /// Nothing yet: it is being looked for.
    Nothing,
    /// It cannot be used.
    Bad(Flaw),
    /// It is there.
    Good(&'g T),
}

impl Credentials {
    /// Declares the tables. `others` are references of others' making.
    pub(super) fn new<const N: usize>(
        graph: &mut Graph,
        scope: &Scope,
        others: [Collection<Reference, Needed>; N],
    ) -> Self {
        let (asked, sought, clock) =
            (graph.input("asked_credentials"), graph.input("sought_credentials"), graph.input("clock"));
        let by_proxies = graph.derive("credentials_of_proxies", asked, |_, place: &Place, ()| {
            [(Reference { by: By::Proxy, place: place.clone() }, Needed::default())]
        });
        let rules = scope.clone();
        let by_rules =
            graph.derive("credentials_of_destination_rules", scope.inputs.destination_rules, move |cx, key, rule| {
                let places = if rules.configures(cx, &rule.meta) { places(rule) } else { Vec::new() };
                let reference = |place| Reference { by: By::DestinationRule(key.clone()), place };
                places.into_iter().map(move |place| (reference(place), Needed::default())).collect::<Vec<_>>()
            });
        let gateways = scope.clone();
        let by_gateways =
            graph.derive("credentials_of_istio_gateways", scope.inputs.istio_gateways, move |cx, key, gateway| {
                let configures = gateways.configures(cx, &gateway.meta);
                let rows = if configures { of_istio(key, gateway) } else { Vec::new() };
                let reference = |place| Reference { by: By::IstioGateway(key.clone()), place };
                rows.into_iter().map(|(place, grants)| (reference(place), Needed { grants })).collect::<Vec<_>>()
            });
        let all: Vec<_> = [by_proxies, by_rules, by_gateways].into_iter().chain(others).collect();
        let references = graph.union("credential_references", all);
        let by_place = graph.index(references, |reference: &Reference, _, keys| keys.push(reference.place.clone()));
        let needed = graph.group("needed_credentials", by_place, move |cx, place| {
            let references = cx.fetch(by_place, place);
            let mut grants: Vec<_> = references.flat_map(|(_, needed)| needed.grants.iter().cloned()).collect();
            grants.sort_unstable();
            grants.dedup();
            Some(Needed { grants: grants.into() })
        });
        let scope = scope.clone();
        let found = graph.derive("credentials", needed, move |cx, place: &Place, _| {
            [(place.clone(), found(cx, &scope, sought, place))]
        });
        Self { asked, sought, clock, needed, found }
    }

    /// The certificate and key in a place.
    pub fn certificate<'g>(&self, cx: &Ctx<'g>, place: &Place) -> Known<'g, Certificate> {
        self.known(cx, place, |held| held.certificate.as_ref())
    }

    /// Who is trusted by what is in the first of these places that is there.
    pub fn authority<'g>(&self, cx: &Ctx<'g>, places: &[Place]) -> Known<'g, Authority> {
        let there = |place: &&Place| !matches!(cx.get(self.found, place), Some(Found::Missing));
        let Some(place) = places.iter().find(there).or(places.last()) else { return Known::Nothing };
        self.known(cx, place, |held| held.authority.as_ref())
    }

    fn known<'g, T>(
        &self,
        cx: &Ctx<'g>,
        place: &Place,
        part: impl FnOnce(&'g Held) -> Result<&'g T, &'g Flaw>,
    ) -> Known<'g, T> {
        match cx.get(self.found, place) {
            None | Some(Found::Unknown) => Known::Nothing,
            Some(Found::Missing) => Known::Bad(Flaw::new("CredentialNotFound", format!("{place} is not there"))),
            Some(Found::There(held)) => match part(held) {
                Ok(part) => Known::Good(part),
                Err(flaw) => Known::Bad(Flaw::new(flaw.reason, format!("{place}: {}", flaw.message))),
            },
        }
    }

    /// What is the matter with a credential that proxies of a namespace ask for
    /// by this name; nothing while it is not known.
    pub fn flaw(&self, cx: &Ctx<'_>, name: &str, namespace: &str) -> Option<Flaw> {
        let Some(asked) = Asked::parse(name, namespace) else {
            return Some(Flaw::new("InvalidCredentialName", format!("{name:?} is not the name of a credential")));
        };
        match (asked.part, &*asked.places) {
            (Part::Certificate, [place, ..]) => match self.certificate(cx, place) {
                Known::Bad(flaw) => Some(flaw),
                Known::Good(certificate) => self.age(cx, place, certificate),
                Known::Nothing => None,
            },
            (Part::Authority, places) => match self.authority(cx, places) {
                Known::Bad(flaw) => Some(flaw),
                Known::Good(_) | Known::Nothing => None,
            },
            (Part::Certificate, []) => None,
        }
    }

    /// What the time says of a certificate.
    pub fn age(&self, cx: &Ctx<'_>, place: &Place, certificate: &Certificate) -> Option<Flaw> {
        let now = cx.get(self.clock, &())?;
        let flaw = certificate.age(*now)?;
        Some(Flaw { message: format!("{place}: {}", flaw.message), ..flaw })
    }
}

fn found(cx: &Ctx<'_>, scope: &Scope, sought: Collection<Place, ()>, place: &Place) -> Found {
    let Place { store, namespace, name } = place;
    let key = ObjectKey { namespace: namespace.clone(), name: name.clone() };
    if !scope.discovers(cx, namespace) {
        return Found::Missing;
    }
    let held = match store {
        Store::Secret => cx.get(scope.inputs.secrets, &key).map(of_secret),
        Store::ConfigMap => cx.get(scope.inputs.config_maps, &key).map(|map| Held {
            certificate: Err(Flaw::new("NoCertificate", "a ConfigMap has no keys")),
            authority: check::authority(&map.data),
        }),
    };
    match held {
        Some(held) => Found::There(Arc::new(held)),
        // Whoever is told where to look says where that has been done.
        None if scope.settings.credentials_by_name && cx.get(sought, place).is_none() => Found::Unknown,
        None => Found::Missing,
    }
}

fn of_secret(secret: &Secret) -> Held {
    Held { certificate: check::certificate(secret), authority: check::authority(secret) }
}

/// What a DestinationRule refers to by a full name. A name alone is that of a
/// Secret beside the proxy, hence known only when a proxy asks.
fn places(rule: &DestinationRule) -> Vec<Place> {
    let of_policy = |policy: &TrafficPolicy| {
        let of_ports = policy.port_level_settings.iter().filter_map(|port| port.tls.as_ref());
        policy.tls.iter().chain(of_ports).filter_map(named).collect::<Vec<_>>()
    };
    let policies = rule.spec.traffic_policy.iter();
    let policies = policies.chain(rule.spec.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref()));
    let mut places: Vec<_> = policies.flat_map(of_policy).collect();
    places.sort_unstable();
    places.dedup();
    places
}

fn named(settings: &ClientTlsSettings) -> Option<Place> {
    let (name, Provider::ControlPlane) = sds_name(&settings.credential_name) else { return None };
    // Secrets are the proxy's own in any case, and looked for when it asks. It
    // asks for whom to trust, whatever the name ends with already.
    let asked = Asked::parse(&(name + CA_SUFFIX), "").filter(|asked| asked.scheme == Scheme::ConfigMap)?;
    asked.places.into_iter().next()
}

/// What one of Istio's Gateways refers to by full names, and who may have it for
/// that. Proxies of all namespaces may serve it, but what is not in its own is
/// not its to give away. Names alone are those of Secrets beside the proxy.
fn of_istio(key: &ObjectKey, gateway: &IstioGateway) -> Vec<(Place, Arc<[Grant]>)> {
    let mut needed: BTreeMap<Place, Vec<Grant>> = BTreeMap::new();
    for tls in gateway.spec.servers.iter().filter_map(|server| server.tls.as_ref()) {
        let one = std::slice::from_ref(&tls.credential_name);
        let certificates = if tls.credential_names.is_empty() { one } else { &*tls.credential_names };
        let authority = match (&*tls.mode, certificates.first()) {
            ("MUTUAL" | "OPTIONAL_MUTUAL", Some(first)) if tls.ca_cert_credential_name.is_empty() => {
                Some(format!("{first}{CA_SUFFIX}"))
            }
            ("MUTUAL" | "OPTIONAL_MUTUAL", _) => Some(tls.ca_cert_credential_name.to_string()),
            _ => None,
        };
        for name in certificates.iter().map(ToString::to_string).chain(authority) {
            let (name, Provider::ControlPlane) = sds_name(&name) else { continue };
            let Some(asked) = Asked::parse(&name, "") else { continue };
            for place in asked.places {
                match asked.scheme {
                    Scheme::Gateway if place.namespace == key.namespace => {
                        let grant = Grant { namespace: key.namespace.clone(), account: None, part: asked.part };
                        needed.entry(place).or_default().push(grant);
                    }
                    Scheme::ConfigMap => _ = needed.entry(place).or_default(),
                    Scheme::Gateway | Scheme::Kubernetes => {}
                }
            }
        }
    }
    let sorted = |mut grants: Vec<Grant>| {
        grants.sort_unstable();
        grants.dedup();
        grants.into()
    };
    needed.into_iter().map(|(place, grants)| (place, sorted(grants))).collect()
}

/// What certificates of authorities are read from.
pub trait Trusted {
    /// The certificates, and what they have revoked, in the first layout of the
    /// two that has any.
    fn authority(&self) -> Option<(&[u8], Option<&[u8]>)>;
}

impl Trusted for Secret {
    fn authority(&self) -> Option<(&[u8], Option<&[u8]>)> {
        let layouts = [(Entry::CaCert, Entry::Crl), (Entry::TlsCaCert, Entry::TlsCrl)];
        let entry = |entry| self.get(entry).map(|value| &value[..]);
        layouts.into_iter().find_map(|(ca, crl)| Some((entry(ca)?, entry(crl))))
    }
}

impl Trusted for crate::api::mesh::ConfigMapData {
    fn authority(&self) -> Option<(&[u8], Option<&[u8]>)> {
        fn value(text: &str) -> Option<&[u8]> {
            (!text.is_empty()).then_some(text.as_bytes())
        }
        let layouts = [(&self.istio_ca, &self.istio_crl), (&self.ca, &self.crl)];
        layouts.into_iter().find_map(|(ca, crl)| Some((value(ca)?, value(crl))))
    }
}
