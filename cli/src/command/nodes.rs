//! `weft nodes`: the hosts of the cluster.

use hyper::Method;
use weft_control::api::NodeInfo;

use super::Session;
use crate::args::{Nodes, NodesVerb};
use crate::client::ApiPath;
use crate::failure::Failure;
use crate::render;

/// # Errors
/// No agent answers, or a node may not be removed; the others are removed all the same.
pub(super) fn run(session: &Session, nodes: Nodes) -> Result<(), Vec<Failure>> {
    match nodes.verb {
        None | Some(NodesVerb::Ls) => {
            let nodes: Vec<NodeInfo> = session.client.get(&ApiPath::new("nodes"))?;
            Ok(render::show(session.json, &nodes, |nodes| {
                render::node::table(nodes)
            })?)
        }
        Some(NodesVerb::Rm { names }) => session.remove_each("nodes", &names),
    }
}

impl Session {
    /// Removes one object after the other, goes on after a failure, and prints the names of those that are gone.
    pub(super) fn remove_each(
        &self,
        collection: &str,
        names: &[String],
    ) -> Result<(), Vec<Failure>> {
        let mut removed = Vec::new();
        let mut failures = Vec::new();
        for name in names {
            let path = ApiPath::new(collection).segment(name);
            match self
                .client
                .request::<serde_json::Value>(Method::DELETE, &path)
            {
                Ok(_) => removed.push(name.clone()),
                Err(failure) => failures.push(failure),
            }
        }
        if let Err(failure) = render::removed(self.json, &removed) {
            failures.push(failure);
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(failures)
        }
    }
}
