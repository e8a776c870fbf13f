//! The operations, and what runs them.
