//! What a source says, before any schema: a tree of mappings, sequences and scalars, each with its place.
//!
//! Nodes lie in one vector in document order, each knowing where its subtree ends; the text of all scalars lies in one
//! string. Six megabytes of YAML make some 500,000 nodes, so a node of its own allocation would cost more than parsing.

use std::cell::Cell;

/// Levels of mappings and sequences above which a source is refused: protobuf itself stops at 100 nested messages.
pub(super) const MAX_DEPTH: usize = 100;

/// Nodes that all aliases of a source together may repeat. Bounds the "billion laughs"; honest files stay far below.
const MAX_ALIASED_NODES: usize = 1_000_000;

/// Wrong keys after which no more are told.
const MAX_KEY_PROBLEMS: usize = 100;

/// Where something stands in a source, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Column, in characters for YAML and in bytes for other formats.
    pub column: u32,
}

/// Why a source could not be read at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) at: Position,
    pub(super) reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Mapping,
    Sequence,
    /// Text whose type its spelling decides, as YAML plain scalars and the literals of JSON.
    Plain,
    /// Text in quotes.
    Quoted,
    /// A number of JSON or of the text format.
    Number,
    /// A bare word of the text format.
    Word,
    /// Stands for another node.
    Alias,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeId(u32);

struct Node {
    kind: Kind,
    /// Index after the last node below this one; zero while that is not known.
    end: u32,
    /// Bytes of the text of a scalar; the first is the target of an alias.
    text: (u32, u32),
    at: Position,
}

pub(super) struct Tree {
    nodes: Vec<Node>,
    text: String,
    aliased: Cell<usize>,
}

/// What a scalar means without a schema.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i32),
    Number(&'a str),
    Text(&'a str),
    /// A YAML integer beyond 32 bits, which Envoy hands on as text in decimal.
    LongInt(i64),
    Word(&'a str),
}

impl Tree {
    pub(super) fn root(&self) -> NodeId {
        NodeId(0)
    }

    /// The node that `id` stands for, or nothing once aliases were followed too often: for walks of the whole tree.
    pub(super) fn resolve(&self, id: NodeId) -> Option<NodeId> {
        let target = self.target(id);
        if target != id {
            let size = self.node(target).end - target.0;
            let aliased = self.aliased.get().saturating_add(size as usize);
            self.aliased.set(aliased);
            if aliased > MAX_ALIASED_NODES {
                return None;
            }
        }
        Some(target)
    }

    /// The node that `id` stands for: for walks down one path. An alias never stands for another alias.
    pub(super) fn target(&self, id: NodeId) -> NodeId {
        let node = self.node(id);
        if node.kind == Kind::Alias { NodeId(node.text.0) } else { id }
    }

    pub(super) fn kind(&self, id: NodeId) -> Kind {
        self.node(id).kind
    }

    pub(super) fn position(&self, id: NodeId) -> Position {
        self.node(id).at
    }

    /// The text of a scalar as it was written, without quotes and escapes; empty for other nodes.
    pub(super) fn text(&self, id: NodeId) -> &str {
        let node = self.node(id);
        match node.kind {
            Kind::Mapping | Kind::Sequence => "",
            Kind::Alias => self.text(NodeId(node.text.0)),
            Kind::Plain | Kind::Quoted | Kind::Number | Kind::Word => {
                &self.text[node.text.0 as usize..node.text.1 as usize]
            }
        }
    }

    /// The elements of a sequence, or keys and values of a mapping in turn.
    pub(super) fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let end = self.node(id).end;
        let mut next = id.0 + 1;
        std::iter::from_fn(move || {
            (next < end).then(|| {
                let child = NodeId(next);
                next = self.node(child).end;
                child
            })
        })
    }

    /// The keys and values of a mapping.
    pub(super) fn pairs(&self, id: NodeId) -> impl Iterator<Item = (NodeId, NodeId)> + '_ {
        let mut children = self.children(id);
        std::iter::from_fn(move || Some((children.next()?, children.next()?)))
    }

    /// The value of `key` in a mapping.
    pub(super) fn get(&self, id: NodeId, key: &str) -> Option<NodeId> {
        if self.kind(id) != Kind::Mapping {
            return None;
        }
        self.pairs(id).find(|(k, _)| self.text(*k) == key).map(|(_, value)| value)
    }

    /// What the scalar `id` means; nothing if it is a mapping or a sequence.
    pub(super) fn scalar(&self, id: NodeId) -> Option<Scalar<'_>> {
        let text = self.text(id);
        match self.kind(id) {
            Kind::Mapping | Kind::Sequence | Kind::Alias => None,
            Kind::Plain => Some(plain(text)),
            Kind::Quoted => Some(Scalar::Text(text)),
            Kind::Number => Some(Scalar::Number(text)),
            Kind::Word => Some(Scalar::Word(text)),
        }
    }

    pub(super) fn is_null(&self, id: NodeId) -> bool {
        self.kind(id) == Kind::Plain && is_null(self.text(id))
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }
}

/// Builds a [`Tree`] in document order.
pub(super) struct Builder {
    tree: Tree,
    open: Vec<u32>,
    may_repeat_keys: bool,
    /// What is wrong with the tree but does not stop reading it.
    pub(super) problems: Vec<SyntaxError>,
}

impl Builder {
    pub(super) fn new(size_hint: usize) -> Self {
        // About what YAML needs. Pages that are not touched cost nothing.
        let nodes = Vec::with_capacity(size_hint / 8);
        let tree = Tree { nodes, text: String::with_capacity(size_hint / 2), aliased: Cell::new(0) };
        Self { tree, open: Vec::new(), may_repeat_keys: false, problems: Vec::new() }
    }

    pub(super) fn allow_duplicate_keys(&mut self) {
        self.may_repeat_keys = true;
    }

    /// Opens a mapping or a sequence.
    pub(super) fn begin(&mut self, kind: Kind, at: Position) -> Result<NodeId, SyntaxError> {
        if self.open.len() == MAX_DEPTH {
            return Err(SyntaxError { at, reason: format!("nested more than {MAX_DEPTH} levels deep") });
        }
        let id = self.push(kind, 0, (0, 0), at);
        self.open.push(id.0);
        Ok(id)
    }

    /// Closes what was opened last.
    pub(super) fn end(&mut self) {
        let id = self.open.pop().expect("parsers close only what they opened");
        let end = self.tree.nodes.len() as u32;
        self.tree.nodes[id as usize].end = end;
        if self.tree.kind(NodeId(id)) == Kind::Mapping && !self.may_repeat_keys {
            self.check_keys(NodeId(id));
        }
    }

    pub(super) fn scalar(&mut self, kind: Kind, text: &str, at: Position) -> NodeId {
        let start = self.tree.text.len() as u32;
        self.tree.text.push_str(text);
        let end = self.tree.nodes.len() as u32 + 1;
        self.push(kind, end, (start, self.tree.text.len() as u32), at)
    }

    /// A node that stands for `target`, which must be complete: a node that contains itself has no end.
    pub(super) fn alias(&mut self, target: NodeId, at: Position) -> Result<(), SyntaxError> {
        if self.tree.node(target).end == 0 {
            return Err(SyntaxError { at, reason: "the alias refers to a node that contains it".to_owned() });
        }
        let end = self.tree.nodes.len() as u32 + 1;
        self.push(Kind::Alias, end, (target.0, 0), at);
        Ok(())
    }

    /// The tree, if it has a root.
    pub(super) fn finish(self) -> Option<Tree> {
        (!self.tree.nodes.is_empty() && self.open.is_empty()).then_some(self.tree)
    }

    fn push(&mut self, kind: Kind, end: u32, text: (u32, u32), at: Position) -> NodeId {
        let id = NodeId(self.tree.nodes.len() as u32);
        self.tree.nodes.push(Node { kind, end, text, at });
        id
    }

    fn check_keys(&mut self, mapping: NodeId) {
        let tree = &self.tree;
        let mut seen = Keys::default();
        let problems = &mut self.problems;
        for (key, _) in tree.pairs(mapping) {
            if problems.len() == MAX_KEY_PROBLEMS {
                return;
            }
            let scalar = match tree.kind(key) {
                Kind::Alias => NodeId(tree.node(key).text.0),
                _ => key,
            };
            let at = tree.position(key);
            if matches!(tree.kind(scalar), Kind::Mapping | Kind::Sequence) {
                problems.push(SyntaxError { at, reason: "a key must be a scalar".to_owned() });
            } else if !seen.insert(tree.text(key)) {
                problems.push(SyntaxError { at, reason: format!("duplicate key {:?}", tree.text(key)) });
            }
        }
    }
}

/// The keys of one mapping: most have a few, for which comparing beats hashing.
#[derive(Default)]
struct Keys<'a> {
    few: Vec<&'a str>,
    many: std::collections::HashSet<&'a str>,
}

impl<'a> Keys<'a> {
    /// False if it was there already.
    fn insert(&mut self, key: &'a str) -> bool {
        if !self.many.is_empty() {
            return self.many.insert(key);
        }
        if self.few.contains(&key) {
            return false;
        }
        self.few.push(key);
        if self.few.len() > 16 {
            self.many = self.few.drain(..).collect();
        }
        true
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// The type that Envoy (through yaml-cpp) gives a plain scalar: null, bool, integer, else text, floats among it.
fn plain(text: &str) -> Scalar<'_> {
    if is_null(text) {
        return Scalar::Null;
    }
    if let Some(value) = plain_bool(text) {
        return Scalar::Bool(value);
    }
    match plain_int(text) {
        Some(value) => i32::try_from(value).map_or(Scalar::LongInt(value), Scalar::Int),
        None => Scalar::Text(text),
    }
}

/// yes, no, on, off, y, n, true, false: in lower case, upper case or capitalised.
fn plain_bool(text: &str) -> Option<bool> {
    if text.len() > 5 {
        return None;
    }
    let rest = &text.as_bytes()[1..];
    let same_case = rest.iter().all(u8::is_ascii_lowercase) || text.bytes().all(|b| b.is_ascii_uppercase());
    if !same_case {
        return None;
    }
    let is = |word: &str| text.eq_ignore_ascii_case(word);
    if is("true") || is("yes") || is("on") || is("y") {
        Some(true)
    } else if is("false") || is("no") || is("off") || is("n") {
        Some(false)
    } else {
        None
    }
}

/// Decimal, 0x hexadecimal and, as C reads it, 0 octal.
fn plain_int(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("", &text[1..]),
        b'0'..=b'9' => ("", text),
        _ => return None,
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', _, ..] => (16, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    if sign.is_empty() { i64::from_str_radix(digits, radix).ok() } else { negative(digits, radix) }
}

fn negative(digits: &str, radix: u32) -> Option<i64> {
    i64::from_str_radix(&format!("-{digits}"), radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_take_the_type_yaml_cpp_gives_them() {
        for (text, expected) in [
            ("~", Scalar::Null),
            ("", Scalar::Null),
            ("Null", Scalar::Null),
            ("nULL", Scalar::Text("nULL")),
            ("yes", Scalar::Bool(true)),
            ("Y", Scalar::Bool(true)),
            ("OFF", Scalar::Bool(false)),
            ("False", Scalar::Bool(false)),
            ("tRUE", Scalar::Text("tRUE")),
            ("010", Scalar::Int(8)),
            ("0x1F", Scalar::Int(31)),
            ("0o17", Scalar::Text("0o17")),
            ("+7", Scalar::Int(7)),
            ("-3", Scalar::Int(-3)),
            ("-", Scalar::Text("-")),
            ("--3", Scalar::Text("--3")),
            ("08", Scalar::Text("08")),
            ("0x", Scalar::Text("0x")),
            ("5000000000", Scalar::LongInt(5_000_000_000)),
            ("-9223372036854775808", Scalar::LongInt(i64::MIN)),
            ("99999999999999999999", Scalar::Text("99999999999999999999")),
            ("1.5", Scalar::Text("1.5")),
            ("1_000", Scalar::Text("1_000")),
            ("\u{e9}", Scalar::Text("\u{e9}")),
        ] {
            assert_eq!(plain(text), expected, "{text:?}");
        }
    }
}
