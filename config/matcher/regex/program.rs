//! An expression that is known to compile, and when it does.

use std::sync::OnceLock;

use nuncio_filter_api::{LowerCx, Refused};
use regex_syntax::hir::{Class, Hir, HirKind};

use super::{NEST_LIMIT, SIZE_LIMIT};

/// A checked expression. Most of 50,000 routes are never asked for, and to compile an expression takes ten times as
/// long as to check it: so it is compiled when it is first needed, unless that could fail or take long.
#[derive(Clone, Debug)]
pub(super) struct Program {
    syntax: Box<str>,
    extent: Extent,
    /// A lock on the data path, but for the first request alone: of those that come while it is compiled, each waits
    /// for the time that it would take to compile it itself. `None` is what cannot be: it matches nothing.
    compiled: OnceLock<Option<regex::bytes::Regex>>,
}

/// How much of its input an expression must match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    Part,
}

/// States up to which an expression is compiled when first needed: a millisecond at most, and far below the bound of
/// its size.
pub(super) const SMALL: usize = 1000;
/// States that a range of characters takes at most, being up to four bytes each in UTF-8.
pub(super) const STATES_OF_RANGE: usize = 16;

impl Program {
    /// Checks `syntax`, of which `hir` is the meaning and `pattern` what the user wrote.
    pub(super) fn lower(
        syntax: String,
        extent: Extent,
        hir: &Hir,
        pattern: &str,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let program = Self { syntax: syntax.into(), extent, compiled: OnceLock::new() };
        // In verbose mode a comment could swallow what is put around an expression.
        let plain = !(pattern.contains("(?") && pattern.contains('#'));
        if !(plain && states(hir) <= SMALL) {
            program.compile_now().map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => cx.invalid(format!("regular expression {pattern:?} is too large")),
                error => cx.invalid(format!("invalid regular expression {pattern:?}: {error}")),
            })?;
        }
        Ok(program)
    }

    /// Of an expression that is known to be valid and small.
    pub(super) fn of_checked(syntax: &str, extent: Extent) -> Self {
        Self { syntax: syntax.into(), extent, compiled: OnceLock::new() }
    }

    /// The compiled expression.
    pub(super) fn get(&self) -> Option<&regex::bytes::Regex> {
        self.compiled.get_or_init(|| self.compile().ok()).as_ref()
    }

    fn compile_now(&self) -> Result<(), regex::Error> {
        let compiled = self.compile()?;
        self.compiled.get_or_init(|| Some(compiled));
        Ok(())
    }

    fn compile(&self) -> Result<regex::bytes::Regex, regex::Error> {
        let build = |syntax: &str| {
            regex::bytes::RegexBuilder::new(syntax).unicode(false).size_limit(SIZE_LIMIT).nest_limit(NEST_LIMIT).build()
        };
        match self.extent {
            Extent::Whole => build(&format!(r"\A(?:{})\z", self.syntax)),
            Extent::Part => build(&self.syntax),
        }
    }
}

/// No fewer than the states of the compiled expression.
fn states(hir: &Hir) -> usize {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) | HirKind::Class(Class::Bytes(_)) => 1,
        HirKind::Literal(literal) => literal.0.len(),
        HirKind::Class(Class::Unicode(class)) => class.ranges().len().saturating_mul(STATES_OF_RANGE),
        HirKind::Repetition(repetition) => {
            let most = repetition.max.unwrap_or_else(|| repetition.min.saturating_add(1)) as usize;
            states(&repetition.sub).saturating_add(1).saturating_mul(most.saturating_add(1))
        }
        HirKind::Capture(capture) => states(&capture.sub).saturating_add(2),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            parts.iter().map(states).fold(parts.len(), usize::saturating_add)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::env;

    #[track_caller]
    fn check(pattern: &str, compiled_at_once: bool) {
        let env = env();
        let mut cx = LowerCx::new(&env);
        let hir = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(pattern).unwrap();
        let program = Program::lower(pattern.to_owned(), Extent::Part, &hir, pattern, &mut cx).unwrap();
        assert_eq!(program.compiled.get().is_some(), compiled_at_once, "{pattern}");
        assert!(program.get().is_some(), "{pattern}");
    }

    #[test]
    fn small_expressions_are_compiled_when_first_needed_and_others_at_once() {
        check("/service-1/[0-9]+/.*", false);
        check(r"(?i)/[^/]+/(a|b)?", false);
        check("(ab){1,100}", false);
        check("(ab){1,1000}", true);
        check("((a{1,20}){1,20}){1,20}", true);
        check("(?x)a # comment", true);
    }
}
