//! Replays the committed fuzz corpus (testbed/fuzz/corpus) through the function the fuzz target runs, so that what a
//! fuzzer found once is checked by every `cargo test`.

use std::path::Path;

use weft_switch::fuzz;

#[test]
fn the_corpus_of_gateway_is_survived() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testbed/fuzz/corpus/gateway");
    let committed = "the corpus is committed and readable";
    let mut replayed = 0;
    for input in std::fs::read_dir(&folder).expect(committed) {
        let path = input.expect(committed).path();
        let data = std::fs::read(&path).expect(committed);
        // Whole, cut anywhere, and with every byte changed.
        let cuts = (0..=data.len()).map(|len| data[..len].to_vec());
        let changes = (0..data.len().min(128)).map(|at| {
            let mut changed = data.clone();
            changed[at] ^= 0x41;
            changed
        });
        for input in cuts.chain(changes) {
            let outcome = std::panic::catch_unwind(|| fuzz::gateway(&input));
            assert!(
                outcome.is_ok(),
                "{} breaks it: {input:02x?}",
                path.display()
            );
        }
        replayed += 1;
    }
    assert!(replayed >= 50, "{} is not all there", folder.display());
}
