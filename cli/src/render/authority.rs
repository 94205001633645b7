//! A controller and the cluster's authority, for people.

use weft_control::api::{AuthorityInfo, AuthorityStep, ControllerReport};

use super::units;

/// One fact per line.
pub(crate) fn text(info: &AuthorityInfo) -> String {
    let step = match info.step {
        AuthorityStep::Settled => "not being replaced",
        AuthorityStep::Announced => "being replaced: nodes learn to trust the next one",
        AuthorityStep::Switched => "being replaced: nodes get certificates of the next one",
    };
    let mut facts = vec![
        ("authority", info.current.clone()),
        ("state", step.to_owned()),
    ];
    if let Some(next) = &info.next {
        facts.push(("next authority", next.clone()));
        let waiting = match info.waiting.as_slice() {
            [] => "nobody".to_owned(),
            names => units::list(names),
        };
        facts.push(("waiting for", waiting));
    }
    facts
        .iter()
        .map(|(name, value)| format!("{:<16}{value}\n", format!("{name}:")))
        .collect()
}

/// How a controller is: one fact per line.
pub(crate) fn report(report: &ControllerReport) -> String {
    let running = if report.running { "yes" } else { "no" };
    let facts = [
        ("running", running.to_owned()),
        ("cluster", report.cluster.clone()),
        ("version", report.version.clone()),
        ("revision", report.revision.to_string()),
        ("nodes", report.nodes.to_string()),
        ("connected", report.connected.to_string()),
        ("store", report.store.clone()),
        ("refused", units::drops(&report.refused)),
    ];
    let failed = report.write_failed.as_ref();
    let failed = failed.map(|why| ("no changes", why.clone()));
    facts
        .iter()
        .chain(failed.as_ref())
        .map(|(name, value)| format!("{:<16}{value}\n", format!("{name}:")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_says_whom_it_waits_for() {
        let mut info = AuthorityInfo {
            step: AuthorityStep::Settled,
            current: "aa".to_owned(),
            next: None,
            waiting: Vec::new(),
        };
        assert_eq!(
            text(&info),
            "authority:      aa\nstate:          not being replaced\n"
        );
        info.step = AuthorityStep::Announced;
        info.next = Some("bb".to_owned());
        assert!(text(&info).ends_with("next authority: bb\nwaiting for:    nobody\n"));
        info.waiting = vec!["n1".to_owned(), "n2".to_owned()];
        assert!(text(&info).ends_with("waiting for:    n1, n2\n"));
    }
}
