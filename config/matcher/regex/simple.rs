//! Expressions that need no parser: literals with classes and repetitions between them, which is what most routes have.
//!
//! Of 50,000 routes that take paths by such expressions, parsing was half of what it took to lower them.

use super::program::{SMALL, STATES_OF_RANGE};

/// What is known of a simple expression: it is valid, small, and means to the regex crate what it means to RE2.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Simple {
    /// What every match begins with.
    pub(super) prefix: Vec<u8>,
    /// What every match has somewhere.
    pub(super) literals: Vec<Box<[u8]>>,
}

/// What stands between two operators.
#[derive(Clone, Copy)]
enum Atom {
    Byte(u8),
    /// Of so many ranges of characters.
    Class(usize),
}

/// Looks at `pattern`; `None` where it is not simple, and perhaps not even valid.
pub(super) fn analyse(pattern: &str) -> Option<Simple> {
    let mut found = Simple::default();
    let (mut run, mut is_first, mut states) = (Vec::new(), true, 0);
    let mut rest = pattern.as_bytes();
    while !rest.is_empty() {
        let (atom, after) = atom(rest)?;
        let operator = after.first().copied().filter(|byte| matches!(byte, b'*' | b'+' | b'?'));
        rest = &after[usize::from(operator.is_some())..];
        states += match (atom, operator) {
            (atom, None) => atom.states(),
            (atom, Some(b'+')) => 3 * (atom.states() + 1),
            (atom, Some(_)) => 2 * (atom.states() + 1),
        } + 1;
        match (atom, operator) {
            (Atom::Byte(byte), None) => run.push(byte),
            (atom, operator) => {
                end_run(&mut run, &mut is_first, &mut found);
                if let (Atom::Byte(byte), Some(b'+')) = (atom, operator) {
                    found.literals.push([byte].into());
                }
            }
        }
    }
    end_run(&mut run, &mut is_first, &mut found);
    (states <= SMALL).then_some(found)
}

/// A run of literals is over; the first of them is what the expression begins with.
fn end_run(run: &mut Vec<u8>, is_first: &mut bool, found: &mut Simple) {
    if !run.is_empty() {
        found.literals.push(run[..].into());
    }
    let run = std::mem::take(run);
    if std::mem::take(is_first) {
        found.prefix = run;
    }
}

/// The first part of `rest`, and what follows it.
fn atom(rest: &[u8]) -> Option<(Atom, &[u8])> {
    match rest {
        [b'.', after @ ..] => Some((Atom::Class(2), after)),
        [b'[', after @ ..] => class(after),
        [b'\\', byte, after @ ..] if matches!(byte, b'.' | b'-' | b'/' | b'+' | b'*' | b'?' | b'$') => {
            Some((Atom::Byte(*byte), after))
        }
        [byte, after @ ..] if is_literal(*byte) => Some((Atom::Byte(*byte), after)),
        _ => None,
    }
}

/// What follows a `[`: letters, digits, ranges of them and a few signs. One character alone is a literal to the parser,
/// so it is none here.
fn class(rest: &[u8]) -> Option<(Atom, &[u8])> {
    let (is_negated, mut rest) = match rest {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let (mut ranges, mut is_wide) = (0, is_negated);
    loop {
        rest = match rest {
            [b']', after @ ..] if ranges > 0 && (is_wide || ranges > 1) => {
                return Some((Atom::Class(ranges + usize::from(is_negated)), after));
            }
            [low, b'-', high, after @ ..] if is_word(*low) && is_word(*high) && low < high => {
                is_wide = true;
                after
            }
            [byte, after @ ..] if is_word(*byte) || matches!(byte, b'/' | b'_' | b'.') => after,
            _ => return None,
        };
        ranges += 1;
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn is_literal(byte: u8) -> bool {
    is_word(byte) || matches!(byte, b'/' | b'-' | b'_' | b'~' | b'%' | b',' | b':' | b';' | b'=' | b'@' | b'!')
}

impl Atom {
    fn states(self) -> usize {
        match self {
            Self::Byte(_) => 1,
            Self::Class(ranges) => ranges * STATES_OF_RANGE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{literal_prefix, parse, required_literals};
    use super::*;
    use crate::testing::env;
    use nuncio_filter_api::LowerCx;

    #[test]
    fn what_most_routes_have_is_simple() {
        for pattern in
            ["/service-1/[0-9]+/.*", "/[a-z]+/v[0-9]+/item-7/?", r"/a\.b/[^/]+", "/users/[A-Za-z0-9_]+/x", ""]
        {
            assert!(analyse(pattern).is_some(), "{pattern}");
        }
        for pattern in ["/a|b", "(a)", "a**", "*", "[z-a]", "[a]", "[]", "[a", r"\d", "a{2}", "^a", "é", r"\", "[a-]"]
        {
            assert_eq!(analyse(pattern), None, "{pattern}");
        }
        assert_eq!(analyse(&"[^/]*".repeat(40)), None, "it is large");
    }

    #[test]
    fn whatever_is_simple_is_to_the_parser_what_it_is_here() {
        let pieces =
            ["/", "a", "b-c", ".", "[0-9]", "[^/]", "[a-z_]", "[ab]", "*", "+", "?", r"\.", "(", "|", "{2}", "^", "["];
        let mut rng = fastrand::Rng::with_seed(1);
        let mut simple = 0;
        for _ in 0..20_000 {
            let pattern: String = (0..rng.usize(..8)).map(|_| *rng.choice(&pieces).unwrap()).collect();
            let Some(found) = analyse(&pattern) else { continue };
            let env = env();
            let (syntax, hir) = parse(&pattern, &mut LowerCx::new(&env)).expect(&pattern);
            assert_eq!(syntax, pattern, "nothing is to be translated");
            assert_eq!(found.prefix, literal_prefix(&hir), "{pattern}");
            let (mut ours, mut theirs) = (found.literals, required_literals(&hir));
            ours.sort();
            theirs.sort();
            assert_eq!(ours, theirs, "{pattern}");
            assert!(regex::bytes::Regex::new(&syntax).is_ok(), "{pattern}");
            simple += 1;
        }
        assert!(simple > 2_000, "{simple}");
    }
}
