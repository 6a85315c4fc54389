//! YAML to a [`Tree`].

use super::tree::{Builder, Kind, NodeId, Position, SyntaxError, Tree};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};
use std::collections::HashMap;

/// Reads the one document of `text`. The second list tells what is wrong but left the tree readable.
pub(super) fn parse(text: &str) -> Result<(Tree, Vec<SyntaxError>), SyntaxError> {
    // `Source::new` refused longer texts: positions and offsets are 32 bits wide.
    let mut reader = Reader { builder: Builder::new(text.len()), anchors: HashMap::new(), documents: 0 };
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|e| SyntaxError { at: position(*e.marker()), reason: e.info().to_owned() })?;
        reader.take(event, position(span.start))?;
    }
    let problems = std::mem::take(&mut reader.builder.problems);
    match reader.builder.finish() {
        Some(tree) => Ok((tree, problems)),
        None => Err(SyntaxError { at: Position { line: 1, column: 1 }, reason: "the document is empty".to_owned() }),
    }
}

struct Reader {
    builder: Builder,
    anchors: HashMap<usize, NodeId>,
    documents: usize,
}

impl Reader {
    fn take(&mut self, event: Event<'_>, at: Position) -> Result<(), SyntaxError> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(SyntaxError { at, reason: "only one document is allowed".to_owned() });
                }
            }
            Event::Alias(anchor) => {
                let undefined = || SyntaxError { at, reason: "the alias refers to no anchor".to_owned() };
                let target = *self.anchors.get(&anchor).ok_or_else(undefined)?;
                self.builder.alias(target, at)?;
            }
            Event::Scalar(text, style, anchor, tag) => {
                let id = self.builder.scalar(scalar_kind(style, tag.as_deref()), &text, at);
                self.anchor(anchor, id);
            }
            Event::SequenceStart(anchor, _) => {
                let id = self.builder.begin(Kind::Sequence, at)?;
                self.anchor(anchor, id);
            }
            Event::MappingStart(anchor, _) => {
                let id = self.builder.begin(Kind::Mapping, at)?;
                self.anchor(anchor, id);
            }
            Event::SequenceEnd | Event::MappingEnd => self.builder.end(),
        }
        Ok(())
    }

    fn anchor(&mut self, anchor: usize, id: NodeId) {
        if anchor > 0 {
            self.anchors.insert(anchor, id);
        }
    }
}

fn scalar_kind(style: ScalarStyle, tag: Option<&Tag>) -> Kind {
    let is_text = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
    match style {
        ScalarStyle::Plain if !is_text => Kind::Plain,
        _ => Kind::Quoted,
    }
}

fn position(marker: Marker) -> Position {
    Position { line: marker.line() as u32, column: marker.col() as u32 + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        match parse(text) {
            Ok((_, problems)) => problems.first().map(|p| p.reason.clone()).unwrap_or_default(),
            Err(e) => e.reason,
        }
    }

    #[test]
    fn nodes_know_their_place() {
        let (tree, _) = parse("a:\n  - b: 1\n    cc: {d: x}\n").expect("it is YAML");
        let list = tree.get(tree.root(), "a").expect("a is there");
        let item = tree.children(list).next().expect("it has one element");
        let inner = tree.get(item, "cc").and_then(|cc| tree.get(cc, "d")).expect("d is there");
        assert_eq!(tree.position(inner), Position { line: 3, column: 13 });
        assert_eq!(tree.text(inner), "x");
    }

    #[test]
    fn duplicate_keys_are_refused_in_any_style() {
        assert_eq!(refusal("a: 1\nb: 2\na: 3"), "duplicate key \"a\"");
        assert_eq!(refusal("{x: {a: 1, \"a\": 2}}"), "duplicate key \"a\"");
        let many: String = (0..40).map(|i| format!("k{i}: 1\n")).collect();
        assert_eq!(refusal(&format!("{many}k7: 2")), "duplicate key \"k7\"");
        assert_eq!(refusal(&many), "");
    }

    #[test]
    fn a_depth_bomb_is_an_error() {
        for text in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000), "? ".repeat(10_000)] {
            assert!(parse(&text).is_err());
        }
    }

    #[test]
    fn an_alias_to_its_own_container_is_refused() {
        assert_eq!(refusal("a: &x\n  b: *x"), "the alias refers to a node that contains it");
        assert!(parse("a: *nowhere").is_err());
    }

    #[test]
    fn aliases_stop_when_they_repeat_too_much() {
        let mut text = "l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..10 {
            let element = format!("*l{}", i - 1);
            text += &format!("l{i}: &l{i} [{}]\n", vec![element; 10].join(", "));
        }
        let (tree, _) = parse(&text).expect("the file itself is small");
        fn leaves(tree: &Tree, id: NodeId) -> usize {
            match tree.resolve(id) {
                None => 0,
                Some(id) => 1 + tree.children(id).map(|child| leaves(tree, child)).sum::<usize>(),
            }
        }
        assert!(leaves(&tree, tree.root()) < 2_000_000);
    }

    #[test]
    fn a_second_document_is_refused_and_an_empty_one_too() {
        assert_eq!(refusal("a: 1\n---\nb: 2"), "only one document is allowed");
        assert_eq!(refusal(""), "the document is empty");
        assert_eq!(refusal("---\na: 1\n...\n"), "");
    }

    #[test]
    fn a_str_tag_makes_text() {
        let (tree, _) = parse("a: !!str 5").expect("it is YAML");
        let a = tree.get(tree.root(), "a").expect("a is there");
        assert_eq!(tree.kind(a), Kind::Quoted);
    }
}
