//! From the path of a later finding back to its place in the text.

use super::tree::{Kind, NodeId, Position, Tree};

/// Where the value at `path` stands in the trees of sources merged in this order: which of them, and where. A value
/// that is written nowhere, being absent, has the place of the innermost message around it.
pub(super) fn locate(trees: &[Option<&Tree>], path: &str) -> Option<(usize, Position)> {
    let mut here: Vec<(usize, NodeId)> =
        trees.iter().enumerate().filter_map(|(i, tree)| tree.as_ref().map(|tree| (i, tree.root()))).collect();
    for step in steps(path) {
        let next = walk(trees, &here, &step);
        if next.is_empty() {
            break;
        }
        here = next;
    }
    // Of a value that several sources set, the last one counts.
    let (source, node) = *here.last()?;
    Some((source, trees[source]?.position(node)))
}

#[derive(Debug, PartialEq)]
enum Step {
    Field(String),
    Index(usize),
    Key(String),
}

/// The parts of `a.b[0]["c.d"].e`.
fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let (step, tail) = match rest.strip_prefix('[') {
            Some(inside) => match bracket(inside) {
                Some(step) => step,
                None => break,
            },
            None => {
                let name = rest.strip_prefix('.').unwrap_or(rest);
                let end = name.find(['.', '[']).unwrap_or(name.len());
                (Step::Field(name[..end].to_owned()), &name[end..])
            }
        };
        steps.push(step);
        rest = tail;
    }
    steps
}

/// An index or a quoted key, and what follows its bracket.
fn bracket(inside: &str) -> Option<(Step, &str)> {
    if let Some(quoted) = inside.strip_prefix('"') {
        let (key, rest) = unquote(quoted)?;
        return Some((Step::Key(key), rest.strip_prefix(']')?));
    }
    let (index, rest) = inside.split_once(']')?;
    Some((Step::Index(index.parse().ok()?), rest))
}

/// Undoes Rust's debug format as far as keys need it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut key = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((key, &text[at + 1..])),
            '\\' => key.push(match chars.next()?.1 {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other => other,
            }),
            c => key.push(c),
        }
    }
    None
}

fn walk(trees: &[Option<&Tree>], here: &[(usize, NodeId)], step: &Step) -> Vec<(usize, NodeId)> {
    let mut next = Vec::new();
    let mut before = 0;
    for (source, node) in here {
        let Some(tree) = trees[*source] else { continue };
        let node = tree.target(*node);
        match step {
            Step::Field(name) => next.extend(fields(tree, node, name).into_iter().map(|n| (*source, n))),
            Step::Key(key) => next.extend(tree.get(node, key).map(|n| (*source, n))),
            // Lists of several sources stand one after the other. A lone value is a list of one.
            Step::Index(index) => {
                let elements: Vec<NodeId> = match tree.kind(node) {
                    Kind::Sequence => tree.children(node).collect(),
                    _ => vec![node],
                };
                let element = index.checked_sub(before).and_then(|i| elements.get(i));
                next.extend(element.map(|n| (*source, *n)));
                before += elements.len();
            }
        }
    }
    next
}

/// Every value of field `name` in either casing: one, but for repeated fields of the text format. What a TypedStruct
/// or a well-known type in an Any holds is a level deeper in the text than in the message.
fn fields(tree: &Tree, node: NodeId, name: &str) -> Vec<NodeId> {
    let found = named(tree, node, name);
    if !found.is_empty() || tree.kind(node) != Kind::Mapping {
        return found;
    }
    let is_any = |key: NodeId| tree.text(key) == "@type" || tree.text(key).starts_with('[');
    let inner = tree.pairs(node).find(|(key, _)| is_any(*key)).and_then(|(key, value)| match tree.text(key) {
        "@type" => tree.get(node, "value"),
        _ => Some(value),
    });
    inner.map(|inner| named(tree, tree.target(inner), name)).unwrap_or_default()
}

fn named(tree: &Tree, node: NodeId, name: &str) -> Vec<NodeId> {
    if tree.kind(node) != Kind::Mapping {
        return Vec::new();
    }
    tree.pairs(node).filter(|(key, _)| same_name(tree.text(*key), name)).map(|(_, value)| value).collect()
}

/// Whether `written`, in either casing, is the field `name` of a .proto file.
fn same_name(written: &str, name: &str) -> bool {
    let plain = |text: &str| text.bytes().filter(|b| *b != b'_').map(|b| b.to_ascii_lowercase()).collect::<Vec<u8>>();
    written == name || plain(written) == plain(name)
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;

    fn place(texts: &[&str], path: &str) -> Option<(usize, u32, u32)> {
        let trees: Vec<Tree> = texts.iter().map(|text| yaml::parse(text).expect("it is YAML").0).collect();
        let trees: Vec<Option<&Tree>> = trees.iter().map(Some).collect();
        locate(&trees, path).map(|(source, at)| (source, at.line, at.column))
    }

    const FILE: &str = "a:\n  fooBar:\n  - x: 1\n  - x: 2\nm:\n  \"k.\\\"1\": {y: 1}\n";

    #[test]
    fn paths_lead_to_their_places() {
        for (path, expected) in [
            ("a", (0, 2, 3)),
            ("a.foo_bar[1].x", (0, 4, 8)),
            ("m[\"k.\\\"1\"].y", (0, 6, 16)),
            // Absent: the message around it.
            ("a.foo_bar[0].z.w", (0, 3, 5)),
        ] {
            assert_eq!(place(&[FILE], path), Some(expected), "{path}");
        }
    }

    #[test]
    fn lists_of_merged_sources_count_on() {
        let second = "a:\n  foo_bar:\n  - {x: 3}\n";
        assert_eq!(place(&[FILE, second], "a.foo_bar[2].x"), Some((1, 3, 9)));
        assert_eq!(place(&[FILE, second], "a.foo_bar[0].x"), Some((0, 3, 8)));
    }

    #[test]
    fn the_value_of_a_typed_struct_is_looked_into() {
        let text = "c:\n  \"@type\": x/xds.type.v3.TypedStruct\n  value:\n    name: 1\n";
        assert_eq!(place(&[text], "c.name"), Some((0, 4, 11)));
    }

    #[test]
    fn malformed_paths_do_no_harm() {
        for path in ["[", "[\"", "a[x]", "a..b", ".", "[99999999999999999999]", "a[\"\\"] {
            place(&[FILE], path);
        }
    }
}
