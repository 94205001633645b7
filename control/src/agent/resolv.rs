//! `connect --dns`: the resolv.conf(5) that `ip netns exec` gives the programs of a named namespace (ip-netns(8)). It names
//! the gateways of the namespace's ports that were connected so, and goes with the last of them. A file that somebody else
//! wrote is left alone: whoever has one is refused at connect.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::{Agent, ApiError};
use crate::api::{self, NetnsArg};
use crate::model::Network;

/// Where `ip netns exec` looks, by the namespace's name.
const NETNS_DIR: &str = "/etc/netns";
/// First line of what is ours.
const MARK: &str =
    "# Written by weft (network connect --dns); gone with the namespace's last such port.";
/// What resolvers read (MAXNS of resolv.h).
const MAX_SERVERS: usize = 3;

/// The file of a namespace.
fn path_of(netns: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(netns).join("resolv.conf")
}

/// Whether it may be written: it isn't there, or we wrote it.
fn is_ours(path: &Path) -> io::Result<bool> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.starts_with(MARK)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Writes the servers, or removes what is ours if there are none.
fn write(path: &Path, servers: &[IpAddr]) -> io::Result<()> {
    if !is_ours(path)? {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let Some(dir) = path.parent() else {
        return Ok(());
    };
    if servers.is_empty() {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // Others may have files there too.
        let _ = fs::remove_dir(dir);
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    let lines = servers.iter().take(MAX_SERVERS);
    let lines: Vec<String> = lines
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    let new = path.with_extension("conf.weft");
    fs::write(&new, format!("{MARK}\n{}", lines.concat()))?;
    fs::rename(&new, path)
}

/// Whether `--dns` can be had, before anything is made.
pub(super) fn check(network: &Network, request: &api::Connect) -> Result<(), ApiError> {
    if !request.dns {
        return Ok(());
    }
    let bad = |why: String| ApiError::bad_request("bad_dns", why);
    let NetnsArg::Name(netns) = &request.netns else {
        return Err(bad("only a namespace with a name has a resolv.conf of its own".to_owned())
            .hint("connect it with --netns NAME, or tell its programs of the gateway's address otherwise"));
    };
    if network.is_plain_l2() {
        return Err(bad(format!(
            "network {} has no subnet, hence no name server",
            network.name
        ))
        .hint("leave out --dns, or create the network with --subnet"));
    }
    let path = path_of(netns);
    match is_ours(&path) {
        Ok(true) => Ok(()),
        Ok(false) => Err(ApiError::conflict(
            "resolv_conf_exists",
            format!(
                "{} is there already, and weft didn't write it",
                path.display()
            ),
        )
        .hint("remove it, or leave out --dns")),
        Err(error) => Err(ApiError::internal(format!(
            "cannot read {}: {error}",
            path.display()
        ))),
    }
}

impl Agent {
    /// Makes a namespace's file name what its ports ask for. Blocks.
    pub(super) fn write_resolv_conf(&self, netns: &str) -> Result<(), ApiError> {
        let servers: Vec<IpAddr> = {
            let inner = self.inner();
            let records = inner.ports.values().map(|port| &port.record);
            let asking = records.filter(|record| record.dns && record.netns == netns);
            asking.flat_map(|record| record.gateways.clone()).collect()
        };
        let path = path_of(netns);
        write(&path, &servers).map_err(|error| {
            ApiError::internal(format!("cannot write {}: {error}", path.display()))
                .hint("leave out --dns, or mend the file system")
        })
    }

    /// The same where nobody waits for it.
    pub(super) fn follow_resolv_conf(&self, netns: &str) {
        if let Err(error) = self.write_resolv_conf(netns) {
            warn!(%netns, "{}", error.reply.message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_changed_and_removed_and_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web/resolv.conf");
        let servers: Vec<IpAddr> = ["10.32.0.1", "fd32::1", "10.33.0.1", "10.34.0.1"]
            .map(|ip| ip.parse().unwrap())
            .into();
        write(&path, &servers[..1]).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!("{MARK}\nnameserver 10.32.0.1\n")
        );
        write(&path, &servers).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.ends_with("nameserver fd32::1\nnameserver 10.33.0.1\n"),
            "{text}"
        );
        write(&path, &[]).unwrap();
        assert!(!dir.path().join("web").exists());
        write(&path, &[]).unwrap();
        fs::create_dir(dir.path().join("web")).unwrap();
        fs::write(&path, "nameserver 9.9.9.9\n").unwrap();
        for servers in [&servers[..], &[]] {
            let error = write(&path, servers).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "nameserver 9.9.9.9\n");
    }
}
