//! Addresses as people write them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A host name or IP address with a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort(String);

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostPort {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, &'static str> {
        const ALLOWED: &str = "it must be host:port, like azdr.example.org:7443";
        if let Ok(address) = s.parse::<SocketAddr>() {
            return if address.port() == 0 || address.ip().is_unspecified() {
                Err(ALLOWED)
            } else {
                Ok(Self(s.to_owned()))
            };
        }
        let (host, port) = s.rsplit_once(':').ok_or(ALLOWED)?;
        let label = |l: &str| {
            !l.is_empty()
                && l.len() <= 63
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        let port_is_valid = port.parse::<u16>().is_ok_and(|p| p > 0 && p.to_string() == port);
        if host.len() > 253 || !host.split('.').all(label) || !port_is_valid {
            return Err(ALLOWED);
        }
        Ok(Self(s.to_owned()))
    }
}

/// An IP address, or a small block of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceAddress(String);

impl fmt::Display for SourceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SourceAddress {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, &'static str> {
        const ALLOWED: &str =
            "it must be an IP address, or a block of /24 (IPv4) or /64 (IPv6) or smaller";
        let (address, prefix) = s.split_once('/').map_or((s, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| ALLOWED)?;
        let sizes = if address.is_ipv4() { 24..=32u8 } else { 64..=128 };
        let size_is_valid = prefix.is_none_or(|p| p.parse().is_ok_and(|p| sizes.contains(&p)));
        if address.is_unspecified() || !size_is_valid {
            return Err(ALLOWED);
        }
        Ok(Self(s.to_owned()))
    }
}
