//! Which addresses and names the service may call without the operator's word.
//!
//! Invariant: what is not public is refused, in whatever spelling or wrapping it comes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 networks that are no part of the public internet: network, prefix length, what they are.
const REFUSED_V4: &[(Ipv4Addr, u32, &str)] = &[
    (Ipv4Addr::UNSPECIFIED, 8, "this host"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "carrier-grade NAT"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    // Azure's host agent answers at a public address.
    (Ipv4Addr::new(168, 63, 129, 16), 32, "cloud metadata"),
    // The metadata services of most clouds live here.
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "reserved"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "6to4 relay"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "benchmarking"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

/// IPv6 networks likewise, inside `2000::/3`; all outside of it is refused.
const REFUSED_V6: &[(Ipv6Addr, u32, &str)] = &[
    // Teredo and 6to4 carry an IPv4 address that a relay would reach; both are dead, so nothing is lost.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, "Teredo"),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "reserved"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "documentation"),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, "6to4"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "documentation"),
];

/// IPv6 networks outside `2000::/3` that deserve a name of their own.
const NAMED_V6: &[(Ipv6Addr, u32, &str)] = &[
    (Ipv6Addr::UNSPECIFIED, 128, "this host"),
    (Ipv6Addr::LOCALHOST, 128, "loopback"),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48, "local NAT64"),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64, "discard"),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, "private"),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, "link-local"),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, "site-local"),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, "multicast"),
];

/// Returns what kind of non-public network `address` belongs to, or `None` for a public address.
///
/// IPv4-mapped and NAT64 addresses are judged by the IPv4 address inside.
#[must_use]
pub fn refused_address(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => refused_v4(v4),
        IpAddr::V6(v6) => refused_v6(v6),
    }
}

fn refused_v4(address: Ipv4Addr) -> Option<&'static str> {
    let inside = |&&(network, length, _): &&(Ipv4Addr, u32, &str)| {
        (address.to_bits() ^ network.to_bits()).leading_zeros() >= length
    };
    REFUSED_V4.iter().find(inside).map(|&(.., what)| what)
}

fn refused_v6(address: Ipv6Addr) -> Option<&'static str> {
    if let Some(inner) = address.to_ipv4_mapped().or_else(|| nat64(address)) {
        return refused_v4(inner);
    }
    let inside = |&&(network, length, _): &&(Ipv6Addr, u32, &str)| {
        (address.to_bits() ^ network.to_bits()).leading_zeros() >= length
    };
    let public = address.segments()[0] >> 13 == 1;
    let table = if public { REFUSED_V6 } else { NAMED_V6 };
    let found = table.iter().find(inside).map(|&(.., what)| what);
    if public { found } else { found.or(Some("reserved")) }
}

/// Returns the IPv4 address inside the well-known NAT64 prefix `64:ff9b::/96`.
fn nat64(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = address.segments() else { return None };
    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

/// Returns what kind of inner name `name` is, or `None` for a name of the public DNS.
#[must_use]
pub fn refused_name(name: &str) -> Option<&'static str> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let last = name.rsplit('.').next().unwrap_or_default();
    match last {
        "localhost" | "localdomain" => Some("loopback"),
        // `metadata.google.internal` is one of these.
        "internal" | "local" | "lan" | "intranet" | "home" | "corp" => Some("an inner name"),
        _ if last == name => Some("a single-label name"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_network_of_the_table_is_refused_from_its_first_to_its_last_address() {
        for &(network, length, what) in REFUSED_V4 {
            let last = Ipv4Addr::from_bits(network.to_bits() | u32::MAX.checked_shr(length).unwrap_or(0));
            for address in [network, last] {
                assert_eq!(refused_address(address.into()), Some(what), "{address}");
                let mapped = address.to_ipv6_mapped();
                assert_eq!(refused_address(mapped.into()), Some(what), "{mapped}");
            }
        }
        for &(network, length, _) in REFUSED_V6.iter().chain(NAMED_V6) {
            let last = Ipv6Addr::from_bits(network.to_bits() | u128::MAX.checked_shr(length).unwrap_or(0));
            for address in [network, last] {
                assert!(refused_address(address.into()).is_some(), "{address}");
            }
        }
    }

    #[test]
    fn the_neighbours_of_the_networks_are_public() {
        for public in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.255",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "203.0.112.255",
            "223.255.255.255",
            "8.8.8.8",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "2000::1",
            "2001:200::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
        ] {
            assert_eq!(refused_address(public.parse().unwrap()), None, "{public}");
        }
    }

    #[test]
    fn wrapped_and_inner_ipv6_addresses_are_refused() {
        for inner in [
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:7f00:1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::808:808",
            "2002:7f00:1::",
            "2002:808:808::",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "100::1",
            "2001:db8::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "3fff::1",
            "5f00::1",
            "4000::1",
        ] {
            assert!(refused_address(inner.parse().unwrap()).is_some(), "{inner}");
        }
    }

    #[test]
    fn inner_names_are_refused_with_and_without_a_final_dot() {
        for inner in [
            "localhost",
            "LOCALHOST",
            "localhost.",
            "a.localhost",
            "metadata.google.internal",
            "metadata.google.internal.",
            "db.internal",
            "printer.local",
            "postgres",
            "metadata",
            "",
            ".",
        ] {
            assert!(refused_name(inner).is_some(), "{inner}");
        }
        for public in ["api.openai.com", "api.openai.com.", "internal.example.com", "localhost.example.org"] {
            assert_eq!(refused_name(public), None, "{public}");
        }
    }
}
