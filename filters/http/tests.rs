//! What holds for every filter of the table.

use std::collections::BTreeSet;

use nuncio_filter_api::{HttpFilterRow, testing};

use super::TABLE;

#[test]
fn names_and_messages_are_unique() {
    let names: BTreeSet<_> = TABLE.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), TABLE.len());
    let messages: Vec<_> = TABLE.iter().flat_map(|row| [Some(row.config), of_route(row)]).flatten().collect();
    assert_eq!(messages.iter().collect::<BTreeSet<_>>().len(), messages.len());
}

/// The message of routes, where it is another than that of the filter.
fn of_route(row: &HttpFilterRow) -> Option<&'static str> {
    row.per_route.map(|(name, _)| name).filter(|name| *name != row.config)
}

#[test]
fn each_message_is_one_of_envoys() {
    for row in TABLE {
        assert!(nuncio_proto::is_envoy_type(row.config), "{}", row.config);
        if let Some((message, _)) = row.per_route {
            assert!(nuncio_proto::is_envoy_type(message), "{message}");
        }
    }
}

#[test]
fn an_empty_message_is_lowered_or_refused_with_a_path() {
    let env = testing::env();
    for row in TABLE {
        let refusals = testing::lower(row, &[], &env).err().into_iter().flatten();
        let per_route = row.per_route.and_then(|_| testing::lower_per_route(row, &[], &env).err());
        for refusal in refusals.chain(per_route.into_iter().flatten()) {
            assert!(refusal.path.starts_with("config"), "{}: {refusal}", row.name);
            assert!(!refusal.reason.is_empty());
        }
    }
}

#[test]
fn garbage_never_panics() {
    let env = testing::env();
    let mut random = Random(1);
    for row in TABLE {
        for _ in 0..2000 {
            let bytes = random.message(3);
            // testing::lower itself asserts that a refusal has its reason.
            let _ = testing::lower(row, &bytes, &env);
            if row.per_route.is_some() {
                let _ = testing::lower_per_route(row, &bytes, &env);
            }
        }
    }
}

/// A fixed sequence of numbers (xorshift), so that a failure comes again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Fields with low numbers, whose values are numbers, text or messages: garbage that gets past the decoder.
    fn message(&mut self, depth: u32) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..self.below(4) {
            let field = 1 + self.below(8) as u8;
            match self.below(4) {
                0 => out.extend([field << 3, self.below(4) as u8]),
                1 => out.push(self.below(256) as u8),
                _ => {
                    let value = if depth > 0 { self.message(depth - 1) } else { self.text() };
                    let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
                    out.extend([field << 3 | 2, length]);
                    out.extend(value);
                }
            }
        }
        out
    }

    fn text(&mut self) -> Vec<u8> {
        let alphabet = b":%()[]\\*ax\n\xc3\xa9";
        (0..self.below(6)).map(|_| alphabet[self.below(alphabet.len() as u64) as usize]).collect()
    }
}
