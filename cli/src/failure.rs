//! Why a command did not do what was asked: what every error becomes before `render` shows it.

use std::fmt::Write as _;

use weft_control::api::ErrorReply;

/// One refusal or failure: names the object, the cause and the next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// For programs: snake_case, stable.
    pub(crate) code: String,
    /// The object and the cause.
    pub(crate) message: String,
    /// The next thing to do.
    pub(crate) hint: Option<String>,
}

impl Failure {
    /// A failure without a next step.
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            hint: None,
        }
    }

    /// The same with the next thing to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An error with the chain of its causes in one sentence; a cause that its parent already tells is left out.
    pub(crate) fn from_error(code: &str, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.contains(&text) {
                // Writing to a string cannot fail.
                let _ = write!(message, ": {text}");
            }
            cause = error.source();
        }
        Self::new(code, message)
    }
}

impl From<ErrorReply> for Failure {
    fn from(reply: ErrorReply) -> Self {
        Self {
            code: reply.code,
            message: reply.message,
            hint: reply.hint,
        }
    }
}

impl From<Failure> for Vec<Failure> {
    fn from(failure: Failure) -> Self {
        vec![failure]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(std::io::Error, &'static str);

    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.1)
        }
    }

    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn causes_follow_their_effect_and_are_told_once() {
        let outer = |text| Outer(std::io::Error::other("disk full"), text);
        assert_eq!(
            Failure::from_error("x", &outer("cannot save")).message,
            "cannot save: disk full"
        );
        let told = Failure::from_error("x", &outer("cannot save: disk full"));
        assert_eq!(told.message, "cannot save: disk full");
    }
}
