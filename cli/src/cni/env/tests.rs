use super::*;

fn read(vars: &[(&str, &str)]) -> Result<Env, CniError> {
    Env::read(|name| {
        let found = vars.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    })
}

const ADD: [(&str, &str); 5] = [
    ("CNI_COMMAND", "ADD"),
    ("CNI_CONTAINERID", "a1_b.c-d"),
    ("CNI_NETNS", "/run/netns/x"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
];

fn with(changes: &[(&'static str, &'static str)]) -> Result<Env, CniError> {
    let mut vars: Vec<(&str, &str)> = changes.to_vec();
    vars.extend(ADD);
    read(&vars)
}

#[test]
fn what_the_runtime_says_is_read() {
    let env = with(&[(
        "CNI_ARGS",
        "IgnoreUnknown=1;K8S_POD_NAME=web;IP=10.0.0.7/16,fd00::7;MAC=02:00:00:00:00:07;FOO=BAR",
    )])
    .unwrap();
    assert_eq!(env.command, Command::Add);
    assert_eq!(
        (env.container.as_str(), env.ifname.as_str()),
        ("a1_b.c-d", "eth0")
    );
    assert_eq!(env.netns, Some("/run/netns/x".into()));
    assert_eq!(
        env.path,
        [PathBuf::from("/opt/cni/bin"), "/usr/lib/cni".into()]
    );
    assert_eq!(
        env.args,
        Args {
            ips: vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
            mac: Some("02:00:00:00:00:07".parse().unwrap()),
            pod_name: Some("web".to_owned()),
        }
    );
    assert!(!env.own_netns_is_fine);
    for value in ["1", "true", "TRUE"] {
        assert!(
            with(&[("CNI_NETNS_OVERRIDE", value)])
                .unwrap()
                .own_netns_is_fine
        );
    }
}

#[test]
fn each_command_needs_its_own() {
    for (command, needed) in [
        ("ADD", vec!["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
        ("CHECK", vec!["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
        ("DEL", vec!["CNI_CONTAINERID", "CNI_IFNAME"]),
    ] {
        let error = read(&[("CNI_COMMAND", command), ("CNI_NETNS", "")]).unwrap_err();
        assert_eq!(error.code, Code::InvalidEnvironment);
        for name in &needed {
            assert!(error.message.contains(name), "{command}: {}", error.message);
        }
        let mut vars = ADD.to_vec();
        vars.retain(|(name, _)| needed.contains(name));
        vars.push(("CNI_COMMAND", command));
        read(&vars).unwrap();
    }
    for command in ["GC", "STATUS", "VERSION"] {
        read(&[("CNI_COMMAND", command)]).unwrap();
    }
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    for (name, value) in [
        ("CNI_COMMAND", "add"),
        ("CNI_COMMAND", "MOVE"),
        ("CNI_CONTAINERID", "-a"),
        ("CNI_CONTAINERID", ".a"),
        ("CNI_CONTAINERID", "a/b"),
        ("CNI_CONTAINERID", "a b"),
        ("CNI_CONTAINERID", "ä"),
        ("CNI_IFNAME", "."),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "eth0/1"),
        ("CNI_IFNAME", "eth0:1"),
        ("CNI_IFNAME", "eth 0"),
        ("CNI_IFNAME", "sixteen-letters-"),
        ("CNI_ARGS", "IP"),
        ("CNI_ARGS", "IP=10.0.0"),
        ("CNI_ARGS", "MAC=1"),
        ("CNI_ARGS", "FOO=BAR"),
        ("CNI_ARGS", "FOO=BAR;IgnoreUnknown=0"),
    ] {
        let error = with(&[(name, value)]).unwrap_err();
        assert_eq!(error.code, Code::InvalidEnvironment, "{name}={value}");
        assert!(
            error.message.contains(name),
            "{name}={value}: {}",
            error.message
        );
    }
    with(&[("CNI_IFNAME", "fifteen-letters")]).unwrap();
}

#[test]
fn what_was_wrong_at_add_does_not_stand_in_the_way_of_del() {
    with(&[
        ("CNI_COMMAND", "DEL"),
        ("CNI_ARGS", "nonsense"),
        ("CNI_NETNS", ""),
    ])
    .unwrap();
}
