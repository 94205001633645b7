//! The config file: TOML with the names of the flags as keys. What it says is checked here as strictly as a flag is; a
//! wrong file stops the command, as half a configuration is worse than none.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use crate::args::values;
use crate::failure::Failure;

/// Every key the file may have, in the order of the manual.
pub(super) const KEYS: [&str; 32] = [
    "socket",
    "json",
    "log",
    "join",
    "token",
    "token-file",
    "node",
    "underlay",
    "state",
    "standalone",
    "workers",
    "vxlan-port",
    "encrypted-port",
    "rekey-after",
    "idle-after",
    "no-gso",
    "dns-upstream",
    "docker",
    "docker-socket",
    "docker-host",
    "data",
    "listen",
    "advertise",
    "store",
    "store-ca",
    "store-cert",
    "store-key",
    "store-user",
    "store-password-file",
    "cert-ttl",
    "ttl",
    "uses",
];

/// What a config file says.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) socket: Option<PathBuf>,
    pub(super) json: Option<bool>,
    pub(super) log: Option<String>,
    pub(super) join: Option<Vec<SocketAddr>>,
    pub(super) token: Option<String>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) node: Option<String>,
    pub(super) underlay: Option<IpAddr>,
    pub(super) state: Option<PathBuf>,
    pub(super) standalone: Option<bool>,
    pub(super) workers: Option<u16>,
    pub(super) vxlan_port: Option<u16>,
    pub(super) encrypted_port: Option<u16>,
    pub(super) rekey_after: Option<Duration>,
    pub(super) idle_after: Option<Duration>,
    pub(super) no_gso: Option<bool>,
    pub(super) dns_upstreams: Option<Vec<SocketAddr>>,
    pub(super) docker: Option<bool>,
    pub(super) docker_socket: Option<PathBuf>,
    pub(super) docker_host: Option<PathBuf>,
    pub(super) data: Option<PathBuf>,
    pub(super) listen: Option<SocketAddr>,
    pub(super) advertise: Option<Vec<SocketAddr>>,
    pub(super) store: Option<String>,
    pub(super) store_ca: Option<PathBuf>,
    pub(super) store_cert: Option<PathBuf>,
    pub(super) store_key: Option<PathBuf>,
    pub(super) store_user: Option<String>,
    pub(super) store_password_file: Option<PathBuf>,
    pub(super) cert_ttl: Option<Duration>,
    pub(super) ttl: Option<Duration>,
    pub(super) uses: Option<u32>,
}

impl File {
    /// Reads a file that somebody named.
    ///
    /// # Errors
    /// It cannot be read, isn't TOML, has an unknown key, or a value of the wrong type.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
        Self::parse(path, &text)
    }

    /// Reads a file that need not be there. A client whose user may not read it does without (it may hold a token); a
    /// daemon does not.
    ///
    /// # Errors
    /// As [`File::read`].
    pub(super) fn read_if_there(path: &Path, is_daemon: bool) -> Result<Self, Failure> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) if error.kind() == ErrorKind::PermissionDenied && !is_daemon => {
                Ok(Self::default())
            }
            Err(error) => Err(unreadable(path, &error)),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, Failure> {
        let table = text.parse::<Table>().map_err(|error| {
            let line = error
                .span()
                .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            let cause = error.message();
            wrong(path, format_args!("line {line}: {cause}"))
                .hint("the file is TOML: one `key = value` per line, text in double quotes")
        })?;
        if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(wrong(path, format_args!("unknown key `{key}`")).hint(known_keys()));
        }
        let keys = Keys { path, table };
        let file = Self {
            socket: keys.path("socket")?,
            json: keys.flag("json")?,
            log: keys.parsed("log", values::log_filter)?,
            join: keys.list("join", values::controller_address)?,
            token: keys.text("token")?,
            token_file: keys.path("token-file")?,
            node: keys.text("node")?,
            underlay: keys.parsed("underlay", |text| {
                text.parse().map_err(|_| "no IP address".to_owned())
            })?,
            state: keys.path("state")?,
            standalone: keys.flag("standalone")?,
            workers: keys.number("workers", 1024)?,
            vxlan_port: keys.number("vxlan-port", u16::MAX)?,
            encrypted_port: keys.number_in("encrypted-port", 0..=u16::MAX)?,
            rekey_after: keys.parsed("rekey-after", values::rekey_age)?,
            idle_after: keys.parsed("idle-after", values::idle_time)?,
            no_gso: keys.flag("no-gso")?,
            dns_upstreams: keys.list("dns-upstream", values::name_server)?,
            docker: keys.flag("docker")?,
            docker_socket: keys.path("docker-socket")?,
            docker_host: keys.path("docker-host")?,
            data: keys.path("data")?,
            listen: keys.parsed("listen", values::controller_address)?,
            advertise: keys.list("advertise", values::controller_address)?,
            store: keys.text("store")?,
            store_ca: keys.path("store-ca")?,
            store_cert: keys.path("store-cert")?,
            store_key: keys.path("store-key")?,
            store_user: keys.text("store-user")?,
            store_password_file: keys.path("store-password-file")?,
            cert_ttl: keys.parsed("cert-ttl", values::duration)?,
            ttl: keys.parsed("ttl", values::duration)?,
            uses: keys.number("uses", 10_000)?.map(u32::from),
        };
        file.check_pairs(path)?;
        Ok(file)
    }

    /// The same pairs that exclude each other as flags.
    fn check_pairs(&self, path: &Path) -> Result<(), Failure> {
        let both = |one: &str, other: &str| {
            Err(wrong(path, format_args!("has both `{one}` and `{other}`"))
                .hint("remove one of the two"))
        };
        if self.token.is_some() && self.token_file.is_some() {
            return both("token", "token-file");
        }
        if self.standalone == Some(true) && self.join.is_some() {
            return both("standalone", "join");
        }
        Ok(())
    }
}

/// Reads a token from a file; white space around it does not count.
///
/// # Errors
/// The file cannot be read or is empty.
pub(super) fn read_token(path: &Path) -> Result<String, Failure> {
    let hint = "write the output of `weft controller token` into it";
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read token file {}: {error}", path.display());
        Failure::new("token_file", message).hint(hint)
    })?;
    match text.trim() {
        "" => {
            let message = format!("token file {} is empty", path.display());
            Err(Failure::new("token_file", message).hint(hint))
        }
        token => Ok(token.to_owned()),
    }
}

/// Reads a password from a file; a line's end after it does not count.
///
/// # Errors
/// The file cannot be read or is empty.
pub(super) fn read_password(path: &Path) -> Result<String, Failure> {
    let failed = |what: String| {
        Failure::new(
            "password_file",
            format!("password file {} {what}", path.display()),
        )
        .hint("write the etcd user's password into it, readable by the controller's user only")
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| failed(format!("cannot be read: {error}")))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(failed("is empty".to_owned())),
        password => Ok(password.to_owned()),
    }
}

/// A parsed file on its way to [`File`].
struct Keys<'a> {
    path: &'a Path,
    table: Table,
}

impl Keys<'_> {
    fn text(&self, key: &str) -> Result<Option<String>, Failure> {
        self.parsed(key, |text| match text {
            "" => Err("empty".to_owned()),
            text => Ok(text.to_owned()),
        })
    }

    fn path(&self, key: &str) -> Result<Option<PathBuf>, Failure> {
        Ok(self.text(key)?.map(PathBuf::from))
    }

    fn parsed<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Failure> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => parse(text)
                .map(Some)
                .map_err(|cause| self.wrong(key, format_args!("{text:?} is not usable: {cause}"))),
            Some(other) => Err(self.wrong_type(key, "text in quotes", other)),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, Failure> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::Boolean(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong_type(key, "true or false", other)),
        }
    }

    fn number(&self, key: &str, max: u16) -> Result<Option<u16>, Failure> {
        self.number_in(key, 1..=max)
    }

    fn number_in(&self, key: &str, range: RangeInclusive<u16>) -> Result<Option<u16>, Failure> {
        let want = format!("a number from {} to {}", range.start(), range.end());
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::Integer(number)) => match u16::try_from(*number) {
                Ok(number) if range.contains(&number) => Ok(Some(number)),
                _ => Err(self.wrong(key, format_args!("wants {want}, not {number}"))),
            },
            Some(other) => Err(self.wrong_type(key, &want, other)),
        }
    }

    /// An array of texts, or one text with commas, as on the command line.
    fn list<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, Failure> {
        let want = "an array of texts";
        let texts = match self.table.get(key) {
            None => return Ok(None),
            Some(Value::String(text)) => text.split(',').map(str::trim).collect::<Vec<_>>(),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| {
                    item.as_str()
                        .ok_or_else(|| self.wrong_type(key, want, item))
                })
                .collect::<Result<_, _>>()?,
            Some(other) => return Err(self.wrong_type(key, want, other)),
        };
        let parse = |text: &str| {
            parse(text)
                .map_err(|cause| self.wrong(key, format_args!("{text:?} is not usable: {cause}")))
        };
        texts
            .into_iter()
            .map(parse)
            .collect::<Result<_, _>>()
            .map(Some)
    }

    fn wrong_type(&self, key: &str, want: &str, found: &Value) -> Failure {
        self.wrong(
            key,
            format_args!("wants {want}, not {}", article(found.type_str())),
        )
    }

    fn wrong(&self, key: &str, what: std::fmt::Arguments<'_>) -> Failure {
        wrong(self.path, format_args!("key `{key}`: {what}")).hint(known_keys())
    }
}

fn article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'i']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {noun}")
}

fn known_keys() -> String {
    format!("known keys: {}", KEYS.join(", "))
}

fn wrong(path: &Path, what: std::fmt::Arguments<'_>) -> Failure {
    Failure::new(
        "config_file",
        format!("config file {}: {what}", path.display()),
    )
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    wrong(path, format_args!("cannot be read: {error}"))
        .hint("name another with --config FILE, or none to use /etc/weft/weft.toml if it is there")
}
