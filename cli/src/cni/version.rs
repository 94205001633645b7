//! Versions of the CNI specification that the plugin speaks.

use std::fmt;

/// A version of the specification. Ordered: later ones can more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// Rich results, chained plugins.
    V0_3_1,
    /// CHECK, and `prevResult` at DEL.
    V0_4_0,
    /// Addresses without `version`.
    V1_0_0,
    /// GC, STATUS, more about interfaces and routes.
    V1_1_0,
}

impl Version {
    /// All of them, oldest first.
    pub(crate) const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest one.
    pub(crate) const NEWEST: Self = Self::V1_1_0;

    /// As the specification writes it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version of that text; `None` for one that the plugin doesn't speak.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
    }

    /// All of them, for messages.
    pub(crate) fn list() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
