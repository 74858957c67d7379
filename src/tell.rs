//! Lines for people on standard error.

use std::{
    fmt,
    io::{self, Write},
};

/// Writes a line to standard error, from the arguments of `format!`. A line that standard error does not take is lost, because
/// there is no other place to report that: `eprintln!` would panic, and hide the command's result and exit code.
macro_rules! tell {
    ($($arguments:tt)*) => {
        $crate::tell::line(format_args!($($arguments)*))
    };
}

pub(crate) use tell;

pub(crate) fn line(line: fmt::Arguments<'_>) {
    // One write, so that lines of several processes do not mix.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}
