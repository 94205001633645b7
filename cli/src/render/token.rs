//! Join tokens as a table.

use weft_control::api::{TokenInfo, TokenState};

use super::table::Table;
use super::units;

/// One row per token.
pub(crate) fn table(tokens: &[TokenInfo]) -> String {
    let mut table = Table::new(&["ID", "STATE", ">USES", "EXPIRES", "NODES"]);
    for token in tokens {
        table.row([
            token.id.clone(),
            token.state.to_string(),
            format!("{}/{}", token.nodes.len(), token.uses),
            expires(token),
            units::list(&token.nodes),
        ]);
    }
    table.to_string()
}

fn expires(token: &TokenInfo) -> String {
    match (token.state, token.expires_in_secs) {
        (TokenState::Expired, _) | (_, 0) => "expired".to_owned(),
        (TokenState::Valid | TokenState::Used | TokenState::Revoked, left) => {
            format!("in {}", units::seconds(left))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_how_often_and_how_long_it_can_be_used() {
        let token = |state, expires_in_secs| TokenInfo {
            id: "0011223344556677".to_owned(),
            state,
            uses: 3,
            nodes: vec!["host1".to_owned(), "host2".to_owned()],
            expires: 7,
            expires_in_secs,
        };
        let text = table(&[
            token(TokenState::Valid, 3661),
            token(TokenState::Expired, 0),
        ]);
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows[0], ["ID", "STATE", "USES", "EXPIRES", "NODES"]);
        assert_eq!(
            rows[1],
            [
                "0011223344556677",
                "valid",
                "2/3",
                "in",
                "1h",
                "1m",
                "host1,",
                "host2"
            ]
        );
        assert_eq!(rows[2][3], "expired");
    }
}
