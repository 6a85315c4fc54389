use std::fmt;
use std::ops::{Deref, RangeBounds};

use bytes::Bytes;

/// A cheaply cloned and sliced UTF-8 string over a network buffer.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct ByteStr(Bytes);

impl ByteStr {
    /// The empty string.
    pub const EMPTY: Self = Self(Bytes::new());

    /// A string that lives as long as the program.
    pub const fn from_static(s: &'static str) -> Self {
        Self(Bytes::from_static(s.as_bytes()))
    }

    /// The bytes as a string, without copying; the bytes are given back if they are not UTF-8.
    pub fn from_utf8(bytes: Bytes) -> Result<Self, Bytes> {
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(Self(bytes)),
            Err(_) => Err(bytes),
        }
    }

    /// The string.
    pub fn as_str(&self) -> &str {
        // SAFETY: every constructor checks or receives UTF-8, and slicing keeps to character boundaries.
        unsafe { std::str::from_utf8_unchecked(&self.0) }
    }

    /// The string's bytes, shared.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// A part of the string, shared. Panics, as `str` does, where a bound is not on a character boundary.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let part = self.0.slice(range);
        let start = part.as_ptr() as usize - self.0.as_ptr() as usize;
        assert!(
            part.is_empty() || (self.is_char_boundary(start) && self.is_char_boundary(start + part.len())),
            "slice bounds lie on character boundaries"
        );
        Self(part)
    }
}

impl Deref for ByteStr {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl From<String> for ByteStr {
    fn from(s: String) -> Self {
        Self(Bytes::from(s.into_bytes()))
    }
}

impl From<&str> for ByteStr {
    fn from(s: &str) -> Self {
        Self(Bytes::copy_from_slice(s.as_bytes()))
    }
}

impl fmt::Debug for ByteStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for ByteStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl PartialEq<str> for ByteStr {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for ByteStr {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}
