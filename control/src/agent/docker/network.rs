//! Docker networks. Docker makes one on each host with an id of its own; what joins them is the overlay's name.

use std::sync::Arc;

use ipnet::IpNet;
use tracing::{info, warn};

use super::{now, short};
use crate::agent::{Agent, ApiError};
use crate::docker::options::Options;
use crate::docker::wire::{ADDRESS_SPACE, CreateNetwork, Reply};
use crate::docker::wish::Wish;
use crate::model::Network;

impl Agent {
    /// `docker network create`: joins the overlay of that name, or makes it.
    pub(super) async fn docker_create_network(
        self: &Arc<Self>,
        call: CreateNetwork,
    ) -> Result<Reply, ApiError> {
        let refused = |why: String| ApiError::bad_request("bad_option", why);
        let mut options = Options::read(&call.options).map_err(refused)?;
        if !options.ignored.is_empty() {
            let ignored = options.ignored.join(", ");
            warn!(
                docker_network = short(&call.network),
                ignored, "options of other drivers mean nothing here"
            );
        }
        let ours: Vec<_> = (call.ranges.iter())
            .filter(|range| range.space == ADDRESS_SPACE)
            .map(|range| range.cidr)
            .collect();
        self.read_pool_options(&ours, &mut options).await?;
        let ip_ranges = self.docker.ledger().wished_ranges(&ours);
        let wish = Wish::of(&call, &options, ip_ranges).map_err(refused)?;
        let _order = self.docker.overlays.lock().await;
        let foreign = ours.len() < call.ranges.len();
        let network = self.overlay(&wish).await;
        let network =
            network.map_err(|error| match foreign && self.is_of_range(&error, &wish) {
                true => error.hint(IPAM_LEFT_OUT),
                false => error,
            })?;
        let name = &network.name;
        if options.network.is_none() {
            info!(network = %name, docker_network = short(&call.network),
                "no -o weft.network was given: the overlay's name is made from its range");
        }
        if foreign {
            info!(network = %name, "addresses come from another IPAM driver, which knows only this host's: give every host an --ip-range of its own, or --ipam-driver weft");
        }
        info!(network = %name, docker_network = short(&call.network), vni = %network.vni, "Docker network made");
        let name = network.name;
        let noted = self.note(move |ledger| ledger.add_network(&call.network, wish, now()));
        if let Err(error) = noted.await {
            // Docker takes it for not made, and won't have it removed.
            let agent = Arc::clone(self);
            tokio::spawn(async move { agent.remove_unused(name).await });
            return Err(error);
        }
        Ok(Reply::Done)
    }

    /// Docker tells `--ipam-opt` to the IPAM driver only, before it makes the network: with `-o weft.network` it must name
    /// the same overlay; without, an overlay that is there.
    async fn read_pool_options(
        self: &Arc<Self>,
        ranges: &[IpNet],
        options: &mut Options,
    ) -> Result<(), ApiError> {
        let Some(asked) = self.docker.ledger().asked_of(ranges) else {
            return Ok(());
        };
        if let Some(named) = &options.network {
            if *named == asked {
                return Ok(());
            }
            let why = format!(
                "-o weft.network={named} and --ipam-opt weft.network={asked} name two overlays"
            );
            return Err(ApiError::bad_request("bad_option", why)
                .hint("give the same name twice, or leave one of them out"));
        }
        if let Err(error) = self.find_network(&asked).await {
            let why = format!(
                "--ipam-opt weft.network={asked} joins an overlay that is there: {}",
                error.reply.message
            );
            let next = error.reply.hint.unwrap_or_default();
            return Err(ApiError::not_found("unknown_network", why).hint(format!(
                "to have it made give -o weft.network={asked} as well; else {next}"
            )));
        }
        options.network = Some(asked);
        Ok(())
    }

    /// Whether a network was refused for its range.
    fn is_of_range(&self, error: &ApiError, wish: &Wish) -> bool {
        match error.reply.code.as_str() {
            "subnet_overlaps" | "underlay_in_subnet" => true,
            "network_differs" => {
                let inner = self.inner();
                let there = inner.map.network_named(&wish.create.name);
                let mut subnets = there.into_iter().flat_map(|network| &network.subnets);
                subnets.any(|subnet| !wish.create.subnets.contains(&subnet.cidr))
            }
            _ => false,
        }
    }

    /// `docker network rm`. The overlay goes with the last Docker network that made it and when nothing is on it.
    pub(super) async fn docker_delete_network(
        self: &Arc<Self>,
        id: String,
    ) -> Result<Reply, ApiError> {
        let removed = self.note(move |ledger| {
            let entry = ledger.remove_network(&id)?;
            let name = entry.wish.create.name;
            let last = ledger.wish_of(&name).is_none();
            Some((id, name, last))
        });
        if let Some((id, name, last)) = removed.await? {
            info!(network = %name, docker_network = short(&id), "Docker network removed");
            if last {
                let agent = Arc::clone(self);
                // Docker waits for none of it: whether it goes is the cluster's business.
                tokio::spawn(async move { agent.remove_unused(name).await });
            }
        }
        Ok(Reply::Done)
    }

    /// Removes an overlay that a Docker network made, unless there is still use for it.
    async fn remove_unused(self: &Arc<Self>, name: String) {
        let made_by_docker = {
            let inner = self.inner();
            let network = inner.map.network_named(&name);
            network.is_some_and(|network| network.made_by.as_deref() == Some(MADE_BY))
        };
        // A new Docker network may be on it by now, or be just about to.
        let _order = self.docker.overlays.lock().await;
        if !made_by_docker || self.docker.ledger().wish_of(&name).is_some() {
            return;
        }
        match self.network_rm(name.clone()).await {
            Ok(()) => info!(network = %name, "overlay removed with its last Docker network here"),
            Err(error) if error.reply.code == "network_in_use" => {}
            Err(error) => {
                info!(network = %name, why = %error.reply.message, "overlay left in the cluster; `weft network rm` removes it");
            }
        }
    }

    /// The overlay that a Docker network is on; made when it isn't there.
    pub(super) async fn overlay(self: &Arc<Self>, wish: &Wish) -> Result<Network, ApiError> {
        let name = &wish.create.name;
        let missing = match self.find_network(name).await {
            Ok(network) => return fitting(wish, network),
            Err(error) => error,
        };
        let mut create = wish.create.clone();
        create.made_by = Some(MADE_BY.to_owned());
        let made = self.network_create(create).await;
        match made {
            Ok(_) => {}
            // Another host was quicker.
            Err(error) if error.reply.code == "name_taken" => {}
            Err(error) if error.reply.code == "offline" => return Err(missing),
            Err(error) if error.reply.code == "subnet_overlaps" => {
                let reply = error.reply.message.clone();
                return Err(ApiError::conflict("subnet_overlaps", reply).hint(
                    "choose another --subnet, or give -o weft.network=NAME to join that network (--ipam-opt weft.network=NAME takes its range, too)",
                ));
            }
            Err(error) => return Err(error),
        }
        fitting(wish, self.find_network(name).await?)
    }
}

/// What is wrong where Docker's default IPAM driver chose a range or an address.
pub(super) const IPAM_LEFT_OUT: &str = "Docker's own IPAM driver chose that, which knows this host only: was --ipam-driver weft left out of `docker network create`?";

/// Who made a network, in the cluster's map.
const MADE_BY: &str = "docker";

fn fitting(wish: &Wish, network: Network) -> Result<Network, ApiError> {
    wish.check(&network)
        .map_err(|why| ApiError::conflict("network_differs", why))?;
    Ok(network)
}
