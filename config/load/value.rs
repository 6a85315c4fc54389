//! A scalar, list or mapping that stands by itself.

use nuncio_proto::google::protobuf::{ListValue, Struct, Value, value::Kind as Of};

use super::tree::{Kind, NodeId, Scalar, Tree};
use super::yaml;

/// The longest text that is read.
const MAX_TEXT: usize = 1 << 20;

/// The one document of `text` as a value; a float is text, as Envoy reads YAML. The reason where it is none.
pub fn yaml_value(text: &str) -> Result<Value, String> {
    if text.len() > MAX_TEXT {
        return Err(format!("more than {MAX_TEXT} bytes"));
    }
    let (tree, problems) = yaml::parse(text).map_err(|error| error.reason)?;
    match problems.into_iter().next() {
        Some(problem) => Err(problem.reason),
        None => value(&tree, tree.root()),
    }
}

fn value(tree: &Tree, node: NodeId) -> Result<Value, String> {
    let node = tree.resolve(node).ok_or("aliases stand for too much")?;
    let kind = match (tree.kind(node), tree.scalar(node)) {
        (Kind::Mapping, _) => {
            let fields =
                tree.pairs(node).map(|(key, of)| Ok((tree.text(tree.target(key)).to_owned(), value(tree, of)?)));
            Of::StructValue(Struct { fields: fields.collect::<Result<_, String>>()? })
        }
        (Kind::Sequence, _) => {
            let values = tree.children(node).map(|element| value(tree, element));
            Of::ListValue(ListValue { values: values.collect::<Result<_, String>>()? })
        }
        (_, None | Some(Scalar::Null)) => Of::NullValue(0),
        (_, Some(Scalar::Bool(flag))) => Of::BoolValue(flag),
        (_, Some(Scalar::Int(number))) => Of::NumberValue(number.into()),
        (_, Some(Scalar::LongInt(number))) => Of::StringValue(number.to_string()),
        (_, Some(Scalar::Number(text) | Scalar::Text(text) | Scalar::Word(text))) => Of::StringValue(text.to_owned()),
    };
    Ok(Value { kind: Some(kind) })
}
