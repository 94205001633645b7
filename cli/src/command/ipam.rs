//! `weft ipam`: addresses of the networks.

use hyper::Method;
use weft_control::api::{Audit, Lease};

use super::Session;
use crate::args::Ipam;
use crate::client::ApiPath;
use crate::failure::Failure;
use crate::render;

/// # Errors
/// No agent answers, the network is not known, or the audit found something wrong.
pub(super) fn run(session: &Session, verb: &Ipam) -> Result<(), Failure> {
    match verb {
        Ipam::Ls { network } => list(session, network.as_deref()),
        Ipam::Audit { fix } => audit(session, *fix),
    }
}

fn list(session: &Session, network: Option<&str>) -> Result<(), Failure> {
    let leases: Vec<Lease> = session.client.get(&ApiPath::new("ipam"))?;
    let leases = session.only(network, leases, |lease| &lease.network)?;
    render::show(session.json, &leases, |leases| render::lease::table(leases))
}

/// Findings are printed before the failure, so that a script has both.
fn audit(session: &Session, fix: bool) -> Result<(), Failure> {
    let path = ApiPath::new("ipam").segment("audit");
    let audit: Audit = if fix {
        session.client.request(Method::POST, &path)?
    } else {
        session.client.get(&path)?
    };
    render::show(session.json, &audit, render::lease::audit)?;
    let findings = audit.findings.iter();
    let wrong: Vec<_> = findings
        .filter(|finding| finding.fault && !finding.fixed)
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let message = format!("{} of the findings are faults", wrong.len());
    let failure = Failure::new("faults", message);
    Err(if wrong.iter().any(|finding| finding.fixable) && !fix {
        failure.hint("mend what this node can with `weft ipam audit --fix`")
    } else {
        failure.hint("each finding says what to do")
    })
}
