//! A container runtime's side of CNI: execs plugins as libcni does, one after the other, with the result of each in the
//! configuration of the next.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::{Host, must, weft_bin};

/// Where Debian has the reference plugins (containernetworking-plugins).
pub const DEBIAN_PLUGINS: &str = "/usr/lib/cni";

/// A runtime on one host.
#[derive(Debug)]
pub struct Runtime<'a> {
    /// Where plugins run.
    pub host: &'a Host,
    bin: PathBuf,
}

/// One attachment: which container, where, by which interface.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Container ID.
    pub id: String,
    /// Its namespace's file; `None` leaves the variable out.
    pub netns: Option<PathBuf>,
    /// The interface.
    pub ifname: String,
}

/// How a plugin answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// What it printed; null for nothing.
    pub said: Value,
    /// What it complained about beside the protocol.
    pub stderr: String,
}

impl Answer {
    /// The result of a command that must have worked.
    #[track_caller]
    pub fn expect_done(self) -> Value {
        assert!(self.code == Some(0), "the plugin failed: {self:?}");
        self.said
    }

    /// Code, message and details of a command that must have been refused in the protocol's way.
    #[track_caller]
    pub fn refusal(self) -> (u64, String, String) {
        assert!(
            self.code.is_some_and(|code| code != 0),
            "the plugin did not refuse: {self:?}"
        );
        let text = |key: &str| self.said[key].as_str().unwrap_or_default().to_owned();
        match self.said["code"].as_u64() {
            Some(code) if self.said["cniVersion"].is_string() && self.said["msg"].is_string() => {
                (code, text("msg"), text("details"))
            }
            _ => panic!("no error object on standard output: {self:?}"),
        }
    }
}

impl Sandbox {
    /// The first interface of a container.
    pub fn new(id: &str, netns: &Path) -> Self {
        Self {
            id: id.to_owned(),
            netns: Some(netns.to_owned()),
            ifname: "eth0".to_owned(),
        }
    }
}

impl<'a> Runtime<'a> {
    /// A runtime whose plugin directories are one with weft in it, and Debian's.
    #[track_caller]
    pub fn new(host: &'a Host) -> Self {
        let bin = host.ns.lab_file(&format!("{}-cni-bin", host.name));
        must(std::fs::create_dir_all(&bin), "make a plugin directory");
        let plugin = bin.join("weft");
        if !plugin.exists() {
            must(
                std::os::unix::fs::symlink(weft_bin(), &plugin),
                "link the plugin",
            );
        }
        Self { host, bin }
    }

    /// `CNI_PATH`.
    pub fn path(&self) -> String {
        format!("{}:{DEBIAN_PLUGINS}", self.bin.display())
    }

    /// A configuration of weft for this host's agent, as it is in a list; `more` is laid over it.
    pub fn weft(&self, more: &Value) -> Value {
        let mut config = json!({ "type": "weft", "socket": self.host.socket() });
        overlay(&mut config, more);
        config
    }

    /// Execs one plugin with these variables and this standard input.
    #[track_caller]
    pub fn exec(&self, plugin: &str, vars: &[(&str, &str)], stdin: &[u8]) -> Answer {
        let child = self.start(plugin, vars, stdin);
        let output = must(child.wait_with_output(), "wait for a CNI plugin");
        let text = String::from_utf8_lossy(&output.stdout);
        let said = if text.trim().is_empty() {
            Value::Null
        } else {
            must(
                serde_json::from_str(&text),
                &format!("read what {plugin} printed:\n{text}"),
            )
        };
        Answer {
            code: output.status.code(),
            said,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The same without waiting for its end.
    #[track_caller]
    pub fn start(&self, plugin: &str, vars: &[(&str, &str)], stdin: &[u8]) -> Child {
        let dirs = [self.bin.clone(), PathBuf::from(DEBIAN_PLUGINS)];
        let file = dirs.iter().map(|dir| dir.join(plugin)).find(|f| f.exists());
        let Some(file) = file else {
            panic!("there is no CNI plugin {plugin}: install containernetworking-plugins");
        };
        let mut command = Command::new(file);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(vars.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.host.ns.enter(move || {
            let mut child = must(command.spawn(), "exec a CNI plugin");
            if let Some(mut pipe) = child.stdin.take() {
                // A plugin may refuse before it has read.
                let _ = pipe.write_all(stdin);
            }
            child
        })
    }

    /// One command to one plugin of a list.
    #[track_caller]
    pub fn tell(&self, command: &str, sandbox: &Sandbox, config: &Value) -> Answer {
        let path = self.path();
        let netns = sandbox
            .netns
            .as_ref()
            .map(|netns| netns.display().to_string());
        let mut vars = vec![
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", sandbox.id.as_str()),
            ("CNI_IFNAME", sandbox.ifname.as_str()),
            ("CNI_PATH", path.as_str()),
        ];
        if let Some(netns) = &netns {
            vars.push(("CNI_NETNS", netns));
        }
        let plugin = config["type"].as_str().unwrap_or("weft");
        self.exec(plugin, &vars, config.to_string().as_bytes())
    }

    /// ADD through a chain; the last plugin's result, or the first refusal.
    ///
    /// # Errors
    /// The answer of the plugin that refused; those before it are not undone.
    #[track_caller]
    pub fn add(&self, sandbox: &Sandbox, list: &List) -> Result<Value, Answer> {
        let mut prev = Value::Null;
        for plugin in &list.plugins {
            let answer = self.tell("ADD", sandbox, &list.config(plugin, &prev));
            if answer.code != Some(0) {
                return Err(answer);
            }
            prev = answer.said;
        }
        Ok(prev)
    }

    /// CHECK through a chain.
    ///
    /// # Errors
    /// The answer of the first plugin that finds fault.
    #[track_caller]
    pub fn check(&self, sandbox: &Sandbox, list: &List, result: &Value) -> Result<(), Answer> {
        for plugin in &list.plugins {
            let answer = self.tell("CHECK", sandbox, &list.config(plugin, result));
            if answer.code != Some(0) {
                return Err(answer);
            }
            assert!(answer.said.is_null(), "CHECK prints nothing: {answer:?}");
        }
        Ok(())
    }

    /// DEL through a chain, last plugin first; all must do it.
    #[track_caller]
    pub fn del(&self, sandbox: &Sandbox, list: &List, result: &Value) {
        for plugin in list.plugins.iter().rev() {
            let answer = self.tell("DEL", sandbox, &list.config(plugin, result));
            assert!(answer.expect_done().is_null(), "DEL prints nothing");
        }
    }
}

/// A network configuration list.
#[derive(Clone, Debug)]
pub struct List {
    /// Of the specification.
    pub version: String,
    /// Of the network.
    pub name: String,
    /// The plugins' own parts.
    pub plugins: Vec<Value>,
}

impl List {
    /// A list.
    pub fn new(version: &str, name: &str, plugins: Vec<Value>) -> Self {
        Self {
            version: version.to_owned(),
            name: name.to_owned(),
            plugins,
        }
    }

    /// What one plugin of it gets.
    pub fn config(&self, plugin: &Value, prev: &Value) -> Value {
        let mut config = plugin.clone();
        config["cniVersion"] = json!(self.version);
        config["name"] = json!(self.name);
        if !prev.is_null() {
            config["prevResult"] = prev.clone();
        }
        config
    }
}

/// Lays the keys of one object over another's.
pub fn overlay(config: &mut Value, more: &Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
}
