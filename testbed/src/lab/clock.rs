//! Wall clocks that a test sets while daemons run. A network namespace has no clock of its own, and the machine's must not
//! be touched: a small library in front of libc (`clock.c`) shifts what a process reads of `CLOCK_REALTIME`, and nothing
//! else, as setting a clock does.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::process::run;
use super::{Lab, must};

/// How long the compiler may take.
const COMPILING: Duration = Duration::from_secs(60);

/// One clock. It is right until it is set.
#[derive(Clone, Debug)]
pub struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// A clock of that name.
    #[track_caller]
    pub fn new(lab: &Lab, name: &str) -> Self {
        let clock = Self {
            library: lab.site().path("clock.so"),
            offset: lab.site().path(&format!("{name}.clock")),
        };
        if !clock.library.exists() {
            clock.compile(&lab.site().path("clock.c"));
        }
        clock.set(0);
        clock
    }

    #[track_caller]
    fn compile(&self, source: &PathBuf) {
        must(fs::write(source, include_str!("clock.c")), "write clock.c");
        let mut command = Command::new("cc");
        command.args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]);
        command.arg(&self.library).arg(source);
        run(&mut command, COMPILING).expect_done();
    }

    /// From now on it shows the true time and so many seconds.
    #[track_caller]
    pub fn set(&self, offset: i64) {
        // Written in place: processes have mapped the file.
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.offset);
        let mut file = must(file, "open a clock");
        must(file.write_all(&offset.to_ne_bytes()), "set a clock");
    }

    /// Words before a command, which lives by this clock then.
    pub(crate) fn words(&self) -> Vec<String> {
        vec![
            "env".to_owned(),
            format!("LD_PRELOAD={}", self.library.display()),
            format!("WEFT_CLOCK={}", self.offset.display()),
        ]
    }
}
