//! Rules of strings and bytes.

use super::formats::Format;
use super::is_listed;
use regex::Regex;

#[derive(Clone, Debug, Default)]
pub(in crate::load) struct TextRules {
    pub(super) constant: Option<String>,
    pub(super) chars: Length,
    pub(super) bytes: Length,
    pub(super) pattern: Option<Regex>,
    pub(super) prefix: Option<String>,
    pub(super) suffix: Option<String>,
    pub(super) contains: Option<String>,
    pub(super) not_contains: Option<String>,
    pub(super) is_in: Vec<String>,
    pub(super) not_in: Vec<String>,
    pub(super) format: Option<Format>,
    pub(super) ignore_empty: bool,
}

impl TextRules {
    pub(super) fn check(&self, value: &str) -> Result<(), String> {
        if self.ignore_empty && value.is_empty() {
            return Ok(());
        }
        if let Some(constant) = &self.constant
            && value != constant
        {
            return Err(format!("value must equal {constant:?}"));
        }
        if !self.is_in.is_empty() || !self.not_in.is_empty() {
            is_listed(&self.is_in, &self.not_in, &value.to_owned())?;
        }
        if self.chars.is_bounded() {
            self.chars.check(value.chars().count() as u64, "characters")?;
        }
        self.bytes.check(value.len() as u64, "bytes")?;
        self.check_parts(value)?;
        match &self.pattern {
            Some(pattern) if !pattern.is_match(value) => Err(format!("value does not match regex pattern {pattern:?}")),
            _ => self.format.map_or(Ok(()), |format| format.check(value)),
        }
    }

    fn check_parts(&self, value: &str) -> Result<(), String> {
        let part = |part: &Option<String>, holds: fn(&str, &str) -> bool, what: &str| match part {
            Some(part) if !holds(value, part) => Err(format!("value {what} {part:?}")),
            _ => Ok(()),
        };
        part(&self.prefix, |v, p| v.starts_with(p), "does not have prefix")?;
        part(&self.suffix, |v, p| v.ends_with(p), "does not have suffix")?;
        part(&self.contains, |v, p| v.contains(p), "does not contain substring")?;
        part(&self.not_contains, |v, p| !v.contains(p), "contains substring")
    }
}

#[derive(Clone, Debug, Default)]
pub(in crate::load) struct BytesRules {
    pub(super) constant: Option<Vec<u8>>,
    pub(super) length: Length,
    pub(super) pattern: Option<regex::bytes::Regex>,
    pub(super) prefix: Option<Vec<u8>>,
    pub(super) suffix: Option<Vec<u8>>,
    pub(super) contains: Option<Vec<u8>>,
    pub(super) is_in: Vec<Vec<u8>>,
    pub(super) not_in: Vec<Vec<u8>>,
    /// Lengths that an IP address of the asked kind may have; none is asked for if empty.
    pub(super) ip_lengths: &'static [usize],
    pub(super) ignore_empty: bool,
}

impl BytesRules {
    pub(super) fn check(&self, value: &[u8]) -> Result<(), String> {
        if self.ignore_empty && value.is_empty() {
            return Ok(());
        }
        self.length.check(value.len() as u64, "bytes")?;
        let holds = self.constant.as_ref().is_none_or(|c| c == value)
            && (self.is_in.is_empty() || self.is_in.iter().any(|v| v == value))
            && !self.not_in.iter().any(|v| v == value);
        if !holds {
            return Err("value must be one of those the rule lists".to_owned());
        }
        let holds = self.prefix.as_ref().is_none_or(|p| value.starts_with(p))
            && self.suffix.as_ref().is_none_or(|s| value.ends_with(s))
            && self.contains.as_ref().is_none_or(|c| value.windows(c.len().max(1)).any(|w| w == c) || c.is_empty());
        if !holds {
            return Err("value does not have the prefix, suffix or part that the rule asks for".to_owned());
        }
        if !self.ip_lengths.is_empty() && !self.ip_lengths.contains(&value.len()) {
            return Err("value must be a valid IP address".to_owned());
        }
        match &self.pattern {
            Some(pattern) if !pattern.is_match(value) => Err(format!("value does not match regex pattern {pattern:?}")),
            _ => Ok(()),
        }
    }
}

/// Bounds of a length.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Length {
    pub(super) exact: Option<u64>,
    pub(super) min: Option<u64>,
    pub(super) max: Option<u64>,
}

impl Length {
    fn is_bounded(self) -> bool {
        self.exact.is_some() || self.min.is_some() || self.max.is_some()
    }

    fn check(self, length: u64, unit: &str) -> Result<(), String> {
        match self {
            Self { exact: Some(exact), .. } if length != exact => Err(format!("value length must be {exact} {unit}")),
            Self { min: Some(min), max: Some(max), .. } if length < min || length > max => {
                Err(format!("value length must be between {min} and {max} {unit}, inclusive"))
            }
            Self { min: Some(min), .. } if length < min => Err(format!("value length must be at least {min} {unit}")),
            Self { max: Some(max), .. } if length > max => Err(format!("value length must be at most {max} {unit}")),
            _ => Ok(()),
        }
    }
}
