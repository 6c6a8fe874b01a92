//! The address of a client behind trusted proxies.
//!
//! Only proxies of the configured networks are trusted. The client is the rightmost hop that is not a
//! trusted proxy. A client can forge every hop to the left of it.

use std::{fmt, net::IpAddr, str::FromStr};

use http::{HeaderMap, HeaderName, header};

use crate::session::PeerAddress;

/// Networks whose proxies are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<Network>,
    /// True if every peer on the Unix socket is trusted.
    unix_socket: bool,
}

/// Stands for the peers on the Unix socket.
const UNIX: &str = "unix";

/// A network: an address and the length of its prefix (RFC 4632).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    prefix: u8,
}

/// The header in which trusted proxies name the client. The other one is ignored: a proxy that does
/// not set it forwards the value of the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// None, for proxies that use the PROXY protocol alone.
    None,
}

impl TrustedProxies {
    /// Returns true if a peer is a trusted proxy.
    pub(super) fn contain(&self, address: PeerAddress) -> bool {
        match address {
            PeerAddress::Ip(address) => {
                let address = address.to_canonical();
                self.networks.iter().any(|network| network.contains(address))
            }
            PeerAddress::UnixSocket => self.unix_socket,
        }
    }

    /// Returns the address of the client of a request that a trusted proxy sent. `peer` if the
    /// header does not name one.
    pub(super) fn client(
        &self,
        peer: PeerAddress,
        header: ForwardedHeader,
        headers: &HeaderMap,
    ) -> PeerAddress {
        let mut client = peer;
        for hop in hops(header, headers).into_iter().rev() {
            let Some(address) = hop else { return client };
            client = PeerAddress::Ip(address);
            if !self.contain(client) {
                return client;
            }
        }
        client
    }
}

/// Returns the hops of a header, the nearest last. `None` stands for a hop that is hidden, or is no
/// address.
fn hops(header: ForwardedHeader, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    let (name, read): (_, fn(&str) -> Option<IpAddr>) = match header {
        ForwardedHeader::XForwardedFor => (X_FORWARDED_FOR, node),
        ForwardedHeader::Forwarded => (header::FORWARDED, forwarded_for),
        ForwardedHeader::None => return Vec::new(),
    };
    let lines = headers.get_all(name).iter();
    let elements = lines.flat_map(|line| match line.to_str() {
        Ok(line) => line.split(',').map(|hop| read(hop.trim())).collect(),
        Err(_) => vec![None],
    });
    elements.collect()
}

/// Returns the `for` parameter of an element of `Forwarded` (RFC 7239, section 4).
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
    node(value.trim_matches('"'))
}

/// Reads an address with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`,
/// `[2001:db8::1]:80`.
fn node(text: &str) -> Option<IpAddr> {
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split(']').next()?.parse().ok();
    }
    let address = text.parse().ok();
    let address = address.or_else(|| text.rsplit_once(':')?.0.parse().ok());
    address.map(|address: IpAddr| address.to_canonical())
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix);
                let of = |bits: u32| bits.checked_shr(shift).unwrap_or(0);
                of(network.to_bits()) == of(address.to_bits())
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.prefix);
                let of = |bits: u128| bits.checked_shr(shift).unwrap_or(0);
                of(network.to_bits()) == of(address.to_bits())
            }
            _ => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "`{text}` is no network such as `10.0.0.0/8`, `192.0.2.1` or `fd00::/8`, and not `unix`"
            )
        };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| expected())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(whole), str::parse).map_err(|_| expected())?;
        if prefix > whole { Err(expected()) } else { Ok(Self { address, prefix }) }
    }
}

impl FromStr for TrustedProxies {
    type Err = String;

    /// Reads a comma-separated list of networks and `unix`; `none` is the empty one.
    fn from_str(text: &str) -> Result<Self, String> {
        let entries = text.split(',').map(str::trim);
        let mut proxies = Self::default();
        for entry in entries.filter(|entry| !entry.is_empty() && *entry != "none") {
            if entry == UNIX {
                proxies.unix_socket = true;
            } else {
                proxies.networks.push(entry.parse()?);
            }
        }
        Ok(proxies)
    }
}

impl fmt::Display for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut entries: Vec<_> = self.networks.iter().map(Network::to_string).collect();
        entries.extend(self.unix_socket.then(|| UNIX.to_owned()));
        if entries.is_empty() { f.write_str("none") } else { f.write_str(&entries.join(",")) }
    }
}

impl FromStr for ForwardedHeader {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "x-forwarded-for" => Ok(Self::XForwardedFor),
            "forwarded" => Ok(Self::Forwarded),
            "none" => Ok(Self::None),
            _ => Err("expected `x-forwarded-for`, `forwarded` or `none`".into()),
        }
    }
}

impl fmt::Display for ForwardedHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
            Self::None => "none",
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const PEER: PeerAddress = PeerAddress::Ip(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));

    fn client(header: ForwardedHeader, name: &'static str, lines: &[&'static str]) -> String {
        let proxies: TrustedProxies = "10.0.0.0/8,fd00::/8".parse().unwrap();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_static(line));
        }
        proxies.client(PEER, header, &headers).to_string()
    }

    #[test]
    fn the_rightmost_hop_that_is_not_trusted_counts() {
        let of = |lines: &[&'static str]| {
            client(ForwardedHeader::XForwardedFor, "x-forwarded-for", lines)
        };
        assert_eq!(of(&[]), "10.0.0.1");
        assert_eq!(of(&["192.0.2.7"]), "192.0.2.7");
        assert_eq!(of(&["6.6.6.6, 192.0.2.7"]), "192.0.2.7", "the client made up the first");
        assert_eq!(of(&["6.6.6.6, 192.0.2.7, 10.2.3.4"]), "192.0.2.7");
        assert_eq!(
            of(&["6.6.6.6", "192.0.2.7, 10.2.3.4"]),
            "192.0.2.7",
            "two headers are one list"
        );
        assert_eq!(of(&["192.0.2.7:4711"]), "192.0.2.7");
        assert_eq!(of(&["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(of(&["::ffff:192.0.2.7"]), "192.0.2.7");
        assert_eq!(of(&["192.0.2.7, unknown, 10.2.3.4"]), "10.2.3.4", "hidden");
        assert_eq!(of(&["10.9.9.9, 10.2.3.4"]), "10.9.9.9", "a client in the trusted network");
        assert_eq!(of(&["", "evil\t"]), "10.0.0.1");
    }

    #[test]
    fn forwarded_is_read_as_its_rfc_has_it_and_only_if_it_is_the_chosen_header() {
        let of = |lines: &[&'static str]| client(ForwardedHeader::Forwarded, "forwarded", lines);
        assert_eq!(of(&["for=192.0.2.60;proto=http;by=203.0.113.43"]), "192.0.2.60");
        assert_eq!(of(&["For=\"[2001:db8:cafe::17]:4711\""]), "2001:db8:cafe::17");
        assert_eq!(of(&["for=6.6.6.6, for=192.0.2.43, for=10.1.1.1"]), "192.0.2.43");
        assert_eq!(of(&["for=192.0.2.43, for=_hidden"]), "10.0.0.1");
        assert_eq!(of(&["proto=https"]), "10.0.0.1");
        let other = client(ForwardedHeader::XForwardedFor, "forwarded", &["for=192.0.2.60"]);
        assert_eq!(other, "10.0.0.1");
        let none = client(ForwardedHeader::None, "x-forwarded-for", &["192.0.2.60"]);
        assert_eq!(none, "10.0.0.1");
    }

    #[test]
    fn networks_are_read_and_shown() {
        let proxies: TrustedProxies = "10.0.0.0/8, 192.0.2.1 ,fd00::/8".parse().unwrap();
        assert_eq!(proxies.to_string(), "10.0.0.0/8,192.0.2.1/32,fd00::/8");
        assert!(!proxies.contain(PeerAddress::UnixSocket));
        for (address, inside) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("fd12::1", true),
            ("fe80::1", false),
            ("::ffff:10.0.0.1", true),
        ] {
            let peer = PeerAddress::Ip(address.parse().unwrap());
            assert_eq!(proxies.contain(peer), inside, "{address}");
        }
        let everything: TrustedProxies = "0.0.0.0/0".parse().unwrap();
        let ipv6 = PeerAddress::Ip("::1".parse().unwrap());
        assert!(everything.contain(PEER) && !everything.contain(ipv6));
        let local: TrustedProxies = "unix,10.0.0.1".parse().unwrap();
        assert_eq!(local.to_string(), "10.0.0.1/32,unix");
        assert!(local.contain(PeerAddress::UnixSocket));
        assert_eq!("unix".parse::<TrustedProxies>().unwrap().to_string(), "unix");
        assert_eq!("none".parse::<TrustedProxies>().unwrap().to_string(), "none");
        for wrong in ["10.0.0.0/33", "localhost", "10.0.0.0/x", "::/129", "10.0.0.0/-1"] {
            assert!(wrong.parse::<TrustedProxies>().is_err(), "{wrong}");
        }
    }
}
