//! Values of flags that need more than `FromStr`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use weft_control::api::NetnsArg;
use weft_control::model::Egress;

use crate::config::CONTROLLER_PORT;

/// The longest wait; the agent holds no request longer.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// Port of a name server that says none (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;

/// Seconds as a number (`30`) or with units (`1m 30s`), at most an hour.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => duration(text)?,
    };
    if wait > MAX_WAIT {
        Err("an hour (3600) is the most".to_owned())
    } else {
        Ok(wait)
    }
}

/// A duration with units (`24h`, `1h 30m`).
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error} (write it like `24h` or `90s`)"))
}

/// Bits per second: a number with `bit`, `kbit`, `mbit` or `gbit` (powers of 1000), or without.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    let units = [("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3), ("bit", 1.0)];
    scaled(text, &units).ok_or_else(|| "want a rate like 100mbit, 2.5gbit or 64kbit".to_owned())
}

/// Bytes: a number with `b`, `kb`, `mb` (powers of 1024), or without.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let units = [("mb", 1024.0 * 1024.0), ("kb", 1024.0), ("b", 1.0)];
    scaled(text, &units).ok_or_else(|| "want bytes like 256kb or 65536".to_owned())
}

fn scaled(text: &str, units: &[(&str, f64)]) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let (number, scale) = units
        .iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale)))
        .unwrap_or((&text, 1.0));
    let value = number.trim().parse::<f64>().ok()? * scale;
    // Beyond this a float is no whole number any more.
    let whole = value.is_finite() && (1.0..9e15).contains(&value);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked just before"
    )]
    whole.then_some(value as u64)
}

/// A part of all: `1%`, or `0.01`. Gives 0 to 1.
pub(crate) fn part(text: &str) -> Result<f64, String> {
    let (number, scale) = match text.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    let part = number.trim().parse::<f64>().map(|number| number / scale);
    part.ok()
        .filter(|part| (0.0..=1.0).contains(part))
        .ok_or_else(|| "want a part like 1% or 0.01, at most 100%".to_owned())
}

/// The least age of a key: replacing one costs a handshake, and two live beside each other for ten seconds.
const REKEY_MIN: Duration = Duration::from_secs(20);
/// The most: what one stolen key can open.
const REKEY_MAX: Duration = Duration::from_secs(24 * 3600);

/// The age at which a key is replaced.
pub(crate) fn rekey_age(text: &str) -> Result<Duration, String> {
    let age = duration(text)?;
    if (REKEY_MIN..=REKEY_MAX).contains(&age) {
        Ok(age)
    } else {
        Err("want 20s to 24h".to_owned())
    }
}

/// The least time of a session without use: less would close it between two packets of a conversation.
const IDLE_MIN: Duration = Duration::from_secs(2);
/// The most.
const IDLE_MAX: Duration = Duration::from_secs(24 * 3600);

/// The time after which a session that nobody uses is closed.
pub(crate) fn idle_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if (IDLE_MIN..=IDLE_MAX).contains(&time) {
        Ok(time)
    } else {
        Err("want 2s to 24h".to_owned())
    }
}

/// A filter for the log; only checked here.
pub(crate) fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text)
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

/// `IP:PORT`, or an `IP` alone with the controller's usual port.
pub(crate) fn controller_address(text: &str) -> Result<SocketAddr, String> {
    address(text, CONTROLLER_PORT)
        .ok_or_else(|| "want IP:PORT, like 10.99.0.1:6783 or [fd00::1]:6783".to_owned())
}

/// `NAME=IP`.
pub(crate) fn named_address(text: &str) -> Result<(String, IpAddr), String> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .and_then(|(name, ip)| Some((name.to_owned(), ip.parse().ok()?)))
        .ok_or_else(|| "want NAME=IP, like router=10.32.0.2".to_owned())
}

/// `IP:PORT`, or an `IP` alone with the port of name servers.
pub(crate) fn name_server(text: &str) -> Result<SocketAddr, String> {
    address(text, DNS_PORT)
        .filter(|address| !address.ip().is_unspecified() && address.port() != 0)
        .ok_or_else(|| "want an IP address, like 9.9.9.9, 9.9.9.9:53 or [fd00::1]:53".to_owned())
}

fn address(text: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let ip = bare.parse::<IpAddr>().ok()?;
    Some(SocketAddr::new(ip, port))
}

/// A name as the CNI specification wants it of networks and plugins.
pub(crate) fn cni_name(text: &str) -> Result<String, String> {
    if crate::cni::is_identifier(text) {
        return Ok(text.to_owned());
    }
    Err("it takes letters, digits, '_', '.' and '-', the first a letter or digit".to_owned())
}

/// A file name that container runtimes read lists of plugins from.
pub(crate) fn conflist_name(text: &str) -> Result<String, String> {
    if text.contains('/') || text.starts_with('.') || !text.ends_with(".conflist") {
        return Err("want a file name like 10-weft.conflist".to_owned());
    }
    Ok(text.to_owned())
}

/// A network namespace: a value with a `/` is the path of a namespace file (made absolute, as the agent runs
/// elsewhere), any other a name as `ip netns` has it.
pub(crate) fn netns(text: &str) -> Result<NetnsArg, String> {
    if text.is_empty() {
        return Err("want the name of a namespace, or the path of a namespace file".to_owned());
    }
    if !text.contains('/') {
        return Ok(NetnsArg::Name(text.to_owned()));
    }
    std::path::absolute(text)
        .map(NetnsArg::Path)
        .map_err(|error| format!("cannot make the path absolute: {error}"))
}

/// How endpoints reach the outside.
pub(crate) fn egress(text: &str) -> Result<Egress, String> {
    match text {
        "nat" => Ok(Egress::Nat),
        "kernel" => Ok(Egress::Kernel),
        "off" => Ok(Egress::Off),
        _ => Err("want nat, kernel or off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_netns_with_a_slash_is_a_path_and_becomes_absolute() {
        assert_eq!(netns("web"), Ok(NetnsArg::Name("web".into())));
        assert_eq!(
            netns("/proc/7/ns/net"),
            Ok(NetnsArg::Path("/proc/7/ns/net".into()))
        );
        let here = std::env::current_dir().unwrap();
        assert_eq!(netns("./ns"), Ok(NetnsArg::Path(here.join("ns"))));
        assert!(netns("").is_err());
    }

    #[test]
    fn a_controller_address_has_a_usual_port() {
        let v4 = |port| Ok(SocketAddr::new([10, 0, 0, 1].into(), port));
        assert_eq!(controller_address("10.0.0.1"), v4(CONTROLLER_PORT));
        assert_eq!(controller_address("10.0.0.1:99"), v4(99));
        let v6 = SocketAddr::new("fd00::1".parse().unwrap(), CONTROLLER_PORT);
        assert_eq!(controller_address("fd00::1"), Ok(v6));
        assert_eq!(controller_address("[fd00::1]"), Ok(v6));
        assert!(controller_address("controller:1").is_err());
    }

    #[test]
    fn rates_bytes_and_parts_have_units() {
        assert_eq!(rate("100mbit"), Ok(100_000_000));
        assert_eq!(rate("2.5Gbit"), Ok(2_500_000_000));
        assert_eq!(rate("9600"), Ok(9600));
        for wrong in ["", "mbit", "-1mbit", "0", "1e99gbit", "nanbit", "3 apples"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        assert_eq!(bytes("256kb"), Ok(262_144));
        assert_eq!(part("1%"), Ok(0.01));
        assert_eq!(part("0.5"), Ok(0.5));
        for wrong in ["101%", "2", "-1%", "%", "nan"] {
            assert!(part(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_server_is_an_address_and_no_name() {
        let v4 = |port| Ok(SocketAddr::new([9, 9, 9, 9].into(), port));
        assert_eq!(
            (name_server("9.9.9.9"), name_server("9.9.9.9:5353")),
            (v4(53), v4(5353))
        );
        assert_eq!(name_server("fd00::1"), name_server("[fd00::1]:53"));
        for wrong in ["dns.example", "0.0.0.0", "9.9.9.9:0", ""] {
            assert!(name_server(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seconds_go_with_and_without_units() {
        assert_eq!(seconds("30"), Ok(Duration::from_secs(30)));
        assert_eq!(seconds("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(seconds("soon").is_err());
        assert!(seconds("3601").is_err());
        assert!(duration("24").is_err());
    }
}
