//! What the user may have meant.

use crate::load::schema::{Enum, Message};

/// The field of `message` whose name is nearest to `name`.
pub(super) fn field(message: &Message, name: &str) -> Option<String> {
    nearest(&snake_case(name), message.field_names())
}

pub(super) fn enum_value(schema: &Enum, name: &str) -> Option<String> {
    nearest(&name.to_ascii_uppercase(), schema.values.iter().map(|v| &*v.name))
}

/// The message type nearest to `name`: of the same last part if there is one, as when only the package is outdated.
pub(super) fn message_type(name: &str) -> Option<String> {
    fn last(name: &str) -> &str {
        name.rsplit('.').next().unwrap_or(name)
    }
    let same = nuncio_proto::type_names().filter(|known| last(known) == last(name));
    let distance = |known: &&str| strsim::levenshtein(known, name);
    match same.min_by_key(distance) {
        Some(known) => Some(known.to_owned()),
        None => nearest(name, nuncio_proto::type_names()),
    }
}

/// The name that takes the fewest edits from `name`, if they are few for its length.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let limit = (name.chars().count() / 3).clamp(1, 8);
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
