//! What the user may have meant.

use crate::extension::MAX_EDITS;
use crate::load::schema::{Enum, Message};

/// The field of `message` whose name is nearest to `name`.
pub(super) fn field(message: &Message, name: &str) -> Option<String> {
    nearest(&snake_case(name), message.field_names())
}

pub(super) fn enum_value(schema: &Enum, name: &str) -> Option<String> {
    nearest(&name.to_ascii_uppercase(), schema.values.iter().map(|v| &*v.name))
}

/// The message type nearest to `name`: one that is called so in a package of that name, as when only where it is and its
/// version are outdated, or one that is misspelt.
pub(super) fn message_type(name: &str) -> Option<String> {
    fn ends(name: &str) -> Option<(&str, &str)> {
        let mut parts = name.rsplit('.');
        let last = parts.next()?;
        let is_version = |part: &&str| part.starts_with('v') && part[1..].starts_with(|c: char| c.is_ascii_digit());
        Some((last, parts.find(|part| !is_version(part))?))
    }
    let same = nuncio_proto::type_names().filter(|known| ends(known) == ends(name));
    match same.min_by_key(|known| strsim::levenshtein(known, name)) {
        Some(known) => Some(known.to_owned()),
        None => nearest_within(MAX_EDITS, name, nuncio_proto::type_names()),
    }
}

/// The name that takes the fewest edits from `name`, if they are few for its length.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    nearest_within((name.chars().count() / 3).clamp(1, 8), name, known)
}

fn nearest_within<'a>(limit: usize, name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let near = known.filter(|k| k.len().abs_diff(name.len()) <= limit);
    let (distance, best) = near.map(|k| (strsim::damerau_levenshtein(k, name), k)).min_by_key(|(d, _)| *d)?;
    (distance <= limit).then(|| best.to_owned())
}

/// Keys longer than this are no misspelt names, and comparing them would take long.
const MAX_NAME: usize = 200;

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars().take(MAX_NAME) {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}
