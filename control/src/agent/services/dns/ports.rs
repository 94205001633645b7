//! Well-known ports by service name: the host's services(5), read once when somebody asks.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The table.
#[derive(Debug)]
pub(super) struct WellKnownPorts {
    path: PathBuf,
    ports: OnceLock<HashMap<(String, String), u16>>,
}

impl WellKnownPorts {
    /// The table of that file.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            ports: OnceLock::new(),
        }
    }

    /// The port of a service over `tcp` or `udp`. Names in lower case.
    pub(super) fn lookup(&self, service: &str, protocol: &str) -> Option<u16> {
        let ports = self.ports.get_or_init(|| {
            let text = std::fs::read_to_string(&self.path).unwrap_or_default();
            parse(&text)
        });
        let key = (service.to_owned(), protocol.to_owned());
        ports.get(&key).copied()
    }
}

/// `NAME PORT/PROTOCOL ALIAS...`, `#` begins a comment.
fn parse(text: &str) -> HashMap<(String, String), u16> {
    let mut ports = HashMap::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let (Some(name), Some(port)) = (words.next(), words.next()) else {
            continue;
        };
        let Some((port, protocol)) = port.split_once('/') else {
            continue;
        };
        let Ok(port) = port.parse() else { continue };
        for name in std::iter::once(name).chain(words) {
            let key = (name.to_ascii_lowercase(), protocol.to_ascii_lowercase());
            ports.entry(key).or_insert(port);
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_and_their_aliases_have_ports() {
        let text = "# http 1/tcp\nhttp\t80/tcp\twww  # WWW\ndomain 53/tcp\ndomain 53/udp\nbad 99999/tcp\nworse\n";
        let ports = parse(text);
        let port = |name: &str, protocol: &str| {
            ports.get(&(name.to_owned(), protocol.to_owned())).copied()
        };
        assert_eq!(
            (port("http", "tcp"), port("www", "tcp")),
            (Some(80), Some(80))
        );
        assert_eq!(
            (port("domain", "udp"), port("http", "udp")),
            (Some(53), None)
        );
        assert_eq!((port("bad", "tcp"), port("worse", "tcp")), (None, None));
        let none = WellKnownPorts::new(Path::new("/nowhere"));
        assert_eq!(none.lookup("http", "tcp"), None);
    }
}
