//! placeholder
pub mod port;
