use clap::Parser as _;

use super::*;
use crate::args::agent::Agent;

fn settings(line: &[&str], environment: &[(&str, &str)]) -> Result<(Cli, Settings), Failure> {
    let cli = Cli::try_parse_from([&["weft"], line].concat()).unwrap();
    let settings = load_with(&cli, &|name| {
        environment
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    })?;
    Ok((cli, settings))
}

fn config(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

fn agent(line: &[&str], environment: &[(&str, &str)]) -> Result<AgentSettings, Failure> {
    let (cli, settings) = settings(&[&["agent", "run"], line].concat(), environment)?;
    let Command::Agent(Agent::Run(flags)) = cli.command else {
        panic!("not `agent run`")
    };
    settings.agent(*flags)
}

#[test]
fn a_flag_wins_over_the_environment_and_the_environment_over_the_file() {
    let (_dir, path) = config("socket = '/file'\nlog = 'error'");
    let socket = |line: &[&str], environment: &[(&str, &str)]| {
        settings(&[&["ports", "--config", &path], line].concat(), environment)
            .unwrap()
            .1
            .socket
    };
    let environment = [("WEFT_SOCKET", "/environment")];
    assert_eq!(
        socket(&["--socket", "/flag"], &environment),
        PathBuf::from("/flag")
    );
    assert_eq!(socket(&[], &environment), PathBuf::from("/environment"));
    assert_eq!(socket(&[], &[]), PathBuf::from("/file"));
    let (_, none) = settings(&["man"], &[]).unwrap();
    assert_eq!(none.socket, PathBuf::from(DEFAULT_SOCKET));
}

#[test]
fn every_key_of_the_file_arrives() {
    let (dir, path) = config(
        "join = ['10.0.0.1:7', '10.0.0.2']\ntoken = 'T'\nnode = 'n'\nunderlay = 'fd00::1'\nstate = '/s'\nworkers = 3\n\
         vxlan-port = 8472\nencrypted-port = 0\nrekey-after = '30m'\nidle-after = '5m'\nno-gso = true\ndata = '/d'\nlisten = '1.2.3.4:5'\nadvertise = '5.6.7.8'\nstore = 'etcd://h:1'\nstore-ca = '/ca'\nstore-cert = '/c'\nstore-key = '/k'\nstore-user = 'u'\ncert-ttl = '2days'\nttl = '90m'\nuses = 7\njson = true",
    );
    let found = agent(&["--config", &path], &[]).unwrap();
    assert_eq!(found.controllers[0], "10.0.0.1:7".parse().unwrap());
    assert_eq!(found.controllers[1].port(), CONTROLLER_PORT);
    assert_eq!(
        (found.token.as_deref(), found.node.as_deref()),
        (Some("T"), Some("n"))
    );
    assert_eq!(
        (
            found.workers,
            found.vxlan_port,
            found.standalone,
            found.no_gso
        ),
        (3, Some(8472), false, true)
    );
    let half_an_hour = Some(Duration::from_secs(1800));
    assert_eq!(
        (found.encrypted_port, found.rekey_after),
        (Some(0), half_an_hour)
    );
    assert_eq!(found.idle_after, Some(Duration::from_secs(300)));
    assert_eq!(found.state, PathBuf::from("/s"));
    let (_, settings) = settings(
        &["controller", "run", "--config", &path],
        &[("WEFT_STORE_PASSWORD", "secret")],
    )
    .unwrap();
    assert!(settings.json && !format!("{settings:?}").contains("secret"));
    let controller = settings.controller(controller::Run::default()).unwrap();
    assert_eq!(controller.listen, "1.2.3.4:5".parse().unwrap());
    assert_eq!(controller.cert_ttl, Duration::from_secs(2 * 24 * 3600));
    assert_eq!(controller.advertise, ["5.6.7.8:6783".parse().unwrap()]);
    let store = controller.store.unwrap();
    assert_eq!(store.name(), "etcd://h:1/weft");
    assert!(!format!("{store:?}").contains("secret"));
    let files = [store.ca, store.cert, store.key].map(Option::unwrap);
    assert_eq!(files, ["/ca", "/c", "/k"].map(PathBuf::from));
    assert_eq!(
        (store.user.as_deref(), store.password.as_deref()),
        (Some("u"), Some("secret"))
    );
    let token = settings.controller_token(controller::Token::default());
    assert_eq!(
        token,
        TokenSettings {
            data: "/d".into(),
            ttl: Duration::from_secs(5400),
            uses: 7,
        }
    );
    drop(dir);
}

#[test]
fn a_store_needs_all_of_its_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, " pass word \n").unwrap();
    let password = password.to_str().unwrap();
    let store = |args: &[&str], environment: &[(&str, &str)]| {
        let args = [&["controller", "run", "--store", "etcd://h"], args].concat();
        let (cli, settings) = settings(&args, environment).unwrap();
        let Command::Controller(controller::Controller::Run(flags)) = cli.command else {
            unreachable!("as typed")
        };
        settings.controller(flags).map(|wish| wish.store.unwrap())
    };
    let user = ["--store-user", "u"];
    assert_eq!(store(&[], &[]).unwrap().password, None);
    assert!(store(&user, &[]).is_err());
    let given = [&user[..], &["--store-password-file", password]].concat();
    let found = store(&given, &[("WEFT_STORE_PASSWORD", "other")]).unwrap();
    assert_eq!(found.password.as_deref(), Some(" pass word "));
    assert!(store(&["--store-password-file", "/nowhere"], &[]).is_err());
    assert!(store(&["--store-ca", "/ca", "--store-cert", "/c"], &[]).is_err());
    assert!(store(&["--store-cert", "/c", "--store-key", "/k"], &[]).is_err());
}

#[test]
fn a_wrong_file_is_refused_with_its_name_the_key_and_the_known_keys() {
    for (text, cause) in [
        ("sokcet = '/x'", "unknown key `sokcet`"),
        (
            "workers = 'two'",
            "key `workers`: wants a number from 1 to 1024, not a string",
        ),
        (
            "workers = 0",
            "key `workers`: wants a number from 1 to 1024, not 0",
        ),
        (
            "standalone = 'yes'",
            "key `standalone`: wants true or false, not a string",
        ),
        (
            "socket = 7",
            "key `socket`: wants text in quotes, not an integer",
        ),
        ("join = ['h']", "key `join`: \"h\" is not usable"),
        (
            "join = [1]",
            "key `join`: wants an array of texts, not an integer",
        ),
        (
            "underlay = '10.0.0.256'",
            "key `underlay`: \"10.0.0.256\" is not usable",
        ),
    ] {
        let (_dir, path) = config(text);
        let failure = settings(&["ports", "--config", &path], &[]).unwrap_err();
        assert!(failure.message.contains(&path), "{failure:?}");
        assert!(failure.message.contains(cause), "{failure:?}");
        assert!(
            failure
                .hint
                .as_deref()
                .unwrap()
                .contains("known keys: socket, "),
            "{failure:?}"
        );
    }
    let (_dir, path) = config("node = 'n'\nnode 7");
    let failure = settings(&["ports", "--config", &path], &[]).unwrap_err();
    assert!(failure.message.contains("line 2"), "{failure:?}");
    let (_dir, path) = config("standalone = true\njoin = '10.0.0.1'");
    let failure = settings(&["ports", "--config", &path], &[]).unwrap_err();
    assert!(
        failure.message.contains("both `standalone` and `join`"),
        "{failure:?}"
    );
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let failure = settings(&["ports", "--config", "/nowhere/weft.toml"], &[]).unwrap_err();
    assert!(
        failure.message.contains("/nowhere/weft.toml"),
        "{failure:?}"
    );
    assert!(settings(&["ports"], &[("WEFT_CONFIG", "/nowhere/weft.toml")]).is_err());
}

#[test]
fn the_token_comes_from_flag_or_token_file_before_environment_before_config() {
    let (dir, path) = config("token = 'config'");
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, " file\n").unwrap();
    let token_file = token_file.to_str().unwrap();
    let environment = [("WEFT_TOKEN", "environment")];
    let token = |line: &[&str], environment: &[(&str, &str)]| {
        agent(&[&["--config", &path], line].concat(), environment)
            .unwrap()
            .token
            .unwrap()
    };
    assert_eq!(token(&["--token", "flag"], &environment), "flag");
    assert_eq!(token(&["--token-file", token_file], &environment), "file");
    assert_eq!(token(&[], &environment), "environment");
    assert_eq!(token(&[], &[]), "config");
    std::fs::write(token_file, "\n").unwrap();
    let failure = agent(&["--token-file", token_file], &[]).unwrap_err();
    assert!(failure.message.ends_with("is empty"), "{failure:?}");
    assert!(agent(&["--token-file", "/nowhere/token"], &[]).is_err());
}

#[test]
fn a_flag_overrides_its_opposite_in_the_file() {
    let (_dir, path) = config("join = '10.0.0.1'");
    let found = agent(&["--config", &path, "--standalone"], &[]).unwrap();
    assert!(found.standalone && found.controllers.is_empty());
    let (_dir, path) = config("standalone = true");
    let found = agent(&["--config", &path, "--join", "10.0.0.1"], &[]).unwrap();
    assert!(!found.standalone && found.controllers.len() == 1);
}

#[test]
fn the_help_tells_every_key_of_the_file() {
    let help = <Cli as clap::CommandFactory>::command()
        .render_long_help()
        .to_string();
    for key in file::KEYS {
        assert!(help.contains(&format!(" {key} = ")), "{key}");
    }
}
