use std::collections::BTreeMap;

use weft_wire::{Mtu, Vni};

use super::super::wire::Range;
use super::*;
use crate::model::{NetworkId, Subnet};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn call(ranges: &[(&str, Option<&str>)]) -> CreateNetwork {
    let ranges = ranges.iter().map(|(cidr, gateway)| Range {
        space: "weft".to_owned(),
        cidr: net(cidr),
        gateway: gateway.map(ip),
        aux: BTreeMap::new(),
    });
    CreateNetwork {
        network: "n1".to_owned(),
        options: BTreeMap::new(),
        internal: false,
        ranges: ranges.collect(),
    }
}

fn shop() -> Network {
    Network {
        id: NetworkId("1".to_owned()),
        name: "shop".to_owned(),
        vni: Vni::new(4096).unwrap(),
        subnets: vec![Subnet {
            cidr: net("10.40.0.0/16"),
            ip_range: None,
            gateway: ip("10.40.0.1"),
            aux_addresses: std::collections::BTreeMap::new(),
        }],
        transport: Transport::Vxlan,
        internal: false,
        isolate: false,
        egress: crate::model::Egress::default(),
        mtu: None,
        ageing_secs: 300,
        vteps: std::collections::BTreeSet::new(),
        made_by: None,
    }
}

fn wish(options: Options) -> Wish {
    let call = call(&[("10.40.0.0/16", Some("10.40.0.1"))]);
    let options = Options {
        network: Some("shop".to_owned()),
        ..options
    };
    Wish::of(&call, &options, Vec::new()).unwrap()
}

#[test]
fn a_name_is_given_or_made_from_the_range() {
    assert_eq!(wish(Options::default()).create.name, "shop");
    let call = call(&[("10.40.0.0/16", None), ("fd40::/64", None)]);
    let wish = Wish::of(&call, &Options::default(), Vec::new()).unwrap();
    assert_eq!(wish.create.name, "net-10.40.0.0-16");
    for range in ["10.40.0.0/16", "fd40::/64", "fd77:6566:7400:1::/64", "::/1"] {
        let name = derived_name(net(range));
        assert_eq!(crate::model::check_name("network", &name), Ok(()), "{name}");
    }
    let bare = CreateNetwork {
        ranges: Vec::new(),
        ..call
    };
    let error = Wish::of(&bare, &Options::default(), Vec::new()).unwrap_err();
    assert!(error.contains("weft.network"), "{error}");
}

#[test]
fn the_network_that_is_there_may_be_more_than_is_asked() {
    assert_eq!(wish(Options::default()).check(&shop()), Ok(()));
    let private = Network {
        internal: true,
        mtu: Mtu::new(1400).ok(),
        ..shop()
    };
    assert_eq!(wish(Options::default()).check(&private), Ok(()));
}

#[test]
fn what_differs_is_named_with_both_values() {
    let cases = [
        (
            Options {
                vni: Vni::new(7).ok(),
                ..Options::default()
            },
            "VNI is 4096, not 7",
        ),
        (
            Options {
                mtu: Mtu::new(1400).ok(),
                ..Options::default()
            },
            "MTU is not set (it follows the path), not 1400",
        ),
        (
            Options {
                encrypted: Some(true),
                ..Options::default()
            },
            "encryption is off, not on",
        ),
        (
            Options {
                internal: Some(true),
                ..Options::default()
            },
            "being internal is off, not on",
        ),
    ];
    for (options, wanted) in cases {
        let error = wish(options).check(&shop()).unwrap_err();
        assert!(error.contains(wanted), "{error}");
        assert!(error.contains("network shop"), "{error}");
    }
    let other = |ranges: &[(&str, Option<&str>)], parts: &[&str]| {
        let parts = parts.iter().map(|part| net(part)).collect();
        let wish = Wish::of(&call(ranges), &Options::default(), parts).unwrap();
        wish.check(&shop()).unwrap_err()
    };
    let error = other(&[("10.41.0.0/16", None)], &[]);
    assert!(
        error.contains("subnet is 10.40.0.0/16, not 10.41.0.0/16"),
        "{error}"
    );
    let error = other(&[("10.40.0.0/16", None), ("fd40::/64", None)], &[]);
    assert!(error.contains("not 10.40.0.0/16, fd40::/64"), "{error}");
    let error = other(&[("10.40.0.0/16", Some("10.40.0.254"))], &[]);
    assert!(
        error.contains("gateway is 10.40.0.1, not 10.40.0.254"),
        "{error}"
    );
    let error = other(&[("10.40.0.0/16", None)], &["10.40.8.0/24"]);
    assert!(
        error.contains("IP range is 10.40.0.0/16, not 10.40.8.0/24"),
        "{error}"
    );
}

#[test]
fn internal_is_said_once() {
    let mut call = call(&[("10.40.0.0/16", None)]);
    call.internal = true;
    let open = Options {
        internal: Some(false),
        ..Options::default()
    };
    assert!(Wish::of(&call, &open, Vec::new()).is_err());
    let wish = Wish::of(&call, &Options::default(), Vec::new()).unwrap();
    assert_eq!((wish.internal, wish.create.internal), (Some(true), true));
}
