//! Evaluation: from the tree to a value.

use regex::bytes::Regex;

use super::attributes::{Activation, Map, Root};
use super::captures::Capture;
use super::functions::Function;
use super::value::Value;
use super::{Expr, Kind};
use crate::{FilterState, Metadata, UpstreamInfo};

/// Why there is no value: a key that is missing, a type that does not fit, a number out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoValue;

/// What an expression is evaluated on.
#[derive(Clone, Copy)]
pub(super) struct Env<'a> {
    pub(super) activation: &'a Activation<'a>,
    /// The stream's dynamic metadata.
    pub(super) metadata: Option<&'a Metadata>,
    pub(super) route_metadata: Option<&'a Metadata>,
    pub(super) virtual_host_metadata: Option<&'a Metadata>,
    pub(super) upstream: &'a UpstreamInfo,
    pub(super) filter_state: &'a FilterState,
}

impl Env<'_> {
    /// Calls `evaluate` with what is known of a stream.
    pub(super) fn of<T>(activation: &Activation<'_>, evaluate: impl FnOnce(&Env<'_>) -> T) -> T {
        let info = activation.info;
        let (metadata, route) = (info.metadata.borrow(), info.route_metadata.borrow());
        let virtual_host = info.virtual_host_metadata.borrow();
        evaluate(&Env {
            activation,
            metadata: metadata.as_deref(),
            route_metadata: route.as_deref(),
            virtual_host_metadata: virtual_host.as_deref(),
            upstream: &info.upstream.borrow(),
            filter_state: &info.filter_state.borrow(),
        })
    }
}

impl<'a> Env<'a> {
    /// The value of `expr`. Its depth is bounded by whoever read it.
    pub(super) fn eval(&self, expr: &'a Expr) -> Result<Value<'a>, NoValue> {
        match &expr.0 {
            Kind::Constant(constant) => Ok(constant.into()),
            // Envoy: there is none before there is an upstream.
            Kind::Attribute(Root::UpstreamFilterState) if self.upstream.host.is_none() => Err(NoValue),
            Kind::Attribute(root) => Ok(Value::Map(Map::Group(*root))),
            Kind::Type(name) => Ok(Value::Type(name)),
            Kind::Nothing | Kind::Re => Err(NoValue),
            Kind::Captures { how, text, pattern, rewrite } => self.capture(*how, text, pattern, rewrite.as_deref()),
            Kind::Select { operand, field, test } => {
                let Value::Map(map) = self.eval(operand)? else { return Err(NoValue) };
                if let (Map::Place(place), true) = (&map, *test) {
                    return Ok(Value::Bool(place.has(field)));
                }
                let found = map.get(&Value::text(field), self);
                if *test { Ok(Value::Bool(found.is_some())) } else { found.ok_or(NoValue) }
            }
            Kind::Call(function, arguments) => self.call(*function, arguments),
            Kind::Matches(text, pattern) => match self.eval(text)? {
                Value::String(text) => Ok(Value::Bool(pattern.is_match(&text))),
                _ => Err(NoValue),
            },
            Kind::List(elements) => elements.iter().map(|e| self.eval(e)).collect::<Result<_, _>>().map(Value::List),
            Kind::Map(entries) => {
                let mut all: Vec<(Value<'a>, Value<'a>)> = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    let key = self.eval(key)?;
                    if all.iter().any(|(known, _)| known.equals(&key)) {
                        return Err(NoValue);
                    }
                    all.push((key, self.eval(value)?));
                }
                Ok(Value::Map(Map::Literal(all)))
            }
        }
    }

    fn call(&self, function: Function, arguments: &'a [Expr]) -> Result<Value<'a>, NoValue> {
        match (function, arguments) {
            (Function::And, [a, b]) => self.decide(a, b, false),
            (Function::Or, [a, b]) => self.decide(a, b, true),
            (Function::Conditional, [condition, yes, no]) => match self.eval(condition)? {
                Value::Bool(true) => self.eval(yes),
                Value::Bool(false) => self.eval(no),
                _ => Err(NoValue),
            },
            (Function::NotStrictlyFalse, [a]) => Ok(Value::Bool(!matches!(self.eval(a), Ok(Value::Bool(false))))),
            (Function::Capture(how), [text, pattern, rest @ ..]) => {
                let Value::String(pattern) = self.eval(pattern)? else { return Err(NoValue) };
                let pattern = std::str::from_utf8(&pattern).ok().and_then(|text| how.pattern(text)).ok_or(NoValue)?;
                self.capture(how, text, &pattern, rest.first())
            }
            (_, [a]) => function.of_one(self.eval(a)?, self),
            (_, [a, b]) => function.of_two(self.eval(a)?, self.eval(b)?, self),
            _ => Err(NoValue),
        }
    }

    /// What groups of `pattern` match in a text; the rewrite is of `re.extract`.
    fn capture(
        &self,
        how: Capture,
        text: &'a Expr,
        pattern: &Regex,
        rewrite: Option<&'a Expr>,
    ) -> Result<Value<'a>, NoValue> {
        let Value::String(text) = self.eval(text)? else { return Err(NoValue) };
        match rewrite.map(|rewrite| self.eval(rewrite)).transpose()? {
            None => how.of(&text, pattern, b""),
            Some(Value::String(rewrite)) => how.of(&text, pattern, &rewrite),
            Some(_) => Err(NoValue),
        }
    }

    /// `&&` and `||`: one side that is `decisive` is enough, whatever becomes of the other.
    fn decide(&self, a: &'a Expr, b: &'a Expr, decisive: bool) -> Result<Value<'a>, NoValue> {
        let a = self.eval(a);
        if matches!(a, Ok(Value::Bool(a)) if a == decisive) {
            return a;
        }
        match (a, self.eval(b)) {
            (_, Ok(Value::Bool(b))) if b == decisive => Ok(Value::Bool(b)),
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => Ok(Value::Bool(!decisive)),
            _ => Err(NoValue),
        }
    }
}
