//! `weft completion` and `weft man`: made from the grammar, so that they cannot lag behind it.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Failure;
use crate::render;

/// # Errors
/// Standard output cannot be written.
pub(super) fn completion(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "weft", &mut script);
    render::bytes(&script)
}

/// Writes the pages of all commands into `dir`, or the page of `weft` to standard output.
///
/// # Errors
/// The directory or standard output cannot be written.
pub(super) fn man(dir: Option<&Path>) -> Result<(), Failure> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        let made = clap_mangen::Man::new(Cli::command()).render(&mut page);
        made.map_err(|error| Failure::from_error("man", &error))?;
        return render::bytes(&page);
    };
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
        .map_err(|error| {
            let message = format!("cannot write manual pages into {}: {error}", dir.display());
            Failure::new("man", message).hint("name a directory that you may write to")
        })
}
