//! Replays the committed corpus of the fuzz target `esp` (testbed/fuzz) through the function that it runs.

#[test]
fn the_corpus_of_esp_is_survived() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../testbed/fuzz/corpus/esp");
    let files: Vec<_> = std::fs::read_dir(corpus).unwrap().collect();
    assert!(files.len() >= 6, "the corpus is committed");
    for file in files {
        weft_tunnel::fuzz::esp(&std::fs::read(file.unwrap().path()).unwrap());
    }
}
