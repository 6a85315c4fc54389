use nuncio_filter_api::{LowerCx, LowerEnv};

use super::*;
use crate::testing::env;

fn lower(pattern: &str, env: &LowerEnv) -> Result<Regex, String> {
    let mut cx = LowerCx::new(env);
    let matcher = proto::RegexMatcher { regex: pattern.to_owned(), engine_type: None };
    Regex::lower(matcher, &mut cx).map_err(|Refused| cx.finish()[0].to_string())
}

#[track_caller]
fn check(pattern: &str, matches: &[&str], others: &[&str]) {
    let regex = lower(pattern, &env()).expect(pattern);
    for input in matches {
        assert!(regex.is_match(input.as_bytes()), "{pattern} matches {input}");
        assert!(input.as_bytes().starts_with(regex.prefix()), "{pattern} has the prefix of {input}");
        for literal in regex.literals() {
            assert!(memchr::memmem::find(input.as_bytes(), literal).is_some(), "{pattern} has a literal of {input}");
        }
    }
    for input in others {
        assert!(!regex.is_match(input.as_bytes()), "{pattern} does not match {input}");
    }
}

#[test]
fn literals_that_every_match_has_are_known() {
    let literals = |pattern| {
        let regex = lower(pattern, &env()).expect(pattern);
        let mut literals: Vec<_> = regex.literals().map(|l| String::from_utf8_lossy(l).into_owned()).collect();
        literals.sort();
        literals
    };
    assert_eq!(literals("/[a-z]+/x-1/.*"), ["/", "/x-1/"]);
    assert_eq!(literals("(ab)+c?(d|ef)(g{0,3})"), ["ab"]);
    assert!(literals("(?i)abc|d").is_empty());
    check("(a(bc)+)?d.*e", &["de", "abcbcdxe"], &["abe"]);
}

#[test]
fn the_whole_input_must_match() {
    check("/a|/b", &["/a", "/b"], &["/a/", "x/a", "/ab"]);
    check("^/a$", &["/a"], &["/a\n", "/aa"]);
    check("(?i)/A", &["/a", "/A"], &["/b"]);
}

#[test]
fn perl_classes_are_ascii() {
    check(r"\d+", &["0123"], &["٣", ""]);
    check(r"\w", &["a", "_", "9"], &["é", "-"]);
    check(r"[^\W\d]+", &["abc_"], &["a1", "é"]);
    check(r"a\s\S", &["a b"], &["a\u{b}b", "a\u{a0}b"]);
    check(r"\bx\b", &["x"], &["xx"]);
}

#[test]
fn a_brace_that_is_no_repetition_is_a_literal() {
    check("/{id}", &["/{id}"], &["/id"]);
    check("a{2}", &["aa"], &["a", "a{2}"]);
    check("a{,2}", &["a{,2}"], &["aa"]);
    check("a{2,}", &["aaa"], &["a"]);
}

#[test]
fn operators_of_other_syntaxes_mean_nothing_in_brackets() {
    check("[a&&b]+", &["a&b"], &["c"]);
    check("[[a]+", &["[a"], &["]"]);
    check("[+--]+", &["+,-"], &["."]);
    check("[--/]+", &["-./"], &["a"]);
    check("[]a]+", &["]a"], &["b"]);
    check("[^]a]+", &["b"], &["]"]);
    check("[a-]+", &["a-"], &["b"]);
    check("[[:alpha:]~~_]+", &["a~_"], &["1"]);
    check(r"[\]\-a]+", &["]-a"], &["b"]);
}

#[test]
fn quoting_and_octal_escapes_are_read_as_re2_does() {
    check(r"\Qa.b*\E.", &["a.b*c"], &["axbbc"]);
    check(r"\101\x42\x{43}", &["ABC"], &["abc"]);
    check(r"\<a\>", &["<a>"], &["a"]);
    check(r"\pL\p{Latin}[\PL_]", &["ab_", "ab1"], &["1b_", "abc"]);
    check(r"a|\p{Greek}|[\p{Greek}]", &["a"], &["b", "α", "]"]);
}

#[test]
fn each_byte_of_an_input_is_a_character() {
    let is_match = |pattern: &str, input: &[u8]| lower(pattern, &env()).expect(pattern).is_match(input);
    assert!(is_match(r"a\C*b", b"a\xff\nb"));
    for pattern in ["a.b", "a[^x]b", "(a[^x])b", r"a\Wb", r"a[\D]b", r"a\xffb", r"a\377b", r"a[\x80-\xff]b", r"a\pLb"] {
        assert!(is_match(pattern, b"a\xffb"), "{pattern}");
        assert!(!is_match(pattern, "a\u{ff}b".as_bytes()), "{pattern}");
    }
    assert!(!is_match("a.b", b"a\nb"));
    assert!(!is_match(r"a\PLb", b"a\xffb"));
    assert!(!is_match(r"(?i)\xe9", b"\xc9"));
    assert!(is_match("(?i)k", b"K"));
}

#[test]
fn a_literal_that_is_not_ascii_stands_for_its_bytes() {
    let is_match = |pattern: &str, input: &[u8]| lower(pattern, &env()).expect(pattern).is_match(input);
    assert!(is_match("a\u{e9}", b"a\xc3\xa9"));
    assert!(is_match("a\u{e9}+", b"a\xc3\xa9\xa9"));
    assert!(is_match("[\u{e9}]", b"\xa9"));
    assert!(!is_match("[\u{e9}]", b"\xc3\xa9"));
    assert!(is_match("\\Q\u{20ac}\\E", "\u{20ac}".as_bytes()));
    assert_eq!(lower("/\u{e9}/.*", &env()).unwrap().prefix(), b"/\xc3\xa9/");
}

#[test]
fn an_invalid_expression_is_refused_with_its_position() {
    let env = env();
    assert_eq!(
        lower("/a(b", &env).unwrap_err(),
        "regex: invalid regular expression \"/a(b\" at position 2: unclosed group"
    );
    assert!(lower(r"(a)\1", &env).unwrap_err().contains("backreferences are not supported"));
    assert!(lower(r"a\", &env).is_err());
    for pattern in [r"\x{100}", r"[\x{80}-\x{10ffff}]", r"\400", r"\u00e9"] {
        assert!(lower(pattern, &env).unwrap_err().contains("invalid"), "{pattern} is no byte");
    }
    assert!(lower("(((((a{1000}){1000}){1000}){1000})", &env).is_err());
    assert!(lower(&"(".repeat(100_000), &env).is_err());
}

#[test]
fn what_is_not_refused_for_its_depth_compiles_when_it_is_needed() {
    let env = env();
    let nested = |depth| format!("{}a{}", "(?:".repeat(depth), ")".repeat(depth));
    let deepest = (900..1100).rev().find(|depth| lower(&nested(*depth), &env).is_ok()).expect("some depth is taken");
    assert!(lower(&nested(deepest), &env).unwrap().is_match(b"a"));
    assert_eq!(replace(&nested(deepest), "b", "a").unwrap().as_deref(), Some("b"));
}

#[test]
fn a_comment_does_not_swallow_what_is_put_around_an_expression() {
    match lower("(?x)a # b", &env()) {
        Ok(regex) => assert!(regex.is_match(b"a")),
        Err(reason) => assert!(reason.starts_with("regex: "), "{reason}"),
    }
}

#[test]
fn the_literal_prefix_is_found() {
    let env = env();
    let prefix = |p: &str| String::from_utf8(lower(p, &env).unwrap().prefix().to_vec()).unwrap();
    assert_eq!(prefix("/api/v1/.*"), "/api/v1/");
    assert_eq!(prefix("^/api/v[0-9]+"), "/api/v");
    assert_eq!(prefix("/ab?"), "/a");
    assert_eq!(prefix("/a|/b"), "");
    assert_eq!(prefix("(?i)/api"), "/");
    assert_eq!(prefix("/plain"), "/plain");
}

fn replace(pattern: &str, substitution: &str, input: &str) -> Result<Option<String>, String> {
    let env = env();
    let mut cx = LowerCx::new(&env);
    let message = proto::RegexMatchAndSubstitute {
        pattern: Some(proto::RegexMatcher { regex: pattern.to_owned(), engine_type: None }),
        substitution: substitution.to_owned(),
    };
    let substitution = Substitution::lower(message, &mut cx).map_err(|Refused| cx.finish()[0].to_string())?;
    Ok(substitution.replace_all(input.as_bytes()).map(|v| String::from_utf8(v).unwrap()))
}

#[test]
fn every_match_is_replaced() {
    let replaced = |p, s, i| replace(p, s, i).unwrap();
    assert_eq!(replaced("one", "two", "/xxx/one/yyy/one/zzz").as_deref(), Some("/xxx/two/yyy/two/zzz"));
    assert_eq!(replaced("^/service/([^/]+)(/.*)$", r"\2/in/\1", "/service/foo/v1").as_deref(), Some("/v1/in/foo"));
    assert_eq!(replaced("x*", "-", "abc").as_deref(), Some("-a-b-c-"));
    assert_eq!(replaced("b", r"\\\0", "abc").as_deref(), Some(r"a\bc"));
    assert_eq!(replaced("q", "-", "abc"), None);
}

#[test]
fn an_invalid_substitution_does_what_it_does_in_re2() {
    let replaced = |p, s, i| replace(p, s, i).unwrap();
    assert_eq!(replaced("(a)", r"\2", "abc"), None);
    assert_eq!(replaced("a", r"x\zy", "aba").as_deref(), Some("xbx"));
    assert_eq!(replaced("a", r"x\", "a").as_deref(), Some("x"));
    assert!(replace("(", "x", "a").is_err());
}
