//! Whether a connect makes sense at all, before anything is looked up or taken.

use crate::agent::{ApiError, line};
use crate::api;
use crate::model::{self, Network, is_reserved};

/// Bytes of each part of an attachment: Docker's and Kubernetes' ids have 64.
const ATTACHMENT_MAX: usize = 256;

/// What to do about an address that can't be had.
pub(super) const OTHER_IP: &str =
    "choose another --ip, or leave it out; `weft network inspect` shows subnets and gateways";

pub(super) fn check_request(request: &api::Connect) -> Result<(), ApiError> {
    let bad_name =
        |why| ApiError::bad_request("bad_name", why).hint("choose another --name or --alias");
    line::check(Some(&request.limits), None)?;
    if let Some(name) = &request.name {
        model::check_name("endpoint", name).map_err(bad_name)?;
    }
    for alias in &request.aliases {
        model::check_name("alias", alias).map_err(bad_name)?;
    }
    if let Some(ifname) = &request.ifname {
        check_ifname(ifname)?;
    }
    if let Some(attachment) = &request.attachment {
        check_attachment(attachment)?;
    }
    if let Some(route) = request.routes.iter().find(|route| {
        let gateway = route.gateway;
        gateway.is_some_and(|gateway| gateway.is_ipv4() && route.dst.addr().is_ipv6())
    }) {
        return Err(ApiError::bad_request(
            "bad_route",
            format!("the route to {} has an IPv4 next hop", route.dst),
        )
        .hint("an IPv6 route needs an IPv6 next hop"));
    }
    if let Some(mac) = request.mac.filter(|mac| !mac.is_station()) {
        return Err(ApiError::bad_request(
            "bad_mac",
            format!("{mac} cannot be an interface's address: it is a group address or all zeros"),
        )
        .hint("choose another --mac, or leave it out"));
    }
    if let Some(mac) = request.mac.filter(|mac| is_reserved(*mac)) {
        return Err(ApiError::bad_request(
            "bad_mac",
            format!("{mac} is one of the addresses that weft's gateways have"),
        )
        .hint("choose another --mac, or leave it out"));
    }
    Ok(())
}

/// What the kernel takes as an interface name (dev_valid_name: 1 to 15 bytes, no `/`, no `:`, no space).
fn check_ifname(ifname: &str) -> Result<(), ApiError> {
    let good = (1..=15).contains(&ifname.len())
        && !matches!(ifname, "." | "..")
        && ifname
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'));
    if good {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "bad_ifname",
        format!(
            "interface name {ifname:?} is not usable: take 1 to 15 printable characters without '/', ':', '%' or space"
        ),
    )
    .hint("choose another --ifname, or leave it out"))
}

/// An attachment is told in listings and kept on disk: it is somebody's short names, not a place to store things.
fn check_attachment(attachment: &api::Attachment) -> Result<(), ApiError> {
    let api::Attachment {
        owner,
        container,
        ifname,
    } = attachment;
    let good =
        |text: &str| text.len() <= ATTACHMENT_MAX && text.bytes().all(|b| b.is_ascii_graphic());
    if good(owner) && good(container) && good(ifname) && !owner.is_empty() && !container.is_empty()
    {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "bad_attachment",
        format!(
            "attachment {owner:?}, {container:?}, {ifname:?} is not usable: each part takes up to {ATTACHMENT_MAX} printable characters without space, and owner and container must be there"
        ),
    ))
}

/// Whether there is anything to ask for by DHCP.
fn check_dhcp(network: &Network, request: &api::Connect) -> Result<(), ApiError> {
    if request.dhcp && (network.is_plain_l2() || !request.routes.is_empty()) {
        let why = if network.is_plain_l2() {
            format!(
                "network {} has no subnet: there is nothing to ask for by DHCP",
                network.name
            )
        } else {
            "an interface that is left to DHCP has no address yet that routes could lead through"
                .to_owned()
        };
        return Err(ApiError::bad_request("bad_dhcp", why)
            .hint("leave out --dhcp, or create the network with --subnet"));
    }
    Ok(())
}

/// A host that can't protect a network has no port on it: it would be alone there.
pub(super) fn check_protection(
    network: &Network,
    encrypted_port: Option<u16>,
) -> Result<(), ApiError> {
    if encrypted_port.is_some() || !network.is_encrypted() {
        return Ok(());
    }
    Err(ApiError::conflict(
        "unsupported",
        format!(
            "network {} is encrypted, and this host carries no encrypted networks",
            network.name
        ),
    )
    .hint("start its agent without `--encrypted-port 0`"))
}

pub(super) fn check_fit(network: &Network, request: &api::Connect) -> Result<(), ApiError> {
    if !network.is_plain_l2() && !request.addresses.is_empty() {
        return Err(ApiError::bad_request(
            "has_subnet",
            format!(
                "network {} has subnets of its own: addresses of another IPAM are taken as they are only where there are none",
                network.name
            ),
        )
        .hint("ask for fixed addresses inside the network's subnets instead, or use a network without a subnet"));
    }
    check_dhcp(network, request)?;
    if network.internal && request.default_route == Some(true) {
        return Err(ApiError::bad_request(
            "internal_network",
            format!(
                "network {} is internal: no default route leads out of it",
                network.name
            ),
        )
        .hint("leave the default route out, or use another network"));
    }
    if network.is_plain_l2() && !request.ips.is_empty() {
        return Err(ApiError::bad_request(
            "no_subnet",
            format!("network {} has no subnet: it gives no addresses", network.name),
        )
        .hint("leave out --ip and set addresses inside the namespace, or create the network with --subnet"));
    }
    for (index, ip) in request.ips.iter().enumerate() {
        let Some(subnet) = network.subnet_of(*ip) else {
            let subnets: Vec<String> = network
                .subnets
                .iter()
                .map(|subnet| subnet.cidr.to_string())
                .collect();
            return Err(ApiError::bad_request(
                "bad_ip",
                format!(
                    "{ip} is in no subnet of network {} ({})",
                    network.name,
                    subnets.join(", ")
                ),
            )
            .hint(OTHER_IP));
        };
        if request.ips[..index]
            .iter()
            .any(|other| subnet.cidr.contains(other))
        {
            return Err(ApiError::bad_request(
                "bad_ip",
                format!(
                    "more than one --ip is in subnet {} of network {}",
                    subnet.cidr, network.name
                ),
            )
            .hint("an endpoint has one address of each subnet"));
        }
    }
    Ok(())
}
