//! Replays the committed corpus of a fuzz target through the function that the target runs. Tests of several crates
//! include this file.

use std::path::Path;

/// Runs `entry` on every input in testbed/fuzz/corpus/TARGET; none may make it panic.
pub(crate) fn replay(target: &str, entry: fn(&[u8])) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = here
        .ancestors()
        .map(|top| top.join("testbed/fuzz/corpus"))
        .find(|corpus| corpus.is_dir());
    let committed = "the corpus is committed and readable";
    let folder = corpus.expect(committed).join(target);
    let inputs = std::fs::read_dir(&folder).expect(committed);
    let mut replayed = 0;
    for input in inputs {
        let path = input.expect(committed).path();
        let data = std::fs::read(&path).expect(committed);
        let outcome = std::panic::catch_unwind(|| entry(&data));
        assert!(outcome.is_ok(), "{} breaks {target}", path.display());
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty", folder.display());
}
