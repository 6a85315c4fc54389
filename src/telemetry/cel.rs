//! Expressions (CEL) about a stream, as Envoy evaluates them.
//!
//! In: an expression as text or as a tree, and a stream. Out: its value, or nothing where it has none. Envoy's dialect has no
//! comprehensions, and neither joins strings or lists nor makes strings of other values; so the work of an expression
//! is bounded by its own length and that of what it looks at. We walk the tree ourselves, rather than by a crate, since
//! attributes are looked up only when they are asked for and mostly borrowed, and configuration mostly has the tree
//! itself.

mod attributes;
mod captures;
mod eval;
mod functions;
mod handshake;
mod parse;
mod place;
mod print;
mod time;
mod value;

pub use attributes::Activation;
pub use functions::InvalidCall;
pub use parse::{Fault, Syntax};

use regex::bytes::Regex;

use attributes::Root;
use captures::Capture;
use eval::Env;
use functions::Function;
use value::Value;

/// An expression, ready to be evaluated.
#[derive(Clone, Debug)]
pub struct Expression {
    root: Expr,
    looks_at_response: bool,
}

/// A part of an expression.
#[derive(Clone, Debug)]
pub struct Expr(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Constant(Constant),
    Attribute(Root),
    /// The name of a type.
    Type(&'static str),
    /// A name that nothing has. Envoy takes it, and finds no value.
    Nothing,
    /// `re`, which has functions.
    Re,
    /// What groups of a literal pattern match in a text; the rewrite is of `re.extract`.
    Captures {
        how: Capture,
        text: Box<Expr>,
        pattern: Regex,
        rewrite: Option<Box<Expr>>,
    },
    Select {
        operand: Box<Expr>,
        field: Box<str>,
        /// Asks whether the field is there.
        test: bool,
    },
    Call(Function, Box<[Expr]>),
    /// `matches` with a literal pattern, which is most of them.
    Matches(Box<Expr>, Regex),
    List(Box<[Expr]>),
    Map(Box<[(Expr, Expr)]>),
}

/// A literal.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are those of CEL's types")]
pub enum Constant {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Box<str>),
    Bytes(Box<[u8]>),
    /// In nanoseconds since 1970.
    Timestamp(i128),
    /// In nanoseconds.
    Duration(i128),
}

// === impl Expression ===

impl Expression {
    /// An expression, whole.
    pub fn new(root: Expr) -> Self {
        let looks_at_response = root.looks_at_response();
        Self { root, looks_at_response }
    }

    /// Whether it is true; false also where it has no value or one of another type.
    pub fn matches(&self, activation: &Activation<'_>) -> bool {
        Env::of(activation, |env| matches!(env.eval(&self.root), Ok(Value::Bool(true))))
    }

    /// Appends its value as text; `None` where it has none.
    pub fn write(&self, activation: &Activation<'_>, out: &mut Vec<u8>) -> Option<()> {
        Env::of(activation, |env| {
            print::text(&env.eval(&self.root).ok()?, env, out);
            Some(())
        })
    }

    /// Its value as JSON; `None` where it has none that JSON has.
    pub fn json(&self, activation: &Activation<'_>) -> Option<serde_json::Value> {
        Env::of(activation, |env| print::json(&env.eval(&self.root).ok()?, env))
    }

    /// Whether it asks for anything of the response.
    pub fn looks_at_response(&self) -> bool {
        self.looks_at_response
    }
}

// === impl Expr ===

impl Expr {
    /// A literal.
    pub fn constant(constant: Constant) -> Self {
        Self(Kind::Constant(constant))
    }

    /// A name that stands alone.
    pub fn ident(name: &str) -> Self {
        match value::type_named(name) {
            Some(name) => Self(Kind::Type(name)),
            None if name == "re" => Self(Kind::Re),
            None => Self(Root::named(name).map_or(Kind::Nothing, Kind::Attribute)),
        }
    }

    /// `operand.field`, or with `test` whether there is such a field.
    pub fn select(operand: Self, field: &str, test: bool) -> Self {
        Self(Kind::Select { operand: Box::new(operand), field: field.into(), test })
    }

    /// A call of the function of this name; the target of a call as a method is the first of its arguments.
    pub fn call(name: &str, mut arguments: Vec<Self>) -> Result<Self, InvalidCall> {
        if matches!(arguments.first(), Some(Self(Kind::Re))) {
            arguments.remove(0);
            return Self::call(&format!("re.{name}"), arguments);
        }
        if let Some(how) = Capture::named(name, arguments.len())
            && let Self(Kind::Constant(Constant::String(literal))) = &arguments[1]
        {
            let Some(pattern) = how.pattern(literal) else { return Ok(Self(Kind::Nothing)) };
            let mut arguments = arguments.into_iter();
            let Some(text) = arguments.next() else { return Ok(Self(Kind::Nothing)) };
            let rewrite = arguments.nth(1).map(Box::new);
            return Ok(Self(Kind::Captures { how, text: Box::new(text), pattern, rewrite }));
        }
        let function = Function::named(name, arguments.len())?;
        if let (Function::Matches, [_, Self(Kind::Constant(Constant::String(literal)))]) = (function, &arguments[..]) {
            let pattern = functions::pattern(literal)?;
            return Ok(Self(Kind::Matches(Box::new(arguments.swap_remove(0)), pattern)));
        }
        if let (Function::Time(_), [_, Self(Kind::Constant(Constant::String(zone)))]) = (function, &arguments[..])
            && time::parse_zone(zone.as_bytes()).is_none()
        {
            return Err(InvalidCall::Zone(zone.to_string()));
        }
        Ok(Self(Kind::Call(function, arguments.into())))
    }

    /// `[elements]`
    pub fn list(elements: Vec<Self>) -> Self {
        Self(Kind::List(elements.into()))
    }

    /// `{key: value}`
    pub fn map(entries: Vec<(Self, Self)>) -> Self {
        Self(Kind::Map(entries.into()))
    }

    /// Its depth is bounded by whoever read it.
    fn looks_at_response(&self) -> bool {
        match &self.0 {
            Kind::Constant(_) | Kind::Type(_) | Kind::Nothing | Kind::Re => false,
            Kind::Captures { text, rewrite, .. } => {
                text.looks_at_response() || rewrite.as_ref().is_some_and(|rewrite| rewrite.looks_at_response())
            }
            Kind::Attribute(root) => *root == Root::Response,
            Kind::Select { operand, .. } | Kind::Matches(operand, _) => operand.looks_at_response(),
            Kind::Call(_, parts) | Kind::List(parts) => parts.iter().any(Self::looks_at_response),
            Kind::Map(entries) => entries.iter().any(|(k, v)| k.looks_at_response() || v.looks_at_response()),
        }
    }
}
