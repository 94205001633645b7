use super::*;

fn full() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            { "name": "veth1", "mac": "02:00:00:00:00:01" },
            { "name": "eth0", "mac": "02:00:00:00:00:02", "mtu": 1450, "sandbox": "/run/netns/x",
              "socketPath": "/run/s", "pciID": "0000:00:1f.6" },
        ],
        "ips": [
            { "address": "10.0.0.2/16", "gateway": "10.0.0.1", "interface": 1 },
            { "address": "fd00::2/64", "interface": 1 },
            { "address": "192.0.2.1/24" },
        ],
        "routes": [
            { "dst": "0.0.0.0/0", "gw": "10.0.0.1" },
            { "dst": "fd01::/64" },
            { "dst": "198.51.100.0/24", "mtu": 1400, "advmss": 1360, "priority": 5, "table": 1000, "scope": 253 },
        ],
        "dns": { "nameservers": ["10.0.0.1"], "domain": "a", "search": ["b"], "options": ["ndots:1"] },
    })
}

#[test]
fn the_newest_form_comes_back_as_it_was_read() {
    let result = CniResult::parse(&full()).unwrap();
    assert_eq!(result.to_json(Version::V1_1_0), full());
}

#[test]
fn older_versions_have_what_they_had() {
    let result = CniResult::parse(&full()).unwrap();
    let old = result.to_json(Version::V1_0_0);
    assert_eq!(old["cniVersion"], "1.0.0");
    assert_eq!(
        old["interfaces"][1],
        json!({ "name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/x" })
    );
    assert_eq!(old["routes"][2], json!({ "dst": "198.51.100.0/24" }));
    assert_eq!(old["ips"], full()["ips"]);
    for version in [Version::V0_3_1, Version::V0_4_0] {
        let older = result.to_json(version);
        assert_eq!(older["cniVersion"], version.as_str());
        assert_eq!(older["ips"][0]["version"], "4");
        assert_eq!(older["ips"][1]["version"], "6");
        assert_eq!(older["interfaces"], old["interfaces"]);
        assert_eq!(CniResult::parse(&older).unwrap().ips, result.ips);
    }
}

#[test]
fn what_is_empty_is_left_out_but_dns() {
    let result = CniResult::default();
    assert_eq!(
        result.to_json(Version::V1_0_0),
        json!({ "cniVersion": "1.0.0", "dns": {} })
    );
    let nulls = json!({ "interfaces": null, "ips": null, "routes": null, "dns": null });
    assert_eq!(CniResult::parse(&nulls).unwrap(), result);
    assert_eq!(CniResult::parse(&json!({})).unwrap(), result);
}

#[test]
fn a_later_result_is_counted_on_from_an_earlier_one() {
    let first = CniResult::parse(&full()).unwrap();
    let second = CniResult::parse(&json!({
        "interfaces": [{ "name": "net1", "sandbox": "/run/netns/x" }],
        "ips": [{ "address": "10.9.0.2/16", "interface": 0 }],
        "routes": [{ "dst": "10.9.0.0/16" }],
    }))
    .unwrap();
    let both = first.clone().followed_by(second.clone());
    assert_eq!(both.interfaces.len(), 3);
    assert_eq!(both.ips[3].interface, Some(2));
    assert_eq!(both.interfaces[2].name, "net1");
    assert_eq!(both.dns, first.dns, "the later one has none");
    assert_eq!(second.followed_by(first.clone()).dns, first.dns);
}

#[test]
fn what_is_not_of_the_expected_shape_is_told_by_name() {
    for (value, expected) in [
        (json!([]), "result: an object is expected"),
        (json!({ "ips": {} }), "\"ips\" wants a list"),
        (json!({ "ips": [1] }), "ips: an object is expected"),
        (json!({ "ips": [{}] }), "no address with prefix length"),
        (
            json!({ "ips": [{ "address": "10.0.0.1" }] }),
            "\"10.0.0.1\" is no address with prefix",
        ),
        (
            json!({ "ips": [{ "address": "10.0.0.1/33" }] }),
            "\"10.0.0.1/33\"",
        ),
        (
            json!({ "ips": [{ "address": "10.0.0.1/8", "gateway": "x" }] }),
            "\"gateway\" wants an IP",
        ),
        (
            json!({ "ips": [{ "address": "10.0.0.1/8", "interface": "a" }] }),
            "\"interface\" wants a",
        ),
        (
            json!({ "interfaces": [{ "name": "a" }], "ips": [{ "address": "10.0.0.1/8", "interface": 1 }] }),
            "there are only 1",
        ),
        (
            json!({ "interfaces": [{ "name": 1 }] }),
            "\"name\" wants text",
        ),
        (json!({ "routes": [{ "dst": "x" }] }), "\"x\" is no network"),
        (
            json!({ "routes": [{ "dst": "::/0", "scope": 256 }] }),
            "\"scope\" wants a smaller number",
        ),
        (
            json!({ "dns": { "search": "a" } }),
            "\"search\" wants a list of texts",
        ),
        (
            json!({ "dns": { "search": [1] } }),
            "\"search\" wants a list of texts",
        ),
    ] {
        let error = CniResult::parse(&value).unwrap_err();
        assert!(error.contains(expected), "{value}: {error}");
    }
    let early = json!({ "ips": [{ "address": "10.0.0.1/8", "interface": -1 }] });
    assert_eq!(CniResult::parse(&early).unwrap().ips[0].interface, None);
}
