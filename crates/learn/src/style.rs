//! Colours of what `learn` prints. `anstream`'s macros take them out where the output is no terminal, or `NO_COLOR` is set.

use anstyle::{AnsiColor, Style};

/// What is right.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// What is wrong.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Names and headings.
pub const NAME: Style = Style::new().bold();
/// What matters less.
pub const SOFT: Style = Style::new().dimmed();
