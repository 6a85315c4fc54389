//! Expressions as text: the grammar of CEL, without what Envoy does not evaluate.

mod lex;

use super::{Constant, Expr, Expression, InvalidCall};
use lex::{Kind, Token};

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// It does not follow the grammar.
    #[error("at byte {at}: {what}")]
    Syntax {
        /// Where.
        at: usize,
        /// What.
        what: Syntax,
    },
    /// A call that no stream gives a value to.
    #[error(transparent)]
    Call(#[from] InvalidCall),
    /// `all`, `exists`, `exists_one`, `map` and `filter`.
    #[error("comprehensions ({0}) are not allowed, in Envoy neither")]
    Comprehension(&'static str),
}

/// What of the grammar a text does not follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it all")]
pub enum Syntax {
    #[error("an unknown character")]
    Character,
    #[error("a number that cannot be")]
    Number,
    #[error("an escape that there is not")]
    Escape,
    #[error("a text that does not end")]
    OpenString,
    #[error("an expression was expected")]
    NoExpression,
    #[error("{0:?} was expected")]
    Missing(&'static str),
    #[error("a name was expected")]
    NoName,
    #[error("the expression goes on where it should end")]
    NoEnd,
    #[error("too deep")]
    TooDeep,
    #[error("messages cannot be made")]
    Message,
}

/// How deep a tree may be, which is evaluated by recursion.
const MAX_DEPTH: u32 = 250;
/// How deep parentheses and the like may be nested.
const MAX_NESTING: u32 = 32;

/// Names that may not stand for anything.
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "package",
    "return",
    "void",
    "while",
];

const COMPREHENSIONS: [&str; 5] = ["all", "exists", "exists_one", "filter", "map"];

/// Binary operators from the loosest to the tightest, with the names of their functions.
const LEVELS: [&[(&str, &str)]; 5] = [
    &[("||", "_||_")],
    &[("&&", "_&&_")],
    &[("==", "_==_"), ("!=", "_!=_"), ("<=", "_<=_"), (">=", "_>=_"), ("<", "_<_"), (">", "_>_"), ("in", "@in")],
    &[("+", "_+_"), ("-", "_-_")],
    &[("*", "_*_"), ("/", "_/_"), ("%", "_%_")],
];

/// A tree, how deep it is, and what it was read from.
struct Node {
    expr: Expr,
    depth: u32,
    form: Form,
}

/// What `has` looks at.
enum Form {
    /// The field of a value, which comes back as what is asked for by `has`.
    Select(Box<Expr>, Box<str>),
    Other,
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    nesting: u32,
    end: usize,
}

impl Expression {
    /// Reads an expression.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let mut parser = Parser { tokens: lex::tokens(text)?, next: 0, nesting: 0, end: text.len() };
        let node = parser.expression()?;
        if parser.next < parser.tokens.len() {
            return Err(parser.fault(Syntax::NoEnd));
        }
        Ok(Self::new(node.expr))
    }
}

// === impl Parser ===

impl Parser {
    fn fault(&self, what: Syntax) -> Fault {
        Fault::syntax(self.tokens.get(self.next).map_or(self.end, |token| token.at), what)
    }

    /// Whether the next word is this sign, or the operator `in`; takes it then.
    fn takes(&mut self, sign: &str) -> bool {
        let is_next = match self.tokens.get(self.next).map(|token| &token.kind) {
            Some(Kind::Sign(next)) => *next == sign,
            Some(Kind::Ident(name)) => sign == "in" && &**name == "in",
            _ => false,
        };
        self.next += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), Fault> {
        if self.takes(sign) { Ok(()) } else { Err(self.fault(Syntax::Missing(sign))) }
    }

    fn name(&mut self) -> Result<Box<str>, Fault> {
        match self.tokens.get(self.next).map(|token| &token.kind) {
            Some(Kind::Ident(name)) => {
                let name = name.clone();
                self.next += 1;
                Ok(name)
            }
            _ => Err(self.fault(Syntax::NoName)),
        }
    }

    fn expression(&mut self) -> Result<Node, Fault> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(self.fault(Syntax::TooDeep));
        }
        let condition = self.binary(0)?;
        let node = match self.takes("?") {
            false => condition,
            true => {
                let yes = self.binary(0)?;
                self.expect(":")?;
                let no = self.expression()?;
                self.call("_?_:_", vec![condition, yes, no])?
            }
        };
        self.nesting -= 1;
        Ok(node)
    }

    fn binary(&mut self, level: usize) -> Result<Node, Fault> {
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        while let Some((_, function)) = operators.iter().find(|(sign, _)| self.takes(sign)) {
            let right = self.binary(level + 1)?;
            left = self.call(function, vec![left, right])?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Node, Fault> {
        for (sign, function) in [("!", "!_"), ("-", "-_")] {
            let mut signs = 0_u32;
            while self.takes(sign) {
                signs += 1;
            }
            if signs == 0 {
                continue;
            }
            if sign == "-" && signs == 1 && self.tokens.get(self.next).is_some_and(|t| t.kind == Kind::LeastInt) {
                self.next += 1;
                return Ok(Node::leaf(Expr::constant(Constant::Int(i64::MIN))));
            }
            let operand = self.member()?;
            // An even number of them does nothing.
            return if signs.is_multiple_of(2) { Ok(operand) } else { self.call(function, vec![operand]) };
        }
        self.member()
    }

    fn member(&mut self) -> Result<Node, Fault> {
        let mut node = self.primary()?;
        loop {
            if self.takes(".") {
                let name = self.name()?;
                node = if self.takes("(") { self.method(node, &name)? } else { self.select(node, name)? };
            } else if self.takes("[") {
                let index = self.expression()?;
                self.expect("]")?;
                node = self.call("_[_]", vec![node, index])?;
            } else if self.tokens.get(self.next).is_some_and(|token| token.kind == Kind::Sign("{")) {
                return Err(self.fault(Syntax::Message));
            } else {
                return Ok(node);
            }
        }
    }

    fn primary(&mut self) -> Result<Node, Fault> {
        if self.takes("(") {
            let node = self.expression()?;
            self.expect(")")?;
            return Ok(Node { form: Form::Other, ..node });
        }
        if self.takes("[") {
            let elements = self.list("]")?;
            let depth = deepest(&elements);
            return self.built(Expr::list(elements.into_iter().map(|node| node.expr).collect()), depth);
        }
        if self.takes("{") {
            return self.map();
        }
        if let Some(Token { kind: Kind::Literal(constant), .. }) = self.tokens.get(self.next) {
            let constant = constant.clone();
            self.next += 1;
            return Ok(Node::leaf(Expr::constant(constant)));
        }
        let is_absolute = self.takes(".");
        let Ok(name) = self.name() else { return Err(self.fault(Syntax::NoExpression)) };
        if RESERVED.contains(&&*name) {
            self.next -= 1;
            return Err(self.fault(Syntax::NoExpression));
        }
        if !self.takes("(") {
            return Ok(Node::leaf(Expr::ident(&name)));
        }
        if &*name == "has" && !is_absolute {
            return self.has();
        }
        let arguments = self.list(")")?;
        self.call(&name, arguments)
    }

    /// `has(value.field)`, whose parenthesis is open.
    fn has(&mut self) -> Result<Node, Fault> {
        let node = self.expression()?;
        let Form::Select(operand, field) = node.form else { return Err(self.fault(Syntax::Missing("."))) };
        self.expect(")")?;
        self.built(Expr::select(*operand, &field, true), node.depth)
    }

    fn select(&mut self, operand: Node, field: Box<str>) -> Result<Node, Fault> {
        let depth = operand.depth;
        let asked = Form::Select(Box::new(operand.expr.clone()), field.clone());
        let node = self.built(Expr::select(operand.expr, &field, false), depth)?;
        Ok(Node { form: asked, ..node })
    }

    /// A call as a method, whose parenthesis is open.
    fn method(&mut self, target: Node, name: &str) -> Result<Node, Fault> {
        if let Some(comprehension) = COMPREHENSIONS.iter().find(|known| **known == name) {
            return Err(Fault::Comprehension(comprehension));
        }
        let mut arguments = vec![target];
        arguments.extend(self.list(")")?);
        self.call(name, arguments)
    }

    fn call(&self, name: &str, arguments: Vec<Node>) -> Result<Node, Fault> {
        let depth = deepest(&arguments);
        let expr = Expr::call(name, arguments.into_iter().map(|node| node.expr).collect())?;
        self.built(expr, depth)
    }

    /// Expressions with commas between them, up to the end.
    fn list(&mut self, end: &'static str) -> Result<Vec<Node>, Fault> {
        let mut all = Vec::new();
        if self.takes(end) {
            return Ok(all);
        }
        loop {
            all.push(self.expression()?);
            let goes_on = self.takes(",");
            // A list may end with a comma, arguments may not.
            if self.takes(end) && (!goes_on || end == "]") {
                return Ok(all);
            }
            if !goes_on {
                return Err(self.fault(Syntax::Missing(end)));
            }
        }
    }

    /// A map whose brace is open.
    fn map(&mut self) -> Result<Node, Fault> {
        let mut entries = Vec::new();
        let mut depth = 0;
        while !self.takes("}") {
            let key = self.expression()?;
            self.expect(":")?;
            let value = self.expression()?;
            depth = depth.max(key.depth).max(value.depth);
            entries.push((key.expr, value.expr));
            if !self.takes(",") {
                self.expect("}")?;
                break;
            }
        }
        self.built(Expr::map(entries), depth)
    }

    /// A tree over others, of which the deepest is `depth` deep.
    fn built(&self, expr: Expr, depth: u32) -> Result<Node, Fault> {
        if depth >= MAX_DEPTH {
            return Err(self.fault(Syntax::TooDeep));
        }
        Ok(Node { expr, depth: depth + 1, form: Form::Other })
    }
}

fn deepest(nodes: &[Node]) -> u32 {
    nodes.iter().map(|node| node.depth).max().unwrap_or_default()
}

impl Node {
    fn leaf(expr: Expr) -> Self {
        Self { expr, depth: 1, form: Form::Other }
    }
}

impl Fault {
    fn syntax(at: usize, what: Syntax) -> Self {
        Self::Syntax { at, what }
    }
}

#[cfg(test)]
mod tests;
