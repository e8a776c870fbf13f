//! [`Engine`](crate::session) and sessions.

pub mod sampling;
