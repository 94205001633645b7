//! `weft controller`: runs the keeper of a cluster's map, and mints tokens with which agents join.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::json;
use weft_control::controller::{self, ControllerConfig, ControllerError, TokenSpec};

use weft_control::store::dump::Dump;

use crate::args::controller as args;
use crate::config::Settings;
use crate::failure::Failure;
use crate::render;

/// # Errors
/// The settings are not usable, or the controller failed.
pub(super) fn run(settings: &Settings, flags: args::Run) -> Result<(), Failure> {
    let wish = settings.controller(flags)?;
    let config = ControllerConfig {
        data: wish.data,
        listen: wish.listen,
        store: wish.store,
        advertise: wish.advertise,
        cert_ttl: wish.cert_ttl,
    };
    controller::run(config).map_err(|error| Failure::from_error("controller", &error))
}

/// # Errors
/// There is no such cluster, it cannot be read, or the file cannot be written.
pub(super) fn export(settings: &Settings, flags: args::Export) -> Result<(), Failure> {
    let data = settings.controller_data(flags.of);
    let store = settings.store(flags.store)?;
    let dump = controller::export(&data, store.as_ref()).map_err(failed)?;
    if is_standard(&flags.file) {
        return render::bytes(&dump.to_json());
    }
    write_secret(&flags.file, &dump.to_json()).map_err(|error| {
        let message = format!("cannot write {}: {error}", flags.file.display());
        Failure::new("file", message)
            .hint("name a file that isn't there yet, in a directory that can be written")
    })?;
    let told = describe(&dump, &flags.file);
    render::show(settings.json, &told, |_| {
        let (objects, revision) = (dump.objects.len(), dump.revision);
        render::line(format_args!(
            "cluster {} at revision {revision} ({objects} objects) is in {}; it holds the cluster's keys",
            dump.authority.cluster,
            flags.file.display(),
        ))
    })
}

/// # Errors
/// The file is no export, or there is a cluster already.
pub(super) fn import(settings: &Settings, flags: args::Import) -> Result<(), Failure> {
    let file = flags.file.display();
    let text = if is_standard(&flags.file) {
        let mut text = Vec::new();
        std::io::stdin().read_to_end(&mut text).map(|_| text)
    } else {
        std::fs::read(&flags.file)
    };
    let text =
        text.map_err(|error| Failure::new("file", format!("cannot read {file}: {error}")))?;
    let dump = Dump::parse(&text)
        .map_err(|error| Failure::new("file", format!("{file} can't be imported: {error}")))?;
    let data = settings.controller_data(flags.of);
    let store = settings.store(flags.store)?;
    controller::import(&data, store.as_ref(), &dump).map_err(failed)?;
    let told = describe(&dump, &flags.file);
    render::show(settings.json, &told, |_| {
        render::line(format_args!(
            "cluster {} is there again, as of revision {}: start its controllers",
            dump.authority.cluster, dump.revision
        ))
    })
}

fn is_standard(file: &Path) -> bool {
    file.as_os_str() == "-"
}

fn describe(dump: &Dump, file: &Path) -> serde_json::Value {
    json!({
        "cluster": dump.authority.cluster.to_string(), "revision": dump.revision,
        "objects": dump.objects.len(), "tokens": dump.tokens.len(), "file": file,
    })
}

/// A new file for its owner only.
fn write_secret(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// # Errors
/// There is no controller's data in the directory, or it cannot be used.
pub(super) fn token(settings: &Settings, flags: args::Token) -> Result<(), Vec<Failure>> {
    match flags.verb {
        None => Ok(mint(settings, flags)?),
        Some(args::TokenVerb::Ls(of)) => {
            let data = settings.controller_data(of);
            let tokens = controller::list_tokens(&data).map_err(failed)?;
            Ok(render::show(settings.json, &tokens, |tokens| {
                render::token::table(tokens)
            })?)
        }
        Some(args::TokenVerb::Rm { ids, of }) => {
            let data = settings.controller_data(of);
            revoke(settings.json, &data, &ids)
        }
    }
}

fn mint(settings: &Settings, flags: args::Token) -> Result<(), Failure> {
    let wish = settings.controller_token(flags);
    let spec = TokenSpec {
        ttl: wish.ttl,
        uses: wish.uses,
    };
    let token = controller::mint_token(&wish.data, spec).map_err(failed)?;
    let told = json!({
        "token": token.to_string(), "id": token.id.to_string(), "ttl_secs": wish.ttl.as_secs(), "uses": wish.uses,
    });
    render::show(settings.json, &told, |_| render::line(&token))
}

/// One after the other, goes on after a failure, and prints the ids of those that are worthless now.
fn revoke(as_json: bool, data: &Path, ids: &[String]) -> Result<(), Vec<Failure>> {
    let mut revoked = Vec::new();
    let mut failures = Vec::new();
    for id in ids {
        match controller::revoke_token(data, id) {
            Ok(()) => revoked.push(id.clone()),
            Err(error) => failures.push(failed(error)),
        }
    }
    if let Err(failure) = render::removed(as_json, &revoked) {
        failures.push(failure);
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures)
    }
}

fn failed(error: ControllerError) -> Failure {
    if let ControllerError::Refused(refusal) | ControllerError::Failed(refusal) = error {
        let failure = Failure::new(&refusal.code, refusal.message);
        return match refusal.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        };
    }
    Failure::from_error(error.code(), &error)
}

/// # Errors
/// There is no controller's data in the directory, or the authority is not where the verb wants it.
pub(super) fn ca(settings: &Settings, flags: args::Ca) -> Result<(), Failure> {
    let info = match flags.verb {
        None => controller::authority(&settings.controller_data(flags.of)),
        Some(args::CaVerb::Rotate(of)) => {
            controller::rotate_authority(&settings.controller_data(of))
        }
        Some(args::CaVerb::Advance(of)) => {
            controller::advance_authority(&settings.controller_data(of))
        }
    };
    let info = info.map_err(failed)?;
    render::show(settings.json, &info, render::authority::text)
}

/// # Errors
/// There is no controller's data in the directory, or it cannot be used.
pub(super) fn status(settings: &Settings, of: args::Of) -> Result<(), Failure> {
    let report = controller::status(&settings.controller_data(of)).map_err(failed)?;
    render::show(settings.json, &report, render::authority::report)
}
