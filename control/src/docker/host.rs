//! What the Docker daemon's own API says (`/networks`, `/containers/ID/json`, `/events`): who has which endpoint and is
//! called what. Only what is needed is read, and what isn't as expected is left out.

#![deny(clippy::disallowed_methods)]

use std::collections::BTreeSet;

use serde_json::Value;

use crate::model::check_name;

/// A container's interface on a network of this driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Docker's id of the network.
    pub network: String,
    /// Docker's id of the endpoint.
    pub endpoint: String,
    /// Docker's id of the container.
    pub container: String,
    /// The container's name, if it can be an endpoint's.
    pub name: Option<String>,
    /// Further names, without those that can't be.
    pub aliases: Vec<String>,
}

/// Ids of the networks of a driver of that name, in what `GET /networks` says.
pub fn networks(list: &Value, driver: &str) -> BTreeSet<String> {
    items(list)
        .filter(|network| network["Driver"].as_str() == Some(driver))
        .filter_map(|network| text(&network["Id"]))
        .collect()
}

/// Ids of containers with that of each endpoint that they have on one of `networks`, in what `GET /containers/json` says. A
/// container that has ended has none; but if its endpoint could not be taken down, as when no agent ran, Docker goes on
/// naming the one that it has itself forgotten.
pub fn endpoints_on(list: &Value, networks: &BTreeSet<String>) -> Vec<(String, String)> {
    let living = items(list)
        .filter(|container| !matches!(container["State"].as_str(), Some("exited" | "dead")));
    let of = living.flat_map(|container| {
        let settings = container["NetworkSettings"]["Networks"].as_object();
        settings.into_iter().flatten().filter_map(|(_, settings)| {
            text(&settings["NetworkID"]).filter(|id| networks.contains(id))?;
            Some((text(&container["Id"])?, text(&settings["EndpointID"])?))
        })
    });
    of.collect()
}

/// The interfaces that a container has on `networks`, in what `GET /containers/ID/json` says. One that isn't running has
/// none.
pub fn attached(container: &Value, networks: &BTreeSet<String>) -> Vec<Attached> {
    let Some(id) = text(&container["Id"]) else {
        return Vec::new();
    };
    let name = text(&container["Name"]).map(|name| name.trim_start_matches('/').to_owned());
    let name = name.filter(|name| check_name("endpoint", name).is_ok());
    let settings = container["NetworkSettings"]["Networks"].as_object();
    let settings = settings.into_iter().flatten();
    let of = settings.filter_map(|(_, settings)| {
        let network = text(&settings["NetworkID"]).filter(|id| networks.contains(id))?;
        let endpoint = text(&settings["EndpointID"])?;
        // Docker 25 and later list what they resolve apart.
        let names = items(&settings["Aliases"]).chain(items(&settings["DNSNames"]));
        let names = names
            .filter_map(text)
            .filter(|alias| check_name("alias", alias).is_ok() && Some(alias) != name.as_ref());
        let aliases: BTreeSet<String> = names.collect();
        Some(Attached {
            network,
            endpoint,
            container: id.clone(),
            name: name.clone(),
            aliases: aliases.into_iter().collect(),
        })
    });
    of.collect()
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// That container got an interface or another name: look at it again.
    Container(String),
    /// Networks came or went.
    Networks,
}

/// Reads one event of `GET /events`; `None` for those that matter to nobody here.
pub fn event(event: &Value) -> Option<Event> {
    let actor = &event["Actor"];
    match (event["Type"].as_str()?, event["Action"].as_str()?) {
        ("network", "connect") => text(&actor["Attributes"]["container"]).map(Event::Container),
        ("container", "rename") => text(&actor["ID"]).map(Event::Container),
        ("network", "create" | "destroy" | "remove") => Some(Event::Networks),
        _ => None,
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ours() -> BTreeSet<String> {
        BTreeSet::from(["n1".to_owned()])
    }

    #[test]
    fn a_running_container_is_read_with_its_names() {
        let container = json!({
            "Id": "c1", "Name": "/web",
            "NetworkSettings": { "Networks": {
                "shop": { "NetworkID": "n1", "EndpointID": "e1", "Aliases": ["front", "bad name", "web", "c1"] },
                "bridge": { "NetworkID": "n2", "EndpointID": "e2", "Aliases": null },
            } },
        });
        let wanted = Attached {
            network: "n1".to_owned(),
            endpoint: "e1".to_owned(),
            container: "c1".to_owned(),
            name: Some("web".to_owned()),
            aliases: vec!["c1".to_owned(), "front".to_owned()],
        };
        assert_eq!(attached(&container, &ours()), [wanted]);
        let list = json!([container, { "Id": "c2" }, 7]);
        let wanted = ("c1".to_owned(), "e1".to_owned());
        assert_eq!(endpoints_on(&list, &ours()), [wanted]);
    }

    #[test]
    fn a_container_that_has_ended_has_no_endpoint_whatever_docker_says() {
        let ids = |state: &str| {
            let list = json!([{ "Id": "c1", "State": state,
                "NetworkSettings": { "Networks": { "shop": { "NetworkID": "n1", "EndpointID": "e1" } } } }]);
            endpoints_on(&list, &ours()).len()
        };
        assert_eq!(["exited", "dead"].map(ids), [0, 0]);
        assert_eq!(
            ["running", "paused", "created", "restarting"].map(ids),
            [1; 4]
        );
    }

    #[test]
    fn newer_dockers_list_names_apart() {
        let container = json!({
            "Id": "c1", "Name": "/web",
            "NetworkSettings": { "Networks": {
                "shop": { "NetworkID": "n1", "EndpointID": "e1", "Aliases": ["front"], "DNSNames": ["web", "front", "c1"] },
            } },
        });
        assert_eq!(attached(&container, &ours())[0].aliases, ["c1", "front"]);
    }

    #[test]
    fn a_stopped_container_has_no_interface() {
        let container = json!({
            "Id": "c1", "Name": "/web",
            "NetworkSettings": { "Networks": { "shop": { "NetworkID": "n1", "EndpointID": "" } } },
        });
        assert_eq!(attached(&container, &ours()), []);
        for hostile in [
            json!(null),
            json!([]),
            json!({ "Id": 5 }),
            json!({ "Id": "c1" }),
        ] {
            assert_eq!(attached(&hostile, &ours()), []);
            assert_eq!(endpoints_on(&hostile, &ours()), []);
            assert_eq!(networks(&hostile, "weft"), BTreeSet::new());
            assert_eq!(event(&hostile), None);
        }
    }

    #[test]
    fn events_say_what_to_look_at() {
        let connect = json!({ "Type": "network", "Action": "connect",
            "Actor": { "ID": "n1", "Attributes": { "container": "c1", "type": "weft" } } });
        assert_eq!(event(&connect), Some(Event::Container("c1".to_owned())));
        let rename = json!({ "Type": "container", "Action": "rename", "Actor": { "ID": "c1" } });
        assert_eq!(event(&rename), Some(Event::Container("c1".to_owned())));
        let create = json!({ "Type": "network", "Action": "create", "Actor": { "ID": "n1" } });
        assert_eq!(event(&create), Some(Event::Networks));
        let start = json!({ "Type": "container", "Action": "start", "Actor": { "ID": "c1" } });
        assert_eq!(event(&start), None);
        let list = json!([{ "Id": "n1", "Driver": "weft" }, { "Id": "n2", "Driver": "bridge" }]);
        assert_eq!(networks(&list, "weft"), ours());
    }
}
