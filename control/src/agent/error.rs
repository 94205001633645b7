//! How the agent says no: an API error with a status for HTTP and a code, a sentence and a next step for the caller.

use crate::api::ErrorReply;

/// A refusal or failure of one API request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status code.
    pub status: u16,
    /// What the caller is told.
    pub reply: ErrorReply,
}

impl ApiError {
    fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        let reply = ErrorReply {
            code: code.to_owned(),
            message: message.into(),
            hint: None,
        };
        Self { status, reply }
    }

    /// The request itself is wrong (400).
    pub fn bad_request(code: &str, message: impl Into<String>) -> Self {
        Self::new(400, code, message)
    }

    /// The object isn't there (404).
    pub fn not_found(code: &str, message: impl Into<String>) -> Self {
        Self::new(404, code, message)
    }

    /// It contradicts what is there (409).
    pub fn conflict(code: &str, message: impl Into<String>) -> Self {
        Self::new(409, code, message)
    }

    /// It can't be done now (503).
    pub fn unavailable(code: &str, message: impl Into<String>) -> Self {
        Self::new(503, code, message)
    }

    /// The agent or the kernel failed (500).
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "internal", message)
    }

    /// With the next thing to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.reply.hint = Some(hint.into());
        self
    }
}
