//! Paths of the local API: names of objects become percent-encoded segments, so that no name can reach another route.

use std::fmt;

/// A path under `/v1`.
#[derive(Clone, Debug)]
pub(crate) struct ApiPath(String);

impl ApiPath {
    /// The route `/v1/WORD`.
    pub(crate) fn new(word: &str) -> Self {
        Self(format!("/v1/{word}"))
    }

    /// The route with one more segment, which may hold anything.
    pub(crate) fn segment(mut self, name: impl fmt::Display) -> Self {
        self.0.push('/');
        self.encode(name);
        self
    }

    /// The route with a query, whose value may hold anything.
    pub(crate) fn query(self, key: &str, value: impl fmt::Display) -> Self {
        self.parameter('?', key, value)
    }

    /// The route with one more part of its query.
    pub(crate) fn and_query(self, key: &str, value: impl fmt::Display) -> Self {
        self.parameter('&', key, value)
    }

    fn parameter(mut self, mark: char, key: &str, value: impl fmt::Display) -> Self {
        self.0.push(mark);
        self.0.push_str(key);
        self.0.push('=');
        self.encode(value);
        self
    }

    fn encode(&mut self, text: impl fmt::Display) {
        for byte in text.to_string().bytes() {
            // RFC 3986 section 2.3: unreserved characters stand for themselves.
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                self.0.push(char::from(byte));
            } else {
                self.0.push_str(&format!("%{byte:02X}"));
            }
        }
    }
}

impl fmt::Display for ApiPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_reach_another_route() {
        let path = ApiPath::new("networks")
            .segment("a/b?c d%")
            .segment("vteps")
            .segment("fd00::1");
        assert_eq!(
            path.to_string(),
            "/v1/networks/a%2Fb%3Fc%20d%25/vteps/fd00%3A%3A1"
        );
        assert_eq!(
            ApiPath::new("status").query("wait", 3).to_string(),
            "/v1/status?wait=3"
        );
        let both = ApiPath::new("ports")
            .query("a", "x&y=1")
            .and_query("b", "cni:z");
        assert_eq!(both.to_string(), "/v1/ports?a=x%26y%3D1&b=cni%3Az");
    }
}
