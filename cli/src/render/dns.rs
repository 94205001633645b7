//! What the name server has done, for people.

use weft_control::api::Dns;

use super::units;

/// One fact per line.
pub(crate) fn text(dns: &Dns) -> String {
    let upstreams = match dns.upstreams.as_slice() {
        [] => "none (names of the outside are not known)".to_owned(),
        upstreams => units::list(upstreams),
    };
    let facts = [
        ("upstreams", upstreams),
        ("questions", dns.questions.to_string()),
        ("known here", dns.known.to_string()),
        ("cached", dns.cached.to_string()),
        ("asked on", dns.asked.to_string()),
        ("without answer", dns.failed.to_string()),
        ("refused", dns.refused.to_string()),
        ("dropped", dns.dropped.to_string()),
    ];
    let mut text = String::new();
    for (name, value) in facts {
        text.push_str(&format!("{:<16}{value}\n", format!("{name}:")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_upstream_is_said() {
        let text = text(&Dns::default());
        assert!(text.starts_with("upstreams:      none (names"), "{text}");
        let dns = Dns {
            upstreams: vec![
                "9.9.9.9:53".parse().unwrap(),
                "[fd00::1]:53".parse().unwrap(),
            ],
            dropped: 7,
            ..Dns::default()
        };
        let text = super::text(&dns);
        assert!(text.contains("9.9.9.9:53, [fd00::1]:53\n"), "{text}");
        assert!(text.ends_with("dropped:        7\n"), "{text}");
    }
}
