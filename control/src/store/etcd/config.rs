//! Where an etcd store is and how to get in.

use std::path::PathBuf;

/// The port on which etcd talks to clients.
const CLIENT_PORT: u16 = 2379;
/// What all keys begin with when nobody says otherwise.
const DEFAULT_PREFIX: &str = "/weft";
/// A prefix is a part of every key and message.
const MAX_PREFIX_BYTES: usize = 128;

/// An etcd cluster and a place in it.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `HOST:PORT` of each known member.
    pub members: Vec<String>,
    /// What all keys begin with, without a slash at its end.
    pub prefix: String,
    /// PEM file with the authority that signed the members' certificates; TLS is used if it is there.
    pub ca: Option<PathBuf>,
    /// PEM file with our own certificate, where etcd wants one.
    pub cert: Option<PathBuf>,
    /// PEM file with its key.
    pub key: Option<PathBuf>,
    /// Name of an etcd user, where authentication is on.
    pub user: Option<String>,
    /// Their password.
    pub password: Option<String>,
}

impl std::fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

impl EtcdConfig {
    /// Reads `etcd://HOST[:PORT][,HOST[:PORT]...][/PREFIX]`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(url: &str) -> Result<Self, String> {
        let wants = "want etcd://HOST:PORT[,HOST:PORT...][/PREFIX]";
        let rest = url
            .strip_prefix("etcd://")
            .ok_or_else(|| wants.to_owned())?;
        let (hosts, prefix) = match rest.split_once('/') {
            Some((hosts, prefix)) => (hosts, format!("/{}", prefix.trim_matches('/'))),
            None => (rest, DEFAULT_PREFIX.to_owned()),
        };
        if hosts.contains('@') {
            return Err("no user and no password in it: give --store-user, and the password by --store-password-file or WEFT_STORE_PASSWORD".to_owned());
        }
        let prefix = if prefix == "/" {
            DEFAULT_PREFIX.to_owned()
        } else {
            prefix
        };
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
        if prefix.len() > MAX_PREFIX_BYTES || !prefix.bytes().all(fine) {
            return Err(format!(
                "prefix {prefix:?} is not usable: take letters, digits, '-', '_', '.' and '/'"
            ));
        }
        let members: Result<Vec<String>, String> = hosts.split(',').map(member).collect();
        Ok(Self {
            members: members.map_err(|host| format!("{host:?} is no HOST:PORT; {wants}"))?,
            prefix,
            ca: None,
            cert: None,
            key: None,
            user: None,
            password: None,
        })
    }

    /// Its name for people.
    pub fn name(&self) -> String {
        format!("etcd://{}{}", self.members.join(","), self.prefix)
    }
}

fn member(text: &str) -> Result<String, String> {
    let bad = || text.to_owned();
    let (host, port) = match text.rsplit_once(':') {
        // A bare IPv6 address has colons, too: it wants brackets.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().map_err(|_| bad())?)
        }
        Some(_) if text.ends_with(']') => (text, CLIENT_PORT),
        Some(_) => return Err(bad()),
        None => (text, CLIENT_PORT),
    };
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let fine = match inner {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
            !host.is_empty() && host.bytes().all(good)
        }
    };
    if !fine || port == 0 {
        return Err(bad());
    }
    Ok(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_members_and_a_prefix() {
        let parsed = |url| EtcdConfig::parse(url).map(|config| (config.members, config.prefix));
        let of = |members: &[&str], prefix: &str| {
            let members = members.iter().map(|member| (*member).to_owned()).collect();
            Ok((members, prefix.to_owned()))
        };
        assert_eq!(parsed("etcd://a:1"), of(&["a:1"], "/weft"));
        assert_eq!(
            parsed("etcd://a,10.0.0.1/"),
            of(&["a:2379", "10.0.0.1:2379"], "/weft")
        );
        assert_eq!(
            parsed("etcd://[fd00::1]:5,[fd00::2]/x/y/"),
            of(&["[fd00::1]:5", "[fd00::2]:2379"], "/x/y")
        );
        for bad in [
            "",
            "etcd://",
            "http://a:1",
            "etcd://a:0",
            "etcd://a:x",
            "etcd://fd00::1",
            "etcd://a,",
            "etcd://a b",
            "etcd://a/p\u{e4}",
            "etcd://[a]:1",
            "etcd://a:99999",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
        let refusal = parsed("etcd://me:secret@a").unwrap_err();
        assert!(
            refusal.contains("--store-user") && !refusal.contains("secret"),
            "{refusal}"
        );
    }
}
