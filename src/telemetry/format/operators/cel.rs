//! `%CEL(expression)%` and `%TYPED_CEL(expression)%`.

use serde_json::Value as Json;

use super::{Form, Written};
use crate::cel::Expression;
use crate::format::FormatCx;
use crate::format::escape::push_value;

/// An expression about the stream.
#[derive(Debug)]
pub(super) struct CelOp {
    expression: Expression,
    typing: Typing,
}

/// What the value becomes where values of JSON have types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Typing {
    Text,
    Typed,
}

impl CelOp {
    pub(super) fn parse(argument: &str, typing: Typing) -> Result<Self, String> {
        let expression = Expression::parse(argument).map_err(|fault| fault.to_string())?;
        Ok(Self { expression, typing })
    }

    pub(super) fn write(&self, cx: &FormatCx<'_>, form: Form, out: &mut Vec<u8>) -> Written {
        let activation = cx.activation();
        if self.typing == Typing::Text || form == Form::Text {
            return super::text(self.expression.write(&activation, out));
        }
        match self.expression.json(&activation) {
            None | Some(Json::Null) => Written::Missing,
            Some(Json::String(text)) => super::push(out, text.as_bytes()),
            Some(value) => {
                push_value(out, &value);
                Written::Json
            }
        }
    }
}
