//! Credentials as Envoys get them: a certificate with its key, or whom to trust.
//! <https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret>
//!
//! A message is made when it is sent. What is in it is in memory once, in the
//! object as it was read.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use rapidhash::v3::rapidhash_v3;

use super::encode;
use crate::credential::{Part, Place};
use crate::graph::{Graph, Provenance};
use crate::model::Model;
use crate::model::secret::{Authority, Certificate, Found, Held};
use crate::xds::secret::{Content, Item, Sealed};

/// What of credentials leaves the graph.
pub struct Credentials {
    // The graph writes to it during a commit, `update` reads it after that.
    items: Arc<Mutex<Items>>,
    provenance: Box<dyn Fn(&Graph, &Place) -> Option<Provenance> + Send>,
}

#[derive(Default)]
struct Items {
    items: imbl::OrdMap<Place, Item>,
    changed: bool,
}

/// Declares what leaves the graph.
pub fn credentials(graph: &mut Graph, model: &Model) -> Credentials {
    let items = Arc::<Mutex<Items>>::default();
    let (sink, found) = (items.clone(), model.credentials.found);
    let output = graph.output(
        "opened_credentials",
        model.credentials.needed,
        move |cx, place: &Place, needed| {
            let content = match cx.get(found, place)? {
                Found::Unknown => Content::Unknown,
                Found::Missing => Content::Missing,
                Found::There(held) => Content::There(Arc::new(Opened(held.clone()))),
            };
            let print = print(&content, &format!("{:?}", needed.grants));
            Some(Item { content, grants: needed.grants.clone(), print })
        },
        |item| item.print,
        move |place, item| {
            let mut items = sink.lock().unwrap_or_else(PoisonError::into_inner);
            items.changed = true;
            match item {
                Some(item) => drop(items.items.insert(place.clone(), item)),
                None => drop(items.items.remove(place)),
            }
        },
    );
    let provenance = move |graph: &Graph, wanted: &Place| graph.output_provenance(output, |place| place == wanted);
    Credentials { items, provenance: Box::new(provenance) }
}

impl Credentials {
    /// All that is needed, if the last commit changed it.
    pub fn update(&self) -> Option<imbl::OrdMap<Place, Item>> {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut items.changed).then(|| items.items.clone())
    }

    /// Where what is in a place comes from.
    pub fn provenance(&self, graph: &Graph, place: &Place) -> Option<Provenance> {
        (self.provenance)(graph, place)
    }
}

fn print(content: &Content, grants: &str) -> u64 {
    let version = |sealed: &dyn Sealed, part| sealed.version(part).map_or(0, |version| version | 1);
    let (kind, versions) = match content {
        Content::Unknown => (0, [0, 0]),
        Content::Missing => (1, [0, 0]),
        Content::There(sealed) => (2, [Part::Certificate, Part::Authority].map(|part| version(&**sealed, part))),
    };
    rapidhash_v3(format!("{kind} {versions:?} {grants}").as_bytes())
}

/// What an object holds, for whoever may have it.
struct Opened(Arc<Held>);

impl Sealed for Opened {
    fn version(&self, part: Part) -> Option<u64> {
        match part {
            Part::Certificate => self.0.certificate.as_ref().ok().map(|certificate| certificate.version),
            Part::Authority => self.0.authority.as_ref().ok().map(|authority| authority.version),
        }
    }

    fn message(&self, part: Part) -> Option<Vec<u8>> {
        let kind = match part {
            Part::Certificate => certificate(self.0.certificate.as_ref().ok()?),
            Part::Authority => authority(self.0.authority.as_ref().ok()?),
        };
        // Without its name, which depends on who asks.
        Some(encode::ordered(&Secret { name: String::new(), r#type: Some(kind) }))
    }
}

fn certificate(Certificate { chain, key, staple, .. }: &Certificate) -> secret::Type {
    secret::Type::TlsCertificate(TlsCertificate {
        certificate_chain: inline(chain),
        private_key: inline(key),
        ocsp_staple: staple.as_ref().and_then(inline),
        ..Default::default()
    })
}

fn authority(Authority { certificates, crl, .. }: &Authority) -> secret::Type {
    secret::Type::ValidationContext(CertificateValidationContext {
        trusted_ca: inline(certificates),
        crl: crl.as_ref().and_then(inline),
        ..Default::default()
    })
}

fn inline(bytes: &Bytes) -> Option<DataSource> {
    let specifier = data_source::Specifier::InlineBytes(bytes.to_vec());
    Some(DataSource { specifier: Some(specifier), ..Default::default() })
}
