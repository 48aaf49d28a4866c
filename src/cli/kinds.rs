//! The kinds of objects by the names that people type.

use crate::api::Kind;

/// The kind of a name: `VirtualService`, `virtualservices`, `vs`, or with a group,
/// as in `gateways.networking.istio.io`. Without one, `gateway` is the Gateway
/// API's.
pub(super) fn kind(name: &str) -> anyhow::Result<Kind> {
    let name = name.to_ascii_lowercase();
    let (bare, group) = name.split_once('.').map_or((&*name, None), |(bare, group)| (bare, Some(group)));
    let called = |kind: &Kind| {
        let info = kind.info();
        group.is_none_or(|group| group == info.group)
            && (bare == info.plural
                || bare == info.kind.to_ascii_lowercase()
                || bare == info.subject.to_ascii_lowercase())
    };
    let named = || Kind::ALL.iter().copied().find(called);
    // The table has the Gateway API's Gateway before Istio's.
    let short = Kind::ALL.iter().copied().find(|kind| kind.short_name() == Some(bare));
    named().or(short).ok_or_else(|| {
        let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.info().subject).collect();
        anyhow::anyhow!("{name:?} is no kind that Fairway reads; there are {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_names_that_kubectl_knows() {
        for (name, expected) in [
            ("VirtualService", Kind::VirtualService),
            ("virtualservices", Kind::VirtualService),
            ("vs", Kind::VirtualService),
            ("gateway", Kind::Gateway),
            ("gateways.networking.istio.io", Kind::IstioGateway),
            ("gw", Kind::IstioGateway),
            ("HTTPRoute", Kind::HTTPRoute),
            ("authorizationpolicy.security.istio.io", Kind::AuthorizationPolicy),
        ] {
            assert_eq!(kind(name).unwrap(), expected, "{name}");
        }
        assert!(kind("deployment").unwrap_err().to_string().contains("VirtualService"));
        assert!(kind("services.networking.istio.io").is_err());
    }
}
