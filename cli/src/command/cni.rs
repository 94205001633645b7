//! `weft cni`: puts the plugin and a configuration where container runtimes look for them.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use weft_control::api::DEFAULT_SOCKET;

use crate::args::cni::{Cni, Dirs, Install};
use crate::cni::Version;
use crate::config::Settings;
use crate::failure::Failure;
use crate::render;

mod existing;

/// Name of the plugin's file: what configurations call `type`.
const PLUGIN: &str = "weft";
/// Where distributions and runtimes put plugins.
const PLUGIN_DIRS: [&str; 4] = [
    "/opt/cni/bin",
    "/usr/lib/cni",
    "/usr/libexec/cni",
    "/usr/local/lib/cni",
];
/// The version that today's runtimes all speak; newer ones choose from `cniVersions`.
const COMMON_VERSION: Version = Version::V1_0_0;

/// # Errors
/// A directory can't be written, or holds something else under our names.
pub(super) fn run(settings: &Settings, verb: Cni) -> Result<(), Failure> {
    match verb {
        Cni::Install(flags) => install(settings, &flags),
        Cni::Uninstall(dirs) => uninstall(settings, &dirs),
    }
}

fn install(settings: &Settings, flags: &Install) -> Result<(), Failure> {
    let (plugin, conf) = files(&flags.dirs);
    if !flags.force {
        existing::expect_ours(&conf, &flags.name)?;
        expect_chained(flags)?;
    }
    let program = std::env::current_exe().map_err(|error| {
        Failure::new(
            "cni",
            format!("cannot find the weft program's own file: {error}"),
        )
    })?;
    put(&plugin, |fresh| {
        if flags.link {
            return symlink(&program, fresh);
        }
        fs::copy(&program, fresh)?;
        fs::set_permissions(fresh, fs::Permissions::from_mode(0o755))
    })?;
    let text = serde_json::to_vec_pretty(&conflist(settings, flags))
        .map_err(|error| Failure::new("cni", format!("cannot write JSON: {error}")))?;
    put(&conf, |fresh| {
        let mut file = File::create(fresh)?;
        file.write_all(&text)?;
        file.write_all(b"\n")?;
        // A runtime that finds it after a crash must find all of it.
        file.sync_all()
    })?;
    shown(settings, &plugin, &conf)
}

fn files(dirs: &Dirs) -> (PathBuf, PathBuf) {
    (
        dirs.bin_dir.join(PLUGIN),
        dirs.conf_dir.join(&dirs.conf_file),
    )
}

/// A runtime that doesn't find a plugin of the chain starts no container, and says so only then.
fn expect_chained(flags: &Install) -> Result<(), Failure> {
    let dir = &flags.dirs.bin_dir;
    let Some(missing) = flags.chain.iter().find(|name| !is_program(&dir.join(name))) else {
        return Ok(());
    };
    let message = format!("{} has no plugin {missing} to chain", dir.display());
    let elsewhere = PLUGIN_DIRS
        .iter()
        .find(|dir| is_program(&Path::new(dir).join(missing)));
    Err(Failure::new("cni", message).hint(match elsewhere {
        Some(other) => format!(
            "it is in {other}: give --bin-dir {other} if the runtime looks there, link it into {}, or give --force",
            dir.display()
        ),
        None => "install it (Debian: containernetworking-plugins, into /usr/lib/cni), mend the name, or give --force"
            .to_owned(),
    }))
}

fn is_program(path: &Path) -> bool {
    let executable = |file: fs::Metadata| file.is_file() && file.permissions().mode() & 0o111 != 0;
    fs::metadata(path).is_ok_and(executable)
}

fn shown(settings: &Settings, plugin: &Path, conf: &Path) -> Result<(), Failure> {
    let done = json!({ "plugin": plugin, "config": conf });
    render::show(settings.json, &done, |_| {
        render::lines(&[plugin.display(), conf.display()])
    })
}

fn conflist(settings: &Settings, flags: &Install) -> Value {
    // One of both opens the host's ports.
    let maps_ports = !flags.chain.iter().any(|name| name == PORTMAP);
    let mut weft = json!({
        "type": PLUGIN,
        "network": flags.network.as_deref().unwrap_or(&flags.name),
        "capabilities": { "ips": true, "mac": true, "aliases": true, "bandwidth": true, "dns": true,
            "portMappings": maps_ports },
    });
    if settings.socket != Path::new(DEFAULT_SOCKET) {
        weft["socket"] = json!(settings.socket);
    }
    if !flags.subnets.is_empty() {
        weft["subnet"] = json!(flags.subnets);
    }
    if flags.encrypted {
        weft["encrypted"] = json!(true);
    }
    let chained = flags.chain.iter().map(|name| {
        let mut plugin = json!({ "type": name });
        if let Some(capability) = capability_of(name) {
            plugin["capabilities"] = Value::Object(Map::from_iter([(capability, json!(true))]));
        }
        plugin
    });
    let mut list = json!({
        "cniVersion": COMMON_VERSION.as_str(),
        "name": flags.name,
        "plugins": std::iter::once(weft).chain(chained).collect::<Vec<_>>(),
    });
    // A runtime that knows this key takes the newest version for the whole chain, and others' plugins may be older.
    if flags.chain.is_empty() {
        list["cniVersions"] = json!(Version::ALL.map(Version::as_str));
    }
    list
}

/// The reference plugin that maps ports by rules of netfilter.
const PORTMAP: &str = "portmap";

/// What the plugins of containernetworking-plugins do at the runtime's word.
fn capability_of(plugin: &str) -> Option<String> {
    match plugin {
        PORTMAP => Some("portMappings".to_owned()),
        "bandwidth" => Some("bandwidth".to_owned()),
        _ => None,
    }
}

fn uninstall(settings: &Settings, dirs: &Dirs) -> Result<(), Failure> {
    let (plugin, conf) = files(dirs);
    existing::expect_weft(&conf)?;
    // The configuration first: a runtime that finds it looks for the plugin.
    for file in [&conf, &plugin] {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(unwritable(file, &error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    shown(settings, &plugin, &conf)
}

/// Makes a file beside, then moves it: whoever looks sees the old one or the new one.
fn put(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), Failure> {
    let failed = |error: io::Error| unwritable(path, &error);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    // With a dot first: runtimes that look meanwhile pass it over.
    let fresh = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let made = make(&fresh).and_then(|()| fs::rename(&fresh, path));
    made.map_err(|error| {
        let _ = fs::remove_file(&fresh);
        failed(error)
    })
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::new("cni", format!("cannot write {}: {error}", path.display()))
        .hint("be root, or name other directories with --bin-dir and --conf-dir")
}
