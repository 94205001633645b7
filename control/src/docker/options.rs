//! What `docker network create -o KEY=VALUE` may say to this driver.
//!
//! An option of ours that is misspelt must not pass for one that is obeyed (`-o encryptd`), so unknown keys are refused;
//! those of Docker's own drivers (`com.docker.network.*`), which compose files carry from one driver to another, are
//! ignored and named.

#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use weft_wire::{Mtu, Vni};

use crate::model::brief;

/// MTU, as Docker's own drivers call it.
const DRIVER_MTU: &str = "com.docker.network.driver.mtu";
/// Whether containers of the network may talk to each other.
const ENABLE_ICC: &str = "com.docker.network.bridge.enable_icc";
/// Options of Docker's own drivers.
const DOCKERS: &str = "com.docker.";
/// Before the names of our options; it may be left out.
const PREFIX: &str = "weft.";
/// What to do about a wrong option.
const KNOWN: &str = "known options: weft.network=NAME, weft.vni=N, weft.mtu=N, weft.encrypted, weft.internal, weft.isolate, weft.gateway=on|off, com.docker.network.driver.mtu=N, com.docker.network.bridge.enable_icc=true|false";

/// The options of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The overlay network's name; made from its range when `None`.
    pub network: Option<String>,
    /// Its VNI, if it must be that one.
    pub vni: Option<Vni>,
    /// Its MTU, if it must be that one.
    pub mtu: Option<Mtu>,
    /// Frames must travel encrypted between hosts; `None`: as the network is.
    pub encrypted: Option<bool>,
    /// No way out; `None`: as the network is.
    pub internal: Option<bool>,
    /// Its containers don't talk to each other; `None`: as the network is.
    pub isolate: Option<bool>,
    /// The default route and published ports are weft's, not those of Docker's gateway bridge.
    pub gateway: Option<bool>,
    /// Options that mean something to other drivers only.
    pub ignored: Vec<String>,
}

impl Options {
    /// Reads what the user gave.
    ///
    /// # Errors
    /// A sentence that names the option, and what there is instead.
    pub fn read(given: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut options = Self::default();
        for (key, value) in given {
            options
                .take(key, value)
                .map_err(|why| format!("option {}={}: {why}; {KNOWN}", brief(key), brief(value)))?;
        }
        Ok(options)
    }

    fn take(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            DRIVER_MTU => return self.set_mtu(value),
            ENABLE_ICC => return once(&mut self.isolate, !flag(value)?),
            other if other.starts_with(DOCKERS) => {
                self.ignored.push(other.to_owned());
                return Ok(());
            }
            _ => {}
        }
        match key.strip_prefix(PREFIX).unwrap_or(key) {
            "network" => {
                crate::model::check_name("network", value)?;
                once(&mut self.network, value.to_owned())
            }
            "vni" => {
                let number = value.parse::<u32>().ok().and_then(|vni| Vni::new(vni).ok());
                let vni = number.ok_or("a VNI is a number from 1 to 16777215")?;
                once(&mut self.vni, vni)
            }
            "mtu" => self.set_mtu(value),
            "encrypted" => once(&mut self.encrypted, flag(value)?),
            "internal" => once(&mut self.internal, flag(value)?),
            "isolate" => once(&mut self.isolate, flag(value)?),
            "gateway" => once(&mut self.gateway, flag(value)?),
            _ => Err("this driver has no such option".to_owned()),
        }
    }

    fn set_mtu(&mut self, value: &str) -> Result<(), String> {
        let number = value.parse::<u32>().ok().and_then(|mtu| Mtu::new(mtu).ok());
        let mtu = number.ok_or("that is no MTU of an Ethernet segment")?;
        once(&mut self.mtu, mtu)
    }
}

/// One thing may be said in two ways, but not two things.
fn once<T: PartialEq>(place: &mut Option<T>, value: T) -> Result<(), String> {
    match place {
        Some(before) if *before != value => Err("another option says the opposite".to_owned()),
        Some(_) | None => {
            *place = Some(value);
            Ok(())
        }
    }
}

/// `-o encrypted` has an empty value and means yes.
fn flag(value: &str) -> Result<bool, String> {
    match value {
        "" | "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err("take true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Options, String> {
        let given = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Options::read(&given.collect())
    }

    #[test]
    fn every_option_is_known_with_and_without_prefix() {
        let wanted = Options {
            network: Some("shop".to_owned()),
            vni: Vni::new(77).ok(),
            mtu: Mtu::new(1400).ok(),
            encrypted: Some(true),
            internal: Some(false),
            isolate: Some(true),
            gateway: Some(true),
            ignored: Vec::new(),
        };
        let plain = [
            ("network", "shop"),
            ("vni", "77"),
            ("mtu", "1400"),
            ("encrypted", ""),
            ("internal", "off"),
            ("isolate", "1"),
            ("gateway", "on"),
        ];
        assert_eq!(read(&plain), Ok(wanted.clone()));
        let prefixed: Vec<(String, &str)> = plain
            .iter()
            .map(|(key, value)| (format!("weft.{key}"), *value))
            .collect();
        let prefixed: Vec<(&str, &str)> = prefixed
            .iter()
            .map(|(key, value)| (key.as_str(), *value))
            .collect();
        assert_eq!(read(&prefixed), Ok(wanted));
        assert_eq!(read(&[]), Ok(Options::default()));
    }

    #[test]
    fn docker_words_mean_the_same() {
        let options = read(&[
            ("com.docker.network.driver.mtu", "1400"),
            ("com.docker.network.bridge.enable_icc", "false"),
            ("com.docker.network.bridge.name", "br-shop"),
        ])
        .unwrap();
        assert_eq!(options.mtu, Mtu::new(1400).ok());
        assert_eq!(options.isolate, Some(true));
        assert_eq!(options.ignored, ["com.docker.network.bridge.name"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (pairs, word) in [
            (&[("encryptd", "")][..], "encryptd="),
            (&[("weft.vni", "0")], "16777215"),
            (&[("vni", "16777216")], "16777215"),
            (&[("vni", "-1")], "16777215"),
            (&[("mtu", "12")], "MTU"),
            (&[("mtu", "1e3")], "MTU"),
            (&[("internal", "maybe")], "true or false"),
            (&[("weft.network", "two words")], "two words"),
            (&[("weft.network", "")], "network name"),
            (&[("mtu", "1400"), ("weft.mtu", "1300")], "opposite"),
            (&[("gateway", "on"), ("weft.gateway", "off")], "opposite"),
            (
                &[
                    ("isolate", "true"),
                    ("com.docker.network.bridge.enable_icc", "true"),
                ],
                "opposite",
            ),
        ] {
            let error = read(pairs).unwrap_err();
            assert!(error.contains(word), "{error}");
            assert!(error.contains("known options"), "{error}");
        }
        assert!(read(&[("mtu", "1400"), ("weft.mtu", "1400")]).is_ok());
    }
}
