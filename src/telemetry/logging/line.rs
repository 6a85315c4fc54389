//! One event as a line.

use std::fmt::{self, Debug, Write};
use std::time::SystemTime;

use tracing::Event;
use tracing::field::{Field, Visit};

use super::LogLevel;
use crate::format::{log_time, push_int};

/// Appends `[%Y-%m-%d %T.%e][%t][%l][%n] %v`: local time, thread, level, logger, message; then the other fields.
pub(super) fn write(event: &Event<'_>, logger: &str, now: SystemTime, out: &mut Vec<u8>) {
    out.push(b'[');
    log_time(now, out);
    out.extend_from_slice(b"][");
    push_int(out, thread_id());
    out.extend_from_slice(b"][");
    out.extend_from_slice(LogLevel::of(event.metadata()).as_str().as_bytes());
    out.extend_from_slice(b"][");
    out.extend_from_slice(logger.as_bytes());
    out.push(b']');
    // The message is a field like the others, and need not be the first.
    event.record(&mut Fields { out, wanted: Wanted::Message });
    event.record(&mut Fields { out, wanted: Wanted::Others });
    out.push(b'\n');
}

#[derive(PartialEq, Eq)]
enum Wanted {
    Message,
    Others,
}

struct Fields<'a> {
    out: &'a mut Vec<u8>,
    wanted: Wanted,
}

impl Fields<'_> {
    fn write(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let is_message = field.name() == "message";
        if is_message != (self.wanted == Wanted::Message) || field.name() == "critical" {
            return;
        }
        self.out.push(b' ');
        if !is_message {
            self.out.extend_from_slice(field.name().as_bytes());
            self.out.push(b'=');
        }
        // A value whose Display fails is cut short; there is nobody to tell.
        let _ = Escaped(self.out).write_fmt(value);
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.write(field, format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.write(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.write(field, format_args!("{value:?}"));
    }
}

/// Text in which control characters are written out, so that what a peer sent cannot forge lines.
struct Escaped<'a>(&'a mut Vec<u8>);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '\n' => self.0.extend_from_slice(b"\\n"),
                '\r' => self.0.extend_from_slice(b"\\r"),
                '\t' => self.0.extend_from_slice(b"\\t"),
                c if c.is_control() => self.0.extend(c.escape_unicode().map(|c| c as u8)),
                c => self.0.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Ok(())
    }
}

/// The kernel's id of this thread, as `top -H` shows it.
fn thread_id() -> i32 {
    thread_local! {
        // SAFETY: gettid has no arguments and cannot fail.
        static ID: i32 = unsafe { libc::gettid() };
    }
    ID.with(|id| *id)
}
