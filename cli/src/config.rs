//! Where a setting comes from: config file < environment < flags, then the default. All defaults are here.
//!
//! The file (/etc/weft/weft.toml, `--config FILE` or WEFT_CONFIG) is TOML whose keys are the names of the flags, flat, so
//! that one file serves agent, controller and client of a host. Only WEFT_CONFIG, WEFT_SOCKET, WEFT_LOG, WEFT_TOKEN and
//! WEFT_STORE_PASSWORD are read from the environment. An empty variable counts as not set.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use weft_control::agent::{DEFAULT_DOCKER_HOST, DEFAULT_PLUGIN_SOCKET, DockerConfig};
use weft_control::api::{DEFAULT_SOCKET, SOCKET_ENV, TOKEN_ENV};
use weft_control::identity::ca::CERT_TTL;
use weft_control::store::etcd::EtcdConfig;

use crate::args::{Cli, Command, agent, controller, values};
use crate::failure::Failure;

mod file;

use file::File;

/// The config file that is read when nobody names another.
const DEFAULT_CONFIG: &str = "/etc/weft/weft.toml";
/// The agent's state directory.
const DEFAULT_STATE: &str = "/var/lib/weft";
/// The password of an etcd user.
const STORE_PASSWORD_ENV: &str = "WEFT_STORE_PASSWORD";
/// The controller's data directory.
const DEFAULT_DATA: &str = "/var/lib/weft-controller";
/// The UDP port of a controller when nobody says otherwise (no service is registered for it).
pub(crate) const CONTROLLER_PORT: u16 = 6783;
/// How long a join token can be used.
const DEFAULT_TOKEN_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// What holds for every command, and the file for the rest.
pub(crate) struct Settings {
    /// The agent's socket.
    pub(crate) socket: PathBuf,
    /// The same, only if the command line names it.
    pub(crate) socket_flag: Option<PathBuf>,
    /// The config file, only if the command line names it.
    pub(crate) config_flag: Option<PathBuf>,
    /// JSON for programs.
    pub(crate) json: bool,
    /// Filter of the log, if one was asked for.
    pub(crate) log: Option<String>,
    file: File,
    token_from_environment: Option<String>,
    store_password: Option<String>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Its secrets stay with it.
        f.debug_struct("Settings")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// What `weft agent run` was asked to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AgentSettings {
    pub(crate) controllers: Vec<SocketAddr>,
    pub(crate) token: Option<String>,
    /// The host's name the first time, when `None`.
    pub(crate) node: Option<String>,
    pub(crate) underlay: Option<IpAddr>,
    pub(crate) state: PathBuf,
    pub(crate) standalone: bool,
    pub(crate) workers: usize,
    /// The one assigned to VXLAN, when `None`.
    pub(crate) vxlan_port: Option<u16>,
    /// The agent's own, when `None`; 0: none.
    pub(crate) encrypted_port: Option<u16>,
    pub(crate) rekey_after: Option<Duration>,
    pub(crate) idle_after: Option<Duration>,
    pub(crate) no_gso: bool,
    /// The host's own when empty.
    pub(crate) dns_upstreams: Vec<SocketAddr>,
    /// Where Docker finds the driver and where dockerd answers, if Docker is served.
    pub(crate) docker: Option<DockerConfig>,
}

/// What `weft controller run` was asked to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ControllerSettings {
    pub(crate) data: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: Vec<SocketAddr>,
    /// An etcd cluster; `None` for the file in `data`.
    pub(crate) store: Option<EtcdConfig>,
    /// How long nodes' certificates last.
    pub(crate) cert_ttl: Duration,
}

/// What `weft controller token` was asked to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TokenSettings {
    pub(crate) data: PathBuf,
    pub(crate) ttl: Duration,
    /// How many agents can join with it.
    pub(crate) uses: u32,
}

/// Reads the config file and the environment and lays the global flags over them.
///
/// # Errors
/// The config file is unreadable or wrong, or WEFT_LOG is no filter.
pub(crate) fn load(cli: &Cli) -> Result<Settings, Failure> {
    load_with(cli, &|name| {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    })
}

/// The config file that goes with a command.
fn config_file(cli: &Cli, environment: &dyn Fn(&str) -> Option<String>) -> Result<File, Failure> {
    match &cli.command {
        Command::FdHolder
        | Command::DockerStandIn
        | Command::Completion { .. }
        | Command::Man { .. } => Ok(File::default()),
        Command::Up(_)
        | Command::Down(_)
        | Command::Network(_)
        | Command::Router(_)
        | Command::Route(_)
        | Command::Status(_)
        | Command::Peers
        | Command::Ports(_)
        | Command::Drops(_)
        | Command::Egress(_)
        | Command::Fdb(_)
        | Command::Port(_)
        | Command::Expose(_)
        | Command::Hide(_)
        | Command::Uplink(_)
        | Command::Subnets(_)
        | Command::Dns
        | Command::Ipam(_)
        | Command::Nodes(_)
        | Command::Cni(_)
        | Command::Agent(_)
        | Command::Controller(_) => {
            let is_daemon = matches!(cli.command, Command::Agent(_) | Command::Controller(_));
            let named = cli.global.config.clone();
            let named = named.or_else(|| environment("WEFT_CONFIG").map(PathBuf::from));
            match named {
                Some(path) => File::read(&path),
                None => File::read_if_there(DEFAULT_CONFIG.as_ref(), is_daemon),
            }
        }
    }
}

fn load_with(cli: &Cli, environment: &dyn Fn(&str) -> Option<String>) -> Result<Settings, Failure> {
    let file = config_file(cli, environment)?;
    let log_from_environment = environment("WEFT_LOG");
    if let Some(filter) = &log_from_environment {
        values::log_filter(filter).map_err(|error| {
            Failure::new(
                "invalid_log_filter",
                format!("WEFT_LOG is {filter:?}: {error}"),
            )
            .hint("use error, warn, info, debug, trace, or a filter like info,weft_control=debug")
        })?;
    }
    let verbosity = match cli.global.verbose {
        0 => None,
        1 => Some("info,weft=debug,weft_control=debug,weft_switch=debug,weft_tunnel=debug"),
        _ => Some("trace"),
    };
    Ok(Settings {
        socket: (cli.global.socket.clone())
            .or_else(|| environment(SOCKET_ENV).map(PathBuf::from))
            .or_else(|| file.socket.clone())
            .unwrap_or_else(|| DEFAULT_SOCKET.into()),
        socket_flag: cli.global.socket.clone(),
        config_flag: cli.global.config.clone(),
        json: cli.global.json || file.json.unwrap_or(false),
        log: (cli.global.log.clone())
            .or_else(|| verbosity.map(str::to_owned))
            .or(log_from_environment)
            .or_else(|| file.log.clone()),
        token_from_environment: environment(TOKEN_ENV),
        store_password: environment(STORE_PASSWORD_ENV),
        file,
    })
}

impl Settings {
    /// Flags of `weft agent run` over environment and file.
    ///
    /// # Errors
    /// The token file is unreadable or empty.
    pub(crate) fn agent(&self, flags: agent::Run) -> Result<AgentSettings, Failure> {
        let file = &self.file;
        // A flag overrides its opposite in the file.
        let standalone =
            flags.standalone || (file.standalone == Some(true) && flags.join.is_empty());
        let controllers = match (standalone, flags.join.is_empty()) {
            (true, _) => Vec::new(),
            (false, true) => file.join.clone().unwrap_or_default(),
            (false, false) => flags.join,
        };
        Ok(AgentSettings {
            controllers,
            token: if standalone {
                None
            } else {
                self.token(flags.token, flags.token_file)?
            },
            node: flags.node.or_else(|| file.node.clone()),
            underlay: flags.underlay.or(file.underlay),
            state: self.state(flags.state),
            standalone,
            workers: flags
                .workers
                .or(file.workers)
                .map_or_else(cores, usize::from),
            vxlan_port: flags.vxlan_port.or(file.vxlan_port),
            encrypted_port: flags.encrypted_port.or(file.encrypted_port),
            rekey_after: flags.rekey_after.or(file.rekey_after),
            idle_after: flags.idle_after.or(file.idle_after),
            no_gso: flags.no_gso || file.no_gso.unwrap_or_default(),
            dns_upstreams: match flags.dns_upstreams.is_empty() {
                true => file.dns_upstreams.clone().unwrap_or_default(),
                false => flags.dns_upstreams,
            },
            docker: (flags.docker || file.docker.unwrap_or_default()).then(|| DockerConfig {
                plugin: flags
                    .docker_socket
                    .or_else(|| file.docker_socket.clone())
                    .map_or_else(|| DEFAULT_PLUGIN_SOCKET.into(), absolute),
                host: flags
                    .docker_host
                    .or_else(|| file.docker_host.clone())
                    .map_or_else(|| DEFAULT_DOCKER_HOST.into(), absolute),
            }),
        })
    }

    /// The agent's state directory: a flag over the file.
    pub(crate) fn state(&self, flag: Option<PathBuf>) -> PathBuf {
        let state = flag.or_else(|| self.file.state.clone());
        absolute(state.unwrap_or_else(|| DEFAULT_STATE.into()))
    }

    /// Whether an agent that nobody gave flags should serve Docker: as the file says, or where there is one.
    pub(crate) fn serves_docker(&self, is_there: bool) -> bool {
        self.file.docker.unwrap_or(is_there)
    }

    /// Flags of `weft controller run` over environment and file.
    ///
    /// # Errors
    /// The store's URL or password file is not usable.
    pub(crate) fn controller(&self, flags: controller::Run) -> Result<ControllerSettings, Failure> {
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), CONTROLLER_PORT);
        let advertise = match flags.advertise.is_empty() {
            true => self.file.advertise.clone().unwrap_or_default(),
            false => flags.advertise,
        };
        Ok(ControllerSettings {
            data: self.data(flags.data),
            listen: flags.listen.or(self.file.listen).unwrap_or(any),
            advertise,
            store: self.store(flags.store)?,
            cert_ttl: flags.cert_ttl.or(self.file.cert_ttl).unwrap_or(CERT_TTL),
        })
    }

    /// Where the map is, if not in the data directory.
    ///
    /// # Errors
    /// The URL or the password file is not usable.
    pub(crate) fn store(&self, flags: controller::Store) -> Result<Option<EtcdConfig>, Failure> {
        let file = &self.file;
        let Some(url) = flags.store.clone().or_else(|| file.store.clone()) else {
            let details = [
                flags.store_ca.as_ref().or(file.store_ca.as_ref()),
                flags.store_cert.as_ref().or(file.store_cert.as_ref()),
                flags.store_key.as_ref().or(file.store_key.as_ref()),
                flags
                    .store_password_file
                    .as_ref()
                    .or(file.store_password_file.as_ref()),
            ];
            let user = flags.store_user.as_ref().or(file.store_user.as_ref());
            if user.is_some() || details.iter().any(Option::is_some) {
                let message = "--store-ca, --store-cert, --store-key, --store-user and --store-password-file are for a --store";
                return Err(Failure::new("store", message)
                    .hint("give --store etcd://HOST:PORT/PREFIX as well"));
            }
            return Ok(None);
        };
        let mut store = EtcdConfig::parse(&url).map_err(|why| {
            // What may be a password in it is not repeated.
            Failure::new("store", format!("the store's URL is not usable: {why}"))
                .hint("leave --store away to keep the map in --data")
        })?;
        store.ca = flags.store_ca.or_else(|| file.store_ca.clone());
        store.cert = flags.store_cert.or_else(|| file.store_cert.clone());
        store.key = flags.store_key.or_else(|| file.store_key.clone());
        store.user = flags.store_user.or_else(|| file.store_user.clone());
        let password_file = flags.store_password_file;
        store.password = match (
            password_file,
            &self.store_password,
            &file.store_password_file,
        ) {
            (Some(path), _, _) => Some(file::read_password(&path)?),
            (None, Some(password), _) => Some(password.clone()),
            (None, None, Some(path)) => Some(file::read_password(path)?),
            (None, None, None) => None,
        };
        if store.cert.is_some() != store.key.is_some()
            || (store.cert.is_some() && store.ca.is_none())
        {
            return Err(Failure::new(
                "store",
                "of --store-ca, --store-cert and --store-key something is missing",
            )
            .hint("a certificate needs its key, and both need --store-ca"));
        }
        if store.user.is_some() && store.password.is_none() {
            return Err(
                Failure::new("store", "there is a --store-user without a password")
                    .hint("give --store-password-file, or WEFT_STORE_PASSWORD in the environment"),
            );
        }
        Ok(Some(store))
    }

    /// Flags of `weft controller token` over the file.
    pub(crate) fn controller_token(&self, flags: controller::Token) -> TokenSettings {
        TokenSettings {
            data: self.controller_data(flags.of),
            ttl: flags.ttl.or(self.file.ttl).unwrap_or(DEFAULT_TOKEN_TTL),
            uses: flags.uses.or(self.file.uses).unwrap_or(1),
        }
    }

    /// The data directory of a command on the controller's host.
    pub(crate) fn controller_data(&self, of: controller::Of) -> PathBuf {
        self.data(of.data)
    }

    fn data(&self, flag: Option<PathBuf>) -> PathBuf {
        let data = flag.or_else(|| self.file.data.clone());
        absolute(data.unwrap_or_else(|| DEFAULT_DATA.into()))
    }

    fn token(
        &self,
        flag: Option<String>,
        token_file: Option<PathBuf>,
    ) -> Result<Option<String>, Failure> {
        if flag.is_some() {
            return Ok(flag);
        }
        if let Some(path) = token_file {
            return file::read_token(&path).map(Some);
        }
        if let Some(token) = &self.token_from_environment {
            return Ok(Some(token.clone()));
        }
        match &self.file.token_file {
            Some(path) => file::read_token(path).map(Some),
            None => Ok(self.file.token.clone()),
        }
    }
}

/// The path from the root, as a daemon may change its directory.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests;
