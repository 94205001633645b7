//! `weft uplink`: links of this host that are bridged into networks.

use hyper::Method;
use weft_control::api::{Uplink, UplinkAdd};

use super::Session;
use crate::args::uplink as args;
use crate::client::ApiPath;
use crate::failure::Failure;
use crate::render;

/// # Errors
/// No agent answers, or what was asked is refused.
pub(super) fn run(session: &Session, verb: &args::Uplink) -> Result<(), Failure> {
    let path = ApiPath::new("uplinks");
    let uplink: Uplink = match verb {
        args::Uplink::Ls => {
            let uplinks: Vec<Uplink> = session.client.get(&path)?;
            return render::show(session.json, &uplinks, |uplinks| {
                render::uplink::table(uplinks)
            });
        }
        args::Uplink::Add(of) => {
            let wish = UplinkAdd {
                network: of.network.clone(),
                dev: of.dev.clone(),
            };
            session.client.send(Method::POST, &path, &wish)?
        }
        args::Uplink::Rm(of) => {
            let path = path.segment(&of.network).segment(&of.dev);
            session.client.request(Method::DELETE, &path)?
        }
    };
    render::show(session.json, &uplink, |uplink| render::line(&uplink.dev))
}
