//! IPAM plugins: other programs of the protocol that choose the addresses. They get our environment and configuration.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::error::{CniError, Code};
use super::result::CniResult;

/// Characters of a plugin's complaint that are passed on.
const COMPLAINT_MAX: usize = 512;

/// A plugin to delegate to.
#[derive(Debug)]
pub(super) struct Delegate<'a> {
    kind: &'a str,
    program: PathBuf,
    config: &'a [u8],
}

impl<'a> Delegate<'a> {
    /// Looks the plugin up in `CNI_PATH`.
    ///
    /// # Errors
    /// Code 4 without `CNI_PATH`, 7 when no directory has the plugin.
    pub(super) fn find(
        kind: &'a str,
        path: &[PathBuf],
        config: &'a [u8],
    ) -> Result<Self, CniError> {
        if path.is_empty() {
            return Err(CniError::environment(
                "CNI_PATH",
                format_args!("it is needed to find the IPAM plugin {kind:?}, and is not set"),
            ));
        }
        let candidates = path.iter().map(|dir| dir.join(kind));
        let program = candidates.into_iter().find(|file| file.is_file());
        let program = program.ok_or_else(|| {
            let dirs: Vec<String> = path.iter().map(|dir| dir.display().to_string()).collect();
            CniError::config(
                "ipam",
                format_args!("there is no plugin {kind:?} in {}", dirs.join(", ")),
            )
            .hint("install it (Debian's containernetworking-plugins has it in /usr/lib/cni), or leave \"ipam\" out to take weft's own addresses")
        })?;
        Ok(Self {
            kind,
            program,
            config,
        })
    }

    /// ADD.
    ///
    /// # Errors
    /// What the plugin says; code 103 when it says nothing that can be read.
    pub(super) fn add(&self) -> Result<CniResult, CniError> {
        let output = self.run("ADD")?;
        let wrong = |what: String| {
            CniError::new(
                Code::Delegate,
                format!(
                    "IPAM plugin {}: its result can't be used: {what}",
                    self.kind
                ),
            )
        };
        let value: Value =
            serde_json::from_slice(&output).map_err(|error| wrong(error.to_string()))?;
        let result = CniResult::parse(&value).map_err(wrong)?;
        if result.ips.is_empty() {
            return Err(wrong("it has no address".to_owned()));
        }
        Ok(result)
    }

    /// A command without a result.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub(super) fn tell(&self, command: &str) -> Result<(), CniError> {
        self.run(command).map(drop)
    }

    fn run(&self, command: &str) -> Result<Vec<u8>, CniError> {
        let output = spawn(&self.program, command, self.config).map_err(|error| {
            CniError::new(
                Code::Delegate,
                format!("cannot run IPAM plugin {}: {error}", self.program.display()),
            )
        })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(self.complaint(&output))
    }

    fn complaint(&self, output: &Output) -> CniError {
        let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
        if let Some(code) = value.get("code").and_then(Value::as_u64) {
            return CniError {
                code: Code::Passed(code),
                message: format!("IPAM plugin {}: {}", self.kind, text("msg")),
                details: text("details").to_owned(),
            };
        }
        let said = String::from_utf8_lossy(if output.stderr.is_empty() {
            &output.stdout
        } else {
            &output.stderr
        })
        .chars()
        .take(COMPLAINT_MAX)
        .collect::<String>();
        CniError::new(
            Code::Delegate,
            format!(
                "IPAM plugin {} failed ({}): {}",
                self.kind,
                output.status,
                said.trim()
            ),
        )
    }
}

fn spawn(program: &Path, command: &str, config: &[u8]) -> std::io::Result<Output> {
    let mut child = Command::new(program)
        .env("CNI_COMMAND", command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdin = child.stdin.take();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if let Some(mut stdin) = stdin {
                // A plugin that doesn't read its configuration shows that by how it ends.
                let _ = stdin.write_all(config);
            }
        });
        child.wait_with_output()
    })
}
