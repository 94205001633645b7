//! Published ports, as the API and the command line say them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use crate::egress::ProxyProtocol;

/// The transport of a published port.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    /// Connections.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the host whose clients are connected with an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// Where the host listens; everywhere when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The endpoint's port.
    pub port: u16,
    /// TCP when not said.
    #[serde(default)]
    pub protocol: PortProtocol,
    /// The endpoint hears of its client by the PROXY protocol (TCP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyProtocol>,
    /// Clients appear under their own addresses, not under the gateway's. The endpoint's way back must lead through this
    /// network's gateway.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_source: bool,
}

impl Publish {
    /// Whether it can be.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        if self.host_port == 0 || self.port == 0 {
            return Err(format!("{self}: there is no port 0"));
        }
        if self.proxy.is_some() && self.protocol == PortProtocol::Udp {
            return Err(format!(
                "{self}: the PROXY protocol is spoken over TCP only"
            ));
        }
        Ok(())
    }

    /// Whether both can't listen at the same time.
    pub fn clashes(&self, other: &Self) -> bool {
        let meet = match (self.ip, other.ip) {
            (Some(a), Some(b)) => {
                a == b || (a.is_ipv4() == b.is_ipv4() && (is_any(a) || is_any(b)))
            }
            (None, _) | (_, None) => true,
        };
        (self.host_port, self.protocol) == (other.host_port, other.protocol) && meet
    }

    /// The host's side, for people.
    pub fn listens_at(&self) -> String {
        let protocol = self.protocol;
        match self.ip {
            Some(ip) => format!("{}/{protocol}", SocketAddr::new(ip, self.host_port)),
            None => format!("port {}/{protocol}", self.host_port),
        }
    }
}

fn is_any(ip: IpAddr) -> bool {
    ip.is_unspecified()
}

/// As it is written on the command line, for one port: `[ip:]hostport:port/proto[,proxy=v2][,source=client]`.
impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:")?,
            None => {}
        }
        write!(f, "{}:{}/{}", self.host_port, self.port, self.protocol)?;
        match self.proxy {
            Some(ProxyProtocol::V1) => write!(f, ",proxy=v1")?,
            Some(ProxyProtocol::V2) => write!(f, ",proxy=v2")?,
            None => {}
        }
        if self.keep_source {
            write!(f, ",source=client")?;
        }
        Ok(())
    }
}

/// Several ports at once, as they are written: a range of the host's to a range of the endpoint's as long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRange(pub Vec<Publish>);

impl FromStr for PublishRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (places, options) = text.split_once(',').unwrap_or((text, ""));
        let (places, protocol) = match places.rsplit_once('/') {
            None => (places, PortProtocol::Tcp),
            Some((places, "tcp")) => (places, PortProtocol::Tcp),
            Some((places, "udp")) => (places, PortProtocol::Udp),
            Some((_, other)) => return Err(format!("{other:?} is no protocol: tcp or udp")),
        };
        let wanted = "want [IP:]HOSTPORT:PORT, an IPv6 address in brackets";
        let (front, inner) = places.rsplit_once(':').ok_or(wanted)?;
        let (ip, outer) = match front.rsplit_once(':') {
            None => (None, front),
            Some((ip, outer)) => (Some(address(ip)?), outer),
        };
        let (outer, inner) = (range(outer)?, range(inner)?);
        if outer.len() != inner.len() {
            return Err(format!(
                "{} ports of the host don't fit {} of the endpoint",
                outer.len(),
                inner.len()
            ));
        }
        let mut one = Publish {
            ip,
            host_port: 0,
            port: 0,
            protocol,
            proxy: None,
            keep_source: false,
        };
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option {
                "proxy=v1" => one.proxy = Some(ProxyProtocol::V1),
                "proxy=v2" => one.proxy = Some(ProxyProtocol::V2),
                "source=client" => one.keep_source = true,
                "source=gateway" => one.keep_source = false,
                _ => {
                    return Err(format!(
                        "{option:?} is not known: proxy=v1|v2, source=client|gateway"
                    ));
                }
            }
        }
        let all = outer.zip(inner).map(|(host_port, port)| Publish {
            host_port,
            port,
            ..one.clone()
        });
        let all: Vec<Publish> = all.collect();
        all.iter().try_for_each(Publish::check)?;
        Ok(Self(all))
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let ip: Result<IpAddr, _> = bare.unwrap_or(text).parse();
    match ip {
        Ok(ip) if ip.is_ipv6() == bare.is_some() => Ok(ip),
        Ok(_) | Err(_) => Err(format!("{text:?} is no address; IPv6 goes in brackets")),
    }
}

fn range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| {
        let port = text.parse::<u16>().ok().filter(|port| *port > 0);
        port.ok_or_else(|| format!("{text:?} is no port, 1 to 65535"))
    };
    let range = port(first)?..=port(last)?;
    if range.is_empty() {
        return Err(format!("{text:?} ends before it begins"));
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Publish>, String> {
        text.parse::<PublishRange>().map(|range| range.0)
    }

    #[test]
    fn what_is_written_is_read_and_written_alike() {
        for (text, canonical) in [
            ("8080:80", "8080:80/tcp"),
            ("127.0.0.1:8080:80/tcp", "127.0.0.1:8080:80/tcp"),
            ("[::1]:53:53/udp", "[::1]:53:53/udp"),
            ("443:8443,proxy=v2", "443:8443/tcp,proxy=v2"),
            (
                "443:8443/tcp,source=client,proxy=v1",
                "443:8443/tcp,proxy=v1,source=client",
            ),
        ] {
            let read = parse(text).unwrap();
            assert_eq!(read.len(), 1);
            assert_eq!(read[0].to_string(), canonical);
            assert_eq!(parse(canonical).unwrap(), read);
        }
    }

    #[test]
    fn ranges_go_one_to_one() {
        let read = parse("10.0.0.1:8000-8002:9000-9002/udp").unwrap();
        let pairs: Vec<_> = read.iter().map(|one| (one.host_port, one.port)).collect();
        assert_eq!(pairs, [(8000, 9000), (8001, 9001), (8002, 9002)]);
        assert_eq!(parse("1-65535:1-65535").unwrap().len(), 65_535);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for text in [
            "",
            "80",
            "80:",
            ":80",
            "0:80",
            "80:0",
            "80:80/sctp",
            "80-81:80",
            "81-80:81-80",
            "::1:80:80",
            "[10.0.0.1]:80:80",
            "host:80:80",
            "80:80,proxy=v3",
            "80:80/udp,proxy=v2",
            "65536:80",
            "-1:80",
            "80:80,",
        ] {
            let read = parse(text);
            assert_eq!(read.is_err(), text != "80:80,", "{text:?}: {read:?}");
        }
    }

    #[test]
    fn clashes_are_of_port_protocol_and_address() {
        let one = |text: &str| parse(text).unwrap().remove(0);
        assert!(one("80:1").clashes(&one("127.0.0.1:80:2")));
        assert!(one("0.0.0.0:80:1").clashes(&one("127.0.0.1:80:2")));
        assert!(!one("127.0.0.2:80:1").clashes(&one("127.0.0.1:80:2")));
        assert!(!one("80:1").clashes(&one("80:1/udp")));
        assert!(!one("80:1").clashes(&one("81:1")));
    }
}
