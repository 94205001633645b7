//! What an agent keeps on disk, so that a new start goes on where the old one ended.
//!
//! | file in the state directory | what | written |
//! |---|---|---|
//! | `ports.json` | the ports of this host: owned facts | durably, before a change is answered |
//! | `docker.json` | what Docker was given (ranges, addresses, endpoints) | durably, before Docker is answered |
//! | `settings.json` | the flags that a later start needn't repeat | at each start |
//! | `controllers.json` | the controllers that the cluster told of | when they change |
//! | `map.cbor` | the last cluster map: a cache, to forward by while no controller answers | within a second |
//! | `lock` | held by the agent that runs here | |
//!
//! Files are replaced whole (write beside, sync, rename), so that a crash leaves the old or the new one. A file
//! that can't be read is refused by name: guessing would give addresses twice.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use nix::fcntl::Flock;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use weft_wire::{Mtu, Vni};

use super::ipam::Returning;
use super::uplink::UplinkRecord;
use crate::api::{Attachment, Impairments, Limits, Publish, Route};
use crate::docker::ledger::Ledger;
use crate::lockfile;
use crate::model::{ClusterId, ClusterMap, Endpoint, NetworkId};

/// Version of both files' layout. A reader refuses what is newer than itself.
const LAYOUT: u32 = 1;

/// How long a start waits for a predecessor that is just dying.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Why the state directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory or a file in it can't be made, read or written.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// The object.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another agent runs on it.
    #[error("state directory {dir} is in use by another agent (pid {pid}); stop that one or give this one its own --state", dir = dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Who holds it, as far as it says.
        pid: String,
    },
    /// The file isn't what an agent writes.
    #[error("state file {path} is corrupt ({cause}); {next}", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
        /// What to do.
        next: &'static str,
    },
    /// A newer weft wrote it.
    #[error("state file {path} has layout {found}, this weft knows {LAYOUT}; start the newer weft again", path = path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: u32,
    },
}

/// A port as it survives the agent: everything that isn't in its file descriptors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PortRecord {
    /// What the cluster knows of it.
    pub(super) endpoint: Endpoint,
    /// The network's name when it was connected, for people.
    pub(super) network_name: String,
    /// The network's VNI.
    pub(super) vni: Vni,
    /// The namespace as the caller named it.
    pub(super) netns: String,
    /// The namespace's device and inode: what it is.
    pub(super) netns_id: (u64, u64),
    /// Interface name in the namespace.
    pub(super) ifname: String,
    /// Addresses with the prefix lengths of their subnets.
    pub(super) addresses: Vec<IpNet>,
    /// Without vnet header: frames exactly as on a wire.
    pub(super) plain: bool,
    /// Its interface was left to DHCP.
    #[serde(default)]
    pub(super) dhcp: bool,
    /// Its namespace's resolv.conf names the gateways.
    #[serde(default)]
    pub(super) dns: bool,
    /// MTU that the interface was given last, in bytes.
    pub(super) mtu: Mtu,
    /// Whose it is, if a program connected it that said so.
    #[serde(default)]
    pub(super) attachment: Option<Attachment>,
    /// Addresses that another IPAM chose: the cluster knows nothing of them.
    #[serde(default)]
    pub(super) foreign: Vec<IpNet>,
    /// Gateways of the subnets that the addresses are of.
    #[serde(default)]
    pub(super) gateways: Vec<IpAddr>,
    /// Routes that connecting it set beside those of its subnets.
    #[serde(default)]
    pub(super) routes: Vec<Route>,
    /// Ports of the host whose clients are connected with it.
    #[serde(default)]
    pub(super) published: Vec<Publish>,
    /// How fast it may be.
    #[serde(default)]
    pub(super) limits: Limits,
    /// What its frames suffer.
    #[serde(default)]
    pub(super) impairments: Impairments,
    /// It may send from any address.
    #[serde(default)]
    pub(super) allow_spoof: bool,
}

#[derive(Serialize, Deserialize)]
struct PortsFile {
    layout: u32,
    #[serde(flatten)]
    saved: SavedPorts,
}

/// What this host gave out, as it was when it was last saved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedPorts {
    /// Its ports.
    pub(super) ports: Vec<PortRecord>,
    /// Addresses of its blocks that it promised to other nodes, as far as the map may not show it yet.
    #[serde(default)]
    pub(super) yielded: Vec<(NetworkId, IpAddr)>,
    /// Blocks that it gives back: nothing is given from them, whatever an older map says.
    #[serde(default)]
    pub(super) returning: Returning,
    /// Links that are bridged into networks.
    #[serde(default)]
    pub(super) uplinks: Vec<UplinkRecord>,
}

#[derive(Serialize, Deserialize)]
struct DockerFile {
    layout: u32,
    #[serde(flatten)]
    ledger: Ledger,
}

#[derive(Serialize, Deserialize)]
struct MapFile {
    layout: u32,
    cluster: ClusterId,
    /// Of a whole map; empty when it is `part`'s.
    incarnation: String,
    map: ClusterMap,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    part: Option<MapPart>,
}

/// What says that a map isn't whole. An agent that knows nothing of parts must not take it for a whole one: it finds no
/// incarnation, and gets its own.
#[derive(Serialize, Deserialize)]
struct MapPart {
    incarnation: String,
    /// The networks for which it is complete.
    networks: BTreeSet<NetworkId>,
}

/// The cluster map as it was when it was last saved.
#[derive(Debug)]
pub(super) struct SavedMap {
    /// Which life of the controller's store its revisions belong to.
    pub(super) incarnation: String,
    /// The map.
    pub(super) map: ClusterMap,
    /// The networks for which it is complete; all when `None`.
    pub(super) has: Option<BTreeSet<NetworkId>>,
}

/// Nothing: complete for no network.
impl Default for SavedMap {
    fn default() -> Self {
        Self {
            incarnation: String::new(),
            map: ClusterMap::default(),
            has: Some(BTreeSet::new()),
        }
    }
}

/// The state directory, held for this process.
#[derive(Debug)]
pub(super) struct StateDir {
    dir: PathBuf,
    _lock: Flock<File>,
}

impl StateDir {
    /// Makes the directory if it isn't there and takes its lock.
    ///
    /// # Errors
    /// [`StateError::InUse`] when another agent holds it for more than two seconds; [`StateError::Io`].
    pub(super) fn open(dir: &Path) -> Result<Self, StateError> {
        let failed = |what, source| StateError::Io {
            what,
            path: dir.to_owned(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| failed("make directory", source))?;
        let path = dir.join("lock");
        let lock = lockfile::take(&path, LOCK_PATIENCE).map_err(|source| StateError::Io {
            what: "open",
            path: path.clone(),
            source,
        })?;
        let Some(mut lock) = lock else {
            let pid = fs::read_to_string(&path).unwrap_or_default();
            return Err(StateError::InUse {
                dir: dir.to_owned(),
                pid: pid.trim().to_owned(),
            });
        };
        // The pid in it is for people; the lock is what counts.
        let _ = lock.set_len(0);
        let _ = writeln!(lock, "{}", std::process::id());
        Ok(Self {
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    /// A path in the directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A file of this agent's, if it is there; `next` is what to do about one that can't be read.
    fn load<T: DeserializeOwned>(
        &self,
        name: &str,
        next: &'static str,
    ) -> Result<Option<T>, StateError> {
        let path = self.path(name);
        let Some(bytes) = read(&path)? else {
            return Ok(None);
        };
        let corrupt = |error: serde_json::Error| StateError::Corrupt {
            path: path.clone(),
            cause: error.to_string(),
            next,
        };
        // The layout first: what a newer weft wrote need not make sense.
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(corrupt)?;
        let layout = value.get("layout").and_then(serde_json::Value::as_u64);
        check_layout(&path, layout)?;
        serde_json::from_value(value).map(Some).map_err(corrupt)
    }

    /// Replaces such a file; durable when it returns.
    fn save(&self, name: &str, content: &impl Serialize) -> Result<(), StateError> {
        let mut text = serde_json::to_vec_pretty(content).expect("records have text keys only");
        text.push(b'\n');
        replace(&self.path(name), &text)
    }

    /// The ports of this host as they were last saved; none when there is no such file.
    ///
    /// # Errors
    /// [`StateError::Corrupt`], [`StateError::Newer`], [`StateError::Io`].
    pub(super) fn load_ports(&self) -> Result<SavedPorts, StateError> {
        let next = "move it away to start without these ports (their containers lose them)";
        let file: Option<PortsFile> = self.load("ports.json", next)?;
        Ok(file.map(|file| file.saved).unwrap_or_default())
    }

    /// Replaces the saved ports; durable when it returns.
    ///
    /// # Errors
    /// [`StateError::Io`]; the old file is still there then.
    pub(super) fn save_ports(&self, saved: SavedPorts) -> Result<(), StateError> {
        let file = PortsFile {
            layout: LAYOUT,
            saved,
        };
        self.save("ports.json", &file)
    }

    /// What Docker was given; nothing when there is no such file.
    ///
    /// # Errors
    /// [`StateError::Corrupt`], [`StateError::Newer`], [`StateError::Io`].
    pub(super) fn load_docker(&self) -> Result<Ledger, StateError> {
        let next =
            "move it away to start without it (Docker's networks on weft must be made again)";
        let file: Option<DockerFile> = self.load("docker.json", next)?;
        Ok(file.map(|file| file.ledger).unwrap_or_default())
    }

    /// Replaces what Docker was given; durable when it returns.
    ///
    /// # Errors
    /// [`StateError::Io`]; the old file is still there then.
    pub(super) fn save_docker(&self, ledger: &Ledger) -> Result<(), StateError> {
        let file = DockerFile {
            layout: LAYOUT,
            ledger: ledger.clone(),
        };
        self.save("docker.json", &file)
    }

    /// What earlier starts were told; nothing when there is no such file.
    ///
    /// # Errors
    /// [`StateError::Corrupt`], [`StateError::Io`].
    pub(super) fn load_settings<T: DeserializeOwned + Default>(&self) -> Result<T, StateError> {
        let path = self.path("settings.json");
        let Some(bytes) = read(&path)? else {
            return Ok(T::default());
        };
        serde_json::from_slice(&bytes).map_err(|error| StateError::Corrupt {
            path,
            cause: error.to_string(),
            next: "delete it and give --underlay (and --standalone, --vxlan-port if they were used) again",
        })
    }

    /// Remembers what this start was told.
    ///
    /// # Errors
    /// [`StateError::Io`]; the old file is still there then.
    pub(super) fn save_settings<T: Serialize>(&self, settings: &T) -> Result<(), StateError> {
        let mut text = serde_json::to_vec_pretty(settings).expect("settings have text keys only");
        text.push(b'\n');
        let path = self.path("settings.json");
        if read(&path)?.as_ref() == Some(&text) {
            // A start on a full disk has nothing to write.
            return Ok(());
        }
        replace(&path, &text)
    }

    /// The controllers that the cluster told of last; none when there is no such file.
    ///
    /// # Errors
    /// [`StateError::Corrupt`], [`StateError::Io`].
    pub(super) fn load_controllers(&self) -> Result<Vec<SocketAddr>, StateError> {
        let path = self.path("controllers.json");
        let Some(bytes) = read(&path)? else {
            return Ok(Vec::new());
        };
        serde_json::from_slice(&bytes).map_err(|error| StateError::Corrupt {
            path,
            cause: error.to_string(),
            next: "delete it: the controllers named with --join say it again",
        })
    }

    /// Remembers the controllers that the cluster told of.
    ///
    /// # Errors
    /// [`StateError::Io`]; the old file is still there then.
    pub(super) fn save_controllers(&self, controllers: &[SocketAddr]) -> Result<(), StateError> {
        let mut text = serde_json::to_vec_pretty(controllers).expect("addresses are text");
        text.push(b'\n');
        replace(&self.path("controllers.json"), &text)
    }

    /// The last saved map, if it is of this cluster; an empty one when there is none.
    ///
    /// # Errors
    /// [`StateError::Corrupt`], [`StateError::Newer`], [`StateError::Io`].
    pub(super) fn load_map(&self, cluster: &ClusterId) -> Result<SavedMap, StateError> {
        let path = self.path("map.cbor");
        let Some(bytes) = read(&path)? else {
            return Ok(SavedMap::default());
        };
        const NEXT: &str = "delete it: the controller sends the map again (until then this host forwards only locally)";
        let corrupt = |cause: String| StateError::Corrupt {
            path: path.clone(),
            cause,
            next: NEXT,
        };
        let value: ciborium::Value =
            ciborium::from_reader(bytes.as_slice()).map_err(|error| corrupt(error.to_string()))?;
        let layout = value.as_map().and_then(|fields| {
            let (_, layout) = fields
                .iter()
                .find(|(key, _)| key.as_text() == Some("layout"))?;
            u64::try_from(layout.as_integer()?).ok()
        });
        check_layout(&path, layout)?;
        let file: MapFile = value
            .deserialized()
            .map_err(|error| corrupt(error.to_string()))?;
        if file.cluster != *cluster {
            let cause = format!(
                "it is of cluster {}, this node belongs to {cluster}",
                file.cluster
            );
            return Err(corrupt(cause));
        }
        let (incarnation, has) = match file.part {
            Some(part) => (part.incarnation, Some(part.networks)),
            None => (file.incarnation, None),
        };
        Ok(SavedMap {
            incarnation,
            map: file.map,
            has,
        })
    }

    /// Replaces the saved map.
    ///
    /// # Errors
    /// [`StateError::Io`]; the old file is still there then.
    pub(super) fn save_map(&self, cluster: &ClusterId, saved: SavedMap) -> Result<(), StateError> {
        let SavedMap {
            incarnation,
            map,
            has,
        } = saved;
        let (incarnation, part) = match has {
            Some(networks) => {
                let part = MapPart {
                    incarnation,
                    networks,
                };
                (String::new(), Some(part))
            }
            None => (incarnation, None),
        };
        let file = MapFile {
            layout: LAYOUT,
            cluster: cluster.clone(),
            incarnation,
            map,
            part,
        };
        let mut bytes = Vec::new();
        ciborium::into_writer(&file, &mut bytes).expect("a Vec takes every write");
        replace(&self.path("map.cbor"), &bytes)
    }
}

fn check_layout(path: &Path, found: Option<u64>) -> Result<(), StateError> {
    match found {
        Some(layout) if layout <= u64::from(LAYOUT) => Ok(()),
        Some(layout) => Err(StateError::Newer {
            path: path.to_owned(),
            found: u32::try_from(layout).unwrap_or(u32::MAX),
        }),
        None => Err(StateError::Corrupt {
            path: path.to_owned(),
            cause: "no layout number in it".to_owned(),
            next: "move it away and start again",
        }),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateError::Io {
            what: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Writes beside, syncs, renames, and syncs the directory.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let new = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        if let Some(dir) = path.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|source| StateError::Io {
        what: "write",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
pub(super) mod tests;
