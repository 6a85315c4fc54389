//! URI templates: `/v1/{user}/**` as `path_match_policy`, and as `path_rewrite_policy`.
//!
//! A template becomes a regular expression, of which each variable is a group.

use nuncio_filter_api::{LowerCx, Refused};

use crate::matcher::Regex;

/// Variables of one template.
const MAX_VARIABLES: usize = 5;
/// Bytes of a variable's name.
const MAX_NAME: usize = 16;
/// One path segment, or part of one.
const SEGMENT: &str = r"[a-zA-Z0-9\-._~%!$&'()+,;:@*=]+";
/// Any number of path segments.
const SEGMENTS: &str = r"[a-zA-Z0-9\-._~%!$&'()+,;:@*=/]*";

/// A template that paths match.
#[derive(Clone, Debug)]
pub(super) struct UriTemplate {
    pub(super) regex: Regex,
    /// Names of its variables; the first is the first group.
    variables: Vec<String>,
}

/// A template that makes a path of the variables of another.
#[derive(Debug)]
pub(super) struct UriRewrite {
    matched: UriTemplate,
    parts: Box<[Part]>,
}

#[derive(Debug, PartialEq)]
enum Part {
    Literal(Box<str>),
    /// A group of the expression.
    Variable(usize),
}

/// Translates a template.
#[derive(Default)]
struct Parser {
    pattern: String,
    variables: Vec<String>,
    /// Nothing may be matched by `*` or `**` after a `**`.
    after_segments: bool,
}

impl UriTemplate {
    pub(super) fn lower(template: &str, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let mut parser = Parser::default();
        parser.template(template).map_err(|reason| cx.invalid(format!("{template:?}: {reason}")))?;
        let regex = Regex::from_pattern(&parser.pattern, cx)?;
        Ok(Self { regex, variables: parser.variables })
    }
}

impl UriRewrite {
    /// Lowers a rewrite of paths that match `matched`.
    pub(super) fn lower(template: &str, matched: &UriTemplate, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let parts = rewrite_parts(template, &matched.variables);
        let parts = parts.map_err(|reason| cx.invalid(format!("{template:?}: {reason}")))?;
        Ok(Self { matched: matched.clone(), parts: parts.into() })
    }

    /// The new path, for `path` without its query; `None` where that does not match.
    pub(super) fn apply(&self, path: &str) -> Option<String> {
        let groups = self.matched.regex.captures(path.as_bytes())?;
        let mut out = String::with_capacity(path.len() + 16);
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Variable(n) => out.push_str(std::str::from_utf8(groups.get(*n)?.as_bytes()).ok()?),
            }
        }
        Some(out)
    }
}

// === impl Parser ===

impl Parser {
    fn template(&mut self, template: &str) -> Result<(), String> {
        let Some(mut rest) = template.strip_prefix('/').filter(|t| t.bytes().all(|b| b.is_ascii_graphic())) else {
            return Err("must begin with a slash and have printable characters only".into());
        };
        self.pattern.push('/');
        while !rest.is_empty() {
            rest = if rest.starts_with('*') { self.operator_segment(rest)? } else { self.segment(rest)? };
            let Some(next) = rest.strip_prefix('/') else { break };
            self.pattern.push('/');
            rest = next;
        }
        Ok(())
    }

    /// `*` or `**`, and a literal with which the whole template then ends.
    fn operator_segment<'a>(&mut self, text: &'a str) -> Result<&'a str, String> {
        let rest = self.operator(text)?;
        if rest.is_empty() || rest.starts_with('/') {
            return Ok(rest);
        }
        let (suffix, rest) = split_segment(rest);
        self.literal(suffix)?;
        if rest.is_empty() { Ok(rest) } else { Err("text after an operator must be the last of the template".into()) }
    }

    /// A literal, or a variable with literals around it.
    fn segment<'a>(&mut self, text: &'a str) -> Result<&'a str, String> {
        let (segment, rest) = split_segment(text);
        let Some(open) = segment.find('{') else {
            self.literal(segment)?;
            return Ok(rest);
        };
        if open > 0 {
            self.literal(&segment[..open])?;
        }
        // A variable at the beginning of a segment may span several, one within it may not.
        let scope = if open == 0 { text } else { segment };
        let Some(close) = scope[open..].find('}').map(|at| open + at) else {
            return Err(format!("{:?} has no closing bracket", &scope[open..]));
        };
        self.variable(&scope[open + 1..close])?;
        let (suffix, rest) = split_segment(&text[close + 1..]);
        if !suffix.is_empty() {
            self.literal(suffix)?;
        }
        Ok(rest)
    }

    /// What is between the brackets.
    fn variable(&mut self, text: &str) -> Result<(), String> {
        let (name, inner) = text.split_once('=').map_or((text, None), |(name, inner)| (name, Some(inner)));
        check_name(name)?;
        if self.variables.iter().any(|known| known == name) {
            return Err(format!("variable {name} occurs twice"));
        }
        if self.variables.len() == MAX_VARIABLES {
            return Err(format!("there are more than {MAX_VARIABLES} variables"));
        }
        self.variables.push(name.to_owned());
        self.pattern.push('(');
        match inner {
            None => self.glob(SEGMENT, false)?,
            Some("") => return Err(format!("variable {name} matches nothing")),
            Some(inner) => self.inner(inner)?,
        }
        self.pattern.push(')');
        Ok(())
    }

    /// What a variable is to match.
    fn inner(&mut self, mut text: &str) -> Result<(), String> {
        loop {
            text = if text.starts_with('*') {
                self.operator(text)?
            } else {
                let (literal, rest) = split_segment(text);
                self.literal(literal)?;
                rest
            };
            match text.strip_prefix('/') {
                Some(rest) if !rest.is_empty() => text = rest,
                None if text.is_empty() => return Ok(()),
                _ => return Err(format!("{text:?} cannot follow in a variable")),
            }
            self.pattern.push('/');
        }
    }

    fn operator<'a>(&mut self, text: &'a str) -> Result<&'a str, String> {
        match text.strip_prefix("**") {
            Some(rest) => self.glob(SEGMENTS, true).map(|()| rest),
            None => self.glob(SEGMENT, false).map(|()| &text[1..]),
        }
    }

    fn glob(&mut self, pattern: &str, segments: bool) -> Result<(), String> {
        if self.after_segments {
            return Err("nothing but text may follow `**`".into());
        }
        self.after_segments = segments;
        self.pattern.push_str(pattern);
        Ok(())
    }

    fn literal(&mut self, text: &str) -> Result<(), String> {
        if text.is_empty() || !text.bytes().all(is_literal) {
            return Err(format!("invalid literal {text:?}"));
        }
        self.pattern.push_str(&regex_syntax::escape(text));
        Ok(())
    }
}

/// The text up to the next slash, and the rest from it on.
fn split_segment(text: &str) -> (&str, &str) {
    text.split_at(text.find('/').unwrap_or(text.len()))
}

fn is_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@*=".contains(&byte)
}

fn check_name(name: &str) -> Result<(), String> {
    let valid = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match valid {
        false => Err(format!("invalid variable name {name:?}")),
        true if name.len() > MAX_NAME => Err(format!("variable name {name:?} is longer than {MAX_NAME} bytes")),
        true => Ok(()),
    }
}

fn rewrite_parts(template: &str, variables: &[String]) -> Result<Vec<Part>, String> {
    if !template.starts_with('/') || template.contains("//") {
        return Err("must begin with a slash and have no two of them in a row".into());
    }
    let mut parts = Vec::new();
    let mut rest = template;
    while !rest.is_empty() {
        let end = rest.find('{').unwrap_or(rest.len());
        let literal = &rest[..end];
        if !literal.bytes().all(|b| is_literal(b) || b == b'/') {
            return Err(format!("invalid literal {literal:?}"));
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        let Some(variable) = rest[end..].strip_prefix('{') else { break };
        let Some((name, after)) = variable.split_once('}') else { return Err("a bracket is not closed".into()) };
        check_name(name)?;
        let number = variables.iter().position(|v| v == name);
        let number = number.ok_or_else(|| format!("path_match_policy has no variable {name}"))?;
        parts.push(Part::Variable(number + 1));
        rest = after;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::env;

    fn template(text: &str) -> Result<UriTemplate, String> {
        let env = env();
        let mut cx = LowerCx::new(&env);
        UriTemplate::lower(text, &mut cx).map_err(|Refused| cx.finish()[0].reason.clone())
    }

    #[test]
    fn templates_match_as_envoy_says() {
        for (text, path, expected) in [
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/b/c", false),
            ("/a/*", "/a/", false),
            ("/a/**", "/a/", true),
            ("/a/**", "/a", false),
            ("/a/**.x", "/a/b/c.x", true),
            ("/{a}/x/{b=*}", "/1/x/2", true),
            ("/{a=l/*}/end", "/l/q/end", true),
            ("/{a=b/*}.x/y", "/b/c.x/y", true),
            ("/v{n}.json", "/v2.json", true),
            ("/v{n}.json", "/v.json", false),
            ("/a.b", "/axb", false),
            ("/a/", "/a/", true),
            ("/a/", "/a", false),
            ("/", "/", true),
        ] {
            assert_eq!(template(text).unwrap().regex.is_match(path.as_bytes()), expected, "{text} {path}");
        }
    }

    #[test]
    fn what_envoy_refuses_is_refused() {
        for text in [
            "a",
            "/a//b",
            "/**/*",
            "/{a",
            "/{a}{b}",
            "/{a}-{b}",
            "/{}",
            "/{1a}",
            "/{a=}",
            "/{a=x/}",
            "/{a}/{a}",
            "/a b",
            "/{a}/{b}/{c}/{d}/{e}/{f}",
            "/{abcdefghijklmnopq}",
            "/a?b",
            "/a[b]",
            "//",
            "/{a=**}/{b}",
            "/x{a=b/*}y",
            "/x{a}y{b}z",
            "/*{a}",
            "/é",
            "/**x/y",
            "/*.x/y",
            "/{a=*.x}",
            "/{a=**.x}",
            "/x}",
            "/x{a}}",
            "/{a=q/r",
        ] {
            assert!(template(text).is_err(), "{text}");
        }
        for text in
            ["/*x", "/x*", "/x**", "/***", "/a*b", "/a=b", "/{a=x*}", "/{a=**/c}/d", "/{a}/{b}/{c}/{d}/{e}", "/{a}**"]
        {
            assert!(template(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn variables_make_a_new_path() {
        let env = env();
        let mut cx = LowerCx::new(&env);
        let matched = template("/p/{a}/{c=**}").unwrap();
        let mut rewrite = |text: &str| UriRewrite::lower(text, &matched, &mut cx).map(|r| r.apply("/p/1/2/3"));
        assert_eq!(rewrite("/x/{c}/{a}{a}").unwrap().as_deref(), Some("/x/2/3/11"));
        assert_eq!(rewrite("/").unwrap().as_deref(), Some("/"));
        for refused in ["x", "{a}", "/{b}", "/{a", "/a}", "/{}", "/a b", "/a?b", "//", "/{a=*}", "/x["] {
            assert!(rewrite(refused).is_err(), "{refused}");
        }
        assert_eq!(UriRewrite::lower("/{a}", &matched, &mut cx).unwrap().apply("/other"), None);
    }
}
