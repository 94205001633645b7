//! `weft cni`: the plugin for container runtimes. What a runtime calls has no command line: see the module `cni`.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use ipnet::IpNet;

use super::values;

/// What can be done with the plugin.
#[derive(Debug, Subcommand)]
pub(crate) enum Cni {
    /// Install the plugin and a network configuration for the container runtimes of this host
    #[command(after_help = "\
The network is made when the first container is added, if --subnet says how and it isn't there.
In a container (DaemonSet) name the host's directories as they're mounted: --bin-dir /host/opt/cni/bin.")]
    Install(Install),
    /// Remove what `install` wrote
    Uninstall(Dirs),
}

/// Where plugins and configurations are.
#[derive(Debug, Args)]
pub(crate) struct Dirs {
    /// Directory of CNI plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub(crate) bin_dir: PathBuf,
    /// Directory of network configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) conf_dir: PathBuf,
    /// File name of the configuration; runtimes take the first by name
    #[arg(long, value_name = "FILE", default_value = "10-weft.conflist")]
    #[arg(value_parser = values::conflist_name)]
    pub(crate) conf_file: String,
}

/// Flags of `weft cni install`.
#[derive(Debug, Args)]
pub(crate) struct Install {
    /// Where to.
    #[command(flatten)]
    pub(crate) dirs: Dirs,
    /// Name of the configuration, as runtimes know it
    #[arg(long, value_name = "NAME", default_value = "weft", value_parser = values::cni_name)]
    pub(crate) name: String,
    /// The weft network that containers are connected to [default: the configuration's name]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) network: Option<String>,
    /// Subnet with which the network is made when it isn't there; repeat for several
    #[arg(long = "subnet", value_name = "CIDR")]
    pub(crate) subnets: Vec<IpNet>,
    /// Make the network encrypted between hosts
    #[arg(long, requires = "subnets")]
    pub(crate) encrypted: bool,
    /// Chain this plugin of the plugin directory (it must be there) behind weft, with its usual capability: portmap,
    /// bandwidth, tuning, firewall, sbr; repeat for several
    #[arg(long = "chain", value_name = "PLUGIN", value_parser = values::cni_name)]
    pub(crate) chain: Vec<String>,
    /// Link to this program instead of copying it: for hosts where it is installed to stay
    #[arg(long)]
    pub(crate) link: bool,
    /// Overwrite a configuration that is not as `install` wrote it, and chain plugins that aren't there yet
    #[arg(long)]
    pub(crate) force: bool,
}
