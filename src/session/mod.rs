//! [`Engine`](crate::session) and sessions.

pub mod sampling;
pub mod stop;
