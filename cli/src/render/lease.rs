//! Who has which address, and what an audit found.

use weft_control::api::{Audit, Finding, Lease};

use super::table::Table;
use super::units;

/// One row per address.
pub(crate) fn table(leases: &[Lease]) -> String {
    let mut table = Table::new(&["NETWORK", "ADDRESS", "KIND", "NAME", "NODE", "MAC", "NETNS"]);
    for lease in leases {
        table.row([
            lease.network.clone(),
            lease.address.to_string(),
            lease.kind.clone(),
            lease.name.clone(),
            lease.node.clone().unwrap_or_default(),
            lease.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            lease.netns.clone().unwrap_or_default(),
        ]);
    }
    table.to_string()
}

/// One line per finding, and how many there are.
pub(crate) fn audit(audit: &Audit) -> String {
    let mut text = String::new();
    for finding in &audit.findings {
        let word = word(finding);
        let Finding {
            network,
            what,
            message,
            ..
        } = finding;
        text.push_str(&format!("{word}: {what} of {network}: {message}\n"));
    }
    let leases = units::count(audit.leases as u64);
    let faults = audit
        .findings
        .iter()
        .filter(|finding| finding.fault && !finding.fixed);
    text.push_str(&match faults.count() {
        0 => format!("{leases} addresses are in use, and the books agree\n"),
        faults => format!("{leases} addresses are in use; {faults} faults\n"),
    });
    text
}

fn word(finding: &Finding) -> &'static str {
    match (finding.fixed, finding.fault) {
        (true, _) => "mended",
        (false, true) => "fault",
        (false, false) => "note",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(fault: bool, fixed: bool) -> Finding {
        Finding {
            kind: "leftover".to_owned(),
            network: "blue".to_owned(),
            what: "10.32.0.2".to_owned(),
            message: "somebody holds it".to_owned(),
            fault,
            fixable: true,
            fixed,
        }
    }

    #[test]
    fn an_audit_says_what_is_left_to_do() {
        let findings = vec![
            finding(true, false),
            finding(true, true),
            finding(false, false),
        ];
        let text = audit(&Audit {
            leases: 3,
            findings,
        });
        let expected = "fault: 10.32.0.2 of blue: somebody holds it\nmended: 10.32.0.2 of blue: somebody holds it\nnote: 10.32.0.2 of blue: somebody holds it\n3 addresses are in use; 1 faults\n";
        assert_eq!(text, expected);
        let text = audit(&Audit {
            leases: 1,
            findings: vec![finding(true, true)],
        });
        assert!(
            text.ends_with("1 addresses are in use, and the books agree\n"),
            "{text}"
        );
    }

    #[test]
    fn a_lease_is_a_row() {
        let lease = Lease {
            network: "blue".to_owned(),
            address: "10.32.0.1".parse().unwrap(),
            kind: "gateway".to_owned(),
            name: "gateway".to_owned(),
            node: None,
            mac: None,
            netns: None,
        };
        let text = table(&[lease]);
        assert!(text.contains("10.32.0.1"), "{text}");
        assert_eq!(text.lines().count(), 2);
    }
}
