//! Which resources are meant.

use regex::Regex;

/// The names that `name_regex` matches as a whole; all where it is empty.
pub(super) struct Names(Option<Regex>);

impl Names {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        // The expression alone first: what is wrong with it is told without what stands around it.
        Regex::new(text)
            .and_then(|_| Regex::new(&format!("^(?:{text})$")))
            .map(|regex| Self(Some(regex).filter(|_| !text.is_empty())))
            .map_err(|error| format!("INVALID_ARGUMENT: Error while parsing name_regex from {text}: {error}"))
    }

    pub(super) fn have(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|regex| regex.is_match(name))
    }
}
