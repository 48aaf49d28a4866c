use proptest::prelude::*;

use super::*;

fn guard(blocked: &[&str]) -> Guard {
    Guard { blocked: blocked.iter().map(|network| network.parse().unwrap()).collect(), loopback: false }
}

#[test]
fn addresses() {
    let cluster = guard(&["10.0.0.0/8", "fc00::/8"]);
    let local = Guard { loopback: true, ..guard(&[]) };
    for (address, in_cluster, on_a_machine) in [
        ("93.184.216.34", true, true),
        ("192.168.1.1", true, true),
        ("2606:2800::1", true, true),
        ("127.0.0.1", false, true),
        ("127.255.0.9", false, true),
        ("::1", false, true),
        ("::ffff:127.0.0.1", false, true),
        ("64:ff9b::7f00:1", false, true),
        ("10.1.2.3", false, true),
        ("::ffff:10.1.2.3", false, true),
        ("::10.1.2.3", false, true),
        ("2002:0a01:0203::1", false, true),
        ("fc00::1", false, true),
        ("169.254.169.254", false, false),
        ("::ffff:169.254.169.254", false, false),
        ("::ffff:0:169.254.169.254", false, false),
        ("64:ff9b::169.254.169.254", false, false),
        ("2002:a9fe:a9fe::", false, false),
        ("fe80::1", false, false),
        ("febf::1", false, false),
        ("100.100.100.200", false, false),
        ("fd00:ec2::254", false, false),
        ("0.0.0.0", false, false),
        ("::", false, false),
        ("255.255.255.255", false, false),
        ("224.0.0.1", false, false),
        ("ff02::1", false, false),
    ] {
        let parsed: IpAddr = address.parse().unwrap();
        assert_eq!(cluster.check(parsed).is_ok(), in_cluster, "{address}");
        assert_eq!(local.check(parsed).is_ok(), on_a_machine, "{address}");
    }
}

proptest! {
    /// What is refused as IPv4 is refused in every form of IPv6.
    #[test]
    fn no_form_gets_around_it(bits in any::<u32>(), network in any::<u32>(), length in 1..=32_u8) {
        let v4 = Ipv4Addr::from(bits);
        let blocked = IpNet::new(Ipv4Addr::from(network).into(), length).unwrap();
        let guard = Guard { blocked: vec![blocked], loopback: false };
        let plain = guard.check(v4.into()).is_ok();
        prop_assert_eq!(guard.check(v4.to_ipv6_mapped().into()).is_ok(), plain);
        let [a, b] = [(bits >> 16) as u16, bits as u16];
        prop_assert_eq!(guard.check(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a, b).into()).is_ok(), plain);
        prop_assert_eq!(guard.check(Ipv6Addr::new(0x2002, a, b, 0, 0, 0, 0, 1).into()).is_ok(), plain);
        if blocked.contains(&IpAddr::V4(v4)) || v4.is_link_local() || v4.is_loopback() {
            prop_assert!(!plain);
        }
    }
}
