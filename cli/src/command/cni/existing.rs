//! The configuration that is there already. Only what `weft cni install` wrote itself is overwritten or removed without being
//! told to: somebody may have made or changed the file by hand, or another network may be in it.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Map, Value};

use super::PLUGIN;
use crate::failure::Failure;

type Object = Map<String, Value>;

/// Keys that `install` writes for weft.
const WEFT_KEYS: [&str; 6] = [
    "type",
    "network",
    "capabilities",
    "socket",
    "subnet",
    "encrypted",
];
/// Keys that it writes for a plugin behind weft.
const CHAINED_KEYS: [&str; 2] = ["type", "capabilities"];

/// That `conf` isn't there, or is what `install --name NAME` may have written.
///
/// # Errors
/// It can't be read, or is something else: why, and what to do.
pub(super) fn expect_ours(conf: &Path, name: &str) -> Result<(), Failure> {
    expect(conf, |text| check(text, name)).map_err(|failure| {
        failure.hint("name another file with --conf-file, move this one away, or give --force")
    })
}

/// That `conf` isn't there, or configures weft, whoever wrote it.
///
/// # Errors
/// As [`expect_ours`].
pub(super) fn expect_weft(conf: &Path) -> Result<(), Failure> {
    expect(conf, |text| weft_in(&parsed(text)).map(drop))
        .map_err(|failure| failure.hint("name the right file with --conf-file"))
}

fn expect(conf: &Path, check: impl FnOnce(&[u8]) -> Result<(), String>) -> Result<(), Failure> {
    let text = match fs::read(conf) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            let message = format!("cannot read {}: {error}", conf.display());
            return Err(Failure::new("cni", message));
        }
    };
    check(&text).map_err(|why| {
        let message = format!("{} is there and {why}", conf.display());
        Failure::new("cni", message)
    })
}

fn parsed(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap_or_default()
}

/// The list's weft plugin, which is its first, and those behind it.
fn weft_in(list: &Value) -> Result<(&Object, &[Value]), String> {
    let plugins = list["plugins"].as_array().and_then(|all| all.split_first());
    let weft = plugins.and_then(|(first, behind)| Some((first.as_object()?, behind)));
    weft.filter(|(first, _)| first.get("type").is_some_and(|name| name == PLUGIN))
        .ok_or_else(|| "is no configuration of weft".to_owned())
}

fn check(text: &[u8], name: &str) -> Result<(), String> {
    let list = parsed(text);
    let (weft, behind) = weft_in(&list)?;
    let there = list["name"].as_str().unwrap_or_default();
    if there != name {
        return Err(format!("configures {there}, not {name}"));
    }
    let changed = "was changed since `weft cni install` wrote it";
    expect_keys(weft, &WEFT_KEYS).map_err(|key| format!("{changed}: it has {key}"))?;
    for plugin in behind.iter().filter_map(Value::as_object) {
        let of = plugin.get("type").and_then(Value::as_str);
        expect_keys(plugin, &CHAINED_KEYS)
            .map_err(|key| format!("{changed}: {} has {key}", of.unwrap_or_default()))?;
    }
    Ok(())
}

fn expect_keys<'a>(plugin: &'a Object, known: &[&str]) -> Result<(), &'a str> {
    let mut keys = plugin.keys().map(String::as_str);
    keys.find(|key| !known.contains(key)).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(value: &Value, name: &str) -> Result<(), String> {
        check(value.to_string().as_bytes(), name)
    }

    fn written() -> Value {
        json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [
            { "type": "weft", "network": "pods", "subnet": ["10.40.0.0/16"], "capabilities": { "ips": true } },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ] })
    }

    #[test]
    fn what_install_wrote_is_ours() {
        assert_eq!(checked(&written(), "pods"), Ok(()));
    }

    #[test]
    fn what_somebody_else_wrote_or_changed_is_not() {
        let mut behind = written();
        behind["plugins"].as_array_mut().unwrap().reverse();
        let mut tuned = written();
        tuned["plugins"][0]["mtu"] = json!(1400);
        let mut mapped = written();
        mapped["plugins"][1]["snat"] = json!(true);
        for (value, name, why) in [
            (written(), "other", "configures pods, not other"),
            (behind, "pods", "no configuration of weft"),
            (tuned, "pods", "it has mtu"),
            (mapped, "pods", "portmap has snat"),
            (
                json!({ "type": "weft", "name": "pods" }),
                "pods",
                "no configuration of weft",
            ),
            (
                json!({ "name": "pods", "plugins": [] }),
                "pods",
                "no configuration of weft",
            ),
            (json!([]), "pods", "no configuration of weft"),
        ] {
            let said = checked(&value, name).unwrap_err();
            assert!(said.contains(why), "{value}: {said}");
        }
        for text in ["", "{", "nonsense"] {
            let said = check(text.as_bytes(), "pods").unwrap_err();
            assert!(said.contains("no configuration of weft"), "{text}: {said}");
        }
    }

    #[test]
    fn what_is_changed_is_still_wefts() {
        let mut tuned = written();
        tuned["plugins"][0]["mtu"] = json!(1400);
        assert!(weft_in(&tuned).is_ok());
        tuned["plugins"].as_array_mut().unwrap().reverse();
        assert!(weft_in(&tuned).is_err());
    }
}
